"""Resiliency resources as values: policies by name, and which of them a target asks for (spec `runtime.md` 4.1).

Knows: fields, their defaults, their limits. Never knows: precedence (`policies.py`), or how a policy works.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pillion.errors import ConfigError
from pillion.kinds.fields import Fields
from pillion.records import record
from pillion.resiliency.breaker import BreakerRules
from pillion.resiliency.machine import GROWTH, INITIAL_S, SPREAD, TOTAL_S, UNLIMITED, Retry
from pillion.resiliency.trip import compile_trip
from pillion.wire.durations import go_duration

if TYPE_CHECKING:
    from collections.abc import Iterator

    from pillion.kinds.resources import ResiliencyResource

CONSTANT_S, LONGEST_S, BREAKER_S = 5.0, 60.0, 60.0
APP_CACHE, ACTOR_CACHE = 100, 5000
MOST_S = 10 * 365 * 86_400.0
"""A longer duration is a slip of the pen; timers have their limits too."""
SCOPES = ("type", "id", "both")


@record
class Wanted:
    """The names a target gives; "" for none. `cache` and `scope` are about its breakers."""

    timeout: str = ""
    retry: str = ""
    breaker: str = ""
    cache: int = 0
    scope: str = ""
    where: str = ""


@dataclass(slots=True)
class Declared:
    """One Resiliency, or several merged: of one name the later counts. Components have (inbound, outbound)."""

    timeouts: dict[str, float] = field(default_factory=dict)
    retries: dict[str, Retry] = field(default_factory=dict)
    breakers: dict[str, BreakerRules] = field(default_factory=dict)
    apps: dict[str, Wanted] = field(default_factory=dict)
    actors: dict[str, Wanted] = field(default_factory=dict)
    components: dict[str, tuple[Wanted, Wanted]] = field(default_factory=dict)
    notes: list[str] = field(default_factory=list)

    def merge(self, other: Declared) -> None:
        """Take what another resource says; it comes later."""
        self.timeouts |= other.timeouts
        self.retries |= other.retries
        self.breakers |= other.breakers
        self.apps |= other.apps
        self.actors |= other.actors
        self.components |= other.components
        self.notes += other.notes


def read(resource: ResiliencyResource) -> Declared:
    """Read a whole resource. Raises `ConfigError` for the first mistake: then nothing of it is to be applied."""
    found = Declared()
    spec = Fields(resource.node, "spec", found.notes)
    policies, targets = spec.nested("policies"), spec.nested("targets")
    timeouts = policies.nested("timeouts")
    found.timeouts = {name: _named_duration(timeouts, name) for name, _ in entries(timeouts)}
    for name, entry in mappings(policies.nested("retries")):
        found.retries[name] = _retry(name, entry)
    for name, entry in mappings(policies.nested("circuitBreakers")):
        found.breakers[name] = _breaker(name, entry)
    for name, entry in mappings(targets.nested("apps")):
        found.apps[name] = _wanted(entry, cache=entry.integer("circuitBreakerCacheSize") or APP_CACHE)
    for name, entry in mappings(targets.nested("actors")):
        found.actors[name] = _actor(entry)
    for name, entry in mappings(targets.nested("components")):
        found.components[name] = _wanted(entry.nested("inbound")), _wanted(entry.nested("outbound"))
        entry.done()
    for fields in (policies, targets, spec):
        fields.done()
    return found


def entries(fields: Fields) -> Iterator[tuple[str, object]]:
    """Yield the names an author chose, with their values."""
    if fields.node is not None and fields.node.value is not None:
        yield from fields.node.value.items()


def mappings(fields: Fields) -> Iterator[tuple[str, Fields]]:
    """Yield the mappings an author named; one without a value is an empty mapping."""
    for name, _ in entries(fields):
        yield name, fields.nested(name)


def duration(fields: Fields, name: str, default: float) -> float:
    """Return seconds: a duration as Go writes it, or a bare whole number of milliseconds. Raises `ConfigError`."""
    text = fields.text(name).strip()
    if not text:
        return default
    try:
        seconds = int(text) / 1000 if text.lstrip("+-").isdecimal() else go_duration(text)
    except ValueError as error:
        raise fields.wrong(name, str(error)) from error
    if not 0 <= seconds <= MOST_S:
        raise fields.wrong(name, f"{text} is not from 0 to ten years")
    return seconds


def _named_duration(timeouts: Fields, name: str) -> float:
    return duration(timeouts, name, 0.0)


def _retry(name: str, entry: Fields) -> Retry:
    kind = (entry.text("policy") or "constant").lower()
    wait_s, cap_s = duration(entry, "duration", CONSTANT_S), duration(entry, "maxInterval", LONGEST_S)
    limit = max(entry.integer("maxRetries", UNLIMITED), UNLIMITED)
    matching = entry.nested("matching")
    http = _codes(matching, "httpStatusCodes", 100, 599)
    grpc = _codes(matching, "gRPCStatusCodes", 0, 16)
    matching.done()
    entry.done()
    if kind == "constant":
        return Retry(name, limit, wait_s, http=http, grpc=grpc)
    if kind != "exponential":
        raise entry.wrong("policy", f"is {kind!r}", "use constant or exponential")
    return Retry(name, limit, INITIAL_S, GROWTH, SPREAD, cap_s, TOTAL_S, http, grpc)


def _codes(matching: Fields, name: str, low: int, high: int) -> frozenset[int] | None:
    """Return the codes of a list such as `408, 500-504`, None when there is none."""
    text = matching.text(name)
    codes: set[int] = set()
    listed = False
    for part in text.split(","):
        if not part.strip():
            continue
        listed = True
        first, dash, last = (piece.strip() for piece in part.partition("-"))
        try:
            start = int(first)
            end = int(last) if dash else start
        except ValueError:
            raise matching.wrong(name, f"{part.strip()!r} is neither a code nor a range a-b") from None
        if not low <= start <= end <= high:
            raise matching.wrong(name, f"{part.strip()!r} is not within {low} to {high}")
        codes.update(range(start, end + 1))
    return frozenset(codes) if listed else None


def _breaker(name: str, entry: Fields) -> BreakerRules:
    try:
        trip = compile_trip(entry.text("trip"))
    except ConfigError as error:
        raise entry.wrong("trip", error.what, error.mend) from error
    requests = entry.integer("maxRequests", 1)
    if requests < 0:
        raise entry.wrong("maxRequests", f"is {requests}", "use 1 or more")
    made = BreakerRules(
        name,
        trip,
        max_requests=requests or 1,
        interval_s=duration(entry, "interval", 0.0),
        timeout_s=duration(entry, "timeout", BREAKER_S) or BREAKER_S,
    )
    entry.done()
    return made


def _wanted(entry: Fields, *, cache: int = 0, scope: str = "") -> Wanted:
    made = Wanted(
        entry.text("timeout"), entry.text("retry"), entry.text("circuitBreaker"), cache, scope, where=entry.path
    )
    entry.done()
    return made


def _actor(entry: Fields) -> Wanted:
    scope = entry.text("circuitBreakerScope").lower()
    if entry.text("circuitBreaker") and scope not in SCOPES:
        raise entry.wrong("circuitBreakerScope", f"is {scope!r}", f"use one of: {', '.join(SCOPES)}")
    return _wanted(entry, cache=entry.integer("circuitBreakerCacheSize") or ACTOR_CACHE, scope=scope)
