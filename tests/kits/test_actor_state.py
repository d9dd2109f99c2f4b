"""State of actors over real stores: exact keys, all or nothing, and nobody writes whose place was taken over."""

from __future__ import annotations

import asyncio
from contextlib import AsyncExitStack, asynccontextmanager
from functools import partial
from typing import TYPE_CHECKING, Any

import pytest

from actor_cluster import Cluster, Tales, hosted
from pillion.actors.fence import COMPARABLE, KEY, Mark, read
from pillion.actors.state import ActorState
from pillion.components.memory import MemoryState
from pillion.components.postgresql import PostgresState1, PostgresState2
from pillion.components.redis import RedisState
from pillion.components.sqlite import SqliteState
from pillion.errors import ComponentError, EtagMismatch
from pillion.kinds.actors import ActorCall, LostPlace, NoStateStore, NotActive
from pillion.kinds.component import Context, decode
from pillion.kinds.state import Delete, Found, Get, Set

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Mapping, Sequence
    from contextlib import AbstractAsyncContextManager

    from pillion.kinds.actors import ActorReply
    from pillion.kinds.state import Operation

    Opened = Callable[[], AbstractAsyncContextManager[Any]]

HERE = 1_767_225_600_000
"""A version of placement's table as our service makes them."""


@pytest.fixture(params=["memory", "sqlite", "redis", "postgresql1", "postgresql2"])
def opened(request: pytest.FixtureRequest) -> Opened:
    """Open the store once more: as another sidecar does."""
    which = request.param
    kind: Any
    if which == "memory":
        shared = MemoryState(MemoryState.Settings(), Context("kit"))

        @asynccontextmanager
        async def same() -> AsyncIterator[Any]:
            yield shared

        return same
    if which == "sqlite":
        kind, metadata = SqliteState, {"connectionString": str(request.getfixturevalue("tmp_path") / "state.sqlite")}
    elif which == "redis":
        kind, metadata = RedisState, {"redisHost": request.getfixturevalue("redis_server").address}
    else:
        kind = PostgresState1 if which == "postgresql1" else PostgresState2
        table = f"actors_{request.node.name.partition('[')[0][:24]}"
        names = {"tableName": table} if which == "postgresql1" else {"tablePrefix": table + "_"}
        metadata = {"connectionString": request.getfixturevalue("postgres_server").dsn, **names}

    @asynccontextmanager
    async def another() -> AsyncIterator[Any]:
        store = kind(decode(kind.Settings, metadata, where="kit"), Context("kit"))
        try:
            await store.open()
            yield store
        finally:
            await store.close()

    return another


class Rig:
    """Two hosts, each with a connection of its own to the store, and one actor `T||<id>`."""

    def __init__(self, stores: Sequence[Any], actor_id: str) -> None:
        self.cluster = Cluster()
        self.id = actor_id
        self.states: dict[str, ActorState] = {}
        self.apps: dict[str, Tales] = {}
        self.stores = dict(zip("ab", stores, strict=True))
        for name in self.stores:
            host = self.cluster.add(name)
            self.cluster.places[name].version = HERE
            self.apps[name] = Tales()
            host.host("app", [hosted(self.apps[name])])
            self.states[name] = ActorState("app", host, partial(self.stores.get, name), address=f"{name}:1")

    def owner(self, name: str, version: int) -> None:
        """Placement moves the actor; `name` knows, the other host is asleep and does not."""
        self.cluster.owner = lambda _type, _id: name
        self.cluster.places[name].version = version

    async def turn(self, host: str, work: Callable[[], Awaitable[object]]) -> ActorReply:
        async def act(_: ActorCall) -> None:
            await work()

        self.apps[host].acts["do"] = act
        return await self.cluster.hosts[host].invoke(ActorCall("T", self.id, "do"))

    async def put(self, host: str, value: bytes, **fields: Any) -> None:
        await self.states[host].transact("T", self.id, [Set("x", value, is_json=True, **fields)])

    async def stored(self, key: str = "x") -> bytes | None:
        """Return a value as the store has it, without the spaces that jsonb puts between."""
        value: bytes | None = (await self.stores["b"].get(Get(f"app||T||{self.id}||{key}"))).value
        return None if value is None else value.replace(b": ", b":")


