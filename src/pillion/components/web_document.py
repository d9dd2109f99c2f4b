"""One document from the web: GET, redirects, bounds, and how long it may be kept.

Knows: URLs of http and https, RFC 9111 as far as one cached document needs it. Never knows: what is in the document.
"""

from __future__ import annotations

import asyncio
import re
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING, Any, cast
from urllib.parse import urljoin, urlsplit

from pillion.errors import ComponentError
from pillion.net import tls
from pillion.net.exchange import BodyIncomplete, BodyTooLarge, Request
from pillion.net.http_client import HttpClient, HttpError

if TYPE_CHECKING:
    import ssl
    from collections.abc import Mapping

MOST_REDIRECTS = 10
_MAX_AGE = re.compile(r"(?:^|[,\s])max-age\s*=\s*\"?(\d{1,9})")


@dataclass(frozen=True, slots=True)
class Document:
    """An answer of 200; header names in lower case."""

    body: bytes = field(repr=False)
    headers: Mapping[str, str]

    def fresh_s(self, now: float) -> float:
        """Return for how many seconds it may be kept, 0 when it does not say; `now` is the time of day."""
        control = self.headers.get("cache-control", "").lower()
        if (age := _MAX_AGE.search(control)) is not None:
            return float(age[1])
        try:
            expires = parsedate_to_datetime(self.headers["expires"])
        except (KeyError, ValueError, OverflowError):  # the last: a year beyond all numbers
            return 0.0
        if expires.tzinfo is None:
            expires = expires.replace(tzinfo=UTC)
        return max(0.0, expires.timestamp() - now)


async def fetch(url: str, *, timeout_s: float, most: int, context: ssl.SSLContext | None = None) -> Document:
    """Return the document at `url`, of at most `most` bytes, within `timeout_s` seconds.

    TLS is 1.2 or later, verified by the machine's authorities, or by `context`. Raises `ComponentError`.
    """
    try:
        async with asyncio.timeout(timeout_s):
            for _ in range(MOST_REDIRECTS + 1):
                found = await _get(url, most, context)
                if isinstance(found, Document):
                    return found
                url = urljoin(url, found)
    except TimeoutError as error:
        raise ComponentError(f"{shown(url)}: no answer within {timeout_s:g} s") from error
    except (HttpError, OSError, ValueError, BodyIncomplete, BodyTooLarge) as error:
        raise ComponentError(f"{shown(url)}: {error or type(error).__name__}") from error
    raise ComponentError(f"{shown(url)}: more than {MOST_REDIRECTS} redirects")


def shown(url: str) -> str:
    """Return a URL without what may be secret in it: its user and its query."""
    try:
        parts = urlsplit(url)
    except ValueError:  # where a redirect leads is for the server to say
        return "a malformed URL"
    return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()


async def _get(url: str, most: int, context: ssl.SSLContext | None) -> Document | str:
    """Return the document, or where a redirect leads. Raises as `HttpClient` does, and `ComponentError`."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("not an http or https URL")
    secure = parts.scheme == "https"
    if secure and context is None:
        context = await asyncio.to_thread(tls.client_context)
    port = parts.port or (443 if secure else 80)
    client = HttpClient(parts.hostname, port, tls=context if secure else None, max_connections=1)
    try:
        target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
        if not target.isascii() or any(letter <= " " for letter in target):
            raise ValueError("not a URL: it has characters that are written with %")
        answer = await client.request(Request("GET", target.encode(), [(b"accept", b"application/json, */*")]))
        headers = {name.decode("latin-1"): value.decode("latin-1") for name, value in reversed(answer.headers)}
        if answer.status in (301, 302, 303, 307, 308) and headers.get("location"):
            return headers["location"]
        if answer.status != 200:
            raise ComponentError(f"{shown(url)}: answered {answer.status}")
        return Document(await _whole(answer.body, most), headers)
    finally:
        await client.close()


async def _whole(body: Any, most: int) -> bytes:
    if isinstance(body, bytes):
        pieces, size = [body], len(body)
    else:
        pieces, size = [], 0
        async with aclosing(body) as arriving:
            async for piece in arriving:
                pieces.append(cast(bytes, piece))
                size += len(piece)
                if size > most:
                    break
    if size > most:
        raise ComponentError(f"the document is longer than {most} bytes")
    return b"".join(pieces)
