"""A scheduler that is far away: a `Scheduler` over gRPC (spec `actors-workflows-jobs.md` 2.5).

The addresses given are asked who is there (WatchHosts); calls go to those in turn, and each of them has a few streams
of triggers (`remote_watch.py`). Knows: hosts, retries, what statuses mean. Never knows: TLS, schedules, who the
triggers are for.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import DecodeError, Message

from pillion.errors import Code, ComponentError
from pillion.jobs.absent import DISABLED
from pillion.jobs.admin_protocol import DELETE_MANY, MOST_DELETED
from pillion.jobs.protocol import CATCH_UP, CATCH_UP_PER_SECOND, SERVICE, job_of, key_of, message_of, metadata_of
from pillion.jobs.remote_watch import RemoteWatch
from pillion.jobs.statuses import error_of
from pillion.kinds.jobs import CatchUp, JobExists, JobKey, SchedulerTimeout, SchedulerUnavailable
from pillion.net.exchange import RpcError
from pillion.net.h2_pool import CannotConnect, split_address
from pillion.tasks import Tasks
from pillion.wire.messages import own_scheduler as own
from pillion.wire.messages import scheduler as m

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Sequence

    from pillion.clock import Clock
    from pillion.kinds.jobs import Interest, Job, Outcome, Trigger
    from pillion.net.exchange import GrpcChannel, Metadata

R = TypeVar("R", bound=Message)
log = logging.getLogger("pillion.jobs")
TIMEOUT_S = 30.0
"""For one call, all its tries and the wait for a scheduler included."""
PAUSE_S, JITTER_S = 0.5, 0.25
"""Between two tries to connect: half a second, up to a quarter more or less."""
PARTING_S = 1.0
"""How long `close` waits for the last answers of triggers."""
MOST_HOSTS = 1000
_AGAIN = (Code.CANCELLED, Code.UNAVAILABLE)


class RemoteScheduler:
    """The schedulers behind `addresses`; `dial` makes a channel to one of them.

    `open` begins to look for them and returns at once; `found` is set once it is known who is there. `streams` are kept
    open to each for every watch.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        dial: Callable[[str], GrpcChannel],
        clock: Clock,
        random: random.Random,
        streams: int = 3,
    ) -> None:
        self.found = asyncio.Event()
        self._addresses = tuple(addresses)
        self._dial = dial
        self._clock = clock
        self._random = random
        self._streams = streams
        self._hosts: dict[str, GrpcChannel] = {}
        self._order: list[str] = []
        self._turn = 0
        self._changed = asyncio.Event()
        self._watches: list[RemoteWatch] = []
        self._tasks = Tasks("scheduler client")
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False
        self._deletes_many = True
        """Until one of those who are there now has said that it knows only the reference's protocol."""

    def open(self) -> None:
        """Begin to look for schedulers."""
        self._tasks.keep(self._follow, "watching hosts")

    async def close(self) -> None:
        """End watches, calls and connections."""
        self._closed = True
        for watch in list(self._watches):
            watch.close()
        if self._ending:
            await asyncio.wait(self._ending, timeout=PARTING_S)
        await self._tasks.close()
        for channel in self._hosts.values():
            await channel.close()
        self._hosts.clear()
        self._order.clear()
        self._news()

    @property
    def connected(self) -> list[str]:
        """The addresses of the schedulers that are known to be there."""
        return list(self._order)

    # -- who is there

    async def _follow(self) -> None:
        """Ask one of the addresses, chosen at random, and hear every change from it."""
        last = ""
        while True:
            address = self._random.choice(self._addresses)
            channel = self._dial(address)
            try:
                stream = channel.stream(SERVICE + "WatchHosts")
                await stream.send_last(m.WatchHostsRequest().SerializeToString())
                while (raw := await stream.receive()) is not None:
                    last = ""
                    self._take([host.address for host in m.WatchHostsResponse.FromString(raw).hosts])
                reason = "the scheduler ended the stream"
            except RpcError as error:
                reason = error.message
                if error.code == Code.UNIMPLEMENTED:
                    # Schedulers that know no WatchHosts are those of the configuration.
                    self._take(self._addresses)
                    return
            except DecodeError as error:
                reason = f"its answer cannot be read: {error}"
            finally:
                await channel.close()
            if reason != last:
                log.warning("the scheduler at %s does not tell who is there, trying again: %s", address, reason)
                last = reason
            await asyncio.sleep(self.pause_s())

    def _take(self, addresses: Sequence[str]) -> None:
        """Connect to those that are new, leave those that are gone. An empty list says that nothing is agreed yet."""
        wanted = [address for address in dict.fromkeys(addresses[:MOST_HOSTS]) if _dialled(address)]
        if not wanted:
            return
        for address in [known for known in self._order if known not in wanted]:
            channel = self._hosts.pop(address)
            for watch in self._watches:
                watch.leave(address)
            self._tasks.start(channel.close(), f"leaving {address}")
        for address in wanted:
            if address not in self._hosts:
                channel = self._hosts[address] = self._dial(address)
                for watch in self._watches:
                    watch.join(address, channel)
        if wanted != self._order:
            log.info("schedulers: %s", ", ".join(wanted))
            self._deletes_many = True
        self._order = wanted
        self.found.set()
        self._news()

    def _news(self) -> None:
        self._changed.set()
        self._changed = asyncio.Event()

    def pause_s(self) -> float:
        """How long to wait before the next try to connect, seconds."""
        return PAUSE_S + self._random.uniform(-JITTER_S, JITTER_S)

    # -- calls

    async def schedule(self, key: JobKey, job: Job, *, overwrite: bool = False) -> None:
        request = m.ScheduleJobRequest(
            name=key.name, job=message_of(job), metadata=metadata_of(key, job.concurrency_key), overwrite=overwrite
        )
        headers: Metadata = []
        if job.catch_up is not CatchUp.ALL:
            headers.append((CATCH_UP, job.catch_up.value))
        if job.catch_up_per_second:
            headers.append((CATCH_UP_PER_SECOND, f"{job.catch_up_per_second:g}"))
        lost: list[RpcError] = []
        try:
            await self._call(SERVICE + "ScheduleJob", request, m.ScheduleJobResponse, headers, lost)
        except JobExists:
            # A try whose answer was lost may be the one that made it.
            if not lost or await self.get(key) != _as_stored(job):
                raise

    async def get(self, key: JobKey) -> Job | None:
        request = m.GetJobRequest(name=key.name, metadata=metadata_of(key))
        try:
            reply = await self._call(SERVICE + "GetJob", request, m.GetJobResponse)
        except ComponentError as error:
            cause = error.__cause__
            missing = isinstance(cause, RpcError) and (
                cause.code == Code.NOT_FOUND or (cause.code == Code.UNKNOWN and "not found" in cause.message)
            )
            if missing:
                return None
            raise
        return job_of(reply.job)

    async def delete(self, key: JobKey) -> None:
        await self._call(
            SERVICE + "DeleteJob", m.DeleteJobRequest(name=key.name, metadata=metadata_of(key)), m.DeleteJobResponse
        )

    async def delete_many(self, keys: Sequence[JobKey]) -> None:
        if len(keys) > 1 and self._deletes_many:
            try:
                for at in range(0, len(keys), MOST_DELETED):
                    request = own.DeleteManyRequest()
                    for key in keys[at : at + MOST_DELETED]:
                        request.jobs.add(name=key.name, metadata=metadata_of(key))
                    await self._call(DELETE_MANY, request, own.DeleteManyResponse)
                return
            except ComponentError as error:
                cause = error.__cause__
                if not isinstance(cause, RpcError) or cause.code != Code.UNIMPLEMENTED:
                    raise
                self._deletes_many = False
        for outcome in await asyncio.gather(*(self.delete(key) for key in keys), return_exceptions=True):
            if outcome is not None:
                raise outcome

    async def list_jobs(self, namespace: str, app_id: str, prefix: str = "") -> list[tuple[JobKey, Job]]:
        rows = await self._list(JobKey(namespace, "", app_id))
        return sorted((row for row in rows if row[0].name.startswith(prefix)), key=lambda row: row[0].name)

    async def list_reminders(
        self, namespace: str, actor_type: str, actor_id: str | None = None
    ) -> list[tuple[JobKey, Job]]:
        rows = await self._list(JobKey(namespace, "", _ASKING, actor_type, actor_id or ""))
        # A scheduler that compares beginnings may tell of other actors too.
        return [
            row for row in rows if row[0].actor_type == actor_type and (actor_id is None or row[0].actor_id == actor_id)
        ]

    async def _list(self, asked: JobKey) -> list[tuple[JobKey, Job]]:
        request = m.ListJobsRequest(metadata=metadata_of(asked))
        reply = await self._call(SERVICE + "ListJobs", request, m.ListJobsResponse)
        return [(key_of(row.name, row.metadata), job_of(row.job, row.metadata.concurrency_key)) for row in reply.jobs]

    async def delete_jobs(self, namespace: str, app_id: str, prefix: str = "") -> None:
        request = m.DeleteByNamePrefixRequest(name_prefix=prefix, metadata=metadata_of(JobKey(namespace, "", app_id)))
        await self._call(SERVICE + "DeleteByNamePrefix", request, m.DeleteByNamePrefixResponse)

    async def delete_reminders(self, namespace: str, actor_type: str, actor_id: str | None = None) -> None:
        asked = JobKey(namespace, "", _ASKING, actor_type, actor_id or "")
        request = m.DeleteByMetadataRequest(metadata=metadata_of(asked), id_prefix_match=actor_id is None)
        await self._call(SERVICE + "DeleteByMetadata", request, m.DeleteByMetadataResponse)

    async def _call(
        self,
        method: str,
        request: Message,
        gives: type[R],
        metadata: Metadata | None = None,
        lost: list[RpcError] | None = None,
    ) -> R:
        """Ask the schedulers in turn until one answers; `lost` gets what ended tries that may have had an effect."""
        message = request.SerializeToString()
        deadline = self._clock.monotonic() + TIMEOUT_S
        failed: RpcError | None = None
        refused = 0
        while True:
            if self._closed or not self._addresses:
                raise SchedulerUnavailable(DISABLED)
            channel = self._next()
            if channel is None or refused >= len(self._order):
                await self._wait(deadline, failed)
                refused = 0
                continue
            try:
                reply = await channel.unary(
                    method,
                    message,
                    metadata=list(metadata or ()),
                    timeout_s=max(deadline - self._clock.monotonic(), 0.001),
                )
                return gives.FromString(reply.message)
            except RpcError as error:
                if error.code not in _AGAIN:
                    raise error_of(error) from error
                failed = error
                if not isinstance(error.__cause__, CannotConnect) and lost is not None:
                    lost.append(error)
                refused += 1
            except DecodeError as error:
                raise ComponentError(f"the scheduler's answer cannot be read: {error}") from error

    def _next(self) -> GrpcChannel | None:
        if not self._order:
            return None
        self._turn = (self._turn + 1) % len(self._order)
        return self._hosts[self._order[self._turn]]

    async def _wait(self, deadline: float, failed: RpcError | None) -> None:
        """Wait for other schedulers, or for a while; raises when `deadline` has come."""
        left_s = deadline - self._clock.monotonic()
        if left_s <= 0:
            if failed is None:
                raise SchedulerUnavailable("no scheduler could be reached")
            if isinstance(failed.__cause__, CannotConnect):
                raise SchedulerUnavailable(failed.message) from failed
            raise SchedulerTimeout(failed.message) from failed
        pause_s = left_s if failed is None else min(left_s, self.pause_s())
        try:
            async with asyncio.timeout(pause_s):
                await self._changed.wait()
        except TimeoutError:
            return

    # -- triggers

    def watch(self, interest: Interest, deliver: Callable[[Trigger], Awaitable[Outcome]]) -> RemoteWatch:
        """Take triggers from every scheduler, also from those that come later."""
        watch = RemoteWatch(interest, deliver, self._streams, self.pause_s, self._retire)
        self._watches.append(watch)
        for address, channel in self._hosts.items():
            watch.join(address, channel)
        return watch

    def _retire(self, watch: RemoteWatch) -> None:
        self._watches.remove(watch)
        ending = self._tasks.start(watch.ended(), "ending a watch")
        self._ending.add(ending)
        ending.add_done_callback(self._ending.discard)

    def __repr__(self) -> str:
        return f"<RemoteScheduler, {len(self._order)} schedulers, {len(self._watches)} watches>"


def _dialled(address: str) -> bool:
    """Whether an address that a scheduler told can be dialled at all."""
    try:
        split_address(address)
    except ValueError as error:
        log.warning("a scheduler is passed over: %s", error)
        return False
    return True


_ASKING = "pillion"
"""Who asks for reminders: the app id is no part of their identity, but it may not be empty."""


def _as_stored(job: Job) -> Job:
    """Return what `get` gives of a job."""
    return job_of(message_of(job))
