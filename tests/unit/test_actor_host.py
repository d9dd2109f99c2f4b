"""The host of actors without sockets: one turn at a time wherever the actor lives, also while it moves.

Spec `actors-workflows-jobs.md` 1.4, 1.5 and invariants 1, 2, 5, 7, 8, 37.
"""

from __future__ import annotations

import asyncio
import random
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, cast

import pytest

from actor_cluster import Cluster, Tales, hosted
from pillion import tasks
from pillion.actors.idle import Idle
from pillion.actors.membership import HALT_S
from pillion.kinds.actors import (
    ActorCall,
    ActorClosed,
    ActorReply,
    AppRefused,
    LostPlace,
    MethodMissing,
    Moved,
    NoHost,
    Reentrancy,
    RuntimeClosed,
    Tick,
    TooDeep,
)
from pillion.resiliency.deadlines import Deadlines
from pillion.resiliency.failures import TimedOut
from pillion.resiliency.machine import Retry
from pillion.resiliency.policies import ActorPolicies
from pillion.resiliency.run import Policy
from pillion.testing.simulation import World

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine

    from pillion.actors.host import ActorHost
    from pillion.kinds.actors import Actors, Hosting

CHAIN = b"dapr-reentrancy-id"


def play(story: Callable[[Cluster], Awaitable[None]], *hosts: str) -> Cluster:
    """Run a story in a world of invented time: nothing waits for real."""
    cluster = Cluster()

    async def main() -> None:
        for name in hosts or ("a",):
            cluster.add(name)
        try:
            await story(cluster)
        finally:
            await cluster.close()
            done.append(True)

    done: list[bool] = []
    run(main(), done)
    return cluster


def run(main: Coroutine[Any, Any, None], done: list[bool]) -> None:
    world = World(seed=1)
    task = world.host("one").start(main)
    world.run(until=lambda: bool(done) and task.done(), seconds=100_000)
    task.result()


def call(actor_id: str = "1", method: str = "m", chain: str = "") -> ActorCall:
    return ActorCall("T", actor_id, method, headers=[(CHAIN, chain.encode())] if chain else [])


def parts_of(host: ActorHost) -> tuple[Actors, Hosting]:
    """What a host is to the edges, and to placement: mypy looks at this."""
    return host, host


class Latch:
    """A method that waits until it is let go; `entered` once it runs."""

    def __init__(self) -> None:
        self.entered = asyncio.Event()
        self.go = asyncio.Event()

    async def __call__(self, _: ActorCall) -> None:
        self.entered.set()
        await self.go.wait()


def test_a_call_activates_and_its_answer_comes_back() -> None:
    async def story(cluster: Cluster) -> None:
        app, host = Tales(), cluster.hosts["a"]
        host.host("app", [hosted(app)])
        assert cluster.places["a"].told[-1] == ["T"]
        assert (await host.invoke(call())).body == b"done"
        assert host.active() == {"T": 1}
        assert host.hosts("T")
        assert not host.hosts("U")

    play(story)


def test_turns_in_order_of_arrival() -> None:
    """One turn at a time, first come first served, whoever gives up in between (invariants 1 and 2)."""

    async def story(cluster: Cluster) -> None:
        latch = Latch()
        app, host = Tales(first=latch), cluster.hosts["a"]
        host.host("app", [hosted(app)])
        calls = [asyncio.ensure_future(host.invoke(call(method="first")))]
        await latch.entered.wait()
        calls += [asyncio.ensure_future(host.invoke(call(method=f"m{number}"))) for number in range(5)]
        await asyncio.sleep(1)
        calls[3].cancel()
        await asyncio.sleep(1)
        assert app.told == ["first 1"]
        latch.go.set()
        await asyncio.wait(calls)
        assert app.told == ["first 1", "m0 1", "m1 1", "m3 1", "m4 1"]
        assert not app.overlaps

    play(story)


