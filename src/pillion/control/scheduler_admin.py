"""Our own protocol beside the scheduler's: jobs looked at and steered (`proto/pillion/scheduler/v1`).

Knows: the methods of `pillion.scheduler.v1.Scheduler` and their errors. Never knows: schedules, stores, sockets.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import Message

from pillion.control.requests import parsed, status_of
from pillion.errors import ComponentError
from pillion.jobs.admin_protocol import SERVICE, catch_up_of, seconds_of, state_message
from pillion.jobs.protocol import job_of, key_of
from pillion.kinds.jobs import JobFilter, JobInvalid
from pillion.net.exchange import Method
from pillion.wire.messages import own_scheduler as m

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillion.kinds.jobs import Scheduler, SchedulerAdmin
    from pillion.net.exchange import ServerCall, Unary

R = TypeVar("R", bound=Message)
NAME = "pillion.scheduler.v1.Scheduler"
PAGE, LARGEST_PAGE = 100, 1000
MOST_SKIPPED = 100_000


class AdminService:
    """The methods by full name; `guard` raises `RpcError` for a peer that may not steer other people's jobs."""

    def __init__(
        self, admin: SchedulerAdmin, scheduler: Scheduler, *, guard: Callable[[ServerCall], None] | None = None
    ) -> None:
        self._admin = admin
        self._scheduler = scheduler
        self._guard = guard

    def methods(self) -> dict[str, Method]:
        """The methods, for a service that has others besides."""
        unary = {
            "Find": self._unary(m.FindRequest, self._find),
            "Inspect": self._unary(m.JobRequest, self._inspect),
            "Pause": self._unary(m.JobRequest, self._pause),
            "Resume": self._unary(m.JobRequest, self._resume),
            "Skip": self._unary(m.SkipRequest, self._skip),
            "RunNow": self._unary(m.JobRequest, self._run_now),
            "Backfill": self._unary(m.BackfillRequest, self._backfill),
            "Remove": self._unary(m.JobRequest, self._remove),
            "Put": self._unary(m.PutRequest, self._put),
        }
        return {SERVICE + name: Method(unary=handler) for name, handler in unary.items()}

    def _unary(self, takes: type[R], serve: Callable[[R], Awaitable[Message]]) -> Unary:
        guard = self._guard

        async def unary(call: ServerCall, request: bytes) -> bytes:
            if guard is not None:
                guard(call)
            message = parsed(takes, request)
            try:
                return (await serve(message)).SerializeToString()
            except ComponentError as error:
                raise status_of(error) from error

        return unary

    async def _find(self, request: m.FindRequest) -> Message:
        wanted = JobFilter(request.prefix, request.paused if request.HasField("paused") else None)
        limit = min(request.limit, LARGEST_PAGE) if request.limit > 0 else PAGE
        found = await self._admin.find(wanted, after=request.after, limit=limit)
        return m.FindResponse(jobs=[state_message(stored) for stored in found])

    async def _inspect(self, request: m.JobRequest) -> Message:
        return state_message(await self._admin.inspect(request.key))

    async def _pause(self, request: m.JobRequest) -> Message:
        return state_message(await self._admin.pause(request.key))

    async def _resume(self, request: m.JobRequest) -> Message:
        return state_message(await self._admin.resume(request.key))

    async def _skip(self, request: m.SkipRequest) -> Message:
        if not 0 <= request.ticks <= MOST_SKIPPED:
            raise JobInvalid(f"ticks must be from 1 to {MOST_SKIPPED}")
        return state_message(await self._admin.skip(request.key, request.ticks or 1))

    async def _run_now(self, request: m.JobRequest) -> Message:
        await self._admin.run_now(request.key)
        return m.RunNowResponse()

    async def _backfill(self, request: m.BackfillRequest) -> Message:
        if not (request.HasField("since") and request.HasField("until")):
            raise JobInvalid("since and until are needed")
        since, until = seconds_of(request.since), seconds_of(request.until)
        if until < since:
            raise JobInvalid("until is before since")
        return m.BackfillResponse(ticks=await self._admin.backfill(request.key, since, until))

    async def _remove(self, request: m.JobRequest) -> Message:
        await self._admin.remove(request.key)
        return m.RemoveResponse()

    async def _put(self, request: m.PutRequest) -> Message:
        key = key_of(request.name, request.metadata)
        if not 0.0 <= request.catch_up_per_second <= 1e6:
            raise JobInvalid("catch_up_per_second must be from 0 to 1000000")
        job = job_of(
            request.job,
            request.metadata.concurrency_key,
            catch_up_of(request.catch_up),
            request.catch_up_per_second,
        )
        await self._scheduler.schedule(key, job, overwrite=request.overwrite)
        return m.PutResponse()