def play(opened: Opened, actor_id: str, story: Callable[[Rig], Awaitable[None]]) -> None:
    async def main() -> None:
        async with AsyncExitStack() as stack, asyncio.timeout(90):
            rig = Rig([await stack.enter_async_context(opened()) for _ in range(2)], actor_id)
            try:
                await story(rig)
            finally:
                await rig.cluster.close()

    asyncio.run(main())


def test_keys_and_transactions(opened: Opened) -> None:
    """Keys are exactly `<app>||T||I||<key>`; a transaction is all or nothing; what is not active cannot write."""

    async def story(rig: Rig) -> None:
        state = rig.states["a"]
        with pytest.raises(NotActive):
            await rig.put("a", b"1")
        assert (await state.get("T", rig.id, "x")).value is None
        await rig.turn("a", lambda: rig.put("a", b'{"n":1}'))
        assert await rig.stored() == b'{"n":1}'
        found = await state.get("T", rig.id, "x")
        assert (found.key, found.value) == ("x", (await rig.stores["b"].get(Get(f"app||T||{rig.id}||x"))).value)
        with pytest.raises(EtagMismatch):
            await state.transact(
                "T", rig.id, [Set("y", b"2", is_json=True), Set("x", b"3", "99999", "first-write", is_json=True)]
            )
        assert (await rig.stored("y"), await rig.stored()) == (None, b'{"n":1}')
        await state.transact("T", rig.id, [Set("y", b"2", is_json=True), Delete("x")])
        assert (await rig.stored("y"), await rig.stored()) == (b"2", None)
        assert rig.cluster.hosts["a"].instance("T", rig.id) is not None

    play(opened, "keys", story)


def test_transactions_of_one_activation_do_not_disturb_each_other(opened: Opened) -> None:
    async def story(rig: Rig) -> None:
        async def many() -> None:
            await asyncio.gather(*(rig.put("a", b"%d" % number) for number in range(8)))

        await rig.turn("a", many)
        assert await rig.stored() in [b"%d" % number for number in range(8)]

    play(opened, "many", story)


def test_a_sleeper_cannot_write(opened: Opened) -> None:
    """A host that slept while its actor moved wakes up in the middle of its turn: it writes nothing, and lets go."""

    async def story(rig: Rig) -> None:
        rig.owner("a", HERE)

        async def at_the_new_owner(_: ActorCall) -> None:
            rig.apps["b"].told.append("again")

        async def sleeps() -> None:
            await rig.put("a", b'"first"')
            rig.owner("b", HERE + 1)
            await rig.turn("b", lambda: rig.put("b", b'"second"'))
            rig.apps["b"].acts["do"] = at_the_new_owner
            with pytest.raises(LostPlace):
                await rig.put("a", b'"late"')
            await asyncio.Event().wait()  # The host cuts this turn, and the call goes to the new owner.

        turn = asyncio.ensure_future(rig.turn("a", sleeps))
        await rig.apps["a"].gone.wait()
        rig.cluster.hosts["a"].settled(["T"])
        await turn
        assert rig.apps["b"].told[-1] == "again"
        assert await rig.stored() == b'"second"'

    play(opened, "sleeper", story)


def test_a_sleeper_that_had_not_touched_its_state(opened: Opened) -> None:
    """Its epoch is older than that of the row: it cannot take the fence from the new owner."""

    async def story(rig: Rig) -> None:
        rig.owner("a", HERE)

        async def sleeps() -> None:
            rig.owner("b", HERE + 1)
            await rig.turn("b", lambda: rig.put("b", b'"second"'))
            with pytest.raises(LostPlace):
                await rig.put("a", b'"late"')

        with pytest.raises(LostPlace):
            await rig.cluster.hosts["a"].turn(
                rig.cluster.hosts["a"]._kinds["T"], rig.id, "do", "", lambda _: _then_wait(sleeps)
            )
        assert await rig.stored() == b'"second"'

    play(opened, "untouched", story)