def test_a_chain_comes_back_and_is_not_too_deep() -> None:
    """Without an id the first call begins a chain; calls with its id run beside it, up to a depth (invariant 3)."""

    async def story(cluster: Cluster) -> None:
        host = cluster.hosts["a"]
        seen: list[bytes] = []

        async def deeper(asked: ActorCall) -> ActorReply:
            seen.append(dict(asked.headers)[CHAIN])
            return await host.invoke(ActorCall("T", "1", "deeper", headers=asked.headers))

        app = Tales(deeper=deeper)
        host.host("app", [hosted(app, reentrancy=Reentrancy(4))])
        with pytest.raises(TooDeep):
            await host.invoke(call(method="deeper"))
        assert len(seen) == 4
        assert len(set(seen)) == 1
        assert (await host.invoke(call())).body == b"done"  # The actor is not locked by what was refused.
        assert not app.overlaps

    play(story)


def test_without_reentrancy_ids_mean_nothing() -> None:
    async def story(cluster: Cluster) -> None:
        latch = Latch()
        app, host = Tales(first=latch), cluster.hosts["a"]
        host.host("app", [hosted(app)])
        one = asyncio.ensure_future(host.invoke(call(method="first", chain="x")))
        await latch.entered.wait()
        two = asyncio.ensure_future(host.invoke(call(chain="x")))
        await asyncio.sleep(1)
        assert app.told == ["first 1"]
        latch.go.set()
        await asyncio.gather(one, two)
        plain: list[ActorCall] = []

        async def noted(asked: ActorCall) -> None:
            plain.append(asked)

        app.acts["noted"] = noted
        await host.invoke(call(method="noted"))
        assert plain[0].headers == []

    play(story)


def test_reminders_and_timers_take_turns_and_begin_chains() -> None:
    async def story(cluster: Cluster) -> None:
        host = cluster.hosts["a"]
        chains: list[bytes] = []

        async def back(asked: ActorCall) -> None:
            chains.append(dict(asked.headers)[CHAIN])
            await host.invoke(ActorCall("T", "1", "inner", headers=asked.headers))

        app = Tales(r=back)
        host.host("app", [hosted(app, reentrancy=Reentrancy())])
        assert await host.tick(Tick("T", "1", "r")) is False
        await host.tick(Tick("T", "1", "r", is_timer=True))
        assert app.told == ["reminder 1 r", "inner 1", "timer 1 r", "inner 1"]
        assert len(set(chains)) == 2
        assert not app.overlaps

    play(story)


def test_a_reminder_that_is_cancelled_is_told_where_the_actor_lives() -> None:
    async def story(cluster: Cluster) -> None:
        cluster.owner = lambda _type, _id: "b"
        app, told = Tales(), []
        app.wants_no_more = True

        async def cancelled(tick: Tick) -> None:
            told.append(tick.name)

        for host in cluster.hosts.values():
            host.host("app", [hosted(app)])
        cluster.hosts["b"].cancelled = cancelled
        assert await cluster.hosts["a"].tick(Tick("T", "1", "r")) is False
        assert told == ["r"]
        await cluster.hosts["b"].tick(Tick("T", "1", "t", is_timer=True))
        assert told == ["r"]

    play(story, "a", "b")


def test_what_the_application_refuses_is_final() -> None:
    async def story(cluster: Cluster) -> None:
        host, tries = cluster.hosts["a"], 0

        async def refuse(_: ActorCall) -> None:
            nonlocal tries
            tries += 1
            raise AppRefused("no", 500)

        app = Tales(refuse=refuse)
        host.host("app", [hosted(app)])
        with pytest.raises(AppRefused):
            await host.invoke(call(method="refuse"))
        assert tries == 1
        assert (await host.invoke(call())).body == b"done"

    play(story)


def test_a_policy_of_routing_that_changes_holds_for_the_next_call() -> None:
    """A Resiliency resource may come while calls go on; one that has begun ends under the policy it began with."""

    async def story(cluster: Cluster) -> None:
        loop, current = asyncio.get_running_loop(), Retry("before", 4, 2.0)
        host = cluster.add("b", retry=lambda: current)
        cluster.owner = lambda _type, _id: ""
        began = loop.time()
        patient = asyncio.ensure_future(host.invoke(call()))
        await asyncio.sleep(1)
        current = Retry("after", 1, 0.5)
        with pytest.raises(NoHost):
            await host.invoke(call())
        assert loop.time() - began == pytest.approx(1.5)
        with pytest.raises(NoHost):
            await patient
        assert loop.time() - began == pytest.approx(8)

    play(story)


