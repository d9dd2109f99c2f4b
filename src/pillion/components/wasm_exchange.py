"""What a WebAssembly guest may see and change of one HTTP exchange: the functions of the http-wasm handler ABI, pure.

Source: http-wasm.io/http-handler-abi. Knows: kinds, phases, limits, what is refused. Never knows: engines, threads,
where bodies come from. A guest that does what it may not is stopped by `Trap`.
"""

from __future__ import annotations

import logging
import re
from typing import TYPE_CHECKING

from pillion.net.middleware import set_request_body, set_response_body
from pillion.wire.http1 import is_token

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.net.exchange import Headers, Request, Response

BUFFER_REQUEST, BUFFER_RESPONSE = 1, 2
SUPPORTED = BUFFER_REQUEST | BUFFER_RESPONSE
"""Trailers (4) are not offered; guests ask and are told so."""
REQUEST, RESPONSE, REQUEST_TRAILERS, RESPONSE_TRAILERS = range(4)
MOST_WRITTEN = 64 << 20
"""Bytes that a guest may write as one body."""
_LEVELS = {-1: logging.DEBUG, 0: logging.INFO, 1: logging.WARNING, 2: logging.ERROR}
_TARGET = re.compile(rb"/[!-~\x80-\xff]*")
_UNSAFE = re.compile(rb"[\r\n\0]")
END = 1 << 32


class Trap(Exception):
    """The guest did what it may not."""


class Exchange:
    """One request on its way through a guest, and its answer on the way back.

    `read_request` returns the whole body of the request when a guest asks for it. `after` is false before the request
    is passed on and true afterwards.
    """

    def __init__(
        self,
        request: Request,
        response: Response,
        *,
        features: int,
        config: bytes,
        log: logging.Logger,
        read_request: Callable[[], bytes],
    ) -> None:
        self.request, self.response = request, response
        self.features = features
        self.after = False
        self._config, self._log = config, log
        self._read_request = read_request
        self._read_at = [0, 0]
        self._written: list[bytearray | None] = [None, None]

    def returned(self, response: Response) -> None:
        """Take note of the answer to the request that was passed on; its body is whole if the guest asked for that."""
        self.response, self.after = response, True
        self._read_at[RESPONSE], self._written[RESPONSE] = 0, None

    # -- features, configuration, log

    def enable_features(self, bits: int) -> int:
        self.features |= bits & SUPPORTED
        return self.features

    def get_config(self) -> bytes:
        return self._config

    def log_enabled(self, level: int) -> int:
        return int(level in _LEVELS and self._log.isEnabledFor(_LEVELS[level]))

    def log(self, level: int, message: bytes) -> None:
        if level in _LEVELS:
            self._log.log(_LEVELS[level], "%s", message.decode("utf-8", "replace"))

    # -- request line

    def get_method(self) -> bytes:
        return self.request.method.encode()

    def set_method(self, method: bytes) -> None:
        self._request_may_change()
        if not is_token(method):
            raise Trap(f"{method!r} is no method")
        self.request.method = method.decode()

    def get_uri(self) -> bytes:
        return self.request.target

    def set_uri(self, uri: bytes) -> None:
        self._request_may_change()
        uri = uri or b"/"
        if _TARGET.fullmatch(uri) is None:
            raise Trap(f"{uri!r} is no path and query")
        self.request.target = uri

    def get_protocol_version(self) -> bytes:
        return f"HTTP/{self.request.version}".encode()

    def get_source_addr(self) -> bytes:
        peer = self.request.peer
        if peer is None:
            return b""
        return (f"[{peer[0]}]:{peer[1]}" if ":" in peer[0] else f"{peer[0]}:{peer[1]}").encode()

    # -- headers

    def get_header_names(self, kind: int) -> list[bytes]:
        return list(dict.fromkeys(name for name, _ in self._headers(kind)))

    def get_header_values(self, kind: int, name: bytes) -> list[bytes]:
        name = name.lower()
        return [value for key, value in self._headers(kind) if key == name]

    def set_header_value(self, kind: int, name: bytes, value: bytes) -> None:
        self.remove_header(kind, name)
        self.add_header_value(kind, name, value)

    def add_header_value(self, kind: int, name: bytes, value: bytes) -> None:
        self._may_change(kind)
        if not is_token(name) or _UNSAFE.search(value):
            raise Trap(f"{name!r}: {value!r} is no header")
        self._headers(kind).append((name.lower(), value))

    def remove_header(self, kind: int, name: bytes) -> None:
        self._may_change(kind)
        name = name.lower()
        headers = self._headers(kind)
        headers[:] = [pair for pair in headers if pair[0] != name]

    def _headers(self, kind: int) -> Headers:
        if kind == REQUEST:
            return self.request.headers
        if kind == RESPONSE:
            return self.response.headers
        if kind in (REQUEST_TRAILERS, RESPONSE_TRAILERS):
            return []
        raise Trap(f"{kind} is no kind of headers")

    # -- bodies and status

    def read_body(self, kind: int, limit: int) -> tuple[bytes, bool]:
        """Return the next bytes of a body as it came, at most `limit`, and whether these were the last."""
        if limit == 0 or kind not in (REQUEST, RESPONSE):
            raise Trap("a body is read into no buffer" if limit == 0 else f"{kind} is no kind of body")
        body = self._body(kind)
        at = self._read_at[kind]
        self._read_at[kind] = end = min(at + limit, len(body))
        return body[at:end], end == len(body)

    def _body(self, kind: int) -> bytes:
        if kind == REQUEST:
            return self._read_request()
        if not isinstance(self.response.body, bytes):
            raise Trap("the response is read without buffer_response")
        return self.response.body

    def write_body(self, kind: int, data: bytes) -> None:
        """The first piece replaces the body, further ones are added to it."""
        if kind not in (REQUEST, RESPONSE):
            raise Trap(f"{kind} is no kind of body")
        self._may_change(kind)
        written = self._written[kind]
        if written is None:
            written = self._written[kind] = bytearray()
        if len(written) + len(data) > MOST_WRITTEN:
            raise Trap(f"a body of more than {MOST_WRITTEN} bytes is written")
        written += data

    def get_status_code(self) -> int:
        return self.response.status

    def set_status_code(self, status: int) -> None:
        self._may_change(RESPONSE)
        if not 100 <= status <= 999:
            raise Trap(f"{status} is no status")
        self.response.status = status

    def settle(self) -> None:
        """Give request and response the bodies that were written."""
        for kind, written in enumerate(self._written):
            if written is None:
                continue
            if kind == REQUEST and not self.after:
                set_request_body(self.request, bytes(written))
                self.request.failure = None
            elif kind == RESPONSE:
                set_response_body(self.response, bytes(written))

    def _may_change(self, kind: int) -> None:
        if kind == REQUEST:
            self._request_may_change()
        elif kind == RESPONSE:
            if self.after and not self.features & BUFFER_RESPONSE:
                raise Trap("the response is changed without buffer_response")
        else:
            raise Trap("trailers are not offered")

    def _request_may_change(self) -> None:
        if self.after:
            raise Trap("the request is changed after it was passed on")
