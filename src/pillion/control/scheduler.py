"""The scheduler's gRPC service, as sidecars know it (spec `actors-workflows-jobs.md` 2.5, `control-plane.md` 5.2).

Knows: the methods of `dapr.proto.scheduler.v1.Scheduler` and their errors. Never knows: schedules, stores, sockets; the
streams of triggers are `job_streams.py`.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any, Protocol

from pillion.control.job_streams import WINDOW, JobStream
from pillion.control.requests import R, catch_up_asked, catch_up_headers, kind_of, parsed, status_of
from pillion.errors import Code, ComponentError
from pillion.jobs.admin_protocol import DELETE_MANY, MOST_DELETED
from pillion.jobs.protocol import OURS, SERVICE, interest_of, job_of, key_of, message_of, metadata_of
from pillion.kinds.jobs import JobInvalid, JobMissing
from pillion.net.exchange import Method, RpcError
from pillion.wire.messages import own_scheduler as own
from pillion.wire.messages import scheduler as m

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from google.protobuf.message import Message

    from pillion.control.scheduler_hosts import Hosts
    from pillion.kinds.jobs import JobKey, Scheduler
    from pillion.net.exchange import Metadata, ServerCall, Unary

    Authorize = Callable[[ServerCall, str, str], None]
    """Called with the namespace and the app id that a call speaks for; raises `RpcError` when its peer is another."""

log = logging.getLogger("pillion.control.scheduler")
STOPPING = "the scheduler is stopping"
NAME = "dapr.proto.scheduler.v1.Scheduler"
OWN_NAME = "pillion.scheduler.v1.Jobs"


class Meter(Protocol):
    """What is counted of calls and streams. `kind` is "job", "actor" or "unknown"."""

    def created(self, kind: str) -> None: ...

    def not_created(self, kind: str) -> None: ...

    def deleted(self, kind: str) -> None: ...

    def deleted_many(self) -> None: ...

    def sidecars(self, number: int) -> None: ...

    def sidecar_error(self, reason: str) -> None:
        """`reason` is "send_failed", "recv_failed" or "auth_failed"."""


class SchedulerService:
    """The `GrpcService` over any `Scheduler`. `close` ends the streams, which calls of a closing server do not.

    `authorize` is absent without mutual TLS. `window` bounds the triggers of a stream that wait for an answer.
    `further` are more methods by full name: our own protocol, reflection.
    """

    def __init__(
        self,
        scheduler: Scheduler,
        hosts: Hosts,
        *,
        authorize: Authorize | None = None,
        meter: Meter | None = None,
        window: int = WINDOW,
        further: Mapping[str, Method] | None = None,
    ) -> None:
        self._scheduler = scheduler
        self._hosts = hosts
        self._authorize = authorize
        self._meter = meter
        self._window = window
        self._streams: set[JobStream] = set()
        self._stopping = asyncio.Event()
        self._draining = False
        unary = {
            "ScheduleJob": self._unary(m.ScheduleJobRequest, self.schedule_job),
            "GetJob": self._unary(m.GetJobRequest, self.get_job),
            "DeleteJob": self._unary(m.DeleteJobRequest, self.delete_job),
            "ListJobs": self._unary(m.ListJobsRequest, self.list_jobs),
            "DeleteByMetadata": self._unary(m.DeleteByMetadataRequest, self.delete_by_metadata),
            "DeleteByNamePrefix": self._unary(m.DeleteByNamePrefixRequest, self.delete_by_name_prefix),
        }
        self._methods = {SERVICE + name: Method(unary=handler) for name, handler in unary.items()}
        self._methods[DELETE_MANY] = Method(unary=self._unary(own.DeleteManyRequest, self.delete_many))
        self._methods[SERVICE + "WatchJobs"] = Method(streaming=self.watch_jobs)
        self._methods[SERVICE + "WatchHosts"] = Method(streaming=self.watch_hosts)
        self._methods.update(further or {})

    def find(self, method: str, metadata: Metadata) -> Method | None:
        return self._methods.get(method)

    async def drain(self, grace_s: float) -> None:
        """Send no more triggers; those that are out have `grace_s` seconds to be answered."""
        self._draining = True
        streams = [stream.drained() for stream in self._streams]
        try:
            async with asyncio.timeout(grace_s):
                await asyncio.gather(*streams)
        except TimeoutError:
            log.info("some triggers were not answered before the end: they will be fired again")

    def close(self) -> None:
        """End every stream: sidecars look for another scheduler, and what they have not answered goes there."""
        self._stopping.set()

    def _unary(self, takes: type[R], serve: Callable[[ServerCall, R], Awaitable[Message]]) -> Unary:
        async def unary(call: ServerCall, request: bytes) -> bytes:
            message = parsed(takes, request)
            try:
                return (await serve(call, message)).SerializeToString()
            except ComponentError as error:
                raise status_of(error) from error

        return unary

    def _admit(self, call: ServerCall, request: Any) -> JobKey:
        """Return whom a request is about, when its caller may ask that."""
        key = key_of(getattr(request, "name", ""), request.metadata)
        self._allow(call, key.namespace, key.app_id)
        return key

    def _allow(self, call: ServerCall, namespace: str, app_id: str) -> None:
        if self._authorize is None:
            return
        try:
            self._authorize(call, namespace, app_id)
        except RpcError:
            if self._meter is not None:
                self._meter.sidecar_error("auth_failed")
            raise

    # -- calls

    async def schedule_job(self, call: ServerCall, request: m.ScheduleJobRequest) -> Message:
        meter = self._meter
        kind = kind_of(request.metadata)
        try:
            key = self._admit(call, request)
            job = job_of(request.job, request.metadata.concurrency_key, *catch_up_asked(call))
            await self._scheduler.schedule(key, job, overwrite=request.overwrite)
        except Exception:
            if meter is not None:
                meter.not_created(kind)
            raise
        if meter is not None:
            meter.created(kind)
        return m.ScheduleJobResponse()

    async def get_job(self, call: ServerCall, request: m.GetJobRequest) -> Message:
        key = self._admit(call, request)
        job = await self._scheduler.get(key)
        if job is None:
            raise JobMissing(f"job not found: {key.text}")
        call.initial_metadata += catch_up_headers(job)
        return m.GetJobResponse(job=message_of(job))

    async def delete_job(self, call: ServerCall, request: m.DeleteJobRequest) -> Message:
        await self._scheduler.delete(self._admit(call, request))
        if self._meter is not None:
            self._meter.deleted(kind_of(request.metadata))
        return m.DeleteJobResponse()

    async def delete_many(self, call: ServerCall, request: own.DeleteManyRequest) -> Message:
        if len(request.jobs) > MOST_DELETED:
            raise JobInvalid(f"{len(request.jobs)} jobs are too many for one call: at most {MOST_DELETED}")
        await self._scheduler.delete_many([self._admit(call, named) for named in request.jobs])
        if self._meter is not None:
            for named in request.jobs:
                self._meter.deleted(kind_of(named.metadata))
        return own.DeleteManyResponse()

    async def list_jobs(self, call: ServerCall, request: m.ListJobsRequest) -> Message:
        asked = self._admit(call, request)
        if asked.actor_type:
            # Without an id: all reminders of the type.
            rows = await self._scheduler.list_reminders(asked.namespace, asked.actor_type, asked.actor_id or None)
        else:
            rows = await self._scheduler.list_jobs(asked.namespace, asked.app_id)
        reply = m.ListJobsResponse()
        for key, job in rows:
            reply.jobs.add(name=key.name, metadata=metadata_of(key, job.concurrency_key), job=message_of(job))
        return reply

    async def delete_by_metadata(self, call: ServerCall, request: m.DeleteByMetadataRequest) -> Message:
        asked = self._admit(call, request)
        if not asked.actor_type:
            await self._scheduler.delete_jobs(asked.namespace, asked.app_id)
        elif not request.id_prefix_match:
            await self._scheduler.delete_reminders(asked.namespace, asked.actor_type, asked.actor_id)
        elif not asked.actor_id:
            await self._scheduler.delete_reminders(asked.namespace, asked.actor_type)
        else:
            rows = await self._scheduler.list_reminders(asked.namespace, asked.actor_type)
            for actor_id in {key.actor_id: None for key, _ in rows if key.actor_id.startswith(asked.actor_id)}:
                await self._scheduler.delete_reminders(asked.namespace, asked.actor_type, actor_id)
        return self._deleted_many(m.DeleteByMetadataResponse())

    async def delete_by_name_prefix(self, call: ServerCall, request: m.DeleteByNamePrefixRequest) -> Message:
        asked = self._admit(call, request)
        if not asked.actor_type:
            await self._scheduler.delete_jobs(asked.namespace, asked.app_id, request.name_prefix)
        else:
            rows = await self._scheduler.list_reminders(asked.namespace, asked.actor_type, asked.actor_id or None)
            for key, _ in rows:
                if key.name.startswith(request.name_prefix):
                    await self._scheduler.delete(key)
        return self._deleted_many(m.DeleteByNamePrefixResponse())

    def _deleted_many(self, reply: Message) -> Message:
        if self._meter is not None:
            self._meter.deleted_many()
        return reply

    # -- streams

    async def watch_jobs(self, call: ServerCall) -> None:
        """One sidecar's stream: what is due goes out, what became of it comes back."""
        raw = await call.receive()
        if raw is None:
            return
        first = parsed(m.WatchJobsRequest, raw)
        if first.WhichOneof("watch_job_request_type") != "initial":
            raise RpcError(Code.INVALID_ARGUMENT, "the first message of the stream is not an initial request")
        try:
            interest = interest_of(first.initial)
        except JobInvalid as error:
            raise status_of(error) from error
        self._allow(call, interest.namespace, interest.app_id)
        if self._draining or self._stopping.is_set():
            raise RpcError(Code.UNAVAILABLE, STOPPING)
        stream = JobStream(call, self._window)
        self._streams.add(stream)
        self._count_streams()
        watch = self._scheduler.watch(interest, stream.deliver)
        try:
            call.initial_metadata.append((OURS, "1"))
            await call.send_headers()
            await stream.run(self._stopping)
        except RpcError as error:
            if self._meter is not None and error.code == Code.INVALID_ARGUMENT:
                self._meter.sidecar_error("recv_failed")
            raise
        finally:
            # Before what is open is given back: the engine must not choose this stream for it again.
            watch.close()
            stream.close()
            self._streams.discard(stream)
            self._count_streams()
        if self._stopping.is_set():
            raise RpcError(Code.UNAVAILABLE, STOPPING)

    def _count_streams(self) -> None:
        if self._meter is not None:
            self._meter.sidecars(len(self._streams))

    async def watch_hosts(self, call: ServerCall) -> None:
        """Tell who is there, at once and whenever it changes; nothing while that is not agreed."""
        async for addresses in self._hosts.until(self._stopping):
            reply = m.WatchHostsResponse()
            for address in addresses:
                reply.hosts.add(address=address)
            await call.send(reply.SerializeToString())
        raise RpcError(Code.UNAVAILABLE, STOPPING)

    def __repr__(self) -> str:
        return f"<SchedulerService, {len(self._streams)} streams>"
