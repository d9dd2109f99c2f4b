"""The contracts of bindings as test classes. Subclass one, say how to make a binding, and let pytest collect it.

    class TestMine(OutputBindingKit):
        examples = [(Request("create", b"x", {"key": "k"}), None), (Request("get", b"", {"key": "k"}), b"x")]
        refused = [Request("get")]

        @contextlib.asynccontextmanager
        async def binding(self):
            yield Mine(Mine.Settings(...), Context("mine"))      # not yet opened

Needs nothing of pytest but its collecting of classes and functions.
"""

from __future__ import annotations

import asyncio
from types import MappingProxyType
from typing import TYPE_CHECKING, ClassVar

from pillion.errors import ComponentError
from pillion.kinds.bindings import Event, InputBinding, OutputBinding, Request
from pillion.testing.lifecycle import closes_at_any_time

if TYPE_CHECKING:
    from collections.abc import Sequence
    from contextlib import AbstractAsyncContextManager

PATIENCE_S = 90.0


class OutputBindingKit:
    """What every output binding must do."""

    examples: ClassVar[Sequence[tuple[Request, bytes | None]]] = ()
    """Requests in order, each with the data of its response; None: there is no response or it has no data."""
    refused: ClassVar[Sequence[Request]] = ()
    """Requests of known operations that lack something."""
    works_closed: ClassVar[bool] = False
    """The binding holds nothing that `close` could take away."""

    def binding(self) -> AbstractAsyncContextManager[OutputBinding]:
        """Return a context manager that gives a binding not yet opened; the kit opens and closes it."""
        raise NotImplementedError

    def test_it_is_an_output_binding_and_says_what_it_can_do(self) -> None:
        """`operations` are names, each once; every example and every refusal is about one of them."""

        async def run() -> None:
            async with self.binding() as binding:
                assert isinstance(binding, OutputBinding)
                operations = binding.operations
                assert operations
                assert len(set(operations)) == len(operations)
                assert all(isinstance(name, str) and name for name in operations)
                used = {request.operation for request, _ in self.examples} | {one.operation for one in self.refused}
                assert used <= set(operations)

        asyncio.run(run())

    def test_the_examples_one_after_the_other(self) -> None:
        """Each request has the response it should; the metadata of a request are read, never written."""

        async def run() -> None:
            async with self.binding() as binding:
                await binding.open()
                for request, expected in self.examples:
                    found = await binding.invoke(_read_only(request))
                    assert (found.data if found is not None else b"") == (expected or b""), request
                    if found is not None:
                        assert all(isinstance(text, str) for pair in found.metadata.items() for text in pair)
                await binding.close()

        asyncio.run(run())

    def test_requests_that_lack_something(self) -> None:
        """They end with a `ComponentError` that says something, and the binding goes on."""

        async def run() -> None:
            async with self.binding() as binding:
                await binding.open()
                for request in self.refused:
                    assert await _failure(binding, request), request
                for request, _ in self.examples[:1]:
                    await binding.invoke(_read_only(request))
                await binding.close()

        asyncio.run(run())

    def test_many_at_once(self) -> None:
        """Requests of many callers do not get into each other's way."""

        async def run() -> None:
            async with self.binding() as binding:
                await binding.open()
                for request, _ in self.examples[:1]:
                    await asyncio.gather(*(binding.invoke(_read_only(request)) for _ in range(20)))
                await binding.close()

        asyncio.run(run())

    def test_close_works_at_any_time(self) -> None:
        """`close` without `open`, and twice after it; `ping` answers in between; later requests are errors."""

        async def run() -> None:
            async with self.binding() as binding:
                await binding.close()
            async with self.binding() as binding:
                await binding.open()
                await binding.ping()
                await binding.close()
                await binding.close()
                if not self.works_closed:
                    for request, _ in self.examples[:1]:
                        assert await _failure(binding, request)

        asyncio.run(run())


class InputBindingKit:
    """What every input binding must do."""

    def binding(self) -> AbstractAsyncContextManager[InputBinding]:
        """Return a context manager that gives a binding not yet opened; the kit opens and closes it."""
        raise NotImplementedError

    async def happen(self) -> None:
        """Make one event happen outside."""
        raise NotImplementedError

    def test_events_arrive(self) -> None:
        """One after the other, also after a handler failed."""

        async def run() -> None:
            async with self.binding() as binding:
                assert isinstance(binding, InputBinding)
                await binding.open()
                arrived: asyncio.Queue[Event] = asyncio.Queue()
                calls = 0

                async def handler(event: Event) -> bytes:
                    nonlocal calls
                    calls += 1
                    arrived.put_nowait(event)
                    if calls == 1:
                        raise ComponentError("the application is not in the mood")
                    return b""

                reading = await binding.read(handler)
                for _ in range(3):
                    await self.happen()
                    async with asyncio.timeout(PATIENCE_S):
                        assert isinstance(await arrived.get(), Event)
                await reading.close(PATIENCE_S)
                await reading.close(PATIENCE_S)
                await binding.close()

        asyncio.run(run())

    def test_closing_waits_for_what_is_on_its_way(self) -> None:
        """A handler in flight may finish within the grace period."""

        async def run() -> None:
            async with self.binding() as binding:
                await binding.open()
                begun, go_on, finished = asyncio.Event(), asyncio.Event(), asyncio.Event()

                async def handler(event: Event) -> bytes:
                    begun.set()
                    await go_on.wait()
                    finished.set()
                    return b""

                reading = await binding.read(handler)
                await self.happen()
                async with asyncio.timeout(PATIENCE_S):
                    await begun.wait()
                closing = asyncio.ensure_future(reading.close(PATIENCE_S))
                await asyncio.sleep(0)
                assert not closing.done()
                go_on.set()
                await closing
                assert finished.is_set()
                await binding.close()

        asyncio.run(run())

    def test_without_grace_handlers_are_cancelled(self) -> None:
        """`close` of the binding ends its readings, whatever their handlers are doing."""

        async def run() -> None:
            async with self.binding() as binding:
                await binding.open()
                begun, cancelled = asyncio.Event(), asyncio.Event()

                async def handler(event: Event) -> bytes:
                    begun.set()
                    try:
                        await asyncio.Event().wait()
                    finally:
                        cancelled.set()
                    return b""

                reading = await binding.read(handler)
                await self.happen()
                async with asyncio.timeout(PATIENCE_S):
                    await begun.wait()
                    await binding.close()
                    await cancelled.wait()
                    await reading.close(PATIENCE_S)

        asyncio.run(run())

    def test_close_works_at_any_time(self) -> None:
        """`close` without `open`, and twice after it; `ping` answers in between."""
        asyncio.run(closes_at_any_time(self.binding))


def _read_only(request: Request) -> Request:
    return Request(request.operation, request.data, MappingProxyType(dict(request.metadata)))


async def _failure(binding: OutputBinding, request: Request) -> str:
    """Return the text of the error that a request ends with, "" when it does not."""
    try:
        await binding.invoke(_read_only(request))
    except ComponentError as error:
        return str(error)
    return ""
