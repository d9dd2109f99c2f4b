"""A server that speaks the chat completions of OpenAI and the messages of Anthropic, for tests of conversations.

It checks what the real ones check of a request - keys, roles, turns, tools - and answers by what was said last:
`break <n>` refuses with that status, `silence` says nothing, `garbage` and `huge` are no good answers, `hang` is none.
Asked with tools that it may use, it calls the first; asked with a form, it fills it.
"""

from __future__ import annotations

import json
import sys
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

if TYPE_CHECKING:
    import ssl

KEY = "sesame"


class Refused(Exception):
    """What is answered with a status instead of a completion."""

    def __init__(self, status: int, text: str) -> None:
        super().__init__(text)
        self.status = status


class Server(ThreadingHTTPServer):
    """Many at once; clients that leave are no errors."""

    daemon_threads = True
    request_queue_size = 64

    def handle_error(self, request: object, client_address: object) -> None:
        if not isinstance(sys.exception(), ConnectionError):
            super().handle_error(request, client_address)  # type: ignore[arg-type]


class ModelServer:
    """Use as a context manager; `asked` are the requests: path, headers in lower case, document."""

    def __init__(self, tls: ssl.SSLContext | None = None) -> None:
        self._scheme = "https" if tls is not None else "http"
        self.asked: list[tuple[str, dict[str, str], dict[str, Any]]] = []
        self.hanging = threading.Event()
        self.done = threading.Event()
        owner = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                owner._serve(self)

            def log_message(self, *arguments: object) -> None:
                """Quiet."""

        self._server = Server(("127.0.0.1", 0), Handler)
        if tls is not None:
            self._server.socket = tls.wrap_socket(self._server.socket, server_side=True)
        self._thread = threading.Thread(target=self._server.serve_forever, kwargs={"poll_interval": 0.02})

    @property
    def url(self) -> str:
        return f"{self._scheme}://127.0.0.1:{self._server.server_address[1]}"

    @property
    def last(self) -> dict[str, Any]:
        return self.asked[-1][2]

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.done.set()
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _serve(self, handler: BaseHTTPRequestHandler) -> None:
        document = json.loads(handler.rfile.read(int(handler.headers["content-length"])))
        headers = {name.lower(): value for name, value in handler.headers.items()}
        self.asked.append((handler.path, headers, document))
        try:
            path = handler.path.partition("?")[0]
            said = _last_text(document)
            if path.endswith("/chat/completions"):
                _check_completions(headers, document)
                answer = _completion
            elif path.endswith("/messages"):
                _check_messages(headers, document)
                answer = _message
            else:
                raise Refused(404, f"no such path: {handler.path}")
            if said == "hang":
                self.hanging.set()
                self.done.wait(60)
            if said.startswith("break "):
                raise Refused(int(said[6:]), "broken as asked")
            body = json.dumps(answer(document, said)).encode()
            if said == "garbage":
                body = b"<html>"
            if said == "huge":
                body = b'"' + b"x" * (17 << 20) + b'"'
            status = 200
        except Refused as error:
            status, body = error.status, json.dumps({"error": {"type": "refused", "message": str(error)}}).encode()
        try:
            handler.send_response(status)
            handler.send_header("content-type", "application/json")
            handler.send_header("content-length", str(len(body)))
            handler.end_headers()
            handler.wfile.write(body)
        except OSError:
            handler.close_connection = True


def _last_text(document: dict[str, Any]) -> str:
    content = document["messages"][-1].get("content") or "" if document.get("messages") else ""
    if isinstance(content, str):
        return content
    return "\n".join(str(part.get("text", part.get("content", ""))) for part in content)


def _need(truth: object, text: str) -> None:
    if not truth:
        raise Refused(400, text)


def _check_completions(headers: dict[str, str], document: dict[str, Any]) -> None:
    keys = (headers.get("authorization"), headers.get("api-key"))
    if not {f"Bearer {KEY}", "Bearer ollama", KEY} & set(keys):
        raise Refused(401, "Incorrect API key provided")
    known = {"model", "messages", "temperature", "tools", "tool_choice", "response_format", "metadata", "max_tokens"}
    _need(set(document) <= known, f"Unrecognized arguments: {sorted(set(document) - known)}")
    _need(document["model"], "no model")
    _need(document["messages"], "no messages")
    pending: set[str] = set()
    for message in document["messages"]:
        role = message["role"]
        _need(role in {"user", "system", "assistant", "tool"}, f"unknown role {role}")
        if role == "tool":
            _need(message["tool_call_id"] in pending, "a tool message must answer a call of the assistant")
            pending.remove(message["tool_call_id"])
            continue
        _need(not pending, "calls of the assistant are not answered")
        for call in message.get("tool_calls", ()):
            _need(call["type"] == "function" and isinstance(call["function"]["arguments"], str), "bad tool call")
            pending.add(call["id"])
    for tool in document.get("tools", ()):
        _need(tool["type"] == "function" and tool["function"]["parameters"]["type"] == "object", "bad tool")
    choice = document.get("tool_choice")
    _need(choice is None or document.get("tools"), "tool_choice without tools")
    _need(
        choice in (None, "none", "auto", "required") or (isinstance(choice, dict) and choice["type"] == "function"),
        "bad tool_choice",
    )


