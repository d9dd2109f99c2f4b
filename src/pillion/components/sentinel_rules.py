"""Flow, isolation, circuit breaker and system rules in the form that Sentinel has them: pure, the time is given.

Knows: which rule stops a request now, and what an answer does to the rules. Never knows: HTTP, clocks. Fields are
those of the JSON of Sentinel's Go library (`flow.Rule`, `circuitbreaker.Rule`, `isolation.Rule`, `system.Rule`).
"""

from __future__ import annotations

import json
import math
from collections import deque
from dataclasses import dataclass, field
from enum import Enum
from typing import Any


class Window:
    """Counts over the last `length_s` seconds, in ten slices: (requests, of which counted ones)."""

    SLICES = 10

    def __init__(self, length_s: float) -> None:
        self._slice_s = length_s / self.SLICES
        self._slices: deque[list[float]] = deque()

    def add(self, now: float, counted: bool = False) -> None:
        at = math.floor(now / self._slice_s)
        if not self._slices or self._slices[-1][0] != at:
            self._slices.append([at, 0, 0])
        self._slices[-1][1] += 1
        self._slices[-1][2] += counted

    def totals(self, now: float) -> tuple[int, int]:
        oldest = math.floor(now / self._slice_s) - self.SLICES
        while self._slices and self._slices[0][0] <= oldest:
            self._slices.popleft()
        return int(sum(one[1] for one in self._slices)), int(sum(one[2] for one in self._slices))

    def clear(self) -> None:
        self._slices.clear()


@dataclass(slots=True)
class Flow:
    """At most `threshold` requests in each interval; what is above is refused."""

    resource: str
    threshold: float
    window: Window

    def admits(self, now: float) -> bool:
        return self.window.totals(now)[0] + 1 <= self.threshold


@dataclass(slots=True)
class Isolation:
    """At most `threshold` requests at once."""

    resource: str
    threshold: float


class Strategy(Enum):
    """When a circuit opens."""

    SLOW_RATIO = 0
    ERROR_RATIO = 1
    ERROR_COUNT = 2


class State(Enum):
    CLOSED = "closed"
    OPEN = "open"
    HALF_OPEN = "half-open"


@dataclass(slots=True)
class Breaker:
    """Opens at `threshold` of slow or failed answers in the interval, tries one request after `retry_s`."""

    resource: str
    strategy: Strategy
    threshold: float
    retry_s: float
    least: int
    slow_s: float
    window: Window
    state: State = State.CLOSED
    until: float = 0.0

    def admits(self, now: float) -> bool:
        return self.state is State.CLOSED or (self.state is State.OPEN and now >= self.until)

    def entered(self) -> None:
        """A request passes: where the circuit was open, it is the one that tries."""
        if self.state is State.OPEN:
            self.state = State.HALF_OPEN

    def ended(self, now: float, took_s: float, failed: bool) -> None:
        bad = took_s > self.slow_s if self.strategy is Strategy.SLOW_RATIO else failed
        if self.state is State.HALF_OPEN:
            if bad:
                self.open(now)
            else:
                self.state = State.CLOSED
                self.window.clear()
            return
        if self.state is State.OPEN:
            return  # it began before the circuit opened
        self.window.add(now, bad)
        total, counted = self.window.totals(now)
        share = counted if self.strategy is Strategy.ERROR_COUNT else counted / total
        if total >= self.least and counted and share >= self.threshold:
            self.open(now)

    def open(self, now: float) -> None:
        self.state, self.until = State.OPEN, now + self.retry_s


@dataclass(slots=True)
class Limits:
    """System rules: of all requests together. None: no limit."""

    per_second: float = math.inf
    at_once: float = math.inf
    average_s: float = math.inf