def test_a_type_that_nobody_hosts_is_looked_for_again() -> None:
    """Five retries, a second apart (1.4); a new round of placement shortens the wait."""

    async def story(cluster: Cluster) -> None:
        host, loop = cluster.hosts["a"], asyncio.get_running_loop()
        cluster.owner = lambda _type, _id: ""
        began = loop.time()
        with pytest.raises(NoHost):
            await host.invoke(call())
        assert loop.time() - began == pytest.approx(5, abs=0.1)
        began = loop.time()
        patient = asyncio.ensure_future(host.invoke(call()))
        for _ in range(20):
            await asyncio.sleep(0.2)
            await cluster.rebalance(cluster.owner)
        with pytest.raises(NoHost):
            await patient
        assert loop.time() - began == pytest.approx(9, abs=0.1)  # rounds that change nothing use up no retries
        waiting = asyncio.ensure_future(host.invoke(call()))
        await asyncio.sleep(0.1)
        host.host("app", [hosted(Tales())])
        await cluster.rebalance(lambda _type, _id: "a")
        began = loop.time()
        assert (await waiting).body == b"done"
        assert loop.time() - began < 0.5

    play(story)


def test_no_second_hop() -> None:
    """What another sidecar passed on runs here or is sent back."""

    async def story(cluster: Cluster) -> None:
        cluster.owner = lambda _type, _id: "b"
        for host in cluster.hosts.values():
            host.host("app", [hosted(Tales())])
        again = call()
        again.remote = True
        for wrong in (
            cluster.hosts["a"].invoke(again),
            cluster.hosts["a"].tick(Tick("T", "1", "r"), remote=True),
            anext(cluster.hosts["a"].stream(again)),
        ):
            with pytest.raises(Moved):
                await wrong
        assert cluster.passed_on == 0
        await cluster.hosts["a"].invoke(call())
        assert cluster.passed_on == 1

    play(story, "a", "b")


def test_moving_lets_turns_end_and_sends_the_others_along() -> None:
    """The turn that runs has its time; who waits goes to the new owner; the old one has deactivated the instance before
    placement goes on (invariants 7, 8, 37).
    """

    async def story(cluster: Cluster) -> None:
        latch = Latch()
        apps = {"a": Tales(first=latch), "b": Tales()}
        for name, host in cluster.hosts.items():
            host.host("app", [hosted(apps[name], drain_timeout_s=5.0)])
        host = cluster.hosts["a"]
        first = asyncio.ensure_future(host.invoke(call(method="first")))
        await latch.entered.wait()
        second = asyncio.ensure_future(host.invoke(call(method="second")))
        await asyncio.sleep(1)
        moving = asyncio.ensure_future(cluster.rebalance(lambda _type, _id: "b"))
        third = asyncio.ensure_future(host.invoke(call(method="third")))
        await asyncio.sleep(2)
        assert not moving.done()
        latch.go.set()
        assert (await first).body == b"done"
        await asyncio.gather(moving, second, third)
        assert apps["a"].told == ["first 1", "gone 1"]
        assert sorted(apps["b"].told) == ["second 1", "third 1"]
        assert host.active() == {"T": 0}

    play(story, "a", "b")


def test_a_turn_that_takes_too_long_is_cut_and_tried_again() -> None:
    async def story(cluster: Cluster) -> None:
        latch, loop = Latch(), asyncio.get_running_loop()
        apps = {"a": Tales(first=latch), "b": Tales()}
        for name, host in cluster.hosts.items():
            host.host("app", [hosted(apps[name], drain_timeout_s=3.0)])
        first = asyncio.ensure_future(cluster.hosts["a"].invoke(call(method="first")))
        await latch.entered.wait()
        began = loop.time()
        await cluster.rebalance(lambda _type, _id: "b")
        assert loop.time() - began == pytest.approx(3, abs=0.1)
        assert (await first).body == b"done"
        assert apps["a"].told == ["first 1", "gone 1"]
        assert apps["b"].told == ["first 1"]

    play(story, "a", "b")


