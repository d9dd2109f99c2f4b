"""The scheduler's protocol over real sockets: our server with our client, and with grpcio as another opinion."""

from __future__ import annotations

import asyncio
import random
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from fake_scheduler import FakeScheduler
from h2_support import serving
from pillion.clock import SystemClock
from pillion.control.scheduler import SchedulerService
from pillion.control.scheduler_hosts import Hosts
from pillion.errors import Code
from pillion.jobs import remote
from pillion.jobs.admin_protocol import DELETE_MANY
from pillion.jobs.protocol import SERVICE, metadata_of
from pillion.jobs.remote import RemoteScheduler
from pillion.kinds.jobs import (
    CatchUp,
    Constant,
    Drop,
    Interest,
    Job,
    JobExists,
    JobInvalid,
    JobKey,
    Limit,
    Outcome,
    SchedulerUnavailable,
    Trigger,
)
from pillion.net.exchange import RpcError
from pillion.net.grpc_client import Channel
from pillion.wire.messages import own_scheduler as own
from pillion.wire.messages import scheduler as m
from pillion.wire.messages import wellknown

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

KEY = JobKey("ns", "j", "app")
REMINDER = JobKey("ns", "r", "app", "T", "1")
DATA = wellknown.Any(type_url="type.googleapis.com/google.protobuf.Value", value=b"\x1a\x01v").SerializeToString()
FULL = Job(
    schedule="@every 1s",
    due_time="5s",
    ttl="1h",
    repeats=3,
    payload=DATA,
    failure_policy=Constant(2.5, 7),
    concurrency_key="k",
    catch_up=CatchUp.LAST,
    catch_up_per_second=2.5,
)


class Server:
    """One scheduler on loopback."""

    def __init__(self, window: int = 1024) -> None:
        self.fake = FakeScheduler()
        self.hosts = Hosts()
        self.service = SchedulerService(self.fake, self.hosts, window=window)
        self.address = ""


@asynccontextmanager
async def server(window: int = 1024) -> AsyncIterator[Server]:
    found = Server(window)
    async with serving(grpc=found.service) as (address, _):
        found.address = address
        found.hosts.set([address])
        try:
            yield found
        finally:
            found.service.close()


@asynccontextmanager
async def client(*addresses: str, streams: int = 3) -> AsyncIterator[RemoteScheduler]:
    found = RemoteScheduler(addresses, Channel, SystemClock(), random.Random(1), streams)
    found.open()
    try:
        yield found
    finally:
        await found.close()


def run(test: Callable[[], Awaitable[None]]) -> None:
    async def bounded() -> None:
        async with asyncio.timeout(90):
            await test()

    asyncio.run(bounded())


def test_calls() -> None:
    """Every field comes back as it was put; errors keep their meaning."""

    async def test() -> None:
        async with server() as one, client(one.address) as scheduler:
            await scheduler.schedule(KEY, FULL)
            assert one.fake.jobs[KEY] == FULL
            got = await scheduler.get(KEY)
            assert got is not None
            assert (got.schedule, got.repeats, got.payload, got.failure_policy) == (
                "@every 1s",
                3,
                DATA,
                Constant(2.5, 7),
            )
            assert await scheduler.get(JobKey("ns", "other", "app")) is None
            with pytest.raises(JobExists, match="already exists"):
                await scheduler.schedule(KEY, FULL)
            await scheduler.schedule(KEY, Job(due_time="1s", failure_policy=Drop()), overwrite=True)
            assert one.fake.jobs[KEY] == Job(due_time="1s", failure_policy=Drop())
            with pytest.raises(JobInvalid):
                await scheduler.schedule(KEY, Job())
            await scheduler.delete(KEY)
            await scheduler.delete(KEY)
            assert not one.fake.jobs

    run(test)


