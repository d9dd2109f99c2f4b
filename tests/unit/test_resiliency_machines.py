"""The pure parts of resiliency, by transcript: breakers, retries, expressions, the reading and choice of policies."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from pillion.errors import ConfigError
from pillion.kinds.fields import Fields
from pillion.kinds.resources import KINDS
from pillion.resiliency.breaker import Breaker, BreakerRules, Counts, Refusal, State
from pillion.resiliency.builtin import BuiltIn
from pillion.resiliency.documents import duration, read
from pillion.resiliency.failures import Failure
from pillion.resiliency.machine import Attempts, Next, Retry, Wait
from pillion.resiliency.policies import Flow, Kind, Policies
from pillion.resiliency.trip import compile_trip
from pillion.wire import yamltext
from transcript import check

FOLDER = Path(__file__).parents[1] / "transcripts" / "resiliency"


def resource(spec: str, kind: str = "Resiliency", name: str = "rules") -> Any:
    """A resource whose `spec` is the given YAML."""
    version = "dapr.io/v1alpha1" if kind == "Resiliency" else "pillion.dev/v1alpha1"
    indented = "\n".join("  " + line for line in spec.splitlines())
    text = f"apiVersion: {version}\nkind: {kind}\nmetadata:\n  name: {name}\nspec:\n{indented}\n"
    node = yamltext.parse(text, source="r.yaml")
    assert node is not None
    return KINDS[version, kind](Fields(node))


def words(text: str) -> dict[str, str]:
    return dict(part.split("=", 1) for part in text.split())


class BreakerPlayer:
    """`breaker <field=value …> trip <expression>` makes one; `<time> admit|succeeded n|failed n` feeds it."""

    def __init__(self) -> None:
        self.breaker: Breaker | None = None
        self.changes: list[str] = []

    def __call__(self, command: str) -> str:
        self.changes.clear()
        if command.startswith("breaker"):
            head, _, trip = command.removeprefix("breaker").partition(" trip ")
            given = words(head)
            rules = BreakerRules(
                "b",
                compile_trip(trip),
                int(given.get("max_requests", 1)),
                float(given.get("interval", 0)),
                float(given.get("timeout", 60)),
            )
            self.breaker = Breaker(rules, self._changed)
            return "closed"
        assert self.breaker is not None
        at, verb, *rest = command.split()
        now, reply = float(at), ""
        if verb == "admit":
            ticket = self.breaker.admit(now)
            reply = ticket.value if isinstance(ticket, Refusal) else f"ticket {ticket}"
        elif verb == "abandoned":
            self.breaker.abandoned(int(rest[0]))
        else:
            (self.breaker.succeeded if verb == "succeeded" else self.breaker.failed)(int(rest[0]), now)
        reply = reply or f"{self.breaker.state}, {self._shown(self.breaker.counts)}"
        return "\n".join([*self.changes, reply])

    def _changed(self, before: State, after: State) -> None:
        self.changes.append(f"{before} -> {after}")

    @staticmethod
    def _shown(counts: Counts) -> str:
        return (
            f"{counts.requests} requests, {counts.successes} well ({counts.successes_in_a_row} in a row), "
            f"{counts.failures} failed ({counts.failures_in_a_row} in a row)"
        )


class AttemptPlayer:
    """`retry` and `breaker` with their fields in YAML; `call [random numbers]` begins; then the events of a call."""

    def __init__(self) -> None:
        self.retry: Retry | None = None
        self.breaker: Breaker | None = None
        self.attempts: Attempts | None = None

    def __call__(self, command: str) -> str:
        first, _, rest = command.partition("\n")
        if first == "retry":
            spec = "policies:\n  retries:\n    r:\n" + "\n".join("      " + line for line in rest.splitlines())
            self.retry = read(resource(spec)).retries["r"]
            return repr(self.retry.limit)
        if first == "no retry":
            self.retry = None
            return ""
        if first == "breaker":
            spec = "policies:\n  circuitBreakers:\n    b:\n" + "\n".join("      " + line for line in rest.splitlines())
            self.breaker = Breaker(read(resource(spec)).breakers["b"])
            return self.breaker.state.value
        if first.startswith("call"):
            numbers = [float(number) for number in first.split()[1:]]
            self.attempts = Attempts(self.retry, self.breaker, lambda: numbers.pop(0) if numbers else 0.5)
            return ""
        assert self.attempts is not None
        at, verb, *rest_of = first.split()
        now = float(at)
        if verb == "start":
            return self._shown(self.attempts.start(now))
        if verb == "waited":
            return self._shown(self.attempts.waited(now))
        if verb == "succeeded":
            self.attempts.succeeded(now)
            return "done"
        if verb == "abandoned":
            self.attempts.abandoned()
            return "done"
        code = next((int(word) for word in rest_of if word.isdecimal()), None)
        failure = Failure(code, final="final" in rest_of, blameless="blameless" in rest_of)
        return self._shown(self.attempts.failed(failure, now))

    @staticmethod
    def _shown(step: Next) -> str:
        return f"wait {round(step.seconds, 6):g} s" if isinstance(step, Wait) else step.value


def trip(command: str) -> str:
    """`trip <expression>`, then counts: requests, successes, failures, and those in a row."""
    first, _, rest = command.partition("\n")
    try:
        test = compile_trip(first.removeprefix("trip").strip())
    except ConfigError as error:
        return f"error: {error}"
    return "\n".join(str(test(Counts(*map(int, line.split())))) for line in rest.splitlines())


class PolicyPlayer:
    """`resiliency` and `fault injection` with a spec in YAML add a resource; the rest asks which policies apply."""

    def __init__(self) -> None:
        self.resources: list[Any] = []
        self.injections: list[Any] = []
        self.policies = Policies.of([])

    def __call__(self, command: str) -> str:
        first, _, rest = command.partition("\n")
        words = first.split()
        if first in ("resiliency", "fault injection", "forget all"):
            if first == "forget all":
                self.resources, self.injections = [], []
            elif first == "resiliency":
                self.resources.append(resource(rest))
            else:
                self.injections.append(resource(rest, "FaultInjection", "storm"))
            self.policies = Policies.of(self.resources, self.injections)
            return "\n".join([*self.policies.notes, "active" if self.policies.active else "nothing is configured"])
        if words[0] == "component":
            return self._shown(self.policies.component(words[1], Kind(words[2]), Flow(words[3])))
        if words[0] == "app":
            policy, built_in = self.policies.find(words[1], words[2])
            return self._shown(policy) + (", built-in retry inside" if built_in else "")
        if words[0] == "actor":
            found = self.policies.actor(words[1], words[2])
            return (
                "none" if found is None else f"around: {self._shown(found.around)}\nwithin: {self._shown(found.within)}"
            )
        if words[0] == "built-in":
            return str(self.policies.retry(BuiltIn(words[1])))
        raise AssertionError(command)

    @staticmethod
    def _shown(policy: Any) -> str:
        if policy is None:
            return "none"
        parts = [f"timeout {policy.deadlines.limit_s:g} s"] if policy.deadlines else []
        parts += [f"retry {policy.retry.name}"] if policy.retry else []
        parts += [f"breaker {policy.breaker.rules.name}"] if policy.breaker else []
        parts += ["faults"] if policy._faults else []
        return f"{policy.target} {policy.flow}: " + ", ".join(parts)


@pytest.mark.parametrize(
    ("name", "player"),
    [
        ("breaker", BreakerPlayer),
        ("attempts", AttemptPlayer),
        ("trip", lambda: trip),
        ("policies", PolicyPlayer),
        ("documents", PolicyPlayer),
    ],
)
def test_transcript(name: str, player: Any) -> None:
    check(FOLDER / f"{name}.txt", player())


def test_one_breaker_for_a_component_and_one_for_each_endpoint() -> None:
    """Both directions of a component share a breaker; methods of an application have their own, within a bound."""
    rules = resource(
        "policies:\n  circuitBreakers:\n    b: {}\n"
        "targets:\n  apps:\n    cart:\n      circuitBreaker: b\n      circuitBreakerCacheSize: 2\n"
        "  actors:\n    Cat:\n      circuitBreaker: b\n      circuitBreakerScope: both\n"
        "  components:\n    bus: {inbound: {circuitBreaker: b}, outbound: {circuitBreaker: b}}\n"
    )
    policies = Policies.of([rules])
    inbound = policies.component("bus", Kind.PUBSUB, Flow.INBOUND)
    outbound = policies.component("bus", Kind.PUBSUB, Flow.OUTBOUND)
    assert inbound is not None
    assert outbound is not None
    assert inbound.breaker is outbound.breaker
    first = policies.find("cart", "a")[0]
    assert policies.find("cart", "a")[0] is first
    assert policies.find("cart", "b")[0] is not first
    policies.find("cart", "c")
    assert policies.find("cart", "a")[0] is not first
    one, other = policies.actor("Cat", "1"), policies.actor("Cat", "2")
    assert one is not None
    assert other is not None
    assert one.around is not None
    assert other.around is not None
    assert one.around.breaker is not other.around.breaker


@pytest.mark.parametrize(
    ("text", "seconds"), [("250", 0.25), ("1h2m", 3720.0), ("0", 0.0), ("1.5s", 1.5), (" 10ms ", 0.01)]
)
def test_durations(text: str, seconds: float) -> None:
    """A bare whole number is milliseconds (spec `runtime.md` 4.1)."""
    node = yamltext.parse(f"t: '{text}'")
    assert duration(Fields(node), "t", 9.0) == seconds
