"""Actors: what is said between those who call them, those who place them and those who run them.

Knows: the values and the errors of the field (spec `actors-workflows-jobs.md` 1). Never knows: HTTP, gRPC, placement's
protocol, locks.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Protocol

from pillion.errors import ComponentError
from pillion.records import record

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence

    from pillion.kinds.jobs import FailurePolicy, Job

Headers = list[tuple[bytes, bytes]]
RESERVED = "dapr.internal."
"""Types that begin so belong to the sidecar itself: workflows."""


@dataclass(slots=True)
class ActorCall:
    """A method of an actor, called. Header names are lower-case; hop-by-hop headers, the length and the content type
    are not among them, the trace context is.

    `verb` is that of the HTTP API or "" from gRPC. `remote` marks a call that another sidecar passed on: it goes no
    further. `query` is raw and without its `?`. `once`: when it may have run, it is not tried again (`OutcomeUnknown`).
    """

    actor_type: str
    actor_id: str
    method: str
    body: bytes = b""
    headers: Headers = field(default_factory=list)
    content_type: bytes = b""
    verb: str = "PUT"
    remote: bool = False
    query: bytes = b""
    once: bool = False


@dataclass(slots=True)
class ActorReply:
    """What came back. `is_error` marks an error that the actor itself declared (1.6): the caller gets it unchanged."""

    body: bytes = b""
    status: int = 200
    headers: Headers = field(default_factory=list)
    content_type: bytes = b""
    is_error: bool = False


@dataclass(slots=True)
class Tick:
    """A reminder or a timer that fires. `data` is raw JSON or None; `callback` is a timer's method."""

    actor_type: str
    actor_id: str
    name: str
    data: bytes | None = None
    due_time: str = ""
    period: str = ""
    callback: str = ""
    is_timer: bool = False
    payload: bytes = b""
    """The serialised `google.protobuf.Any` of a reminder as it came from the scheduler."""
    headers: Headers = field(default_factory=list)
    """What goes to the application with it: the reentrancy id of the chain that it starts."""


class Handler(Protocol):
    """Who runs the actors of a type: the application over HTTP or a stream, or the sidecar's own engine."""

    async def invoke(self, call: ActorCall) -> ActorReply:
        """Run one turn. Raises `ActorError`s."""

    async def tick(self, tick: Tick) -> bool:
        """Run a reminder or timer as a turn; True: the actor wants it cancelled. Raises `ActorError`s."""

    async def deactivate(self, actor_type: str, actor_id: str) -> None:
        """The instance is gone from this host. Raises `ActorError` when the application refused."""


class StreamHandler(Protocol):
    """A handler with methods that answer many times; the engine's own. Items are serialised `google.protobuf.Any`s."""

    def stream(self, call: ActorCall) -> AsyncIterator[bytes]: ...


@record
class Reentrancy:
    """Chains of calls may come back to an actor, `max_depth` deep."""

    max_depth: int = 32


@record
class Hosted:
    """A type that this sidecar hosts. `locked` False: the handler keeps its own order, the host only claims.

    `settled` is called after every round of placement in which the owners of the type may have changed. `leaving` is
    for handlers that keep actors of their own accord, which the host knows nothing of: it is called when actors have to
    leave, tells which stay, and returns when the others are gone.
    """

    actor_type: str
    handler: Handler
    idle_timeout_s: float = 3600.0
    drain_timeout_s: float = 2.0
    drain: bool = True
    reentrancy: Reentrancy | None = None
    locked: bool = True
    settled: Callable[[], None] | None = None
    leaving: Callable[[Callable[[str], bool]], Awaitable[None]] | None = None


class ActorError(ComponentError):
    """A call of an actor failed. `retryable`: another try may find the actor elsewhere or well."""

    retryable = False


class NoPlacement(ActorError):
    """Actors are switched off: no placement address."""


class RuntimeClosed(ActorError):
    """The sidecar is shutting down."""


class NoHost(ActorError):
    """No sidecar hosts the type at present."""

    retryable = True


class ActorClosed(ActorError):
    """The instance was deactivated while the call waited."""

    retryable = True


class Moved(ActorError):
    """The actor is not, or no longer, on the host that was asked."""

    retryable = True


class TooDeep(ActorError):
    """A reentrant chain is deeper than its type allows."""


