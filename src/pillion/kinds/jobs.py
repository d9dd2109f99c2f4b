"""Jobs: what is asked of a scheduler, what it keeps, and what its storage must do (spec `actors-workflows-jobs.md` 2).

A job belongs to an application, or is a reminder of an actor. Knows: the words of the field. Never knows: schedules'
grammar (`jobs/schedule.py`), ticks (`jobs/machine.py`), databases, streams.
"""

from __future__ import annotations

from dataclasses import field
from enum import Enum, StrEnum
from typing import TYPE_CHECKING, Protocol

from pillion.errors import Code, ComponentError
from pillion.records import record

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Collection, Sequence


@record
class JobKey:
    """The name of a job. `actor_type` "" : a job of the application `app_id`; else a reminder of that actor.

    A reminder's `app_id` says who registered it and is no part of its identity (2.3).
    """

    namespace: str
    name: str
    app_id: str = ""
    actor_type: str = ""
    actor_id: str = ""

    @property
    def text(self) -> str:
        """The composed key, by which storage knows the job."""
        if self.actor_type:
            return f"actorreminder||{self.namespace}||{self.actor_type}||{self.actor_id}||{self.name}"
        return f"app||{self.namespace}||{self.app_id}||{self.name}"

    def __hash__(self) -> int:
        return hash(self.text)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, JobKey) and self.text == other.text


@record
class Constant:
    """A failed tick is tried again after `interval_s` seconds, `max_retries` times (None: without end)."""

    interval_s: float = 1.0
    max_retries: int | None = 3


@record
class Drop:
    """A failed tick is given up at once."""


FailurePolicy = Constant | Drop


class CatchUp(StrEnum):
    """What becomes of the ticks that were due while nobody could fire them. `ALL` is the reference's way."""

    ALL = "all"
    LAST = "last"
    NONE = "none"


@record
class Job:
    """What a client asked for, as it was written: texts are kept, so that `get` gives back what was put.

    `payload` is a serialised `google.protobuf.Any`, b"" for none. `failure_policy` None: `Constant()`.
    `concurrency_key` names the gates of a trigger (2.7). `catch_up_per_second` bounds late ticks a second, 0: no bound.
    """

    schedule: str = ""
    due_time: str = ""
    ttl: str = ""
    repeats: int | None = None
    payload: bytes = b""
    failure_policy: FailurePolicy | None = None
    concurrency_key: str = ""
    catch_up: CatchUp = CatchUp.ALL
    catch_up_per_second: float = 0.0


@record
class Stored:
    """A job and where it stands: one row of storage. Times are seconds since 1970, UTC.

    `revision` changes with every overwrite and never comes again: a result for an older one is discarded. `anchor` is
    the due time, or the time of registration, from which the schedule counts. `next` is the time of the next fire or
    retry, None when paused without one; `tick` the scheduled time of the tick that `next` is a try of. `count` ticks
    are done, `last` is the scheduled time of the newest of them; `attempts` tries of the present tick have failed.
    """

    key: JobKey
    job: Job
    revision: int
    anchor: float
    expires: float | None = None
    next: float | None = None
    tick: float | None = None
    count: int = 0
    last: float | None = None
    attempts: int = 0
    paused: bool = False


class Outcome(Enum):
    """How a trigger ended. `UNDELIVERABLE`: no consumer took it; it costs no attempt."""

    SUCCESS = "success"
    FAILED = "failed"
    UNDELIVERABLE = "undeliverable"


@record
class Trigger:
    """One tick on its way to a consumer. `tick` is its scheduled time; `payload` as in `Job`."""

    key: JobKey
    payload: bytes
    tick: float
    concurrency_key: str = ""


@record
class Limit:
    """At most `most` triggers at once with `concurrency_key` == `key`, over all schedulers (2.7)."""

    key: str
    most: int


@record
class Interest:
    """What one consumer takes: jobs of its application when `jobs`, reminders of `actor_types` of its namespace."""

    app_id: str
    namespace: str
    jobs: bool = True
    actor_types: frozenset[str] = frozenset()
    limits: tuple[Limit, ...] = ()


class Watch(Protocol):
    """A consumer's registration. `close` ends it: what it has not answered is undeliverable and goes elsewhere."""

    def close(self) -> None: ...


class JobInvalid(ComponentError):
    """The job cannot be taken as it was written: the caller's mistake."""


class JobExists(ComponentError):
    """There is a job of this name, and it was not to be overwritten."""


class JobMissing(ComponentError):
    """There is no such job."""


class SchedulerUnavailable(ComponentError):
    """No scheduler can be reached, or it has not got its share of the work yet."""


class SchedulerTimeout(SchedulerUnavailable):
    """A scheduler was reached and did not answer in time: the call may have had its effect."""


class SchedulerFailed(ComponentError):
    """A scheduler answered with an error of its own; `code` is its gRPC status."""

    def __init__(self, text: str, code: Code = Code.UNKNOWN) -> None:
        super().__init__(text)
        self.code = code


