"""Actors beside another sidecar: our client and our internal server over real sockets (spec 1.4, `grpc-api.md` 8)."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from actor_cluster import Cluster, Tales, hosted
from pillion.errors import Code
from pillion.kinds.actors import ActorCall, ActorReply, AppRefused, MethodMissing, Moved, Owner, RemoteFailure, Tick
from pillion.net import listen
from pillion.net.exchange import Method, RpcError, ServerCall, Unary
from pillion.net.grpc_client import Channel
from pillion.net.h2_server import H2Server
from pillion.peers.actors import CALL_ACTOR, PeerActors
from pillion.peers.pool import Pool
from pillion.serve.internal_actors import InternalActors
from pillion.wire.messages import wellknown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from pillion.net.exchange import Metadata

PARENT = b"00-4bf92f3577b34da6a3ce929d0e0e4736-00f067aa0ba902b7-01"


class Methods:
    """A gRPC service of what `InternalActors` serves; `answer` stands in for CallActor when it is set."""

    def __init__(self, actors: InternalActors) -> None:
        self.methods = actors.methods()
        self.answer: Unary | None = None

    def find(self, method: str, metadata: Metadata) -> Method | None:
        if self.answer is not None and method == CALL_ACTOR:
            return Method(unary=self.answer)
        return self.methods.get(method)


class Rig:
    def __init__(self) -> None:
        self.cluster = Cluster()
        self.host = self.cluster.add("b")
        self.app = Tales()
        self.host.host("app", [hosted(self.app)])
        self.service = Methods(InternalActors(self.host))
        self.pool = Pool(lambda address, target: Channel(address))
        self.peers = PeerActors(self.pool)
        self.owner = Owner("", "app", "default", local=False)

    async def call(self, method: str, **fields: object) -> ActorReply:
        return await self.peers.invoke(self.owner, ActorCall("T", "1", method, **fields))  # type: ignore[arg-type]


def play(story: Callable[[Rig], Awaitable[None]]) -> None:
    async def main() -> None:
        rig = Rig()
        server = H2Server(grpc=rig.service)
        listeners = await listen.tcp(server, ["127.0.0.1"], 0)
        rig.owner = Owner(f"127.0.0.1:{listeners.port}", "app", "default", local=False)
        try:
            async with asyncio.timeout(90):
                await story(rig)
        finally:
            await rig.pool.close()
            listeners.close()
            await server.close(1.0)
            await rig.cluster.close()

    asyncio.run(main())


def test_a_call_arrives_whole_and_so_does_its_answer() -> None:
    async def story(rig: Rig) -> None:
        seen: list[ActorCall] = []

        async def act(call: ActorCall) -> ActorReply:
            seen.append(call)
            return ActorReply(b"\x00out", 200, [(b"x-back", b"1"), (b"x-back", b"2")], b"text/x")

        rig.app.acts["a/b"] = act
        headers = [(b"x-one", b"1"), (b"x-two", b"a"), (b"x-two", b"b"), (b"traceparent", PARENT)]
        reply = await rig.call(
            "a/b", body=b"in\xff", headers=headers, content_type=b"text/y", verb="POST", query=b"q=1"
        )
        assert reply == ActorReply(b"\x00out", 200, [(b"x-back", b"1"), (b"x-back", b"2")], b"text/x", is_error=False)
        got = seen[0]
        assert (got.method, got.body, got.content_type, got.verb, got.query) == (
            "a/b", b"in\xff", b"text/y", "POST", b"q=1",
        )  # fmt: skip
        assert got.remote
        assert sorted(got.headers) == sorted(headers)

    play(story)


def test_errors_that_the_actor_declares_come_back_unchanged() -> None:
    async def story(rig: Rig) -> None:
        async def act(_: ActorCall) -> ActorReply:
            return ActorReply(b"oh", 418, [], b"text/plain", is_error=True)

        rig.app.acts["m"] = act
        reply = await rig.call("m")
        assert (reply.body, reply.status, reply.is_error, reply.content_type) == (b"oh", 418, True, b"text/plain")

    play(story)


def test_failures() -> None:
    """What moved may be looked up again; what the application refused is final, and its text is nested."""

    async def story(rig: Rig) -> None:
        async def refuse(_: ActorCall) -> None:
            raise AppRefused("error from actor service: (500) no")

        async def missing(_: ActorCall) -> None:
            raise MethodMissing("actor method not found")

        rig.app.acts |= {"refuse": refuse, "missing": missing}
        for method in ("refuse", "missing"):
            with pytest.raises(RemoteFailure, match="rpc error: code = Internal desc = error invoke actor") as failed:
                await rig.call(method)
            assert not failed.value.retryable
            assert failed.value.code == Code.INTERNAL
        rig.cluster.owner = lambda _type, _id: "elsewhere"
        with pytest.raises(Moved):
            await rig.call("m")
        with pytest.raises(Moved):
            await rig.peers.tick(rig.owner, Tick("T", "1", "r"))
        with pytest.raises(Moved):
            await anext(rig.peers.stream(rig.owner, ActorCall("T", "1", "m")))

    play(story)


@pytest.mark.parametrize(
    ("code", "text", "expected"),
    [
        (Code.INTERNAL, "failed to lookup actor: placement is disseminating", "moved"),
        (Code.INTERNAL, "error invoke actor method: remote actor moved, perhaps", "final"),
        (Code.UNAVAILABLE, "going away", "again"),
        (Code.PERMISSION_DENIED, "no", "final"),
    ],
)
def test_what_a_reference_sidecar_says(code: Code, text: str, expected: str) -> None:
    async def story(rig: Rig) -> None:
        async def answer(call: ServerCall, request: bytes) -> bytes:
            raise RpcError(code, text)

        rig.service.answer = answer
        with pytest.raises((Moved, RemoteFailure)) as failed:
            await rig.call("m")
        assert isinstance(failed.value, Moved) == (expected == "moved")
        assert failed.value.retryable == (expected != "final")

    play(story)


def test_an_owner_that_is_gone_and_one_that_cannot_be_read() -> None:
    async def story(rig: Rig) -> None:
        gone = Owner("127.0.0.1:1", "app", "default", local=False)
        with pytest.raises(RemoteFailure) as failed:
            await rig.peers.invoke(gone, ActorCall("T", "1", "m"))
        assert failed.value.retryable

        async def nonsense(call: ServerCall, request: bytes) -> bytes:
            return b"\xff"

        rig.service.answer = nonsense
        with pytest.raises(RemoteFailure, match="cannot be read"):
            await rig.call("m")

    play(story)


def test_reminders_and_timers_go_where_the_actor_lives() -> None:
    async def story(rig: Rig) -> None:
        seen: list[Tick] = []

        class App(Tales):
            async def tick(self, tick: Tick) -> bool:
                seen.append(tick)
                return False

        rig.host.host("app", [hosted(App())])
        timer = Tick("T", "1", "t", b'{"a":1}', "1s", "2s", "ring", is_timer=True)
        await rig.peers.tick(rig.owner, timer)
        await rig.peers.tick(rig.owner, Tick("T", "1", "r"))
        assert (seen[0].callback, seen[0].data, seen[0].due_time, seen[0].is_timer) == ("ring", b'{"a":1}', "1s", True)
        assert (seen[1].data, seen[1].payload, seen[1].is_timer) == (None, b"", False)

    play(story)


def test_streams_pass_every_item_and_end_early_when_nobody_reads() -> None:
    async def story(rig: Rig) -> None:
        ended = asyncio.Event()
        item = wellknown.Any(type_url="t/x", value=b"1").SerializeToString()

        class App(Tales):
            async def stream(self, call: ActorCall) -> AsyncIterator[bytes]:
                try:
                    for _ in range(3):
                        yield item
                    if call.method == "forever":
                        await asyncio.Event().wait()
                finally:
                    ended.set()

        rig.host.host("app", [hosted(App(), locked=False)])
        assert [got async for got in rig.peers.stream(rig.owner, ActorCall("T", "1", "three"))] == [item] * 3
        ended.clear()
        reading = rig.peers.stream(rig.owner, ActorCall("T", "1", "forever"))
        assert await anext(reading) == item
        await reading.aclose()  # type: ignore[attr-defined]
        await ended.wait()

    play(story)
