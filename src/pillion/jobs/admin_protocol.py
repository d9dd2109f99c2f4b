"""Jobs and where they stand as the messages of `pillion.scheduler.v1`, both ways. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.jobs.protocol import job_of, message_of, metadata_of
from pillion.kinds.jobs import CatchUp, JobInvalid, JobKey, Stored
from pillion.wire.messages import own_scheduler as m
from pillion.wire.messages import wellknown

if TYPE_CHECKING:
    from pillion.kinds.jobs import Job

SERVICE = "/pillion.scheduler.v1.Scheduler/"
DELETE_MANY = "/pillion.scheduler.v1.Jobs/DeleteMany"
MOST_DELETED = 1000
"""Jobs of one `DELETE_MANY`."""
_CATCH_UPS = {CatchUp.ALL: m.CATCH_UP_ALL, CatchUp.LAST: m.CATCH_UP_LAST, CatchUp.NONE: m.CATCH_UP_NONE}
_BY_NUMBER = {number: catch_up for catch_up, number in _CATCH_UPS.items()}
_NANO = 1_000_000_000


def state_message(stored: Stored) -> m.JobState:
    """Return the message of a job and where it stands."""
    key, job = stored.key, stored.job
    return m.JobState(
        key=key.text,
        job=message_of(job),
        metadata=metadata_of(key, job.concurrency_key),
        name=key.name,
        catch_up=_CATCH_UPS[job.catch_up],
        catch_up_per_second=job.catch_up_per_second,
        anchor=timestamp_of(stored.anchor),
        expires=None if stored.expires is None else timestamp_of(stored.expires),
        next=None if stored.next is None else timestamp_of(stored.next),
        last=None if stored.last is None else timestamp_of(stored.last),
        count=stored.count,
        attempts=stored.attempts,
        paused=stored.paused,
    )


def stored_of(message: m.JobState) -> Stored:
    """Return what `state_message` told; the revision is the scheduler's own business, 0 here. Raises `JobInvalid`."""
    catch_up = catch_up_of(message.catch_up)
    about, actor = message.metadata, message.metadata.target.actor
    return Stored(
        JobKey(about.namespace, message.name, about.app_id, actor.type, actor.id),
        job_of(message.job, message.metadata.concurrency_key, catch_up, message.catch_up_per_second),
        revision=0,
        anchor=seconds_of(message.anchor),
        expires=seconds_of(message.expires) if message.HasField("expires") else None,
        next=seconds_of(message.next) if message.HasField("next") else None,
        last=seconds_of(message.last) if message.HasField("last") else None,
        count=message.count,
        attempts=message.attempts,
        paused=message.paused,
    )


def put_request(key: JobKey, job: Job, *, overwrite: bool) -> m.PutRequest:
    """Return the request that registers a job with all its options."""
    return m.PutRequest(
        name=key.name,
        job=message_of(job),
        metadata=metadata_of(key, job.concurrency_key),
        overwrite=overwrite,
        catch_up=_CATCH_UPS[job.catch_up],
        catch_up_per_second=job.catch_up_per_second,
    )


def catch_up_of(number: int) -> CatchUp:
    """Raises `JobInvalid` for a number that means nothing."""
    try:
        return _BY_NUMBER[number]
    except KeyError:
        raise JobInvalid(f"there is no catch-up number {number}") from None


def timestamp_of(seconds: float) -> wellknown.Timestamp:
    """Return seconds since 1970 as a message, to the microsecond: a float has no more."""
    nanos = round(seconds * 1e6) * 1000
    return wellknown.Timestamp(seconds=nanos // _NANO, nanos=nanos % _NANO)


def seconds_of(message: wellknown.Timestamp) -> float:
    """Return seconds since 1970."""
    return message.seconds + message.nanos / _NANO
