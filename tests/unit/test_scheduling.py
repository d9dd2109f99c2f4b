"""What a sidecar takes from its scheduler, while its application, its actor types and it itself come and go."""

from __future__ import annotations

import asyncio
import random
from typing import TYPE_CHECKING, Any, cast

from fake_scheduler import FakeScheduler
from pillion import tasks
from pillion.clock import FakeClock
from pillion.jobs.remote import RemoteScheduler
from pillion.kinds.jobs import Interest, JobKey, Limit, Outcome, Trigger
from pillion.sidecar.scheduling import Scheduling
from pillion.wire.messages import scheduler as m

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    import pytest

JOB, REMINDER = JobKey("ns", "j", "app"), JobKey("ns", "r", "app", "T", "1")


class Rig:
    """A scheduler, a sidecar's part, and what they carried out."""

    def __init__(self) -> None:
        self.fake = FakeScheduler()
        self.done: list[JobKey] = []
        self.entered, self.go_on = asyncio.Event(), asyncio.Event()
        self.go_on.set()
        self.scheduling = Scheduling(self.fake, "app", "ns", jobs=self.carry_out, reminders=self.carry_out)

    async def carry_out(self, trigger: Trigger) -> Outcome:
        self.entered.set()
        await self.go_on.wait()
        self.done.append(trigger.key)
        return Outcome.SUCCESS

    @property
    def interests(self) -> list[Interest]:
        return [watch.interest for watch in self.fake.watches]


def run(test: Callable[[Rig], Awaitable[None]]) -> None:
    async def main() -> None:
        async with asyncio.timeout(90):
            rig = Rig()
            await test(rig)
            await rig.scheduling.close(0)
            assert not rig.fake.watches

    asyncio.run(main())


def test_jobs_while_the_application_is_well() -> None:
    async def test(rig: Rig) -> None:
        rig.scheduling.app_healthy(True)
        await rig.fake.until(lambda watches: len(watches) == 1)
        assert rig.interests == [Interest("app", "ns")]
        assert await rig.fake.fire(JOB) is Outcome.SUCCESS
        rig.scheduling.app_healthy(False)
        await rig.fake.until(lambda watches: not watches)
        assert await rig.fake.fire(JOB) is Outcome.UNDELIVERABLE
        assert rig.done == [JOB]

    run(test)


def test_reminders_of_hosted_types_only() -> None:
    """Types, health and limits that change in one turn of the loop are one watch."""

    async def test(rig: Rig) -> None:
        rig.scheduling.types(["T"])
        rig.scheduling.limits([Limit("T", 2)])
        await rig.fake.until(lambda watches: len(watches) == 1)
        assert rig.interests == [Interest("app", "ns", False, frozenset("T"), (Limit("T", 2),))]
        assert await rig.fake.fire(REMINDER) is Outcome.SUCCESS
        assert await rig.fake.fire(JOB) is Outcome.UNDELIVERABLE

    run(test)


def test_a_change_opens_before_it_closes() -> None:
    """What is under way over the old watch is answered there; the old one ends when it is idle."""

    async def test(rig: Rig) -> None:
        rig.go_on.clear()
        rig.scheduling.app_healthy(True)
        await rig.fake.until(lambda watches: len(watches) == 1)
        firing = asyncio.ensure_future(rig.fake.fire(JOB))
        await rig.entered.wait()
        rig.scheduling.types(["T"])
        await rig.fake.until(lambda watches: len(watches) == 2)
        rig.go_on.set()
        assert await firing is Outcome.SUCCESS
        await rig.fake.until(lambda watches: len(watches) == 1)
        assert rig.interests == [Interest("app", "ns", True, frozenset("T"))]

    run(test)


def test_an_old_watch_hands_back_what_is_not_wanted() -> None:
    async def test(rig: Rig) -> None:
        rig.go_on.clear()
        rig.scheduling.app_healthy(True)
        rig.scheduling.types(["T"])
        await rig.fake.until(lambda watches: len(watches) == 1)
        firing = asyncio.ensure_future(rig.fake.fire(REMINDER))
        await rig.entered.wait()
        rig.scheduling.app_healthy(False)
        await rig.fake.until(lambda watches: len(watches) == 2)
        assert await rig.fake.watches[0].deliver(Trigger(JOB, b"", 0.0)) is Outcome.UNDELIVERABLE
        rig.go_on.set()
        assert await firing is Outcome.SUCCESS

    run(test)


def test_the_end_waits_for_what_is_under_way() -> None:
    """And takes nothing new meanwhile."""

    async def test(rig: Rig) -> None:
        rig.go_on.clear()
        rig.scheduling.app_healthy(True)
        await rig.fake.until(lambda watches: len(watches) == 1)
        firing = asyncio.ensure_future(rig.fake.fire(JOB))
        await rig.entered.wait()
        closing = asyncio.ensure_future(rig.scheduling.close(5))
        await asyncio.sleep(0)
        assert await rig.fake.fire(JOB) is Outcome.UNDELIVERABLE
        rig.go_on.set()
        await closing
        assert await firing is Outcome.SUCCESS
        rig.scheduling.app_healthy(True)
        await asyncio.sleep(0)
        assert not rig.fake.watches

    run(test)


def test_a_handler_that_breaks_has_failed() -> None:
    async def test(rig: Rig) -> None:
        async def broken(trigger: Trigger) -> Outcome:
            raise RuntimeError("oh")

        rig.scheduling.reminders = broken
        rig.scheduling.types(["T"])
        await rig.fake.until(lambda watches: len(watches) == 1)
        assert await rig.fake.fire(REMINDER) is Outcome.FAILED

    run(test)


class Stream:
    """One of a scheduler's: fails as nobody expects, or gives what it has and waits for ever."""

    def __init__(self, gives: list[bytes] | None) -> None:
        self.gives, self.cancelled, self.waits = gives, False, asyncio.Event()

    async def send(self, message: bytes) -> None:
        pass

    send_last = send

    async def receive(self) -> bytes | None:
        if self.gives is None:
            raise RuntimeError("nobody expects this")
        if self.gives:
            return self.gives.pop(0)
        self.waits.set()
        await asyncio.Event().wait()
        return None

    def cancel(self) -> None:
        self.cancelled = True


def test_schedulers_are_followed_after_what_nobody_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who is there, and their jobs: else this sidecar would never hear of either again."""
    monkeypatch.setattr(tasks, "FIRST_PAUSE_S", 0.001)

    async def main() -> None:
        told = m.WatchHostsResponse(hosts=[m.Host(address="two:1")]).SerializeToString()
        streams = {"WatchHosts": [Stream(None), Stream([told])], "WatchJobs": [Stream(None), Stream([])]}
        opened: dict[str, list[Stream]] = {"WatchHosts": [], "WatchJobs": []}

        class Channel:
            def stream(self, method: str) -> Stream:
                name = method.rpartition("/")[2]
                opened[name].append(streams[name][len(opened[name])])
                return opened[name][-1]

            async def close(self) -> None:
                pass

        far = RemoteScheduler(["one:1"], cast("Any", lambda _: Channel()), FakeClock(), random.Random(1), streams=1)
        watch = far.watch(Interest("app", "ns"), cast("Any", None))
        far.open()
        async with asyncio.timeout(90):
            await far.found.wait()
            assert far.connected == ["two:1"]
            await streams["WatchJobs"][1].waits.wait()
        assert opened == streams
        assert streams["WatchJobs"][0].cancelled
        await far.close()
        del watch

    asyncio.run(main())
