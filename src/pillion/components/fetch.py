"""Single requests to servers that components need now and then: documents of identity providers, modules to load.

Knows: URLs, bounds, redirects. Nothing is kept open between requests.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING
from urllib.parse import urljoin, urlsplit

from pillion.errors import ComponentError
from pillion.net.exchange import BodyIncomplete, BodyTooLarge, Request
from pillion.net.http_client import HttpClient, HttpError
from pillion.net.middleware import response_body
from pillion.net.tls import client_context

if TYPE_CHECKING:
    from pillion.net.exchange import Headers

TIMEOUT_S = 10.0
MOST = 1 << 20
"""Bytes of an answer."""
REDIRECTS = 5


@dataclass(frozen=True, slots=True)
class Fetched:
    """An answer, whole."""

    status: int
    headers: Headers
    body: bytes

    def header(self, name: bytes) -> str:
        """The first value of a header, "" when absent; `name` in lower case."""
        return next((value.decode("latin-1") for key, value in self.headers if key == name), "")


async def fetch(
    url: str,
    *,
    method: str = "GET",
    headers: Headers | None = None,
    body: bytes = b"",
    timeout_s: float = TIMEOUT_S,
    most: int = MOST,
) -> Fetched:
    """Send one request and return the answer; a GET follows redirects. Raises `ComponentError` naming the URL."""
    try:
        async with asyncio.timeout(timeout_s):
            for _ in range(REDIRECTS):
                answer = await _once(url, method, list(headers or ()), body, most)
                there = answer.header(b"location")
                if method != "GET" or answer.status not in (301, 302, 303, 307, 308) or not there:
                    return answer
                if url.startswith("https:") and not urljoin(url, there).startswith("https:"):
                    raise ComponentError(f"{url} redirects away from TLS")
                url, headers = urljoin(url, there), None
    except TimeoutError as error:
        raise ComponentError(f"{url} did not answer within {timeout_s:g} s") from error
    except (HttpError, OSError, BodyIncomplete, ValueError) as error:
        raise ComponentError(f"{url} cannot be asked: {error}") from error
    except BodyTooLarge as error:
        raise ComponentError(f"the answer of {url} is longer than {most} bytes") from error
    raise ComponentError(f"{url}: more than {REDIRECTS} redirects")


async def _once(url: str, method: str, headers: Headers, body: bytes, most: int) -> Fetched:
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ValueError("no http or https URL")
    secure = parts.scheme == "https"
    target = (parts.path or "/") + (f"?{parts.query}" if parts.query else "")
    client = HttpClient(parts.hostname, parts.port or (443 if secure else 80), tls=client_context() if secure else None)
    try:
        response = await client.request(Request(method, target.encode("ascii"), headers, body))
        return Fetched(response.status, response.headers, await response_body(response, most))
    finally:
        await client.close()
