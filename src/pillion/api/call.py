"""One request as a handler sees it, and the reading of its parts. Parts are parsed when asked for, not before."""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import unquote_plus

from pillion.wire import gojson, trace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pillion.net.exchange import Request, ServerCall

EMPTY: Mapping[str, str] = {}


class HttpCall:
    """An HTTP request that matched a route. `params` are the decoded `{…}` segments in the order of the route."""

    __slots__ = ("_query", "params", "path", "query_text", "request", "route")

    def __init__(self, request: Request, path: bytes, query_text: bytes, params: tuple[str, ...], route: str) -> None:
        self.request = request
        self.path = path
        self.query_text = query_text
        self.params = params
        self.route = route
        self._query: list[tuple[str, str]] | None = None

    @property
    def query(self) -> list[tuple[str, str]]:
        """The query's pairs, decoded, in order."""
        if self._query is None:
            self._query = parse_query(self.query_text) if self.query_text else []
        return self._query

    def first(self, name: str) -> str:
        """The first value of a query key, "" when absent."""
        if not self.query_text:
            return ""
        return next((value for key, value in self.query if key == name), "")

    def metadata(self) -> dict[str, str]:
        """The `metadata.*` query keys without their prefix; the first value of each counts (spec `http-api.md` 0)."""
        found: dict[str, str] = {}
        if self.query_text:
            for key, value in self.query:
                if key.startswith("metadata."):
                    found.setdefault(key[9:], value)
        return found

    def body(self) -> bytes:
        """The whole body of a buffered request. Raises what kept it from arriving whole (`BodyTooLarge`, …)."""
        request = self.request
        if request.failure is not None:
            raise request.failure
        return request.body  # type: ignore[return-value]

    def header(self, name: bytes) -> str:
        """The first value of a header, "" when absent."""
        value = self.request.header(name)
        return "" if value is None else value.decode("latin-1")

    @property
    def traceparent(self) -> str:
        """The caller's traceparent, "" when it sent none that is valid."""
        text = self.header(b"traceparent")
        return text if text and trace.valid_parent(text) else ""

    @property
    def tracestate(self) -> str:
        return self.header(b"tracestate")


class RpcCall:
    """A gRPC call that matched a method. `stream` is the transport's side of it, for streaming handlers."""

    __slots__ = ("method", "stream")

    def __init__(self, method: str, stream: ServerCall) -> None:
        self.method = method
        self.stream = stream

    @property
    def traceparent(self) -> str:
        """`grpc-trace-bin` wins over `traceparent` (spec `runtime.md` 6.2); "" when neither is valid."""
        binary = self.stream.first("grpc-trace-bin")
        if isinstance(binary, bytes) and (parent := trace.from_binary(binary)):
            return parent
        text = self.stream.first("traceparent")
        return text if isinstance(text, str) and trace.valid_parent(text) else ""

    @property
    def tracestate(self) -> str:
        text = self.stream.first("tracestate")
        return text if isinstance(text, str) else ""


def parse_query(text: bytes) -> list[tuple[str, str]]:
    """Split a raw query as Go's url.ParseQuery does, leaving out pairs with a bad escape or a semicolon."""
    pairs = []
    for part in text.decode("latin-1").split("&"):
        if not part or ";" in part:
            continue
        key, _, value = part.partition("=")
        if "%" in part or "+" in part:
            try:
                key, value = decode_component(key, errors="replace"), decode_component(value, errors="replace")
            except ValueError:
                continue
        pairs.append((key, value))
    return pairs


def decode_component(text: str, *, errors: str = "surrogateescape") -> str:
    """Decode `%XX` and `+` as in a query component; raises ValueError for a bad escape (Go's url.QueryUnescape).

    `errors` as of `bytes.decode`: what becomes of bytes that are not UTF-8.
    """
    start = text.find("%")
    while start >= 0:
        pair = text[start + 1 : start + 3]
        if len(pair) != 2 or not all(c in "0123456789abcdefABCDEF" for c in pair):
            raise ValueError(f'invalid URL escape "{text[start : start + 3]}"')
        start = text.find("%", start + 3)
    return unquote_plus(text, errors=errors)


def json_object(text: bytes, *, what: str) -> dict[str, object]:
    """Parse a JSON object whose keys match in any case, as the reference's decoder does: keys are lower-cased.

    An empty body is the zero value. Raises ValueError with a text for the caller.
    """
    value = gojson.loads(text)
    if value is None:
        return {}
    if not isinstance(value, dict):
        raise ValueError(f"{what} must be a JSON object, not {type(value).__name__}")
    return {key.lower(): item for key, item in value.items()}
