"""Every answer says when it was made (RFC 9110 6.6.1): whole, streamed and without a body, over HTTP/1.1 and HTTP/2."""

from __future__ import annotations

import asyncio
import time
from email.utils import formatdate, parsedate_to_datetime
from typing import TYPE_CHECKING

import pytest

import h2_support
from http1_support import Routes, serving
from pillion.net.exchange import Request, Response
from pillion.net.h2_client import H2Client
from pillion.net.http_client import HttpClient
from pillion.wire import http1

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

THEIRS = b"Tue, 15 Nov 1994 08:12:31 GMT"


async def _streamed(request: Request) -> Response:
    async def pieces() -> AsyncIterator[bytes]:
        yield b"piece"

    return Response(200, [], pieces())


async def _bare(request: Request) -> Response:
    return Response(204)


async def _passed_on(request: Request) -> Response:
    return Response(200, [(b"date", THEIRS)], b"an application's")


def _routes() -> Routes:
    return Routes({b"/streamed": _streamed, b"/bare": _bare, b"/theirs": _passed_on})


async def _dates(client: HttpClient | H2Client, target: bytes) -> list[bytes]:
    answer = await client.request(Request("GET", target, []))
    if not isinstance(answer.body, bytes):
        async for _ in answer.body:
            pass
    return [value for name, value in answer.headers if name == b"date"]


@pytest.mark.parametrize("version", ["1.1", "2"])
@pytest.mark.parametrize("target", [b"/", b"/streamed", b"/bare", b"/theirs"])
def test_every_answer_has_one_date(version: str, target: bytes) -> None:
    """That of an application which a sidecar passes on stays as it is."""

    async def main() -> None:
        before = int(time.time())
        if version == "2":
            async with h2_support.serving(http=_routes()) as (address, _):
                h2 = H2Client(address)
                [found] = await _dates(h2, target)
                await h2.close()
        else:
            async with serving(_routes()) as (_, port):
                client = HttpClient("127.0.0.1", port)
                [found] = await _dates(client, target)
                await client.close()
        if target == b"/theirs":
            assert found == THEIRS
        else:
            assert before <= parsedate_to_datetime(found.decode()).timestamp() <= time.time()

    asyncio.run(main())


@pytest.mark.parametrize("seconds", [0, 951827696, 1709164800, 4102444799])
def test_dates_are_spelled_as_the_standard_has_them(seconds: int) -> None:
    assert http1.date(seconds) == formatdate(seconds, usegmt=True).encode()
