"""Which policy surrounds a call: names of resources become one callable for each target (spec `runtime.md` 4.2, 4.3).

How a building block uses it, for the component `name` of its kind:

    policy = policies.component(name, Kind.BINDING, Flow.OUTBOUND)     # once, when the component arrives; None: nothing
    result = await policy(lambda: component.invoke(request))           # each call
    result = await policy(operation, replayable=False)                 # the same for what must not be repeated

`policy(operation)` calls `operation` - a function that returns a fresh awaitable - as often as the policy says, and
raises what the last attempt raised, `TimedOut` ("context deadline exceeded"), `BreakerOpen` ("circuit breaker is open")
or `TooManyRequests`; those are `ComponentError`s, so that a block answers them like any failure of the component.
Events of a component for the application (bindings, configuration) use `Flow.INBOUND`, with an operation that raises
`Unprocessed(http_status=…)` for an answer that counts as a failed attempt. Where nothing is configured the answer is
None and the block calls the component directly.

    policies.find(app_id, method) -> (policy or None, whether the built-in retry applies inside)
    policies.actor(actor_type, actor_id) -> ActorPolicies or None
    policies.retry(BuiltIn.NAME) -> Retry         a built-in policy, or what overrides it

Knows: precedence. Never knows: how a policy works (`machine.py`, `run.py`), where resources come from.
"""

from __future__ import annotations

import random as system_random
from collections import OrderedDict
from dataclasses import replace
from typing import TYPE_CHECKING, Generic, TypeVar

from pillion.errors import ConfigError
from pillion.records import record
from pillion.resiliency import documents, faults, injections
from pillion.resiliency.breaker import Breaker
from pillion.resiliency.builtin import BuiltIn, overridden
from pillion.resiliency.choice import Choice, Chosen
from pillion.resiliency.choice import Flow as Flow
from pillion.resiliency.choice import Kind as Kind
from pillion.resiliency.deadlines import Deadlines
from pillion.resiliency.documents import Declared
from pillion.resiliency.failures import judge, judge_publish
from pillion.resiliency.run import Meter, Policy, log

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pillion.clock import Clock
    from pillion.kinds.resources import FaultInjectionResource, ResiliencyResource
    from pillion.resiliency.breaker import BreakerRules, State
    from pillion.resiliency.failures import Judge
    from pillion.resiliency.faults import Faults
    from pillion.resiliency.injections import Injections
    from pillion.resiliency.machine import Random, Retry

V = TypeVar("V")
MOST_APPS = 1024
"""Applications, and types of actors, without a target of their own whose policies are kept."""


class Lru(Generic[V]):
    """The `size` members that were used last, made when first asked for."""

    __slots__ = ("_make", "_members", "_size")

    def __init__(self, size: int, make: Callable[[str], V]) -> None:
        self._size = size
        self._make = make
        self._members: OrderedDict[str, V] = OrderedDict()

    def __getitem__(self, key: str) -> V:
        members = self._members
        found = members.get(key)
        if found is None:
            if len(members) >= self._size:
                members.popitem(last=False)
            found = members[key] = self._make(key)
        else:
            members.move_to_end(key)
        return found


@record
class ActorPolicies:
    """`around` - retries and breaker - surrounds the wait for the actor's turn, `within` - the timeout - is inside."""

    around: Policy | None
    within: Policy | None


@record
class _Target:
    """An application: whether a resource names it, and its policy, or one for each method."""

    explicit: bool
    policy: Policy | None = None
    each: Lru[Policy] | None = None


@record
class _Actors:
    """A type of actors: the policies of all, or of each."""

    all: ActorPolicies | None = None
    each: Lru[ActorPolicies] | None = None


