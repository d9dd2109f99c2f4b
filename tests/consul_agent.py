"""A stub of Consul's agent for tests, on threads of its own.

It is no Consul: it answers what the manual of the HTTP API v1 says of register, deregister, health/service and blocking
queries, and believes every check to pass.
"""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, unquote, urlsplit


class Agent:
    """The stub. `services` by id; `asked` are the targets of all requests; `token` is demanded when it is set."""

    def __init__(self) -> None:
        self.services: dict[str, dict[str, Any]] = {}
        self.asked: list[str] = []
        self.token = ""
        self.index = 1
        self._changed = threading.Condition()
        agent = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except ConnectionError:  # a blocking query that nobody waits for any more
                    self.close_connection = True

            def serve(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                agent.asked.append(self.path)
                if agent.token and self.headers.get("X-Consul-Token") != agent.token:
                    status, answer = 403, b"Permission denied"
                else:
                    status, answer = agent.answer(self.path, body)
                self.send_response(status)
                self.send_header("X-Consul-Index", str(agent.index))
                self.send_header("Content-Length", str(len(answer)))
                self.end_headers()
                self.wfile.write(answer)

            do_GET = do_PUT = serve

            def log_message(self, format: str, *args: object) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = False  # their end is waited for
        self.address = f"127.0.0.1:{self._server.server_address[1]}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def answer(self, target: str, body: bytes) -> tuple[int, bytes]:
        parts = urlsplit(target)
        query = parse_qs(parts.query, keep_blank_values=True)
        with self._changed:
            match parts.path.split("/")[2:]:
                case ["agent", "self"]:
                    return 200, b"{}"
                case ["agent", "service", "register"]:
                    service = json.loads(body)
                    self.services[service.get("ID") or service["Name"]] = service
                case ["agent", "service", "deregister", service_id]:
                    del self.services[unquote(service_id)]
                case ["health", "service", name]:
                    index = int(query.get("index", ["0"])[0])
                    if index:
                        self._changed.wait_for(lambda: self.index > index, timeout=90)
                    found = [one for one in self.services.values() if one["Name"] == unquote(name)]
                    entries = [{"Node": {"Address": "10.9.9.9"}, "Service": one, "Checks": []} for one in found]
                    return 200, json.dumps(entries).encode()
                case _:
                    return 404, b""
            self.index += 1
            self._changed.notify_all()
            return 200, b""

    def __enter__(self) -> Agent:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        with self._changed:
            self.index += 1
            self._changed.notify_all()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