def test_draining_can_be_switched_off() -> None:
    async def story(cluster: Cluster) -> None:
        latch, loop = Latch(), asyncio.get_running_loop()
        apps = {"a": Tales(first=latch), "b": Tales()}
        for name, host in cluster.hosts.items():
            host.host("app", [hosted(apps[name], drain=False, drain_timeout_s=60.0)])
        first = asyncio.ensure_future(cluster.hosts["a"].invoke(call(method="first")))
        await latch.entered.wait()
        began = loop.time()
        await cluster.rebalance(lambda _type, _id: "b")
        assert loop.time() - began < 0.1
        await first

    play(story, "a", "b")


def test_actors_that_stay_and_types_that_do_not_change_are_left_alone() -> None:
    """Invariant 5: unchanged types are never interrupted; nor are actors whose owner is the same before and after."""

    async def story(cluster: Cluster) -> None:
        one, two = Latch(), Latch()
        app = Tales(one=one, two=two)
        host = cluster.hosts["a"]
        host.host("app", [hosted(app), hosted(app, "U")])
        cluster.hosts["b"].host("app", [hosted(Tales()), hosted(Tales(), "U")])
        calls = [
            asyncio.ensure_future(host.invoke(call("stays", "one"))),
            asyncio.ensure_future(host.invoke(ActorCall("U", "goes", "two"))),
        ]
        await one.entered.wait()
        await two.entered.wait()
        await cluster.rebalance(lambda _type, actor_id: "b" if actor_id == "goes" else "a", ["T"])
        assert not any(one.done() for one in calls)
        one.go.set()
        two.go.set()
        await asyncio.gather(*calls)
        assert "gone stays" not in app.told
        assert "gone goes" not in app.told

    play(story, "a", "b")


def test_a_chain_comes_back_while_its_actor_moves() -> None:
    """Its type cannot be looked up, but the turn waits for this very call: it runs, and the turn can end in time."""

    async def story(cluster: Cluster) -> None:
        host, loop = cluster.hosts["a"], asyncio.get_running_loop()
        moving: list[asyncio.Future[None]] = []

        async def outer(asked: ActorCall) -> None:
            moving.append(asyncio.ensure_future(cluster.rebalance(lambda _type, _id: "b")))
            await asyncio.sleep(1)
            await host.invoke(ActorCall("T", "1", "inner", headers=asked.headers))

        app = Tales(outer=outer)
        host.host("app", [hosted(app, drain_timeout_s=30.0, reentrancy=Reentrancy())])
        began = loop.time()
        await host.invoke(call(method="outer"))
        await moving[0]
        assert loop.time() - began < 2
        assert app.told == ["outer 1", "inner 1", "gone 1"]

    play(story, "a", "b")


def test_idle_actors_are_deactivated_but_never_in_a_turn() -> None:
    """A turn that is longer than the idle timeout is left in peace (the reference cancels it)."""

    async def story(cluster: Cluster) -> None:
        latch, host = Latch(), cluster.hosts["a"]
        app = Tales(long=latch)
        host.host("app", [hosted(app, idle_timeout_s=10.0)])
        for number in range(3):
            await host.invoke(call(str(number)))
            await asyncio.sleep(1)
        long = asyncio.ensure_future(host.invoke(call("long", "long")))
        await asyncio.sleep(6)
        await host.invoke(call("1"))
        await asyncio.sleep(6)
        assert host.active() == {"T": 2}
        assert [line for line in app.told if "gone" in line] == ["gone 0", "gone 2"]
        await asyncio.sleep(60)
        assert host.active() == {"T": 1}
        latch.go.set()
        await long
        await asyncio.sleep(5)
        assert host.active() == {"T": 1}
        await asyncio.sleep(6)
        assert host.active() == {"T": 0}
        assert not app.overlaps

    play(story)


