"""Jobs: put, looked up, deleted (spec `actors-workflows-jobs.md` 2.1, `http-api.md` 4.7, `grpc-api.md` 3).

Knows: requests, faults, the JSON of a job. Never knows: when a job fires, who carries it out.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, TypeVar

import orjson
from google.protobuf import json_format

from pillion.api.operation import Http, Operation, Rpc
from pillion.api.render import JSON
from pillion.blocks import jobs_faults as faults
from pillion.errors import GRPC_TO_HTTP, ApiError, Code, ComponentError
from pillion.jobs.protocol import CATCH_UP, CATCH_UP_PER_SECOND, catch_up_of, job_of, named_message_of
from pillion.jobs.statuses import code_of, quoted
from pillion.kinds.jobs import JobInvalid, JobKey, JobMissing, SchedulerTimeout, SchedulerUnavailable
from pillion.net.exchange import BodyIncomplete, BodyTooLarge, Response
from pillion.wire import gojson
from pillion.wire.messages import internals, pool, wellknown
from pillion.wire.messages import runtime as m

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from google.protobuf.message import Message

    from pillion.api.call import HttpCall, RpcCall
    from pillion.errors import Fault
    from pillion.kinds.jobs import Scheduler

T = TypeVar("T")
TIMEOUT_S = 30.0
VALUE = "type.googleapis.com/google.protobuf.Value"
CATCH_UP_KEY, CATCH_UP_PER_SECOND_KEY = "pillion.catchUp", "pillion.catchUpPerSecond"
"""Keys of an HTTP body for what the reference has no fields for."""


class JobsBlock:
    """The handlers. `scheduler` answers "scheduler clients are disabled" where none is configured."""

    def __init__(self, app_id: str, namespace: str, scheduler: Scheduler) -> None:
        self._app_id = app_id
        self._namespace = namespace
        self._scheduler = scheduler
        self._about = {"appID": app_id, "namespace": namespace}

    def operations(self) -> list[Operation]:
        """The rows of this block; the alphas are rows of their own because `spec.api` rules tell them apart."""
        rows = []
        for path, tail, version in (("v1.0", "", "v1"), ("v1.0-alpha1", "Alpha1", "v1alpha1")):
            route = f"{path}/jobs/{{name}}"
            lists: type[Message] = m.ListJobsRequestAlpha1 if tail else m.ListJobsRequest
            deletes: type[Message] = m.DeleteJobsByPrefixRequestAlpha1 if tail else m.DeleteJobsByPrefixRequest
            rows += [
                Operation(
                    "ScheduleJob" + tail, "jobs", version, http=(Http(("POST",), route, self.schedule),),
                    rpc=Rpc(("ScheduleJob" + tail,), m.ScheduleJobRequest, self.rpc_schedule),
                ),
                Operation(
                    "GetJob" + tail, "jobs", version, http=(Http(("GET",), route, self.get),),
                    rpc=Rpc(("GetJob" + tail,), m.GetJobRequest, self.rpc_get),
                ),
                Operation(
                    "DeleteJob" + tail, "jobs", version, http=(Http(("DELETE",), route, self.delete),),
                    rpc=Rpc(("DeleteJob" + tail,), m.DeleteJobRequest, self.rpc_delete),
                ),
                Operation(
                    "ListJobs" + tail, "jobs", version,
                    rpc=Rpc(("ListJobs" + tail,), lists, self.rpc_list_alpha1 if tail else self.rpc_list),
                ),
                Operation(
                    "DeleteJobsByPrefix" + tail, "jobs", version,
                    rpc=Rpc(
                        ("DeleteJobsByPrefix" + tail,), deletes,
                        self.rpc_delete_prefix_alpha1 if tail else self.rpc_delete_prefix,
                    ),
                ),
            ]  # fmt: skip
        return rows

    # -- HTTP

    async def schedule(self, call: HttpCall) -> Response:
        name = call.params[0].strip()
        try:
            document = orjson.loads(call.body() or b"{}")
            if not isinstance(document, dict):
                raise ValueError("a job is a JSON object")
            extra = [document.pop(key, "") for key in (CATCH_UP_KEY, CATCH_UP_PER_SECOND_KEY)]
            request = internals.JobHTTPRequest()
            json_format.ParseDict(document, request, ignore_unknown_fields=True, max_recursion_depth=200)
        except (json_format.ParseError, ValueError, BodyTooLarge, BodyIncomplete, RecursionError) as error:
            raise ApiError(faults.MALFORMED, error=error) from error
        if request.name:
            raise ApiError(faults.NAME_IN_BODY, metadata={"appID": self._app_id})
        job = m.Job(name=name)
        for field in ("schedule", "repeats", "due_time", "ttl"):
            if request.HasField(field):
                setattr(job, field, getattr(request, field))
        if request.HasField("failure_policy"):
            job.failure_policy.CopyFrom(request.failure_policy)
        if request.HasField("data"):
            job.data.type_url, job.data.value = VALUE, request.data.SerializeToString(deterministic=True)
        await self._schedule(job, *map(_as_text, extra), overwrite=request.overwrite)
        return Response(204)

    async def get(self, call: HttpCall) -> Response:
        return Response(200, [JSON], gojson.spelled(orjson.dumps(document_of(await self._get(call.params[0])))))

    async def delete(self, call: HttpCall) -> Response:
        await self._delete(call.params[0])
        return Response(204)

    # -- gRPC

    async def rpc_schedule(self, call: RpcCall, request: m.ScheduleJobRequest) -> Message:
        if not request.HasField("job"):
            raise ApiError(faults.NO_JOB, metadata=self._about)
        extra = [_as_text(call.stream.first(name) or "") for name in (CATCH_UP, CATCH_UP_PER_SECOND)]
        await self._schedule(request.job, *extra, overwrite=request.overwrite)
        return m.ScheduleJobResponse()

    async def rpc_get(self, call: RpcCall, request: m.GetJobRequest) -> Message:
        return m.GetJobResponse(job=await self._get(request.name))

    async def rpc_delete(self, call: RpcCall, request: m.DeleteJobRequest) -> Message:
        await self._delete(request.name)
        return m.DeleteJobResponse()

    async def rpc_list(self, call: RpcCall, request: m.ListJobsRequest) -> Message:
        return m.ListJobsResponse(jobs=await self._list())

    async def rpc_list_alpha1(self, call: RpcCall, request: m.ListJobsRequestAlpha1) -> Message:
        return m.ListJobsResponseAlpha1(jobs=await self._list())

    async def rpc_delete_prefix(self, call: RpcCall, request: m.DeleteJobsByPrefixRequest) -> Message:
        await self._delete_prefix(request.name_prefix)
        return m.DeleteJobsByPrefixResponse()

    async def rpc_delete_prefix_alpha1(self, call: RpcCall, request: m.DeleteJobsByPrefixRequestAlpha1) -> Message:
        await self._delete_prefix(request.name_prefix)
        return m.DeleteJobsByPrefixResponseAlpha1()

    # -- both

    async def _schedule(self, message: m.Job, catch_up: str, per_second: str, *, overwrite: bool) -> None:
        if not message.name:
            raise ApiError(faults.NO_NAME, metadata=self._about)
        if not (message.HasField("schedule") or message.HasField("due_time")):
            raise ApiError(faults.NO_SCHEDULE, metadata=self._about)
        try:
            late, rate = catch_up_of(catch_up, per_second)
        except JobInvalid as error:
            raise ApiError(faults.CATCH_UP, metadata=self._about, error=error) from error
        try:
            job = job_of(message, catch_up=late, catch_up_per_second=rate)
            await self._within(self._scheduler.schedule(self._key(message.name), job, overwrite=overwrite))
        except ComponentError as error:
            code = code_of(error)
            if isinstance(error, SchedulerUnavailable) and not isinstance(error, SchedulerTimeout):
                code = Code.UNKNOWN
            code = Code.INTERNAL if code == Code.UNKNOWN else code
            raise ApiError(
                faults.SCHEDULE, metadata=self._about, http_status=GRPC_TO_HTTP[code], grpc_status=code,
                error=_told(error),
            ) from error  # fmt: skip

    async def _get(self, name: str) -> m.Job:
        if not name:
            raise ApiError(faults.NO_NAME, metadata=self._about)
        key = self._key(name)

        async def get() -> m.Job:
            job = await self._within(self._scheduler.get(key))
            if job is None:
                raise JobMissing(f"job not found: {key.text}")
            return named_message_of(name, job)

        return await self._told(faults.GET, get())

    async def _delete(self, name: str) -> None:
        if not name:
            raise ApiError(faults.NO_NAME, metadata=self._about)
        await self._told(faults.DELETE, self._within(self._scheduler.delete(self._key(name))))

    async def _delete_prefix(self, prefix: str) -> None:
        work = self._scheduler.delete_jobs(self._namespace, self._app_id, prefix)
        await self._told(faults.DELETE, self._within(work))

    async def _list(self) -> list[m.Job]:
        work = self._scheduler.list_jobs(self._namespace, self._app_id)
        rows = await self._told(faults.LIST, self._within(work))
        return [named_message_of(key.name, job) for key, job in rows]

    def _key(self, name: str) -> JobKey:
        return JobKey(self._namespace, name, self._app_id)

    async def _told(self, fault: Fault, work: Awaitable[T]) -> T:
        """Every failure is the same fault, whatever the scheduler said."""
        try:
            return await work
        except ComponentError as error:
            raise ApiError(fault, metadata=self._about, error=_told(error)) from error

    async def _within(self, work: Awaitable[T]) -> T:
        try:
            async with asyncio.timeout(TIMEOUT_S):
                return await work
        except TimeoutError as error:
            raise SchedulerTimeout("context deadline exceeded") from error


def _told(error: ComponentError) -> str:
    """What no scheduler said is told plainly, without a status."""
    if isinstance(error, SchedulerUnavailable) and not isinstance(error, SchedulerTimeout):
        return str(error)
    return quoted(error)


def _as_text(value: object) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return repr(value)
    return f"{value:g}"


def document_of(job: m.Job) -> dict[str, Any]:
    """Return a job as the HTTP API shows it. Data of a type that is not known here are shown as base64."""
    if not job.HasField("data"):
        return json_format.MessageToDict(job)
    bare = m.Job()
    bare.CopyFrom(job)
    bare.ClearField("data")
    document = json_format.MessageToDict(bare)
    policy = document.pop("failurePolicy", None)
    try:
        data = json_format.MessageToDict(job.data, descriptor_pool=pool)
    except (TypeError, KeyError, ValueError, json_format.Error):
        whole = json_format.MessageToDict(wellknown.BytesValue(value=job.data.value))
        data = {"@type": job.data.type_url, "value": whole}
    if job.data.type_url == VALUE and "value" in data:  # the fields of an object, in the map's own order until here
        data["value"] = orjson.Fragment(gojson.dumps_canonical(data["value"]))
    document["data"] = data
    if policy is not None:
        document["failurePolicy"] = policy
    return document
