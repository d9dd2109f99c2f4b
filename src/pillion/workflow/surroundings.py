"""What the engine is given: names, ports, limits. Values and protocols only."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pillion.clock import rfc3339
from pillion.kinds.config import Workflow
from pillion.kinds.jobs import JobKey

if TYPE_CHECKING:
    import random
    from collections.abc import Callable

    from pillion.clock import Clock
    from pillion.kinds.actors import Actors
    from pillion.kinds.jobs import Scheduler
    from pillion.kinds.state import TransactionalStore
    from pillion.workflow.policy import Policies
    from pillion.workflow.traces import Tracer


LAST_S = 253402300799.0
"""The last second of the year 9999."""


def moment(seconds: float) -> str:
    """A due time for the scheduler: RFC 3339 in UTC, with its milliseconds; never earlier than asked, but not beyond
    the years that RFC 3339 has: clients and workers may name any.
    """
    whole, part = divmod(-(-min(max(seconds, 0.0), LAST_S) * 1000 // 1), 1000)
    return f"{rfc3339(whole)[:-1]}.{int(part):03d}Z"


WAKE = "wake"
RETENTION = "retention"


@dataclass(frozen=True, slots=True)
class Names:
    """The actor types of workflows (spec 3.1). A type names the namespace and the application that hosts it."""

    namespace: str
    app_id: str

    def _type(self, kind: str, app_id: str) -> str:
        return f"dapr.internal.{self.namespace}.{app_id or self.app_id}.{kind}"

    def workflow(self, app_id: str = "") -> str:
        return self._type("workflow", app_id)

    def activity(self, app_id: str = "") -> str:
        return self._type("activity", app_id)

    def retentioner(self) -> str:
        return self._type("retentioner", "")

    def key(self, actor_type: str, actor_id: str, name: str) -> JobKey:
        """The key of a reminder."""
        return JobKey(self.namespace, name, self.app_id, actor_type, actor_id)


class Meter(Protocol):
    """What is counted of workflows (spec 3.11). Statuses: success, failed, terminated, recoverable."""

    def operation(self, operation: str, status: str, elapsed_ms: float) -> None: ...

    def execution(self, workflow: str, status: str, elapsed_ms: float | None) -> None:
        """A turn that ended: `elapsed_ms` of the whole instance when it is finished, else None."""

    def scheduling(self, workflow: str, elapsed_ms: float) -> None: ...

    def activity_operation(self, activity: str, status: str, elapsed_ms: float) -> None: ...

    def activity_execution(self, activity: str, status: str, elapsed_ms: float) -> None: ...

    def payload(self, workflow: str, ratio: float) -> None: ...

    def activity_payload(self, workflow: str, activity: str, ratio: float) -> None: ...


class Uncounted:
    """A `Meter` that counts nothing."""

    def operation(self, operation: str, status: str, elapsed_ms: float) -> None:
        pass

    def execution(self, workflow: str, status: str, elapsed_ms: float | None) -> None:
        pass

    def scheduling(self, workflow: str, elapsed_ms: float) -> None:
        pass

    def activity_operation(self, activity: str, status: str, elapsed_ms: float) -> None:
        pass

    def activity_execution(self, activity: str, status: str, elapsed_ms: float) -> None:
        pass

    def payload(self, workflow: str, ratio: float) -> None:
        pass

    def activity_payload(self, workflow: str, activity: str, ratio: float) -> None:
        pass


@dataclass(frozen=True, slots=True)
class Bounds:
    """Limits of the engine. Sizes are bytes, times seconds."""

    max_body: int = 4 << 20
    """Largest message (`--max-body-size`); a turn of more than 95 % of it stalls."""
    idle_instances: int = 2000
    """Instances that wait for something far away are kept in memory, up to so many and so many bytes."""
    idle_bytes: int = 64 << 20
    slow_turn_s: float = 0.2
    """Results that came are written to the inbox when a turn takes longer."""
    near_timer_s: float = 60.0
    """Timers that are nearer are kept in memory, others wake the instance by its job."""
    first_wake_s: float = 60.0
    last_wake_s: float = 3600.0
    linger_s: float = 1.0
    """So long the types stay registered when the last worker has gone: workers reconnect."""
    drain_s: float = 2.0
    """For a turn that a worker is at when its instance has to leave."""
    deliveries: int = 64
    """Messages to other instances that are under way at once."""
    queued_items: int = 2000
    """When so many turns and activities wait for workers, instances that begin wait in the store, not in memory."""
    in_progress: int = 2000
    """The same, when so many instances for each worker's stream are under way: what has begun ends first."""
    resuming: int = 32
    """Instances that are read at once when their owner begins."""

    @property
    def most_bytes(self) -> int:
        return self.max_body * 95 // 100


@dataclass(frozen=True, slots=True)
class Surroundings:
    """The ports of one engine. `store` gives the actor state store of the moment, None when there is none; `rank` tells
    where this host stands among those of an actor type, sorted by address, and how many they are.
    """

    names: Names
    clock: Clock
    random: random.Random
    store: Callable[[], TransactionalStore | None]
    actors: Actors
    scheduler: Scheduler
    config: Workflow = field(default_factory=Workflow)
    bounds: Bounds = field(default_factory=Bounds)
    meter: Meter = field(default_factory=Uncounted)
    policies: Callable[[], Policies | None] = lambda: None
    address: str = ""
    tracer: Tracer | None = None
    rank: Callable[[str], tuple[int, int]] = lambda _: (0, 1)

    def now_ns(self) -> int:
        return int(self.clock.now() * 1e9)

    def new_id(self) -> str:
        """A random UUID (version 4)."""
        bits = self.random.getrandbits(128) & ~(0xF << 76 | 0x3 << 62) | (0x4 << 76 | 0x2 << 62)
        text = f"{bits:032x}"
        return f"{text[:8]}-{text[8:12]}-{text[12:16]}-{text[16:20]}-{text[20:]}"
