"""A small HTTP application for tests, on threads of its own, so that it outlives any sidecar."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import TYPE_CHECKING, Any, Self

from ports import bound

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    Answer = Callable[["Call"], tuple[int, Mapping[str, str], bytes]]

WAIT_S = 90.0


class Call:
    """One request the application received."""

    def __init__(self, method: str, path: str, headers: Mapping[str, str], body: bytes) -> None:
        self.method, self.path, self.headers, self.body = method, path, headers, body

    def json(self) -> Any:
        return json.loads(self.body)

    def __repr__(self) -> str:
        return f"<{self.method} {self.path} {self.body[:100]!r}>"


class HttpApp:
    """Keeps every call; `subscriptions` is its answer to /dapr/subscribe, `answer` decides on all other calls.

    Use as a context manager. `port` 0 takes a free one; a port given again brings the same application back.
    """

    def __init__(
        self, subscriptions: Sequence[Mapping[str, Any]] = (), answer: Answer | None = None, port: int = 0
    ) -> None:
        self.calls: list[Call] = []
        self._changed = threading.Condition()
        self._subscriptions = list(subscriptions)
        self._answer = answer or (lambda call: (200, {}, b""))
        app = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def handle_one_request(self) -> None:
                try:
                    super().handle_one_request()
                except ConnectionError:  # the sidecar was killed
                    self.close_connection = True

            def serve(self) -> None:
                if self.headers.get("Transfer-Encoding", "").lower() == "chunked":
                    body = b""
                    while size := int(self.rfile.readline().split(b";")[0], 16):
                        body += self.rfile.read(size)
                        self.rfile.readline()
                    self.rfile.readline()
                else:
                    body = self.rfile.read(int(self.headers.get("Content-Length") or 0))
                call = Call(self.command, self.path, {k.lower(): v for k, v in self.headers.items()}, body)
                status, headers, data = app.reply(call)
                self.send_response(status)
                for name, value in headers.items():
                    self.send_header(name, value)
                self.send_header("Content-Length", str(len(data)))
                self.end_headers()
                if self.command != "HEAD":
                    self.wfile.write(data)

            do_GET = do_POST = do_PUT = do_DELETE = do_OPTIONS = do_PATCH = do_HEAD = serve

            def log_message(self, format: str, *args: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = True
            request_queue_size = 128
            allow_reuse_address = True

        self._server = (
            Server(("127.0.0.1", port), Handler) if port else bound(lambda free: Server(("127.0.0.1", free), Handler))
        )
        self.port = self._server.server_address[1]
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True)

    def reply(self, call: Call) -> tuple[int, Mapping[str, str], bytes]:
        if call.path == "/dapr/subscribe":
            return 200, {"Content-Type": "application/json"}, json.dumps(self._subscriptions).encode()
        if call.path == "/dapr/config":
            return 404, {}, b""
        with self._changed:
            self.calls.append(call)
            self._changed.notify_all()
        return self._answer(call)

    def wait(self, enough: Callable[[list[Call]], bool], timeout_s: float = WAIT_S) -> list[Call]:
        """Wait until `enough` says so of all calls so far; return them."""
        with self._changed:
            if not self._changed.wait_for(lambda: enough(self.calls), timeout_s):
                raise AssertionError(f"after {timeout_s} s only {len(self.calls)} calls: {self.calls[-5:]}")
            return list(self.calls)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()