def test_a_call_that_comes_while_its_actor_is_deactivated_waits_for_the_end() -> None:
    async def story(cluster: Cluster) -> None:
        host, order = cluster.hosts["a"], []

        class Slow(Tales):
            async def deactivate(self, actor_type: str, actor_id: str) -> None:
                await asyncio.sleep(2)
                order.append("gone")

            async def invoke(self, call: ActorCall) -> ActorReply:
                order.append(call.method)
                return ActorReply()

        host.host("app", [hosted(Slow())])
        await host.invoke(call(method="one"))
        halting = asyncio.ensure_future(host.halt("T", "1"))
        await asyncio.sleep(1)
        await host.invoke(call(method="two"))
        await halting
        assert order == ["one", "gone", "two"]

    play(story)


def test_halting_cuts_a_turn_unless_it_is_ones_own() -> None:
    async def story(cluster: Cluster) -> None:
        host = cluster.hosts["a"]
        calls = 0

        async def halts(_: ActorCall) -> None:
            await host.halt("T", "1")

        async def once(_: ActorCall) -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                await asyncio.Event().wait()

        app = Tales(halts=halts, once=once)
        host.host("app", [hosted(app)])
        assert (await host.invoke(call(method="halts"))).body == b"done"
        first = asyncio.ensure_future(host.invoke(call(method="once")))
        await asyncio.sleep(1)
        await host.halt("T", "1")
        await first
        assert app.told == ["halts 1", "gone 1", "once 1", "gone 1", "once 1"]
        assert not app.overlaps

    play(story)


def test_a_refused_deactivation_is_an_end_all_the_same() -> None:
    async def story(cluster: Cluster) -> None:
        app, host = Tales(), cluster.hosts["a"]
        app.refuses = AppRefused("no")
        host.host("app", [hosted(app)])
        await host.invoke(call())
        await host.halt("T", "1")
        await host.halt("T", "unknown")
        assert host.active() == {"T": 0}

    play(story)


def test_types_come_and_go_by_who_names_them() -> None:
    """Several may name types; what nobody names any more is drained; another handler takes over without a break."""

    async def story(cluster: Cluster) -> None:
        host, told = cluster.hosts["a"], cluster.places["a"].told
        old, new, engine = Tales(), Tales(), Tales()
        host.host("app", [hosted(old), hosted(old, "U")])
        host.host("engine", [hosted(engine, "dapr.internal.x", locked=False)])
        assert told[-1] == ["T", "U", "dapr.internal.x"]
        await host.invoke(call())
        host.host("stream", [hosted(new)])
        await host.invoke(call())
        assert (old.told, new.told) == (["m 1"], ["m 1"])
        host.host("stream", [])
        await host.invoke(call())
        assert old.told == ["m 1", "m 1"]
        host.host("app", [hosted(old, "U")])
        assert told[-1] == ["U", "dapr.internal.x"]
        await asyncio.sleep(1)
        assert old.told[-1] == "gone 1"
        assert host.active() == {"U": 0, "dapr.internal.x": 0}

    play(story)


def test_nothing_is_hosted_without_a_store(caplog: pytest.LogCaptureFixture) -> None:
    """Added: advertised; removed: drained, suspended, and said (1.1). Actors elsewhere can be called all the same."""

    async def story(cluster: Cluster) -> None:
        host, app = cluster.hosts["a"], Tales()
        host.host("app", [hosted(app)])
        await host.invoke(call())
        host.store_changed(False)
        assert cluster.places["a"].told[-1] == []
        await asyncio.sleep(1)
        assert app.told == ["m 1", "gone 1"]
        assert not host.hosts("T")
        cluster.hosts["b"].host("app", [hosted(app)])
        cluster.owner = lambda _type, _id: "b"
        await host.invoke(call())
        host.host("stream", [hosted(app), hosted(app, "U")])
        host.store_changed(True)
        assert cluster.places["a"].told[-1] == ["T", "U"]
        texts = [record.message for record in caplog.records if record.levelname == "WARNING"]
        assert texts == [
            f'actors of {each} are not hosted until a state store here has actorStateStore "true"' for each in "TU"
        ]

    play(story, "a", "b")


