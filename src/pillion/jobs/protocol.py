"""Jobs as the messages of schedulers and sidecars, both ways (spec `actors-workflows-jobs.md` 2.5).

Pure. Used by the scheduler's server and by its client. Knows: fields. Never knows: calls, streams.
"""

from __future__ import annotations

from datetime import timedelta
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import DecodeError

from pillion.kinds.jobs import CatchUp, Constant, Drop, Interest, Job, JobInvalid, JobKey, Limit
from pillion.wire.messages import common, runtime, wellknown
from pillion.wire.messages import scheduler as m

if TYPE_CHECKING:
    from pillion.kinds.jobs import FailurePolicy

M = TypeVar("M", m.Job, runtime.Job)

SERVICE = "/dapr.proto.scheduler.v1.Scheduler/"
CATCH_UP, CATCH_UP_PER_SECOND = "pillion-catch-up", "pillion-catch-up-per-second"
"""Metadata of ScheduleJob for what its message has no fields for; a reference scheduler passes over them."""

OURS = "pillion-scheduler"
"""Metadata that a scheduler of ours begins a stream of triggers with: it understands `UNDELIVERABLE`."""
UNDELIVERABLE = 2
"""A status of results that the reference has not: the trigger is for somebody else, and cost no attempt."""


def key_of(name: str, metadata: m.JobMetadata) -> JobKey:
    """Return the key of a job. Raises `JobInvalid` for metadata that are not whole."""
    _whole(metadata)
    target = metadata.target
    match target.WhichOneof("type"):
        case "actor":
            if not target.actor.type:
                raise JobInvalid("the actor type is empty")
            return JobKey(metadata.namespace, name, metadata.app_id, target.actor.type, target.actor.id)
        case "job":
            return JobKey(metadata.namespace, name, metadata.app_id)
        case _:
            raise JobInvalid("the target of the job is neither an application nor an actor")


def _whole(metadata: m.JobMetadata | m.WatchJobsRequestInitial) -> None:
    if not metadata.namespace:
        raise JobInvalid("the namespace is empty")
    if not metadata.app_id:
        raise JobInvalid("the app id is empty")


def metadata_of(key: JobKey, concurrency_key: str = "") -> m.JobMetadata:
    """Return the metadata by which `key_of` gives `key` back."""
    found = m.JobMetadata(app_id=key.app_id, namespace=key.namespace)
    if key.actor_type:
        found.target.actor.type, found.target.actor.id = key.actor_type, key.actor_id
    else:
        found.target.job.SetInParent()
    if concurrency_key:
        found.concurrency_key = concurrency_key
    return found


def any_of(payload: bytes) -> wellknown.Any:
    """Return a payload of ours as a message. Raises `JobInvalid` for bytes that are none."""
    try:
        return wellknown.Any.FromString(payload)
    except DecodeError as error:
        raise JobInvalid(f"the data is not a google.protobuf.Any: {error}") from error


def job_of(
    message: m.Job | runtime.Job,
    concurrency_key: str = "",
    catch_up: CatchUp = CatchUp.ALL,
    catch_up_per_second: float = 0.0,
) -> Job:
    """Return a job as it was written, to a scheduler or to a sidecar."""
    return Job(
        schedule=message.schedule,
        due_time=message.due_time,
        ttl=message.ttl,
        repeats=message.repeats if message.HasField("repeats") else None,
        payload=message.data.SerializeToString() if message.HasField("data") else b"",
        failure_policy=policy_of(message.failure_policy) if message.HasField("failure_policy") else None,
        concurrency_key=concurrency_key,
        catch_up=catch_up,
        catch_up_per_second=catch_up_per_second,
    )


def message_of(job: Job) -> m.Job:
    """Return the message of a job; what was not written is not set."""
    return _filled(m.Job(), job)


def named_message_of(name: str, job: Job) -> runtime.Job:
    """Return the message by which a sidecar tells of a job."""
    return _filled(runtime.Job(name=name), job)


