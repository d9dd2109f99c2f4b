"""What surrounds an event on its way to an HTTP application: target, headers, and the reading of its answer.

Metadata of messages come from whoever may publish: they can neither set what belongs to the connection or the sidecar
nor end a line. Knows: names and bytes. Never knows: what an answer means.
"""

from __future__ import annotations

import re
from functools import lru_cache
from typing import TYPE_CHECKING
from urllib.parse import quote

from pillion.net.exchange import BodyTooLarge
from pillion.wire import trace

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pillion.kinds.topics import Event
    from pillion.net.exchange import Headers, Response

LARGEST_ANSWER = 4 * 1024 * 1024
_TOKEN = re.compile(r"[!#$%&'*+.^_`|~0-9A-Za-z-]{1,256}")
_NOT_IN_VALUE = re.compile(r"[\x00-\x08\x0a-\x1f\x7f]")
_OURS = frozenset(
    {
        "connection", "content-length", "content-type", "dapr-api-token", "expect", "host", "keep-alive",
        "proxy-connection", "pubsubname", "te", "traceparent", "tracestate", "trailer", "transfer-encoding", "upgrade",
    }
)  # fmt: skip
"""Headers that are the sidecar's or the connection's to set; a publisher's metadata cannot."""


@lru_cache(maxsize=1024)
def target_of(path: str) -> bytes:
    """Return a route as a request target: it starts with a slash, and what cannot stand in a target is escaped."""
    return quote("/" + path.lstrip("/"), safe="/?&=%:@!$'()*+,;~-._").encode()


@lru_cache(maxsize=1024)
def _header_name(key: str) -> bytes | None:
    low = key.lower()
    return None if low in _OURS or _TOKEN.fullmatch(low) is None else low.encode()


def header_value(text: str) -> bytes:
    """Return a header value; control characters, which would end the line, become blanks."""
    return _NOT_IN_VALUE.sub(" ", text).encode("utf-8", "surrogateescape")


def add_metadata(headers: Headers, metadata: Mapping[str, str]) -> None:
    """Add the broker's metadata as headers, without what is not a header name or not a publisher's to set."""
    for key, value in metadata.items():
        name = _header_name(key)
        if name is not None:
            headers.append((name, header_value(value)))


def with_trace(fixed: Headers, event: Event) -> Headers:
    """Return headers that continue the trace of an event."""
    headers = [*fixed, (b"traceparent", header_value(event.parent))]
    if event.state and len(event.state) <= trace.MAX_STATE:
        headers.append((b"tracestate", header_value(event.state)))
    return headers


async def read_all(response: Response, most: int = LARGEST_ANSWER) -> bytes:
    """Return the whole body of an answer; raises `BodyTooLarge` beyond `most` bytes."""
    body = response.body
    if isinstance(body, bytes):
        return body
    parts, size = [], 0
    try:
        async for part in body:
            size += len(part)
            if size > most:
                raise BodyTooLarge
            parts.append(part)
    finally:
        closing = getattr(body, "aclose", None)
        if closing is not None:
            await closing()
    return b"".join(parts)
