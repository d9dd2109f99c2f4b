"""FaultInjection resources as values: what may happen to calls of which target (docs/fault-injection.md).

Knows: fields and their limits. Never knows: how a fault is made (`faults.py`).
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.errors import Code
from pillion.kinds.fields import Fields
from pillion.records import record
from pillion.resiliency.documents import duration, mappings

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pillion.kinds.resources import FaultInjectionResource

MESSAGE = "injected fault"


@record
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


@record
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