@dataclass(slots=True)
class Rules:
    """All rules of one middleware and what they have seen."""

    flows: list[Flow] = field(default_factory=list)
    isolations: list[Isolation] = field(default_factory=list)
    breakers: list[Breaker] = field(default_factory=list)
    limits: Limits = field(default_factory=Limits)
    inside: dict[str, int] = field(default_factory=dict)
    everything: Window = field(default_factory=lambda: Window(1.0))
    took: deque[tuple[float, float]] = field(default_factory=lambda: deque(maxlen=1000))

    def enter(self, resource: str, now: float) -> str:
        """Let a request in and return "", or the kind of rule that stops it. What was let in has to `leave`."""
        flows = [one for one in self.flows if one.resource == resource]
        breakers = [one for one in self.breakers if one.resource == resource]
        if not self._system_admits(now):
            return "system"
        if not all(one.admits(now) for one in flows):
            return "flow"
        here = self.inside.get(resource, 0)
        if any(here + 1 > one.threshold for one in self.isolations if one.resource == resource):
            return "isolation"
        if not all(one.admits(now) for one in breakers):
            return "circuit breaker"
        for flow in flows:
            flow.window.add(now)
        for breaker in breakers:
            breaker.entered()
        self.everything.add(now)
        self.inside[resource] = here + 1
        return ""

    def leave(self, resource: str, now: float, took_s: float, failed: bool) -> None:
        left = self.inside[resource] - 1
        if left:
            self.inside[resource] = left
        else:
            del self.inside[resource]
        self.took.append((now, took_s))
        for breaker in self.breakers:
            if breaker.resource == resource:
                breaker.ended(now, took_s, failed)

    def _system_admits(self, now: float) -> bool:
        limits = self.limits
        if self.everything.totals(now)[0] + 1 > limits.per_second or sum(self.inside.values()) + 1 > limits.at_once:
            return False
        if limits.average_s is math.inf or not self.inside:
            return True
        recent = [took for at, took in self.took if at > now - 1.0]
        return not recent or sum(recent) / len(recent) <= limits.average_s


# --- reading ---------------------------------------------------------------------------------------------------------


def read(flows: str, breakers: str, isolations: str, system: str) -> Rules:
    """Read the rules from their JSON texts. Raises `ValueError` for what is no rule or is not covered."""
    rules = Rules()
    for row in _rows(flows, "flowRules"):
        _only(row, "tokenCalculateStrategy", (0, "Direct"))
        _only(row, "controlBehavior", (0, "Reject"))
        _only(row, "relationStrategy", (0, "CurrentResource"))
        interval_s = (_number(row, "statIntervalInMs", 0) or 1000) / 1000
        rules.flows.append(Flow(_resource(row), _number(row, "threshold"), Window(interval_s)))
    for row in _rows(isolations, "isolationRules"):
        _only(row, "metricType", (0, "Concurrency"))
        rules.isolations.append(Isolation(_resource(row), _number(row, "threshold")))
    for row in _rows(breakers, "circuitBreakerRules"):
        strategy = row.get("strategy", 0)
        named = {"SlowRequestRatio": 0, "ErrorRatio": 1, "ErrorCount": 2}
        rules.breakers.append(
            Breaker(
                _resource(row),
                Strategy(named.get(strategy, strategy) if isinstance(strategy, str) else strategy),
                threshold=_number(row, "threshold"),
                retry_s=_number(row, "retryTimeoutMs", 0) / 1000,
                least=max(int(_number(row, "minRequestAmount", 0)), 1),
                slow_s=_number(row, "maxAllowedRtMs", 0) / 1000,
                window=Window((_number(row, "statIntervalMs", 0) or 1000) / 1000),
            )
        )
    for row in _rows(system, "systemRules"):
        match row.get("metricType"):
            case 1 | "AvgRT":
                rules.limits.average_s = min(rules.limits.average_s, _number(row, "triggerCount") / 1000)
            case 2 | "Concurrency":
                rules.limits.at_once = min(rules.limits.at_once, _number(row, "triggerCount"))
            case 3 | "InboundQPS":
                rules.limits.per_second = min(rules.limits.per_second, _number(row, "triggerCount"))
            case other:
                raise ValueError(f"systemRules: metricType {other!r} is not covered (use 1, 2 or 3)")
    return rules


def _rows(text: str, what: str) -> list[dict[str, Any]]:
    if not text.strip():
        return []
    rows = json.loads(text)
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{what} must be a JSON list of objects")
    return rows


def _resource(row: dict[str, Any]) -> str:
    name = row.get("resource")
    if not isinstance(name, str) or not name:
        raise ValueError("a rule names no resource")
    return name


def _number(row: dict[str, Any], name: str, default: float | None = None) -> float:
    value = row.get(name, default)
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not value >= 0:
        raise ValueError(f"{name} must be a number that is not negative, not {value!r}")
    return float(value)


def _only(row: dict[str, Any], name: str, known: tuple[object, ...]) -> None:
    if row.get(name, known[0]) not in known:
        raise ValueError(f"{name} {row[name]!r} is not covered (leave it out)")
