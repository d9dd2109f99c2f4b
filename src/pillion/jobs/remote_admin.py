"""A scheduler's jobs looked at and steered from far away: a `SchedulerAdmin` over `pillion.scheduler.v1`.

Knows: one channel. Any scheduler of a cluster answers for all jobs. Never knows: who may do what.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import DecodeError, Message

from pillion.errors import ComponentError
from pillion.jobs.admin_protocol import SERVICE, put_request, stored_of, timestamp_of
from pillion.jobs.statuses import error_of
from pillion.net.exchange import RpcError
from pillion.wire.messages import own_scheduler as m

if TYPE_CHECKING:
    from pillion.kinds.jobs import Job, JobFilter, JobKey, Stored
    from pillion.net.exchange import GrpcChannel

R = TypeVar("R", bound=Message)
TIMEOUT_S = 30.0
"""For what a scheduler does by itself. What waits for gates and applications takes as long as it takes, and ends with
whoever asked for it: the connection is watched."""


class RemoteAdmin:
    """Calls through `channel`, which stays its owner's. A reference scheduler knows none of these methods."""

    def __init__(self, channel: GrpcChannel) -> None:
        self._channel = channel

    async def find(self, wanted: JobFilter, *, after: str = "", limit: int = 100) -> list[Stored]:
        request = m.FindRequest(prefix=wanted.prefix, paused=wanted.paused, after=after, limit=limit)
        return [stored_of(job) for job in (await self._call("Find", request, m.FindResponse)).jobs]

    async def inspect(self, key: str) -> Stored:
        return stored_of(await self._call("Inspect", m.JobRequest(key=key), m.JobState))

    async def pause(self, key: str) -> Stored:
        return stored_of(await self._call("Pause", m.JobRequest(key=key), m.JobState))

    async def resume(self, key: str) -> Stored:
        return stored_of(await self._call("Resume", m.JobRequest(key=key), m.JobState))

    async def skip(self, key: str, ticks: int = 1) -> Stored:
        return stored_of(await self._call("Skip", m.SkipRequest(key=key, ticks=ticks), m.JobState))

    async def run_now(self, key: str) -> None:
        await self._call("RunNow", m.JobRequest(key=key), m.RunNowResponse, None)

    async def backfill(self, key: str, since: float, until: float) -> int:
        request = m.BackfillRequest(key=key, since=timestamp_of(since), until=timestamp_of(until))
        return (await self._call("Backfill", request, m.BackfillResponse, None)).ticks

    async def remove(self, key: str) -> None:
        await self._call("Remove", m.JobRequest(key=key), m.RemoveResponse)

    async def put(self, key: JobKey, job: Job, *, overwrite: bool = False) -> None:
        """Register a job with all its options. Raises `JobInvalid`, `JobExists`."""
        await self._call("Put", put_request(key, job, overwrite=overwrite), m.PutResponse)

    async def _call(self, method: str, request: Message, gives: type[R], timeout_s: float | None = TIMEOUT_S) -> R:
        try:
            reply = await self._channel.unary(SERVICE + method, request.SerializeToString(), timeout_s=timeout_s)
            return gives.FromString(reply.message)
        except RpcError as error:
            raise error_of(error) from error
        except DecodeError as error:
            raise ComponentError(f"the scheduler's answer cannot be read: {error}") from error