async def _then_wait(work: Callable[[], Awaitable[None]]) -> None:
    await work()
    await asyncio.Event().wait()


def test_numbers_of_a_reference_placement_are_not_compared(opened: Opened) -> None:
    """They begin again when it restarts: the last to take the fence has it, and still only one writes."""

    async def story(rig: Rig) -> None:
        rig.owner("a", 9)
        await rig.turn("a", lambda: rig.put("a", b"1"))
        rig.owner("b", 1)
        await rig.turn("b", lambda: rig.put("b", b"2"))
        with pytest.raises(LostPlace):
            await rig.put("a", b"3")
        assert await rig.stored() == b"2"

    play(opened, "small", story)


class Deaf:
    """A store whose answers get lost after it acted; without word of new ETags, as stores of others are."""

    max_operations = 0

    def __init__(self, store: Any) -> None:
        self._store = store
        self.features = store.features
        self.deaf = 0

    async def get(self, request: Get) -> Found:
        found: Found = await self._store.get(request)
        return found

    async def transact(self, operations: Sequence[Operation], metadata: Mapping[str, str]) -> None:
        await self._store.transact(operations, metadata)
        if self.deaf:
            self.deaf -= 1
            raise ComponentError("connection reset")


def test_outcomes_that_nobody_heard_of(opened: Opened) -> None:
    """The fence moved, unheard: the next transaction finds that out and goes on."""

    async def story(rig: Rig) -> None:
        deaf = Deaf(rig.stores["a"])
        host = rig.cluster.hosts["a"]
        state = ActorState("app", host, lambda: deaf)  # type: ignore[arg-type, return-value]

        async def put(value: bytes) -> None:
            await state.transact("T", rig.id, [Set("x", value, is_json=True)])

        async def work() -> None:
            deaf.deaf = 1
            with pytest.raises(ComponentError, match="reset"):
                await put(b"1")
            await put(b"2")
            deaf.deaf = 1
            with pytest.raises(ComponentError, match="reset"):
                await put(b"3")
            assert await rig.stored() == b"3"
            await put(b"4")

        await rig.turn("a", work)
        assert await rig.stored() == b"4"

    play(opened, "deaf", story)


def test_without_a_store() -> None:
    async def main() -> None:
        cluster = Cluster()
        state = ActorState("app", cluster.add("a"), lambda: None)
        with pytest.raises(NoStateStore):
            await state.get("T", "1", "x")
        with pytest.raises(NoStateStore):
            await state.transact("T", "1", [Delete("x")])
        await cluster.close()

    asyncio.run(main())


def test_a_limited_store_keeps_room_for_the_fence() -> None:
    async def main() -> None:
        cluster = Cluster()
        host = cluster.add("a")
        store = MemoryState(MemoryState.Settings(), Context("kit"))
        store.max_operations = 3
        app = Tales()
        host.host("app", [hosted(app)])
        state = ActorState("app", host, lambda: store)
        await host.invoke(ActorCall("T", "1", "m"))
        await state.transact("T", "1", [Delete("a"), Delete("b")])
        with pytest.raises(ComponentError, match=r"contains 3 operations, which is more than .* supports: 2"):
            await state.transact("T", "1", [Delete("a"), Delete("b"), Delete("c")])
        await cluster.close()

    asyncio.run(main())


def test_the_row() -> None:
    mark = Mark(COMPARABLE, "10.0.0.1:50002", "abc")
    assert read(mark.write()) == mark
    assert read(b"no JSON") == read(b"[]") == Mark(0, "", "")
    assert KEY == "pillion.fence"
