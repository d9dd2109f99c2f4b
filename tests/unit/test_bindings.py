"""The bindings block without sockets: what is read when, and what travels beside the data."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillion import tasks
from pillion.blocks.bindings import Binding, Outputs, Refused, response_headers, response_metadata
from pillion.blocks.input_bindings import InputBindings, as_json
from pillion.errors import ComponentError
from pillion.kinds.bindings import Answer, Event, Request, Response
from pillion.kinds.topics import Unprocessed
from pillion.observe.binding_delivery import TracedBindings
from pillion.observe.tracing import Tracer
from pillion.wire.grpc import metadata_fields

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from pillion.kinds.bindings import Handler
    from pillion.observe.tracing import Span


class Outside:
    """A binding both ways; `emit` makes an event happen."""

    operations = ("create",)

    def __init__(self, fails: str = "") -> None:
        self.got: list[bytes] = []
        self.handlers: list[Handler] = []
        self.graces: list[float] = []
        self._fails = fails

    async def open(self) -> None: ...

    async def ping(self) -> None: ...

    async def close(self) -> None: ...

    async def invoke(self, request: Request) -> Response | None:
        if self._fails:
            raise ComponentError(self._fails)
        self.got.append(request.data)
        return None

    async def read(self, handler: Handler) -> Any:
        if self._fails:
            raise ComponentError(self._fails)
        self.handlers.append(handler)
        outside = self

        class Reading:
            async def close(self, grace_s: float) -> None:
                outside.handlers.remove(handler)
                outside.graces.append(grace_s)

        return Reading()

    async def emit(self, data: bytes = b"") -> bytes:
        return await self.handlers[0](Event(data))


class App:
    """An application; `answer` is what it says to an event."""

    def __init__(self, *wanted: str) -> None:
        self.takes = frozenset(wanted)
        self.asked: list[dict[str, str]] = []
        self.events: list[tuple[str, str, bytes]] = []
        self.answer: Answer | Exception = Answer()

    async def wanted(self, routes: Mapping[str, str]) -> frozenset[str]:
        self.asked.append(dict(routes))
        return self.takes & frozenset(routes)

    async def deliver(self, name: str, route: str, event: Event) -> Answer:
        self.events.append((name, route, event.data))
        if isinstance(self.answer, Exception):
            raise self.answer
        return self.answer


def bound(name: str, component: Any, **metadata: str) -> Binding:
    return Binding(name, component, metadata)


def test_what_is_read() -> None:
    """What the application wants, what says `direction: input`, and never what says `output` alone."""

    async def run() -> None:
        app, outs = App("a"), {name: Outside() for name in "abcd"}
        live = {
            "a": bound("a", outs["a"], route="/r"), "b": bound("b", outs["b"]),
            "c": bound("c", outs["c"], Direction="input, output"), "d": bound("d", outs["d"], direction="output"),
        }  # fmt: skip
        inputs = InputBindings(live, app, Outputs(live))
        inputs.app_changed(True)
        await inputs.settled()
        assert [name for name, out in outs.items() if out.handlers] == ["a", "c"]
        assert app.asked == [{"a": "/r", "b": "b"}]
        assert await outs["a"].emit(b"x") == b""
        assert app.events == [("a", "/r", b"x")]

        inputs.app_changed(False)
        await inputs.settled()
        assert not any(out.handlers for out in outs.values())
        app.takes = frozenset({"b"})
        inputs.app_changed(True)
        await inputs.settled()
        assert [name for name, out in outs.items() if out.handlers] == ["b", "c"], "it is asked again"

        live["b"] = bound("b", fresh := Outside())
        inputs.changed("b")
        await inputs.settled()
        assert (len(outs["b"].handlers), len(fresh.handlers)) == (0, 1)
        del live["b"]
        inputs.changed("b")
        await inputs.settled()
        assert not fresh.handlers

        await inputs.close(3.0)
        assert outs["c"].graces[-1] == 3.0
        inputs.app_changed(True)
        await inputs.settled()
        assert not any(out.handlers for out in outs.values()), "closed is closed"
        await inputs.close(3.0)

    asyncio.run(run())


def test_a_binding_that_cannot_be_read_does_not_stop_others() -> None:
    """The failure is logged; nothing is read without an application."""

    async def run() -> None:
        broken, fine = Outside("no"), Outside()
        live = {"a": bound("a", broken), "b": bound("b", fine)}
        inputs = InputBindings(live, App("a", "b"), Outputs(live))
        inputs.app_changed(True)
        await inputs.settled()
        assert len(fine.handlers) == 1
        await inputs.close(0)
        lonely = InputBindings(live, None, Outputs(live))
        lonely.app_changed(True)
        await lonely.settled()
        assert not fine.handlers

    asyncio.run(run())


def test_answers_that_name_bindings() -> None:
    """One after the other until the first failure, or all at once; the event is processed either way."""

    async def run() -> None:
        app, source, first, second = App("in"), Outside(), Outside(), Outside()
        live = {
            "in": bound("in", source), "one": bound("one", first), "bad": bound("bad", Outside("no")),
            "two": bound("two", second),
        }  # fmt: skip
        inputs = InputBindings(live, app, Outputs(live))
        inputs.app_changed(True)
        await inputs.settled()
        app.answer = Answer(b'{"b":1, "a":2}', ("one", "bad", "two"))
        assert await source.emit() == b'{"b":1, "a":2}'
        assert (first.got, second.got) == ([b'{"a":2,"b":1}'], [])
        app.answer = Answer(b"text", ("one", "gone", "two"), parallel=True)
        await source.emit()
        assert (first.got[1:], second.got) == ([b"null"], [b"null"])
        app.answer = Unprocessed("no", http_status=500)
        with pytest.raises(Unprocessed):
            await source.emit()
        await inputs.close(0)

    asyncio.run(run())


def test_policies_surround_both_ways() -> None:
    """An outbound policy repeats an operation, an inbound one a delivery."""

    async def run() -> None:
        calls: list[str] = []

        class Twice:
            def __init__(self, name: str) -> None:
                self.name = name

            async def __call__(self, operation: Callable[[], Awaitable[Any]]) -> Any:
                for _ in range(2):
                    calls.append(self.name)
                    result = await operation()
                return result

        app, outside = App("x"), Outside()
        live = {"x": Binding("x", outside, {}, outbound=Twice("out"), inbound=Twice("in"))}
        outputs = Outputs(live)
        inputs = InputBindings(live, app, outputs)
        inputs.app_changed(True)
        await inputs.settled()
        await outputs.invoke("x", Request("create", b"d"))
        await outside.emit(b"e")
        assert (outside.got, len(app.events), calls) == ([b"d", b"d"], 2, ["out", "out", "in", "in"])
        with pytest.raises(Refused):
            await outputs.invoke("x", Request("get"))
        await inputs.close(0)

    asyncio.run(run())


def test_a_span_around_every_attempt() -> None:
    """It continues the trace that an event came with, and what goes to the application continues the span."""

    async def run() -> None:
        ended: list[Span] = []
        seen: list[Mapping[str, str]] = []

        class Watched(App):
            async def deliver(self, name: str, route: str, event: Event) -> Answer:
                seen.append(event.metadata)
                return await super().deliver(name, route, event)

        app = Watched("a")
        traced = TracedBindings(app, Tracer("app", 1.0, ended.append))
        assert await traced.wanted({"a": "a", "b": "b"}) == {"a"}
        given = {"traceparent": f"00-{'1' * 32}-{'2' * 16}-01", "tracestate": "k=v", "key": "kept"}
        await traced.deliver("a", "a", Event(b"", given))
        app.answer = Unprocessed("no")
        with pytest.raises(Unprocessed):
            await traced.deliver("a", "a", Event())
        first, second = ended
        assert (first.name, first.trace_id, first.parent_id, first.error) == ("bindings/a", "1" * 32, "2" * 16, None)
        assert seen[0] == {"traceparent": first.traceparent, "tracestate": "k=v", "key": "kept"}
        assert (second.parent_id, second.error) == ("", "no")
        assert given["traceparent"].endswith(f"{'2' * 16}-01"), "the event itself stays as it is"

    asyncio.run(run())


@given(st.dictionaries(st.text(), st.text()))
def test_metadata_of_components_cannot_break_headers(metadata: dict[str, str]) -> None:
    """Whatever a component says, a header is one line, and gRPC metadata can be encoded."""
    for name, value in response_headers(metadata):
        assert name.startswith(b"metadata.")
        assert not set(name + value) & set(b"\r\n\0")
    metadata_fields(response_metadata(metadata))


@given(st.binary())
def test_any_data_becomes_json(data: bytes) -> None:
    """The data of an answer is JSON, or null."""
    assert as_json(as_json(data)) == as_json(data)


def test_what_nobody_expects_does_not_keep_bindings_from_being_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither of another binding, nor of the application that is asked: it is asked again."""
    monkeypatch.setattr(tasks, "FIRST_PAUSE_S", 0.001)

    class Surprising(Outside):
        async def read(self, handler: Handler) -> Any:
            raise RuntimeError("nobody expects this")

    class Odd(App):
        async def wanted(self, routes: Mapping[str, str]) -> frozenset[str]:
            found = await super().wanted(routes)
            if len(self.asked) == 1:
                raise RuntimeError("nor this")
            return found

    async def run() -> None:
        app, fine = Odd("a", "b"), Outside()
        live = {"a": bound("a", Surprising()), "b": bound("b", fine)}
        inputs = InputBindings(live, app, Outputs(live))
        inputs.app_changed(True)
        await inputs.settled()
        assert (len(app.asked), len(fine.handlers)) == (2, 1)
        await inputs.close(0)

    asyncio.run(run())