@pytest.mark.parametrize("knows", [True, False], ids=["ours", "reference"])
def test_many_are_deleted_in_few_calls(knows: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """A scheduler that knows only the jobs protocol is asked for each, and asked once whether it does."""
    keys = [JobKey("ns", f"j{number}", "app") for number in range(2500)]
    others = [JobKey("ns", "j", "other"), REMINDER]
    asked: list[str] = []
    found = SchedulerService.find

    def find(self: SchedulerService, method: str, metadata: Any) -> Any:
        asked.append(method.rpartition("/")[2])
        return None if asked[-1] == "DeleteMany" and not knows else found(self, method, metadata)

    async def test() -> None:
        async with server() as one, client(one.address) as scheduler:
            for key in [*keys, *others]:
                one.fake.jobs[key] = Job(due_time="1s")
            await scheduler.delete_many(keys)
            await scheduler.delete_many(keys[:3])
            await scheduler.delete_many([])
            assert list(one.fake.jobs) == others

    monkeypatch.setattr(SchedulerService, "find", find)
    run(test)
    assert asked.count("DeleteMany") == (4 if knows else 1)
    assert asked.count("DeleteJob") == (0 if knows else 2503)


def test_deleting_many_has_bounds_and_says_what_failed() -> None:
    async def test() -> None:
        async with server() as one, client(one.address) as scheduler:
            channel = Channel(one.address)
            many = own.DeleteManyRequest(jobs=[own.NamedJob(name="j", metadata=metadata_of(KEY))] * 1001)
            with pytest.raises(RpcError, match="1001 jobs are too many for one call: at most 1000") as caught:
                await channel.unary(DELETE_MANY, many.SerializeToString())
            assert caught.value.code == Code.INVALID_ARGUMENT
            with pytest.raises(JobInvalid):
                await scheduler.delete_many([KEY, JobKey("", "j", "app")])
            await channel.close()

    run(test)


def test_lists_and_deletions_keep_to_their_target() -> None:
    """Exactly this application, type or actor: `T` is not `Tx`, 1 is not 10 (invariant 17)."""
    once = Job(due_time="1s")
    reminders = [
        JobKey("ns", name, "app", kind, actor) for kind in ("T", "Tx") for actor in ("10", "1") for name in "ab"
    ]

    async def test() -> None:
        async with server() as one, client(one.address) as scheduler:
            for name in ("a1", "a2", "b"):
                await scheduler.schedule(JobKey("ns", name, "app"), once)
                await scheduler.schedule(JobKey("ns", name, "app2"), once)
            for key in reminders:
                await scheduler.schedule(key, once)
            assert [key.name for key, _ in await scheduler.list_jobs("ns", "app", "a")] == ["a1", "a2"]
            assert [key for key, _ in await scheduler.list_reminders("ns", "T")] == reminders[:4]
            assert [key for key, _ in await scheduler.list_reminders("ns", "T", "1")] == reminders[2:4]
            await scheduler.delete_jobs("ns", "app", "a")
            await scheduler.delete_reminders("ns", "T", "1")
            assert [key.name for key, _ in await scheduler.list_jobs("ns", "app")] == ["b"]
            assert len(await scheduler.list_jobs("ns", "app2")) == 3
            assert [key for key, _ in await scheduler.list_reminders("ns", "T")] == reminders[:2]
            await scheduler.delete_reminders("ns", "T")
            assert [key for key, _ in await scheduler.list_reminders("ns", "Tx")] == reminders[4:]

    run(test)


@pytest.mark.parametrize(
    ("method", "request_"),
    [
        ("ScheduleJob", m.ScheduleJobRequest(name="j")),
        ("GetJob", m.GetJobRequest(name="j", metadata=m.JobMetadata(app_id="a"))),
        ("DeleteJob", m.DeleteJobRequest(name="j", metadata=m.JobMetadata(namespace="n"))),
        ("ListJobs", m.ListJobsRequest(metadata=m.JobMetadata(app_id="a", namespace="n"))),
        ("DeleteByMetadata", m.DeleteByMetadataRequest()),
        ("DeleteByNamePrefix", m.DeleteByNamePrefixRequest()),
    ],
)
def test_metadata_must_be_whole(method: str, request_: Any) -> None:
    """Namespace, app id and target: InvalidArgument without."""

    async def test() -> None:
        async with server() as one:
            channel = Channel(one.address)
            with pytest.raises(RpcError) as failed:
                await channel.unary(SERVICE + method, request_.SerializeToString())
            assert failed.value.code == Code.INVALID_ARGUMENT
            await channel.close()

    run(test)


def test_triggers_reach_their_watch_and_outcomes_come_back() -> None:
    """Jobs go to their application, reminders to who lists the type; data, key and gate are those that were put."""
    seen: list[Trigger] = []

    async def test() -> None:
        async def deliver(trigger: Trigger) -> Outcome:
            seen.append(trigger)
            return Outcome.FAILED if trigger.key.name == "bad" else Outcome.SUCCESS

        async with server() as one, client(one.address) as scheduler:
            interest = Interest("app", "ns", True, frozenset({"T"}), (Limit("T", 4), Limit("T:name", 2)))
            scheduler.watch(interest, deliver)
            await one.fake.until(lambda watches: len(watches) == 3)
            assert {watch.interest for watch in one.fake.watches} == {interest}
            await scheduler.schedule(KEY, FULL)
            assert await one.fake.fire(KEY) is Outcome.SUCCESS
            assert await one.fake.fire(JobKey("ns", "bad", "app")) is Outcome.FAILED
            assert await one.fake.fire(REMINDER) is Outcome.SUCCESS
            assert await one.fake.fire(JobKey("ns", "r", "app", "U", "1")) is Outcome.UNDELIVERABLE
            assert await one.fake.fire(JobKey("ns", "j", "app2")) is Outcome.UNDELIVERABLE
        assert [(t.key, t.payload, t.concurrency_key) for t in seen] == [
            (KEY, DATA, "k"), (JobKey("ns", "bad", "app"), b"", ""), (REMINDER, b"", ""),
        ]  # fmt: skip

    run(test)


def test_interest_in_one_kind_only() -> None:
    """`accept_job_types` says what a stream takes; without types no reminders, without health no jobs."""

    async def test() -> None:
        async with server() as one, client(one.address, streams=1) as scheduler:

            async def deliver(trigger: Trigger) -> Outcome:
                return Outcome.SUCCESS

            for interest in (Interest("app", "ns"), Interest("app", "ns", False, frozenset({"T"}))):
                watch = scheduler.watch(interest, deliver)
                await one.fake.until(lambda watches: len(watches) == 1)
                assert one.fake.watches[0].interest == interest
                watch.close()
                await one.fake.until(lambda watches: not watches)

    run(test)


def test_a_stream_that_dies_gives_its_triggers_back() -> None:
    """What is in flight is undeliverable; the client opens the stream again (invariant 11)."""

    async def test() -> None:
        entered = asyncio.Event()

        async def deliver(trigger: Trigger) -> Outcome:
            entered.set()
            await asyncio.Event().wait()
            return Outcome.SUCCESS

        async with server() as one, client(one.address, streams=1) as scheduler:
            watch = scheduler.watch(Interest("app", "ns"), deliver)
            await one.fake.until(lambda watches: len(watches) == 1)
            firing = asyncio.ensure_future(one.fake.fire(KEY))
            await entered.wait()
            watch.close()
            assert await firing is Outcome.UNDELIVERABLE

    run(test)


@pytest.mark.parametrize("ours", [True, False])
def test_what_a_consumer_cannot_take_goes_back(ours: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Our scheduler is told so. To others the end of the stream says it: the rest is answered first, none is lost."""
    if not ours:
        monkeypatch.setattr("pillion.jobs.remote_watch.OURS", "another")

    async def test() -> None:
        slow, entered = asyncio.Event(), asyncio.Event()

        async def deliver(trigger: Trigger) -> Outcome:
            if trigger.key.name == "slow":
                entered.set()
                await slow.wait()
                return Outcome.SUCCESS
            slow.set()
            return Outcome.UNDELIVERABLE

        async with server() as one, client(one.address, streams=1) as scheduler:
            scheduler.watch(Interest("app", "ns"), deliver)
            await one.fake.until(lambda watches: len(watches) == 1)
            first = one.fake.watches[0]
            answered = asyncio.ensure_future(one.fake.fire(JobKey("ns", "slow", "app")))
            await entered.wait()
            assert await one.fake.fire(KEY) is Outcome.UNDELIVERABLE
            assert await answered is Outcome.SUCCESS
            if ours:
                assert one.fake.watches == [first]
            else:
                await one.fake.until(lambda watches: len(watches) == 1 and watches[0] is not first)

    run(test)


def test_the_window_bounds_what_waits_for_an_answer() -> None:
    """A third trigger goes out when one of two is answered, not before."""

    async def test() -> None:
        arrived: list[str] = []
        news = asyncio.Event()
        gates = {name: asyncio.Event() for name in "abc"}

        async def deliver(trigger: Trigger) -> Outcome:
            arrived.append(trigger.key.name)
            news.set()
            await gates[trigger.key.name].wait()
            return Outcome.SUCCESS

        async def come(count: int) -> None:
            while len(arrived) < count:
                news.clear()
                await news.wait()

        async with server(window=2) as one, client(one.address, streams=1) as scheduler:
            scheduler.watch(Interest("app", "ns"), deliver)
            await one.fake.until(lambda watches: len(watches) == 1)
            firing = [asyncio.ensure_future(one.fake.fire(JobKey("ns", name, "app"))) for name in "abc"]
            await come(2)
            gates["b"].set()
            assert await firing[1] is Outcome.SUCCESS
            await come(3)
            assert arrived == ["a", "b", "c"]
            gates["a"].set()
            gates["c"].set()
            assert await asyncio.gather(*firing) == [Outcome.SUCCESS] * 3

    run(test)


def test_hosts_come_and_go() -> None:
    """Streams follow the list of hosts; calls go to those in turn; what stays keeps its streams."""

    async def test() -> None:
        async def deliver(trigger: Trigger) -> Outcome:
            return Outcome.SUCCESS

        async with server() as one, server() as two, client(one.address) as scheduler:
            scheduler.watch(Interest("app", "ns"), deliver)
            await one.fake.until(lambda watches: len(watches) == 3)
            stayed = list(one.fake.watches)
            one.hosts.set([one.address, two.address])
            await two.fake.until(lambda watches: len(watches) == 3)
            assert sorted(scheduler.connected) == sorted([one.address, two.address])
            for name in ("a", "b"):
                await scheduler.schedule(JobKey("ns", name, "app"), Job(due_time="1s"))
            assert len(one.fake.jobs) == len(two.fake.jobs) == 1
            one.hosts.set([one.address])
            await two.fake.until(lambda watches: not watches)
            assert one.fake.watches == stayed

    run(test)


def test_calls_wait_for_a_scheduler_and_pass_over_dead_ones() -> None:
    """Wait-for-ready: a call before the first list waits for it; one host of two that is gone is not noticed."""

    async def test() -> None:
        async with server() as one:
            address = one.address
            one.hosts.set(["127.0.0.1:1", "no address", address])
            async with client(address) as scheduler:
                for name in "abcd":
                    await scheduler.schedule(JobKey("ns", name, "app"), Job(due_time="1s"))
                assert len(one.fake.jobs) == 4

    run(test)


def test_nobody_there(monkeypatch: pytest.MonkeyPatch) -> None:
    """After the deadline the error says so; without addresses it comes at once."""
    monkeypatch.setattr(remote, "TIMEOUT_S", 0.3)

    async def test() -> None:
        async with client("127.0.0.1:1") as scheduler:
            with pytest.raises(SchedulerUnavailable):
                await scheduler.get(KEY)
        closed = RemoteScheduler((), Channel, SystemClock(), random.Random(1))
        with pytest.raises(SchedulerUnavailable, match="scheduler clients are disabled"):
            await closed.get(KEY)

    run(test)


def test_an_answer_that_was_lost_is_no_conflict() -> None:
    """A try that ended Canceled may have made the job: the next one's AlreadyExists is compared, not told."""

    async def test() -> None:
        async with server() as one, client(one.address) as scheduler:
            plain, tries = one.fake.schedule, 0

            async def schedule(key: JobKey, job: Job, *, overwrite: bool = False) -> None:
                nonlocal tries
                tries += 1
                await plain(key, job, overwrite=overwrite)
                if tries == 1:
                    raise RpcError(Code.CANCELLED, "gone")

            one.fake.schedule = schedule  # type: ignore[method-assign]
            await scheduler.schedule(KEY, Job(due_time="1s"))
            assert tries == 2
            with pytest.raises(JobExists):
                await scheduler.schedule(KEY, Job(due_time="2s"))

    run(test)


# --- grpcio ----------------------------------------------------------------------------------------------------------


def test_grpcio_speaks_watch_jobs_raw() -> None:
    """Another implementation: initial, triggers numbered within the stream, results; hosts on every change."""

    async def test() -> None:
        async with server() as one, grpc.aio.insecure_channel(one.address) as channel:
            hosts = channel.unary_stream(SERVICE + "WatchHosts")(b"")
            assert m.WatchHostsResponse.FromString(await hosts.read()).hosts[0].address == one.address
            one.hosts.set([one.address, "other:1"])
            assert len(m.WatchHostsResponse.FromString(await hosts.read()).hosts) == 2

            stream = channel.stream_stream(SERVICE + "WatchJobs")()
            initial = m.WatchJobsRequest()
            initial.initial.app_id, initial.initial.namespace = "app", "ns"
            await stream.write(initial.SerializeToString())
            await one.fake.until(lambda watches: len(watches) == 1)
            assert one.fake.watches[0].interest == Interest("app", "ns")
            await one.fake.schedule(KEY, FULL)
            firing = [asyncio.ensure_future(one.fake.fire(KEY)) for _ in range(3)]
            got = [m.WatchJobsResponse.FromString(await stream.read()) for _ in range(3)]
            assert [each.id for each in got] == [0, 1, 2]
            assert (got[0].name, got[0].metadata.app_id, got[0].metadata.namespace) == ("j", "app", "ns")
            assert got[0].metadata.target.WhichOneof("type") == "job"
            assert got[0].data.SerializeToString() == DATA
            for number, status in ((2, m.SUCCESS), (0, m.FAILED)):
                answer = m.WatchJobsRequest()
                answer.result.id, answer.result.status = number, status
                await stream.write(answer.SerializeToString())
            assert await firing[2] is Outcome.SUCCESS
            assert await firing[0] is Outcome.FAILED
            answer.result.id = 77
            await stream.write(answer.SerializeToString())
            assert await stream.code() is grpc.StatusCode.INVALID_ARGUMENT
            assert await firing[1] is Outcome.UNDELIVERABLE

    run(test)


@pytest.mark.parametrize("broken", ["result", "namespace", "app", "twice"])
def test_a_stream_begins_as_it_must(broken: str) -> None:
    """Anything but a whole initial request first is InvalidArgument, a type twice too."""
    first = m.WatchJobsRequest()
    first.initial.app_id, first.initial.namespace = "app", "ns"
    if broken == "result":
        first.result.id = 1
    elif broken == "namespace":
        first.initial.namespace = ""
    elif broken == "app":
        first.initial.app_id = ""
    else:
        first.initial.accept_job_types.extend([0, 0])

    async def test() -> None:
        async with server() as one:
            channel = Channel(one.address)
            stream = channel.stream(SERVICE + "WatchJobs")
            await stream.send(first.SerializeToString())
            with pytest.raises(RpcError) as failed:
                await stream.receive()
            assert failed.value.code == Code.INVALID_ARGUMENT
            await channel.close()

    run(test)


def test_a_scheduler_that_stops_sends_its_streams_away() -> None:
    """Unavailable, on streams of jobs and of hosts."""

    async def test() -> None:
        async with server() as one:
            channel = Channel(one.address)
            jobs, hosts = channel.stream(SERVICE + "WatchJobs"), channel.stream(SERVICE + "WatchHosts")
            first = m.WatchJobsRequest()
            first.initial.app_id, first.initial.namespace = "app", "ns"
            await jobs.send(first.SerializeToString())
            await hosts.send_last(b"")
            await hosts.receive()
            await one.fake.until(lambda watches: len(watches) == 1)
            one.service.close()
            for stream in (jobs, hosts):
                with pytest.raises(RpcError) as failed:
                    await stream.receive()
                assert failed.value.code == Code.UNAVAILABLE
            await channel.close()

    run(test)