def test_engines_keep_an_order_of_their_own() -> None:
    """`locked` False: calls run beside each other; a halt only forgets the instance, after its last call."""

    async def story(cluster: Cluster) -> None:
        latch, host = Latch(), cluster.hosts["a"]
        engine = Tales(first=latch)
        settled: list[int] = []
        host.host("engine", [hosted(engine, locked=False, settled=lambda: settled.append(1))])
        first = asyncio.ensure_future(host.invoke(call(method="first")))
        await latch.entered.wait()
        await host.invoke(call(method="second"))
        await host.halt("T", "1")
        assert host.active() == {"T": 1}
        latch.go.set()
        await first
        assert host.active() == {"T": 0}
        await host.invoke(call())
        await host.halt("T", "1")
        assert host.active() == {"T": 0}
        assert not any("gone" in line for line in engine.told)
        await cluster.rebalance(lambda _type, _id: "a")
        assert settled == [1]

    play(story)


def test_streams() -> None:
    async def story(cluster: Cluster) -> None:
        cluster.owner = lambda _type, _id: "b"
        for host in cluster.hosts.values():
            host.host("engine", [hosted(Tales(), locked=False)])
        for host in cluster.hosts.values():
            assert [item async for item in host.stream(call(method="two"))] == [b"1", b"2"]
        items = cluster.hosts["b"].stream(call(method="forever"))
        assert await anext(items) == b"1"
        assert await anext(items) == b"2"
        moving = asyncio.ensure_future(cluster.rebalance(lambda _type, _id: "a"))
        with pytest.raises(ActorClosed) as ended:
            await anext(items)
        assert ended.value.retryable
        await moving
        cluster.hosts["a"].host("engine", [hosted(Silent(), locked=False)])  # type: ignore[arg-type]
        with pytest.raises(MethodMissing):
            await anext(cluster.hosts["a"].stream(call()))

    play(story, "a", "b")


def test_nobody_waits_for_a_host_that_hangs_and_has_lost_the_actor() -> None:
    """A call, a reminder and a stream, all at a host that answers nothing: given up soon after the table that gives
    the actor to another, which they find; what is asked of a host that keeps its actor is left alone."""

    async def story(cluster: Cluster) -> None:
        cluster.owner = lambda _type, _id: "b"
        host, app, loop = cluster.hosts["a"], Tales(), asyncio.get_running_loop()
        for each in cluster.hosts.values():
            each.host("app", [hosted(app)])
        cluster.hanging = {"b"}
        items = host.stream(call("stream"))
        for expected in (b"1", b"2"):
            assert await anext(items) == expected
        ended = asyncio.ensure_future(anext(items))
        moved = asyncio.ensure_future(host.invoke(call("moved")))
        told = asyncio.ensure_future(host.tick(Tick("T", "moved", "tick")))
        kept = asyncio.ensure_future(host.invoke(call("kept")))
        late = host.stream(call("late"))
        assert await anext(late) == b"1"
        await asyncio.sleep(3)
        assert app.told == []
        await cluster.rebalance(lambda _type, actor_id: "b" if actor_id == "kept" else "c")
        settled = loop.time()
        with pytest.raises(ActorClosed, match="did not answer") as closed:
            await anext(late)  # without a wait: the answer that it would wait for does not come
        assert closed.value.retryable
        assert (await moved).body == b"done"
        await told
        with pytest.raises(ActorClosed):
            await ended
        assert loop.time() - settled == pytest.approx(1)
        assert [line for line in app.told if "gone" not in line] == ["m moved", "reminder moved tick"]
        cluster.owner = lambda _type, _id: ""
        for each in cluster.hosts.values():
            each.settled(["T"])
        with pytest.raises(NoHost):
            await kept

    play(story, "a", "b", "c")


class Silent:
    """A handler without streams."""

    async def deactivate(self, actor_type: str, actor_id: str) -> None: ...


