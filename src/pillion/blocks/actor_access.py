"""What the actors' handlers of both protocols share: the gate in front of them, rules for names, the engine's parts.

Knows: who may ask what (spec `actors-workflows-jobs.md` 1.4, `grpc-api.md` 2 gates A and H). Never knows: HTTP, gRPC.
"""

from __future__ import annotations

import asyncio
import base64
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol, TypeVar

from pillion.blocks import actors_faults as faults
from pillion.errors import ApiError, ComponentError
from pillion.kinds.actors import (
    RESERVED,
    NoHost,
    NoPlacement,
    NoStateStore,
    NotActive,
    NotHosted,
    RuntimeClosed,
    TooDeep,
)
from pillion.wire.http1 import HOP_BY_HOP
from pillion.wire.methods import BadMethod, normalise

if TYPE_CHECKING:
    from collections.abc import Awaitable, Iterable, Sequence

    from pillion.errors import Fault
    from pillion.kinds.actors import ActorCall, ActorReply, Actors, Headers, Reminders
    from pillion.kinds.jobs import Scheduler
    from pillion.kinds.state import Delete, Found, Set

T = TypeVar("T")
FENCE = "pillion.fence"
_FENCE_OF_ANOTHER = "||" + FENCE
"""The key under which the sidecar marks whose turn it is to write an actor's state; clients cannot see it."""
TTL_FEATURE = "ActorStateTTL"
OWN = HOP_BY_HOP | {
    b"host", b"content-length", b"content-type", b"dapr-caller-app-id", b"dapr-caller-namespace", b"dapr-api-call",
    b"x-dapr-remote",
}  # fmt: skip
"""Headers that a client cannot send to an actor: the connection's and the sidecar's own."""
_API_CALL = (b"dapr-api-call", b"true")
_FORBIDDEN = re.compile(r"[\x00-\x1f\x7f#?/\\]")


class Gate:
    """Actors can be used once the application has told which types it hosts, even if none (1.1). `enabled` False: no
    placement address, so never.
    """

    def __init__(self, *, enabled: bool = True) -> None:
        self.enabled = enabled
        self.closed = False
        self._open = asyncio.Event()
        self._open_now = False

    async def enter(self) -> None:
        """Wait until it is open. Raises `ApiError`."""
        if self._open_now:
            return
        if not self.enabled:
            raise ApiError(faults.NO_PLACEMENT)
        await self._open.wait()
        if self.closed:
            raise ApiError(faults.CLOSED)

    def open(self) -> None:
        """The hosted types are registered."""
        if not self.closed and self.enabled:
            self._open_now = True
            self._open.set()

    def shut(self) -> None:
        """They are not any more; whoever comes waits for the next registration."""
        if not self.closed:
            self._open_now = False
            self._open.clear()

    def close(self) -> None:
        """The sidecar ends: refuse everybody, also those who wait."""
        self.closed = True
        self._open_now = False
        self._open.set()

    @property
    def is_open(self) -> bool:
        return self._open_now

    def __repr__(self) -> str:
        state = "disabled" if not self.enabled else "closed" if self.closed else "open" if self._open_now else "shut"
        return f"<Gate of actors, {state}>"


class Timers(Protocol):
    """Timers of the actors that this sidecar hosts (1.10)."""

    async def create(
        self, actor_type: str, actor_id: str, name: str, *, due_time: str = "", period: str = "", ttl: str = "",
        callback: str = "", data: bytes | None = None,
    ) -> None: ...  # fmt: skip

    async def delete(self, actor_type: str, actor_id: str, name: str) -> None:
        """What is not there is no error."""


class ActorState(Protocol):
    """The state of actors (1.9). Keys are the actor's own. Raises `NoStateStore`, `ComponentError`."""

    async def get(self, actor_type: str, actor_id: str, key: str) -> Found: ...

    async def transact(self, actor_type: str, actor_id: str, operations: Sequence[Set | Delete]) -> None:
        """All or nothing. Raises `NotActive`, `LostPlace`."""


@dataclass(frozen=True, slots=True)
class ActorParts:
    """The engine of one sidecar, in the parts that handlers use. `ttl`: state may expire."""

    app_id: str
    namespace: str
    actors: Actors
    state: ActorState
    timers: Timers
    reminders: Reminders
    scheduler: Scheduler
    ttl: bool = False


