"""The contract of middleware as a test class. Subclass it, say how to make one, and let pytest collect it.

class TestMine(MiddlewareKit):
    def middleware(self):
        return contextlib.nullcontext(Mine(Mine.Settings(...), Context("mine")))     # not yet opened

    def passing(self):
        return Request("GET", b"/x", [(b"authorization", b"let me in")], peer=("127.0.0.1", 4000))

    def refused(self):
        return Request("GET", b"/x", [], peer=("127.0.0.1", 4000))

    refusal = 401
"""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, ClassVar

from pillion.net.exchange import Request, Response

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager

    from pillion.net.middleware import Middleware


class MiddlewareKit:
    """What every middleware must do."""

    refusal: ClassVar[int] = 0
    """The status that `refused` is answered with."""
    streams: ClassVar[bool] = True
    """Answers of unknown length pass as they come; False: this one looks at answers whole."""

    def middleware(self) -> AbstractAsyncContextManager[Middleware]:
        """Return a context manager that gives a middleware not yet opened; the kit opens and closes it."""
        raise NotImplementedError

    def passing(self) -> Request:
        """Return a request that goes through."""
        return Request("GET", b"/path?key=value", [(b"accept", b"*/*")], peer=("127.0.0.1", 40000))

    def refused(self) -> Request | None:
        """Return a request that is not let through, None when all are."""
        return None

    @contextlib.asynccontextmanager
    async def _opened(self) -> AsyncIterator[Middleware]:
        async with self.middleware() as middleware:
            await middleware.open()
            try:
                yield middleware
            finally:
                await middleware.close()

    def test_close_works_unopened_and_twice(self) -> None:
        """A component can always be closed."""

        async def run() -> None:
            async with self.middleware() as middleware:
                await middleware.close()
                await middleware.close()

        asyncio.run(run())

    def test_a_request_passes_once_and_its_answer_comes_back(self) -> None:
        """What the destination answers reaches the client; the destination is asked exactly once."""

        async def run() -> None:
            async with self._opened() as middleware:
                asked: list[Request] = []

                async def destination(request: Request) -> Response:
                    asked.append(request)
                    return Response(203, [(b"x-answer", b"yes")], b"0123")

                response = await middleware(self.passing(), destination)
                assert response.status == 203
                assert (b"x-answer", b"yes") in response.headers
                assert response.body == b"0123"
                assert len(asked) == 1

        asyncio.run(run())

    def test_many_at_once(self) -> None:
        """Requests do not wait for each other's answers."""

        async def run() -> None:
            async with self._opened() as middleware:
                inside, all_inside = 0, asyncio.Event()

                async def destination(request: Request) -> Response:
                    nonlocal inside
                    inside += 1
                    if inside == 8:
                        all_inside.set()
                    await all_inside.wait()
                    return Response(200)

                async with asyncio.timeout(90):
                    answers = await asyncio.gather(*(middleware(self.passing(), destination) for _ in range(8)))
                assert [answer.status for answer in answers] == [200] * 8

        asyncio.run(run())

    def test_answers_stream(self) -> None:
        """The first piece of an endless answer arrives while the rest is not there yet."""
        if not self.streams:
            return

        async def run() -> None:
            async with self._opened() as middleware:
                never = asyncio.Event()

                async def pieces() -> AsyncIterator[bytes]:
                    yield b"123"
                    await never.wait()

                async def destination(request: Request) -> Response:
                    return Response(200, [], pieces())

                async with asyncio.timeout(90):
                    response = await middleware(self.passing(), destination)
                    assert not isinstance(response.body, bytes)
                    assert await anext(aiter(response.body)) == b"123"
                closing = getattr(response.body, "aclose", None)
                assert closing is not None, "a body that is given up must be closable"
                await closing()

        asyncio.run(run())

    def test_failures_of_the_destination_are_not_hidden(self) -> None:
        """An exception behind the middleware leaves it as it is."""

        async def run() -> None:
            async with self._opened() as middleware:

                async def destination(request: Request) -> Response:
                    raise ZeroDivisionError("behind")

                try:
                    await middleware(self.passing(), destination)
                except ZeroDivisionError:
                    return
                raise AssertionError("the failure was swallowed")

        asyncio.run(run())

    def test_a_refused_request_is_not_passed_on(self) -> None:
        """It is answered with the declared status, in plain text."""

        async def run() -> None:
            async with self._opened() as middleware:
                request = self.refused()
                if request is None:
                    return

                async def destination(request: Request) -> Response:
                    raise AssertionError("a refused request was passed on")

                response = await middleware(request, destination)
                assert response.status == self.refusal
                kind = dict(response.headers).get(b"content-type", b"")
                assert not response.body or kind.startswith(b"text/plain")

        asyncio.run(run())