def test_losing_the_place_ends_everything() -> None:
    async def story(cluster: Cluster) -> None:
        host, app = cluster.hosts["a"], Tales()
        host.host("app", [hosted(app), hosted(app, "U")])
        await host.invoke(call())
        await host.invoke(ActorCall("U", "2", "m"))
        await host.halt_all()
        assert host.active() == {"T": 0, "U": 0}
        assert sorted(app.told[2:]) == ["gone 1", "gone 2"]

    play(story)


def test_a_place_that_was_taken_over() -> None:
    """`LostPlace` ends the turn with the instance; the call is tried again after a pause, by routing."""

    async def story(cluster: Cluster) -> None:
        host, calls = cluster.hosts["a"], 0

        async def act(_: ActorCall) -> None:
            nonlocal calls
            calls += 1
            if calls == 1:
                instance = host.instance("T", "1")
                assert instance is not None
                host.lost("T", instance, LostPlace("gone"))
                await asyncio.Event().wait()

        app = Tales(act=act)
        host.host("app", [hosted(app)])
        await host.invoke(call(method="act"))
        assert app.told == ["act 1", "gone 1", "act 1"]

    play(story)


def test_shutdown_takes_five_seconds_at_most() -> None:
    async def story(cluster: Cluster) -> None:
        host, loop = cluster.hosts["a"], asyncio.get_running_loop()
        app = Tales(first=Latch())
        host.host("app", [hosted(app, drain_timeout_s=600.0)])
        first = asyncio.ensure_future(host.invoke(call(method="first")))
        await asyncio.sleep(1)
        began = loop.time()
        await host.close()
        assert loop.time() - began <= 5
        assert app.told == ["first 1", "gone 1"]
        with pytest.raises(RuntimeClosed):
            await first
        with pytest.raises(RuntimeClosed):
            await host.invoke(call())
        host.host("app", [])
        host.store_changed(False)
        await host.close()

    play(story)


def test_policies_surround_a_call_and_time_counts_from_its_turn() -> None:
    """Retries are around the wait for the turn, the timeout is within (1.4); a final error is not tried again."""

    async def story(cluster: Cluster) -> None:
        tries: list[str] = []

        class Guarded:
            def actor(self, actor_type: str, actor_id: str) -> ActorPolicies:
                return found

        host = cluster.add("g", policies=Guarded())
        cluster.owner = lambda _type, _id: "g"
        clock = LoopClock()
        found = ActorPolicies(
            Policy("actor_T", retry=Retry("r", 2, 1.0), clock=clock),
            Policy("actor_T", deadlines=Deadlines(5.0), clock=clock),
        )
        latch = Latch()

        async def fails(_: ActorCall) -> None:
            tries.append("fails")
            raise AppRefused("no", 500)

        async def missing(_: ActorCall) -> None:
            tries.append("missing")
            raise MethodMissing("no")

        app = Tales(first=latch, fails=fails, missing=missing)
        host.host("app", [hosted(app)])
        with pytest.raises(TimedOut):
            await host.invoke(call(method="first"))
        assert app.told == ["first 1"] * 3
        with pytest.raises(AppRefused):
            await host.invoke(call(method="fails"))
        assert tries == ["fails"] * 3
        with pytest.raises(MethodMissing):
            await host.invoke(call(method="missing"))
        assert tries[3:] == ["missing"]

    play(story)


class LoopClock:
    def now(self) -> float:
        return asyncio.get_running_loop().time()

    monotonic = now