class ActorAccess:
    """Everything that is asked of actors passes here. `parts` None: actors are switched off, and so is the gate."""

    def __init__(self, gate: Gate, parts: ActorParts | None) -> None:
        self.gate = gate
        self._parts = parts
        caller = [] if parts is None else [
            (b"dapr-caller-app-id", parts.app_id.encode()), (b"dapr-caller-namespace", parts.namespace.encode()),
        ]  # fmt: skip
        self._stamp: Headers = [_API_CALL, *caller]

    async def parts(self, actor_type: str) -> ActorParts:
        """Let a request about state, timers or reminders in. Raises `ApiError`."""
        if actor_type.startswith(RESERVED):
            raise ApiError(faults.TYPE_RESERVED, type=actor_type)
        await self.gate.enter()
        assert self._parts is not None
        return self._parts

    async def hosting(self, actor_type: str) -> ActorParts:
        """The same, and the type must be hosted here. Raises `ApiError`."""
        parts = await self.parts(actor_type)
        if not parts.actors.hosts(actor_type):
            raise ApiError(faults.NOT_HOSTED)
        return parts

    def target(self, actor_type: str, actor_id: str, method: str) -> str:
        """Return the method as it is called. Raises `ApiError` for a name that cannot be one."""
        if (reason := refusal(actor_type)) is not None:
            raise ApiError(faults.BAD_REQUEST, text=f"invalid actorType: {reason}")
        if (reason := refusal(actor_id)) is not None:
            raise ApiError(faults.BAD_REQUEST, text=f"invalid actorId: {reason}")
        try:
            return normalise(method)
        except BadMethod as error:
            text = str(error).removeprefix("invalid method: ")
            raise ApiError(faults.BAD_REQUEST, text=f"invalid actor method: {text}") from error

    def sent(self, headers: Headers) -> Headers:
        """Return the headers of a client's call as the actor gets them."""
        return [pair for pair in headers if pair[0] not in OWN] + self._stamp

    async def invoke(self, call: ActorCall) -> ActorReply:
        """Call an actor. Raises `NoHost`, which each protocol tells in its own way, and `ApiError` for the rest."""
        await self.gate.enter()
        assert self._parts is not None
        try:
            return await self._parts.actors.invoke(call)
        except NoHost:
            raise
        except ComponentError as error:
            raise failed(faults.INVOKE, error) from error


def refusal(name: str) -> str | None:
    """Return why a name cannot be one of a type, an id, a reminder or a timer; None when it can."""
    found = _FORBIDDEN.search(name)
    if found is not None:
        return f"character {ord(found[0]):#04x} is not allowed"
    if name in (".", ".."):
        return f"{name!r} is not allowed"
    return None


def check_name(name: str, what: str) -> None:
    """Raise `ApiError` for a name that a reminder or timer cannot have."""
    if not name:
        raise ApiError(faults.BAD_REQUEST, text=f"invalid request: {what} name cannot be empty")
    if (reason := refusal(name)) is not None:
        raise ApiError(faults.BAD_REQUEST, text=f"invalid request: {what} name: {reason}")


def check_key(key: str) -> None:
    """Raise `ApiError` for the key that is the sidecar's own, and for what another actor's would be read as."""
    if key.endswith(FENCE) and (key == FENCE or key.endswith(_FENCE_OF_ANOTHER)):
        raise ApiError(faults.RESERVED_KEY, key=key)


def failed(fault: Fault, error: ComponentError) -> ApiError:
    """Return what failed as the API tells it: some reasons have codes of their own, the rest is of the operation."""
    match error:
        case NoPlacement():
            return ApiError(faults.NO_PLACEMENT)
        case RuntimeClosed():
            return ApiError(faults.CLOSED)
        case NoStateStore():
            return ApiError(faults.NO_STATE_STORE)
        case NotActive():
            return ApiError(faults.INSTANCE_MISSING)
        case TooDeep():
            return ApiError(faults.STACK_DEPTH)
        case NotHosted() if fault is not faults.TIMER_CREATE:
            return ApiError(faults.NOT_HOSTED)
        case _:
            return ApiError(fault, error=error)


async def done(fault: Fault, work: Awaitable[T]) -> T:
    """Return what `work` returns; raise `ApiError` when it fails, `fault` where the reason has no code of its own."""
    try:
        return await work
    except ComponentError as error:
        raise failed(fault, error) from error


def check_ttl(metadata: Iterable[str], *, ttl: bool) -> None:
    """Raise `ValueError` for a time to live among the names of `metadata` where `ttl` says that there are none."""
    if not ttl and any(name.lower() == "ttlinseconds" for name in metadata):
        raise ValueError(f'ttlInSeconds is not supported without the "{TTL_FEATURE}" feature enabled')


def as_json_text(data: bytes) -> bytes | None:
    """Return bytes of a gRPC client as the JSON they are kept as: a string of base64; None for none at all."""
    return b'"' + base64.b64encode(data) + b'"' if data else None