class Policies:
    """All policies of one sidecar. `notes` are for the operator; `active` False: nothing is configured at all.

    `injections` names the FaultInjection resources that are in force.
    """

    def __init__(
        self,
        declared: Declared,
        injected: Sequence[Injections] = (),
        *,
        random: Random = system_random.random,
        clock: Clock | None = None,
        meter: Meter | None = None,
    ) -> None:
        self.notes = list(declared.notes)
        self._random, self._clock, self._meter = random, clock, meter
        self._built_in = overridden(declared.retries, self.notes)
        self._deadlines: dict[float, Deadlines] = {}
        self._breakers: dict[tuple[str, str], Breaker] = {}
        self._injected = tuple(injected)
        self.injections = tuple(one.name for one in injected)
        for one in injected:
            self.notes += one.notes
        self._choice = Choice(declared, self.notes)
        self._apps: Lru[_Target] = Lru(MOST_APPS + len(declared.apps), self._app)
        self._actors: Lru[_Actors] = Lru(MOST_APPS + len(declared.actors), self._actor)
        self.active = bool(
            injected or declared.timeouts or declared.retries or declared.breakers or declared.apps
            or declared.actors or declared.components
        )  # fmt: skip

    @classmethod
    def of(
        cls,
        resources: Iterable[ResiliencyResource],
        fault_injections: Iterable[FaultInjectionResource] = (),
        *,
        meter: Meter | None = None,
    ) -> Policies:
        """Read resources. One with a mistake in it is left out as a whole; `notes` says why."""
        declared, injected = Declared(), []
        for resource in resources:
            try:
                declared.merge(documents.read(resource))
            except ConfigError as error:
                declared.notes.append(f"Resiliency {resource.name} is left out: {error}")
        for other in fault_injections:
            try:
                injected.append(injections.read(other))
            except ConfigError as error:
                declared.notes.append(f"FaultInjection {other.name} is left out: {error}")
        return cls(declared, injected, meter=meter)

    # -- what blocks ask for

    def find(self, app_id: str, method: str) -> tuple[Policy | None, bool]:
        """Return the policy for one method of an application, and whether the built-in retry applies inside of it."""
        target = self._apps[app_id]
        if target.each is not None:
            return target.each[method], not target.explicit
        return target.policy, not target.explicit

    def component(self, name: str, kind: Kind, flow: Flow) -> Policy | None:
        """Return the policy of a component, None when there is none. Its breaker is one for both directions."""
        chosen = self._choice.component(name, kind, flow)
        made_up = faults.of_a_component(self._injected, name, flow, messages=kind is Kind.PUBSUB)
        if not chosen and made_up is None:
            return None
        label = f"{kind}_{name}"
        breaker = None
        if chosen.breaker is not None:
            key = (name, chosen.breaker.name)
            breaker = self._breakers.get(key)
            if breaker is None:
                breaker = self._breakers[key] = self._breaker(chosen.breaker, label, flow)
        publishes = kind is Kind.PUBSUB and flow is Flow.OUTBOUND
        return self._policy(label, flow, chosen, breaker, made_up, judge=judge_publish if publishes else judge)

    def actor(self, actor_type: str, actor_id: str) -> ActorPolicies | None:
        """Return the policies of an actor, None when there are none: then the built-in retry of routing applies."""
        target = self._actors[actor_type]
        return target.all if target.each is None else target.each[actor_id]

    def retry(self, name: BuiltIn) -> Retry:
        """Return a built-in policy, or what overrides it."""
        return self._built_in[name]

    # -- composition

    def _app(self, app_id: str) -> _Target:
        chosen, explicit = self._choice.app(app_id)
        made_up = faults.of_an_app(self._injected, app_id)
        if not chosen and made_up is None:
            return _Target(explicit)
        label = f"app_{app_id}"
        rules = chosen.breaker
        if rules is None:
            policy = self._policy(label, Flow.OUTBOUND, chosen, None, made_up)
            return _Target(explicit, policy)

        def endpoint(method: str) -> Policy:
            breaker = self._breaker(rules, label, Flow.OUTBOUND, f"{app_id}:{method}")
            return self._policy(label, Flow.OUTBOUND, chosen, breaker, made_up)

        return _Target(explicit, each=Lru(chosen.cache, endpoint))

    def _actor(self, actor_type: str) -> _Actors:
        chosen = self._choice.actor(actor_type)
        label, flow, rules = f"actor_{actor_type}", Flow.OUTBOUND, chosen.breaker
        made_up = faults.of_an_actor(self._injected, actor_type)
        around = replace(chosen, timeout_s=0.0)
        within = None
        if chosen.timeout_s or made_up is not None:
            within = self._policy(label, flow, Chosen(chosen.timeout_s), None, made_up)
        if rules is not None and chosen.scope != "type":
            wanted = rules

            def one(actor_id: str) -> ActorPolicies:
                breaker = self._breaker(wanted, label, flow, f"{actor_type}-{actor_id}")
                return ActorPolicies(self._policy(label, flow, around, breaker, None), within)

            return _Actors(each=Lru(chosen.cache, one))
        if not around:
            return _Actors(ActorPolicies(None, within) if within is not None else None)
        breaker = self._breaker(rules, label, flow) if rules is not None else None
        return _Actors(ActorPolicies(self._policy(label, flow, around, breaker, None), within))

    def _policy(
        self,
        label: str,
        flow: Flow,
        chosen: Chosen,
        breaker: Breaker | None,
        made_up: Faults | None,
        judge: Judge = judge,
    ) -> Policy:
        deadlines = None
        if chosen.timeout_s:
            deadlines = self._deadlines.get(chosen.timeout_s)
            if deadlines is None:
                deadlines = self._deadlines[chosen.timeout_s] = Deadlines(chosen.timeout_s)
        return Policy(
            label, flow, deadlines=deadlines, retry=chosen.retry, breaker=breaker, faults=made_up, judge=judge,
            random=self._random, clock=self._clock, meter=self._meter,
        )  # fmt: skip

    def _breaker(self, rules: BreakerRules, label: str, flow: Flow, key: str = "") -> Breaker:
        meter = self._meter

        def changed(before: State, after: State) -> None:
            log.warning("circuit breaker %s of %s: %s, was %s", rules.name, key or label, after, before)
            if meter is not None:
                meter.activated("circuitbreaker", flow, label, after)
                meter.changed(flow, label, after)

        return Breaker(rules, changed)
