"""Reminders as jobs: spec `actors-workflows-jobs.md` 1.11."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import pytest

from actor_cluster import Cluster, Tales, hosted
from pillion.actors.host import Uncounted
from pillion.actors.reminders import SchedulerReminders, schedule_of
from pillion.kinds.actors import AppRefused, NotHosted, Tick
from pillion.kinds.jobs import Drop, Job, JobExists, JobInvalid, JobKey, Outcome, Trigger
from pillion.peers.actors import any_of_json, json_of_any, read_tick, write_tick
from pillion.wire.envelope import BadEnvelope

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable


class Jobs:
    """A scheduler that keeps jobs in a dictionary and fires when it is told to."""

    def __init__(self) -> None:
        self.kept: dict[JobKey, Job] = {}

    async def schedule(self, key: JobKey, job: Job, *, overwrite: bool = False) -> None:
        if key in self.kept and not overwrite:
            raise JobExists("there is one")
        self.kept[key] = job

    async def get(self, key: JobKey) -> Job | None:
        return self.kept.get(key)

    async def delete(self, key: JobKey) -> None:
        self.kept.pop(key, None)


class Counted(Uncounted):
    def __init__(self) -> None:
        self.fired: list[bool] = []

    def reminder_fired(self, actor_type: str, *, success: bool) -> None:
        self.fired.append(success)


class Bench:
    def __init__(self) -> None:
        self.cluster = Cluster()
        self.jobs, self.meter, self.app = Jobs(), Counted(), Tales()
        self.host = self.cluster.add("a")
        self.host.host("app", [hosted(self.app)])
        self.reminders = SchedulerReminders(self.host, self.jobs, "app", "default", self.meter)  # type: ignore[arg-type]
        self.host.cancelled = self.reminders.cancelled


def play(story: Callable[[Bench], Awaitable[None]]) -> None:
    async def main() -> None:
        bench = Bench()
        try:
            await story(bench)
        finally:
            await bench.cluster.close()

    asyncio.run(main())


KEY = JobKey("default", "r", "app", "T", "1")


@pytest.mark.parametrize(
    ("period", "expected"),
    [
        ("", ("", None)), ("PT1S", ("@every 1s", None)), ("1h30m", ("@every 1h30m0s", None)),
        ("R5/PT1S", ("@every 1s", 5)), ("R0/PT1M", ("@every 1m0s", None)), ("R-3/PT1M", ("@every 1m0s", None)),
        ("R3", ("@every 0s", 3)), ("500ms", ("@every 500ms", None)),
    ],
)  # fmt: skip
def test_periods(period: str, expected: tuple[str, int | None]) -> None:
    assert schedule_of(period) == expected


@pytest.mark.parametrize("period", ["@every 1s", "* * * * * *", "P1Y", "P1M", "P1W", "P1DT1S", "soon", "-5s"])
def test_periods_that_are_not_supported(period: str) -> None:
    """Cron, `@every`, and parts of a calendar."""
    with pytest.raises(JobInvalid, match="unsupported period format"):
        schedule_of(period)


def test_a_reminder_is_a_job() -> None:
    """dueTime and ttl are passed through; data is JSON in a `BytesValue`."""

    async def story(bench: Bench) -> None:
        reminders = bench.reminders
        await reminders.create(
            "T", "1", "r", due_time="5s", period="R2/PT1S", ttl="1h", data=b'{"a":1}', failure_policy=Drop()
        )
        job = bench.jobs.kept[KEY]
        assert job == Job("@every 1s", "5s", "1h", 2, any_of_json(b'{"a":1}').SerializeToString(), Drop())
        assert json_of_any(job.payload) == b'{"a":1}'
        assert await reminders.get("T", "1", "r") == job
        with pytest.raises(JobExists):
            await reminders.create("T", "1", "r", overwrite=False)
        await reminders.create("T", "1", "r")
        assert bench.jobs.kept[KEY] == Job()
        await reminders.delete("T", "1", "r")
        assert await reminders.get("T", "1", "r") is None

    play(story)


def test_the_type_must_be_hosted_here() -> None:
    async def story(bench: Bench) -> None:
        for wrong in (
            bench.reminders.create("U", "1", "r"), bench.reminders.get("U", "1", "r"),
            bench.reminders.delete("U", "1", "r"),
        ):  # fmt: skip
            with pytest.raises(NotHosted):
                await wrong

    play(story)


def test_what_becomes_of_a_tick() -> None:
    async def story(bench: Bench) -> None:
        seen: list[Tick] = []

        class App(Tales):
            async def tick(self, tick: Tick) -> bool:
                seen.append(tick)
                if tick.name == "bad":
                    raise AppRefused("no")
                if tick.name == "broken":
                    raise RuntimeError("a mistake")
                return tick.name == "enough"

        bench.host.host("app", [hosted(App())])
        payload = any_of_json(b"[1]").SerializeToString()
        deliver = bench.reminders.deliver
        assert await deliver(Trigger(KEY, payload, 0)) is Outcome.SUCCESS
        assert (seen[0].data, seen[0].due_time, seen[0].period, seen[0].payload) == (b"[1]", "", "", payload)
        for name in ("bad", "broken"):
            outcome = await deliver(Trigger(JobKey("default", name, "app", "T", "1"), b"", 0))
            assert outcome is Outcome.FAILED
        assert seen[1].data is None
        assert bench.meter.fired == [True, False, False]
        await bench.reminders.create("T", "1", "enough", period="1s")
        assert await deliver(Trigger(JobKey("default", "enough", "app", "T", "1"), b"", 0)) is Outcome.SUCCESS
        assert not bench.jobs.kept
        await bench.host.close()
        assert await deliver(Trigger(KEY, payload, 0)) is Outcome.UNDELIVERABLE
        assert len(bench.meter.fired) == 4

    play(story)


def test_a_tick_goes_where_the_actor_lives() -> None:
    async def story(bench: Bench) -> None:
        other = Tales()
        bench.cluster.add("b").host("app", [hosted(other)])
        bench.cluster.owner = lambda _type, _id: "b"
        assert await bench.reminders.deliver(Trigger(KEY, b"", 0)) is Outcome.SUCCESS
        assert other.told == ["reminder 1 r"]

    play(story)


def test_a_tick_on_its_way_between_sidecars() -> None:
    """Also what a timer calls, for which the reference has no field."""
    for tick in (
        Tick("T", "1", "r", b"[1]", payload=any_of_json(b"[1]").SerializeToString()),
        Tick("T", "1", "t", b'"x"', "1s", "2s", "ring", is_timer=True),
        Tick("T", "1", "t", None, is_timer=True),
    ):
        got = read_tick(write_tick(tick))
        got.payload = tick.payload
        assert got == tick
    for wrong in (b"\xff", write_tick(Tick("T", "", "r"))):
        with pytest.raises(BadEnvelope):
            read_tick(wrong)