class MethodMissing(ActorError):
    """The application knows no such method: final."""


class AppRefused(ActorError):
    """The application answered with an error status."""

    def __init__(self, message: str, status: int = 500) -> None:
        super().__init__(message)
        self.status = status


class RemoteFailure(ActorError):
    """The owner's sidecar answered with a gRPC status."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class ConnectionLost(RemoteFailure):
    """The connection to the owner's sidecar broke before it answered: the call may have run."""

    retryable = True


class OutcomeUnknown(ActorError):
    """A call that is made once was cut off where it went: it may have run."""


class NotHosted(ActorError):
    """The type must be hosted by this sidecar for what was asked."""


class NotActive(ActorError):
    """The instance is not active on this sidecar (state transactions)."""


class NoStateStore(ActorError):
    """No component is the actor state store."""


class LostPlace(ActorError):
    """Another host took the actor over: this one writes nothing more."""

    retryable = True


@record
class Owner:
    """Where an actor lives: `address` is `host:port` of the internal server of `app_id`'s sidecar."""

    address: str
    app_id: str
    namespace: str
    local: bool


class Placement(Protocol):
    """Who owns which actor. `version` is that of the table in use; it never falls while the process lives."""

    @property
    def version(self) -> int: ...

    def lookup(self, actor_type: str, actor_id: str) -> Owner | None:
        """The owner now; None while the type is being placed anew. Raises `NoHost`, `NoPlacement`."""

    async def owner(self, actor_type: str, actor_id: str) -> Owner:
        """The same, waiting as long as it takes."""

    def types(self, actor_types: Sequence[str]) -> None:
        """This sidecar hosts exactly these types from now on; a round of placement follows where that is new."""


class Hosting(Protocol):
    """What placement asks of the host whose actors it places (1.2)."""

    async def drain(self, actor_types: Collection[str], stays: Callable[[str, str], bool]) -> None:
        """The table changed for these types, nobody looks them up until `settled`: let the calls of actors that do not
        stay end, within their time, and deactivate those actors. Returns when none is left. Never raises.
        """

    async def halt_all(self) -> None:
        """The place is lost: as `drain`, for every actor of every type."""

    def settled(self, actor_types: Collection[str]) -> None:
        """These types may be looked up again."""


class Actors(Protocol):
    """The actor runtime as the rest of the sidecar sees it."""

    async def invoke(self, call: ActorCall) -> ActorReply:
        """Call the actor wherever it lives, under its policies. Raises `ActorError`s."""

    def stream(self, call: ActorCall) -> AsyncIterator[bytes]:
        """Call a method that answers many times, wherever the actor lives. Raises `ActorError`s; one that is
        `retryable` means: ask again from the start.
        """

    async def tick(self, tick: Tick, *, remote: bool = False) -> bool:
        """Run a reminder or timer as a turn of its actor, wherever it lives; True: the actor, which lives here, wants
        it cancelled. `remote`: another sidecar passed it on. Raises `ActorError`s.
        """

    async def owner(self, actor_type: str, actor_id: str) -> Owner:
        """Wait while the type is being placed anew; raises `NoHost`, `NoPlacement`."""

    def host(self, by: str, types: Sequence[Hosted]) -> None:
        """Host exactly these `types` in the name of `by`; those it hosted before and no longer names are drained."""

    async def halt(self, actor_type: str, actor_id: str) -> None:
        """Deactivate one instance now, if it is active here; a turn that runs is cancelled, unless it is the caller's.

        Of a type that is not `locked` the host only forgets it, after its last claim: the handler is not told.
        """

    def hosts(self, actor_type: str) -> bool:
        """Whether this sidecar hosts the type."""

    def active(self) -> dict[str, int]:
        """The number of active instances of each hosted type."""


class Reminders(Protocol):
    """Reminders, kept by the scheduler (1.11)."""

    async def create(
        self, actor_type: str, actor_id: str, name: str, *, due_time: str = "", period: str = "", ttl: str = "",
        data: bytes | None = None, overwrite: bool = True, failure_policy: FailurePolicy | None = None,
    ) -> None: ...  # fmt: skip

    async def get(self, actor_type: str, actor_id: str, name: str) -> Job | None: ...

    async def delete(self, actor_type: str, actor_id: str, name: str) -> None: ...
