"""Calls through the simulated network behave as calls through a real one, and break as real ones do."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from pillion.errors import Code
from pillion.net.exchange import Method, RpcError
from pillion.testing.simulated_grpc import Network
from pillion.testing.simulation import World

if TYPE_CHECKING:
    from pillion.net.exchange import Metadata, ServerCall


class _Echo:
    """Unary, and a stream that answers each message until the client half-closes."""

    def __init__(self) -> None:
        self.ends: list[str] = []

    def find(self, method: str, metadata: Metadata) -> Method | None:
        return {"/e/Unary": Method(unary=self._unary), "/e/Stream": Method(streaming=self._stream)}.get(method)

    async def _unary(self, call: ServerCall, request: bytes) -> bytes:
        if request == b"bad":
            raise RpcError(Code.INVALID_ARGUMENT, "bad")
        if request == b"slow":
            await asyncio.sleep(60)
        return request.upper()

    async def _stream(self, call: ServerCall) -> None:
        try:
            while (message := await call.receive()) is not None:
                await call.send(message.upper())
            self.ends.append("end")
        except RpcError as error:
            self.ends.append(error.message)
            raise
        except asyncio.CancelledError:
            self.ends.append("cancelled")
            raise


def _world(seed: int = 1, breaking: float = 0.0) -> tuple[World, Network, _Echo]:
    world = World(seed)
    network, echo = Network(world, breaking=breaking), _Echo()
    network.serve("one:1", world.host("one"), echo)
    world.host("two")
    return world, network, echo


def test_unary_and_streams() -> None:
    world, network, echo = _world()

    async def ask() -> None:
        channel = network.channel(world.hosts["two"], "one:1")
        assert (await channel.unary("/e/Unary", b"hello")).message == b"HELLO"
        with pytest.raises(RpcError, match="bad"):
            await channel.unary("/e/Unary", b"bad")
        with pytest.raises(RpcError) as missing:
            await channel.unary("/e/Nothing", b"")
        assert missing.value.code == Code.UNIMPLEMENTED
        with pytest.raises(RpcError) as late:
            await channel.unary("/e/Unary", b"slow", timeout_s=1)
        assert late.value.code == Code.DEADLINE_EXCEEDED
        stream = channel.stream("/e/Stream")
        for number in range(50):
            await stream.send(b"%d" % number)
        assert [await stream.receive() for _ in range(50)] == [b"%d" % number for number in range(50)]
        await stream.half_close()
        assert await stream.receive() is None

    task = world.hosts["two"].start(ask())
    world.run(task.done)
    task.result()
    assert echo.ends == ["end"]


def test_nobody_there() -> None:
    world, network, _ = _world()

    async def ask() -> None:
        with pytest.raises(RpcError) as refused:
            await network.channel(world.hosts["two"], "three:1").unary("/e/Unary", b"x")
        assert refused.value.code == Code.UNAVAILABLE

    task = world.hosts["two"].start(ask())
    world.run(task.done)
    task.result()


@pytest.mark.parametrize("fate", ["killed server", "killed client", "cut", "paused server"])
def test_both_ends_learn_of_a_break(fate: str) -> None:
    world, network, echo = _world()
    one, two = world.hosts["one"], world.hosts["two"]
    heard: list[int] = []

    async def ask() -> None:
        stream = network.channel(two, "one:1").stream("/e/Stream")
        await stream.send(b"a")
        assert await stream.receive() == b"A"
        try:
            await stream.receive()
        except RpcError as error:
            heard.append(error.code)

    two.start(ask())
    world.run_for(1)
    match fate:
        case "killed server":
            one.kill()
        case "killed client":
            two.kill()
        case "cut":
            network.cut("one", "two")
            world.later(60, network.mend)
        case _:
            one.pause()
            world.later(30, one.resume)
    world.run_for(120)
    if fate != "killed client":
        assert heard == [Code.UNAVAILABLE]
    if fate != "killed server":
        assert len(echo.ends) == 1


def test_calls_that_break_by_chance_end_all_the_same() -> None:
    world, network, _ = _world(7, breaking=0.05)
    outcomes: list[str] = []

    async def ask(number: int) -> None:
        try:
            reply = await network.channel(world.hosts["two"], "one:1").unary("/e/Unary", b"%d" % number)
            assert reply.message == b"%d" % number
            outcomes.append("answered")
        except RpcError as error:
            outcomes.append("broken" if error.code == Code.UNAVAILABLE else error.message)

    async def everything() -> None:
        await asyncio.gather(*(ask(number) for number in range(200)))

    world.hosts["two"].start(everything())
    world.run(lambda: len(outcomes) == 200)
    assert set(outcomes) == {"answered", "broken"}
    assert outcomes.count("broken") < 100