def _filled(message: M, job: Job) -> M:
    for field, value in (("schedule", job.schedule), ("due_time", job.due_time), ("ttl", job.ttl)):
        if value:
            setattr(message, field, value)
    if job.repeats is not None:
        message.repeats = job.repeats
    if job.payload:
        message.data.CopyFrom(any_of(job.payload))
    if job.failure_policy is not None:
        message.failure_policy.CopyFrom(policy_message(job.failure_policy))
    return message


def policy_of(message: common.JobFailurePolicy) -> FailurePolicy:
    """Return a failure policy. A constant one without an interval tries again at once, without a maximum for ever."""
    if message.WhichOneof("policy") != "constant":
        return Drop()
    constant = message.constant
    interval = constant.interval
    interval_s = interval.seconds + interval.nanos / 1e9 if constant.HasField("interval") else 0.0
    if interval_s < 0:
        raise JobInvalid("the interval of the failure policy is negative")
    return Constant(interval_s, constant.max_retries if constant.HasField("max_retries") else None)


def policy_message(policy: FailurePolicy) -> common.JobFailurePolicy:
    """Return the message by which `policy_of` gives the policy back."""
    message = common.JobFailurePolicy()
    if isinstance(policy, Drop):
        message.drop.SetInParent()
        return message
    message.constant.SetInParent()
    if policy.interval_s:
        message.constant.interval.FromTimedelta(timedelta(seconds=policy.interval_s))
    if policy.max_retries is not None:
        message.constant.max_retries = policy.max_retries
    return message


def interest_of(message: m.WatchJobsRequestInitial) -> Interest:
    """Return what a stream wants to be told of. Raises `JobInvalid`."""
    _whole(message)
    accepted = list(message.accept_job_types)
    if len(set(accepted)) != len(accepted):
        raise JobInvalid("accept_job_types has a type twice")
    limits = []
    for limit in message.concurrency_limits:
        if limit.WhichOneof("target") != "actor" or not limit.actor.type:
            raise JobInvalid("a concurrency limit has no actor type")
        if limit.max_concurrent > 0:
            limits.append(Limit(gate_of(limit.actor.type, limit.name), limit.max_concurrent))
    reminders = not accepted or m.JOB_TARGET_TYPE_ACTOR_REMINDER in accepted
    return Interest(
        message.app_id,
        message.namespace,
        jobs=not accepted or m.JOB_TARGET_TYPE_JOB in accepted,
        actor_types=frozenset(message.actor_types) if reminders else frozenset(),
        limits=tuple(limits),
    )


def interest_message(interest: Interest) -> m.WatchJobsRequest:
    """Return the first message of a stream."""
    request = m.WatchJobsRequest()
    initial = request.initial
    initial.app_id, initial.namespace = interest.app_id, interest.namespace
    initial.actor_types.extend(sorted(interest.actor_types))
    if interest.jobs:
        initial.accept_job_types.append(m.JOB_TARGET_TYPE_JOB)
    if interest.actor_types:
        initial.accept_job_types.append(m.JOB_TARGET_TYPE_ACTOR_REMINDER)
    for limit in interest.limits:
        actor_type, _, name = limit.key.partition(":")
        asked = initial.concurrency_limits.add(max_concurrent=limit.most, name=name or None)
        asked.actor.type = actor_type
    return request


def gate_of(actor_type: str, name: str) -> str:
    """Return the key of a gate: a type's own, or that of one name within it (2.7)."""
    return f"{actor_type}:{name}" if name else actor_type


def catch_up_of(text: str, per_second: str) -> tuple[CatchUp, float]:
    """Read how late ticks are caught up with, as clients write it; "" is the default. Raises `JobInvalid`."""
    try:
        catch_up = CatchUp(text.lower()) if text else CatchUp.ALL
    except ValueError:
        raise JobInvalid(f"catch-up is {text[:32]!r}, not all, last or none") from None
    try:
        rate = float(per_second) if per_second else 0.0
    except ValueError:
        rate = -1.0
    if not 0.0 <= rate <= 1e6:
        raise JobInvalid(f"catch-up per second is {per_second[:32]!r}, not a number from 0 to 1000000")
    return catch_up, rate