@pytest.mark.parametrize("seed", range(25))
def test_no_turns_overlap_whatever_happens(seed: int) -> None:
    """Two hosts, actors that move to and fro, callers that give up, turns of every length: no two turns of one actor at
    a time, and who did not give up has an answer (invariants 1, 2, 8).
    """
    rng = random.Random(seed)

    async def story(cluster: Cluster) -> None:
        running: dict[str, int] = {}
        wrong: list[str] = []

        class App(Tales):
            async def invoke(self, call: ActorCall) -> ActorReply:
                running[call.actor_id] = running.get(call.actor_id, 0) + 1
                if running[call.actor_id] > 1:
                    wrong.append(call.actor_id)
                try:
                    await asyncio.sleep(rng.choice([0, 0.01, 0.3, 4]))
                finally:
                    running[call.actor_id] -= 1
                return ActorReply(b"done")

            async def deactivate(self, actor_type: str, actor_id: str) -> None:
                if running.get(actor_id):
                    wrong.append(f"gone {actor_id}")
                await asyncio.sleep(rng.choice([0, 0.2]))

        for host in cluster.hosts.values():
            host.host("app", [hosted(App(), drain_timeout_s=rng.choice([0.1, 1.0]), idle_timeout_s=0.5)])
        answered: list[bytes] = []
        gave_up = 0

        async def caller() -> None:
            nonlocal gave_up
            await asyncio.sleep(rng.uniform(0, 10))
            host = cluster.hosts[rng.choice("ab")]
            try:
                async with asyncio.timeout(rng.choice([None, None, None, 0.2])):
                    answered.append((await host.invoke(call(rng.choice("123")))).body)
            except TimeoutError:
                gave_up += 1

        async def mover() -> None:
            for _ in range(6):
                await asyncio.sleep(rng.uniform(0, 3))
                places = {actor_id: rng.choice("ab") for actor_id in "123"}
                await cluster.rebalance(lambda _type, actor_id, places=places: places[actor_id])  # type: ignore[misc]

        async with asyncio.TaskGroup() as group:
            group.create_task(mover())
            for _ in range(40):
                group.create_task(caller())
        assert not wrong
        assert len(answered) + gave_up == 40

    play(story, "a", "b")


def test_a_lost_place_does_not_wait_for_long_turns() -> None:
    """Another host may be about to take over: what a type may drain for does not count then."""

    async def story(cluster: Cluster) -> None:
        host, loop = cluster.hosts["a"], asyncio.get_running_loop()
        app = Tales(first=Latch())
        host.host("app", [hosted(app, drain_timeout_s=600.0)])
        first = asyncio.ensure_future(host.invoke(call(method="first")))
        await asyncio.sleep(1)
        withdrawn = asyncio.ensure_future(host.invoke(call("2", "first")))
        await asyncio.sleep(1)
        host.host("app", [])
        await asyncio.sleep(1)
        cluster.places["a"].blocked.add("T")
        began = loop.time()
        await host.halt_all()
        assert loop.time() - began < HALT_S
        assert sorted(app.told) == ["first 1", "first 2", "gone 1", "gone 2"]
        first.cancel()
        withdrawn.cancel()

    play(story)


def test_a_look_for_idle_actors_that_fails_in_an_unexpected_way_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else would look at the type."""
    monkeypatch.setattr(tasks, "FIRST_PAUSE_S", 0.001)

    async def main() -> None:
        looks = 0
        again = asyncio.Event()

        async def sweep(kind: object) -> None:
            nonlocal looks
            looks += 1
            if looks < 3:
                raise RuntimeError("nobody expects this")
            if looks == 4:
                again.set()

        owner = tasks.Tasks("test")
        idle = Idle(sweep, owner)
        idle.begin(cast("Any", SimpleNamespace(actor_type="T", next_check=asyncio.get_running_loop().time)))
        async with asyncio.timeout(90):
            await again.wait()
        idle.close()
        await owner.close()

    asyncio.run(main())


def test_a_handler_that_does_not_part_in_order_does_not_keep_others_from_their_end(
    caplog: pytest.LogCaptureFixture,
) -> None:
    """An actor whose end had begun and never came would be waited for for ever."""

    async def story(cluster: Cluster) -> None:
        host, app = cluster.hosts["a"], Tales()

        async def leaving(stays: Callable[[str], bool]) -> None:
            raise RuntimeError("nobody expects this")

        host.host("app", [hosted(app), hosted(Tales(), "Odd", leaving=leaving)])
        await host.invoke(call())
        await parts_of(host)[1].halt_all()
        await host.invoke(call())
        host.host("app", [])

    play(story, "a")
    assert "have not left in order" in caplog.text