def _check_messages(headers: dict[str, str], document: dict[str, Any]) -> None:
    if headers.get("x-api-key") != KEY:
        raise Refused(401, "invalid x-api-key")
    _need(headers.get("anthropic-version") == "2023-06-01", "anthropic-version: header is required")
    known = {"model", "messages", "max_tokens", "system", "temperature", "tools", "tool_choice"}
    _need(set(document) <= known, f"Extra inputs are not permitted: {sorted(set(document) - known)}")
    _need(document["max_tokens"] > 0 and document["model"], "max_tokens and model are required")
    _need(document["messages"] and document["messages"][0]["role"] == "user", "the first turn must be the user's")
    pending: set[str] = set()
    for message in document["messages"]:
        _need(message["role"] in {"user", "assistant"}, f"unknown role {message['role']}")
        _need(message["content"], "a turn must not be empty")
        results = {block["tool_use_id"] for block in message["content"] if block["type"] == "tool_result"}
        _need(results == pending, "each tool_use needs a tool_result in the next turn, and no other")
        pending = {block["id"] for block in message["content"] if block["type"] == "tool_use"}
        for block in message["content"]:
            _need(block["type"] != "text" or block["text"], "text blocks must not be empty")
            _need(block["type"] != "tool_use" or isinstance(block["input"], dict), "input must be an object")
    for tool in document.get("tools", ()):
        _need(tool["input_schema"]["type"] == "object", "bad tool")
    choice = document.get("tool_choice")
    _need(choice is None or document.get("tools"), "tool_choice without tools")
    _need(choice is None or choice["type"] in {"auto", "any", "none", "tool"}, "bad tool_choice")


def _filled(schema: dict[str, Any]) -> dict[str, Any]:
    kinds: dict[str, Any] = {"string": "x", "number": 1, "integer": 1, "boolean": True}
    return {name: kinds.get(item["type"], "") for name, item in schema.get("properties", {}).items()}


def _completion(document: dict[str, Any], said: str) -> dict[str, Any]:
    message: dict[str, Any] = {"role": "assistant", "content": f"You said: {said}"}
    reason = "stop"
    choice = document.get("tool_choice", "auto")
    tools = [tool["function"] for tool in document.get("tools", ())]
    if isinstance(choice, dict):
        tools = [tool for tool in tools if tool["name"] == choice["function"]["name"]]
    if said == "silence":
        message["content"] = ""
    elif tools and choice != "none" and document["messages"][-1]["role"] != "tool":
        function = {"name": tools[0]["name"], "arguments": json.dumps(_filled(tools[0]["parameters"]))}
        message = {"role": "assistant", "content": None}
        message["tool_calls"] = [{"id": "call_1", "type": "function", "function": function}]
        reason = "tool_calls"
    elif "response_format" in document:
        message["content"] = json.dumps(_filled(document["response_format"]["json_schema"]["schema"]))
    usage = {
        "prompt_tokens": 8, "completion_tokens": 5, "total_tokens": 13,
        "prompt_tokens_details": {"cached_tokens": 2, "audio_tokens": 0},
        "completion_tokens_details": {"reasoning_tokens": 0},
    }  # fmt: skip
    return {"choices": [{"index": 0, "message": message, "finish_reason": reason}], "usage": usage}


def _message(document: dict[str, Any], said: str) -> dict[str, Any]:
    content: list[dict[str, Any]] = [{"type": "text", "text": f"You said: {said}"}]
    reason = "end_turn"
    choice = document.get("tool_choice", {"type": "auto"})
    tools = document.get("tools", [])
    if choice["type"] == "tool":
        tools = [tool for tool in tools if tool["name"] == choice["name"]]
    results = any(block["type"] == "tool_result" for block in document["messages"][-1]["content"])
    if said == "silence":
        content = []
    elif tools and choice["type"] != "none" and not results:
        use = {
            "type": "tool_use",
            "id": "toolu_1",
            "name": tools[0]["name"],
            "input": _filled(tools[0]["input_schema"]),
        }
        content, reason = [use], "tool_use"
    usage = {"input_tokens": 8, "output_tokens": 5}
    return {"role": "assistant", "content": content, "stop_reason": reason, "usage": usage}