class Scheduler(Protocol):
    """A scheduler as a sidecar sees it: in the same process, or far away. A returned call is durable.

    All calls raise `SchedulerUnavailable` and `ComponentError`.
    """

    async def schedule(self, key: JobKey, job: Job, *, overwrite: bool = False) -> None:
        """Register `job`. Raises `JobInvalid`, `JobExists`."""

    async def get(self, key: JobKey) -> Job | None: ...

    async def delete(self, key: JobKey) -> None:
        """Delete the job and its counter; what is not there is no error."""

    async def delete_many(self, keys: Sequence[JobKey]) -> None:
        """As `delete` of each, in as few writes as can be. After an error some may be gone."""

    async def list_jobs(self, namespace: str, app_id: str, prefix: str = "") -> list[tuple[JobKey, Job]]:
        """The jobs of an application whose name begins with `prefix`, by name."""

    async def list_reminders(
        self, namespace: str, actor_type: str, actor_id: str | None = None
    ) -> list[tuple[JobKey, Job]]:
        """The reminders of exactly this type, or exactly this actor."""

    async def delete_jobs(self, namespace: str, app_id: str, prefix: str = "") -> None: ...

    async def delete_reminders(self, namespace: str, actor_type: str, actor_id: str | None = None) -> None:
        """Delete the reminders of exactly this type, or exactly this actor."""

    def watch(self, interest: Interest, deliver: Callable[[Trigger], Awaitable[Outcome]]) -> Watch:
        """Take triggers from now on. `deliver` runs many at once and must not raise."""

    async def close(self) -> None: ...


@record
class JobFilter:
    """Which jobs an operator asks for: by prefix of the composed key, and by state when `paused` is not None."""

    prefix: str = ""
    paused: bool | None = None


class SchedulerAdmin(Protocol):
    """What we offer beyond the reference: looking at jobs and steering them, by composed key."""

    async def find(self, wanted: JobFilter, *, after: str = "", limit: int = 100) -> list[Stored]:
        """A page of jobs in order of key, those after `after`."""

    async def inspect(self, key: str) -> Stored:
        """Raises `JobMissing`, as do all below."""

    async def pause(self, key: str) -> Stored: ...

    async def resume(self, key: str) -> Stored:
        """Go on; ticks that were missed meanwhile follow the job's `catch_up`."""

    async def skip(self, key: str, ticks: int = 1) -> Stored:
        """Pass over the next ticks; they count as done."""

    async def run_now(self, key: str) -> None:
        """Fire once, now, beside the schedule; raises `SchedulerUnavailable` when no consumer takes it."""

    async def backfill(self, key: str, since: float, until: float) -> int:
        """Fire every tick the schedule has in [since, until], beside the schedule, in order; return how many.

        Each waits at the gates like others, and is tried again as the failure policy says.
        """

    async def remove(self, key: str) -> None: ...


@record
class Change:
    """A row to be written when its revision is still `revision`; `stored` None deletes it."""

    key: str
    revision: int
    stored: Stored | None


@record
class Member:
    """One scheduler process among those that share a database: its id, a number for this start, where it listens."""

    id: str
    incarnation: int
    address: str


@record
class Share:
    """What a member owns: `partitions` until `until` (the driver's monotonic clock), and who is there.

    `epoch` grows whenever a partition changes its owner; a write under an older one is refused.
    """

    partitions: frozenset[int] = frozenset()
    epochs: dict[int, int] = field(default_factory=dict)
    members: tuple[Member, ...] = ()
    until: float = 0.0


PARTITIONS = 64
"""Jobs are spread over so many partitions by a hash of their composed key (`jobs/partition.py`)."""


class JobStore(Protocol):
    """Where a scheduler keeps its jobs: SQLite, PostgreSQL. Several processes may use one database.

    The database decides who owns which partition, by leases on its own clock; no election of our own. Times are seconds
    since 1970. A returned call is durable; calls that wait at the same time share a transaction.
    """

    async def open(self) -> None: ...

    async def close(self) -> None: ...

    async def put(self, partition: int, stored: Stored, *, overwrite: bool) -> bool:
        """Write the row whoever owns the partition; False when there is one and `overwrite` is not set."""

    async def get(self, key: str) -> Stored | None: ...

    async def remove(self, keys: Sequence[str]) -> int: ...

    async def remove_prefix(self, prefix: str) -> int: ...

    async def page(self, prefix: str, *, after: str = "", limit: int = 1000) -> list[Stored]:
        """Rows whose key begins with `prefix`, in order of key, those after `after`."""

    async def due(
        self, partitions: Collection[int], until: float, limit: int, *, after: tuple[float, str] | None = None
    ) -> list[Stored]:
        """Rows of these partitions with `next` <= `until` that are not paused, by `next` and key; those that come after
        the row with the `next` and key of `after`, when it is given."""

    async def apply(self, changes: Sequence[Change], epochs: dict[int, int]) -> list[bool]:
        """Write each change whose row still has its revision and whose partition still has its epoch; tell which.

        A partition that `epochs` does not name is not asked for its epoch: operators change what another member owns.
        """

    async def lease(self, member: Member, seconds: float) -> Share:
        """Renew the membership and take a fair part of the partitions; also called to find out what changed.

        What a member has too much is not in the answer any more, but nobody else gets it before this member's next
        call: by that call it says that it has seen the answer. Another incarnation of a member whose lease has not
        lapsed gets nothing.
        """

    async def leave(self, member: Member) -> None:
        """Give the partitions up at once."""

    def changed(self, tell: Callable[[Sequence[str]], None]) -> None:
        """`tell` is called on the loop when another process has changed the rows of these keys; without keys: any rows,
        or the members (a notification, not a promise)."""
