"""Fault injection: faults that are made up on purpose, to see how applications and policies bear them.

A resource of our own, `apiVersion: pillion.dev/v1alpha1`, `kind: FaultInjection` (docs/fault-injection.md). It acts
inside of the policies, so that retries, timeouts and breakers see what it makes up. Knows: chances and what comes of
them. Never knows: targets. Without such a resource nothing of this is on the way of a call.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import dataclass
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from pillion.errors import Code
from pillion.kinds.fields import Fields
from pillion.kinds.invocation import Reply, Unsuccessful
from pillion.kinds.topics import Unprocessed, Verdict
from pillion.resiliency.documents import duration, mappings
from pillion.resiliency.failures import Injected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

    from pillion.kinds.resources import FaultInjectionResource

T = TypeVar("T")
log = logging.getLogger("pillion.resiliency.faults")

LOST_S = 30.0
"""A call that is lost ends with an error after so many seconds, unless a timeout or its caller ends it before."""
MESSAGE = "injected fault"
MARK = (b"x-pillion-fault", b"error")
"""The header of a made-up answer of an application."""


@dataclass(frozen=True, slots=True)
class Chances:
    """What may happen to calls of one target; percentages from 0 to 100. `code` as in `Failure`, None for neither."""

    latency: float = 0.0
    latency_s: float = 0.0
    jitter_s: float = 0.0
    error: float = 0.0
    message: str = MESSAGE
    code: int | None = None
    drop: float = 0.0
    duplicate: float = 0.0

    def __bool__(self) -> bool:
        return any((self.latency, self.error, self.drop, self.duplicate))


NONE = Chances()


@dataclass(frozen=True, slots=True)
class Injections:
    """One resource. Components have (inbound, outbound)."""

    name: str
    seed: int | None
    apps: Mapping[str, Chances]
    actors: Mapping[str, Chances]
    components: Mapping[str, tuple[Chances, Chances]]
    notes: tuple[str, ...]


def read(resource: FaultInjectionResource) -> Injections:
    """Read a resource. Raises `ConfigError`."""
    notes: list[str] = []
    spec = Fields(resource.node, "spec", notes)
    targets = spec.nested("targets")
    seed = spec.integer("seed") if spec.raw("seed") is not None else None
    found = Injections(
        resource.name,
        seed,
        {name: _chances(entry) for name, entry in mappings(targets.nested("apps"))},
        {name: _chances(entry) for name, entry in mappings(targets.nested("actors"))},
        {name: _both_ways(entry) for name, entry in mappings(targets.nested("components"))},
        (),
    )
    for kind, chances in (("apps", found.apps), ("actors", found.actors)):
        for name, one in chances.items():
            if one.duplicate:
                raise targets.wrong(kind, f"{name}: duplicate is for messages: pub/sub components have them")
    targets.done()
    spec.done()
    return Injections(found.name, found.seed, found.apps, found.actors, found.components, tuple(notes))


def _both_ways(entry: Fields) -> tuple[Chances, Chances]:
    """Read a component: faults for both directions, or for each."""
    inbound, outbound = entry.nested("inbound"), entry.nested("outbound")
    if entry.raw("inbound") is None and entry.raw("outbound") is None:
        both = _chances(entry)
        return both, both
    for name in ("latency", "error", "drop", "duplicate"):
        if entry.raw(name) is not None:
            raise entry.wrong(name, "stands beside inbound or outbound", f"write inbound.{name} or outbound.{name}")
    return _chances(inbound), _chances(outbound)


def _chances(entry: Fields) -> Chances:
    entry.know("inbound", "outbound")
    latency, error = entry.nested("latency"), entry.nested("error")
    made = Chances(
        latency=_percent(entry, "latency"),
        latency_s=duration(latency, "duration", 0.0),
        jitter_s=duration(latency, "jitter", 0.0),
        error=_percent(entry, "error"),
        message=error.text("message") or MESSAGE,
        code=_code(error),
        drop=_percent(entry, "drop"),
        duplicate=_percent(entry, "duplicate"),
    )
    if made.latency and not made.latency_s:
        raise latency.wrong("duration", "is missing", "write how long a call is held back, like 200ms")
    latency.done()
    error.done()
    entry.done()
    return made


def _percent(target: Fields, name: str) -> float:
    """Return the percentage of a fault: 100 where it is there without one, even as `{}`."""
    if target.raw(name) is None:
        return 0.0
    entry = target.nested(name)
    text = entry.text("percent")
    if not text:
        return 100.0
    try:
        percent = float(text.removesuffix("%"))
    except ValueError:
        percent = -1.0
    if not 0 <= percent <= 100:
        raise entry.wrong("percent", f"{text!r} is not a number from 0 to 100")
    return percent


def _code(error: Fields) -> int | None:
    http = error.raw("httpStatus") is not None
    if http and error.raw("grpcStatus") is not None:
        raise error.wrong("grpcStatus", "stands beside httpStatus", "remove one of them")
    if http:
        status = error.integer("httpStatus")
        if not 400 <= status <= 599:
            raise error.wrong("httpStatus", f"{status} is not from 400 to 599")
        return status
    if error.raw("grpcStatus") is None:
        return None
    text = error.text("grpcStatus").strip().upper()
    code = int(text) if text.isdecimal() else Code.__members__.get(text, -1)
    if not 1 <= code <= 16:
        raise error.wrong("grpcStatus", f"{text!r} is not a code", "use a name like UNAVAILABLE, or 1 to 16")
    return int(code)


def of_app(chances: Chances) -> Exception:
    """Make the error of an invocation: an answer of the application if it has a status."""
    code = chances.code
    if code is None:
        return Injected(chances.message)
    if code >= 100:
        return Unsuccessful(Reply(code, [MARK], b"text/plain; charset=utf-8", chances.message.encode()))
    return Unsuccessful(Reply(code, [MARK], message=chances.message))


def of_component(chances: Chances) -> Exception:
    """Make the error of a component."""
    return Injected(chances.message, chances.code)


def of_delivery(chances: Chances) -> Exception:
    """Make the error of an application that is handed a message."""
    code = chances.code or 0
    if code >= 100:
        return Unprocessed(chances.message, http_status=code)
    return Unprocessed(chances.message, grpc_code=code)


class Faults:
    """Makes up the faults of one target: `await faults(operation)`.

    `made` makes the error. With `messages` a drop is a message that got lost in silence: the operation is not performed
    and `dropped` is its result. Without, a call that is dropped is not answered. Each target has its own source of
    chance: what others are asked changes nothing here.
    """

    __slots__ = ("_chances", "_dropped", "_label", "_made", "_messages", "_random")

    def __init__(
        self,
        label: str,
        chances: Chances,
        seed: int | None,
        made: Callable[[Chances], Exception],
        *,
        messages: bool = False,
        dropped: Any = None,
    ) -> None:
        self._label = label
        self._chances = chances
        self._made = made
        self._messages = messages
        self._dropped = dropped
        self._random = Random(None if seed is None else f"{seed} {label}")

    async def __call__(self, operation: Callable[[], Awaitable[T]]) -> T:
        chances = self._chances
        if self._falls(chances.latency):
            wait_s = max(0.0, chances.latency_s + chances.jitter_s * (2 * self._random.random() - 1))
            self._tell(f"held back for {wait_s * 1000:.0f} ms")
            await asyncio.sleep(wait_s)
        if self._falls(chances.error):
            self._tell("error")
            raise self._made(chances)
        if self._falls(chances.drop):
            if self._messages:
                self._tell("message dropped")
                nothing: T = self._dropped
                return nothing
            self._tell("call lost")
            await asyncio.sleep(LOST_S)
            raise Injected("the call was lost by fault injection")
        if self._falls(chances.duplicate):
            self._tell("message duplicated")
            await operation()
        return await operation()

    def _falls(self, percent: float) -> bool:
        return percent > 0 and self._random.random() * 100 < percent

    def _tell(self, what: str) -> None:
        log.info("fault injection: %s: %s", self._label, what)

    def __repr__(self) -> str:
        return f"<Faults of {self._label}: {self._chances}>"


def for_publish(name: str, chances: Chances, seed: int | None) -> Faults:
    """Faults of messages that are published."""
    return Faults(f"component {name} outbound", chances, seed, of_component, messages=True)


def for_delivery(name: str, chances: Chances, seed: int | None) -> Faults:
    """Faults of messages on their way to the application."""
    return Faults(f"component {name} inbound", chances, seed, of_delivery, messages=True, dropped=Verdict.DONE)
