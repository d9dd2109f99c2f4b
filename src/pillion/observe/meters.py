"""What is counted of the building blocks and of the runtime (spec `runtime.md` 6.1).

`Meters` has everything that a part of the sidecar may count; a part is handed the one it needs, as a callable or as
the protocol it declares itself. Series are kept by the values that tell them apart, so that counting is a look-up and
an addition. Latencies are milliseconds with their fractions.
"""

from __future__ import annotations

from bisect import bisect_left
from time import perf_counter
from typing import TYPE_CHECKING, Protocol, TypeVar

from pillion.observe import grpc_meters, http_meters
from pillion.observe.paths import Labels
from pillion.records import record

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillion.kinds.config import Metric
    from pillion.kinds.resources import ComponentResource
    from pillion.observe.grpc_meters import CallUnary
    from pillion.observe.http_meters import Handler
    from pillion.observe.metrics import Family, Histogram, Number, Registry

T = TypeVar("T")
STATES = ("closed", "half-open", "open", "unknown")
STREAMING = "streaming"
"""The kind of all calls between sidecars."""
REMEMBERED, MOST_STATUSES = 512, 64
"""Other applications whose series are at hand, and statuses of each."""


class Timed(Protocol):
    """Awaits `work`, an operation of a component, and counts it; gives what it gives and raises what it raises."""

    def __call__(self, operation: str, component: str, work: Awaitable[T]) -> Awaitable[T]: ...


def untimed(operation: str, component: str, work: Awaitable[T]) -> Awaitable[T]:
    """A `Timed` for when nothing is counted."""
    return work


def timed(family: Family[Histogram]) -> Timed:
    """Return a `Timed` that counts into `component_<kind>_latencies`, and so into `…_count` as well.

    An empty operation is for kinds that have none. Components and operations are few: what is remembered is bounded by
    them.
    """
    done: dict[tuple[str, str], Histogram] = {}
    failed: dict[tuple[str, str], Histogram] = {}

    def find(operation: str, component: str, known: dict[tuple[str, str], Histogram]) -> Histogram:
        success = _truth(known is done)
        values = (component, operation, success) if operation else (component, success)
        series = known[operation, component] = family.child(*values)
        return series

    async def count(operation: str, component: str, work: Awaitable[T]) -> T:
        started = perf_counter()
        try:
            result = await work
        except Exception:
            series = failed.get((operation, component)) or find(operation, component, failed)
            series.count((perf_counter() - started) * 1000)
            raise
        elapsed_ms = (perf_counter() - started) * 1000
        try:
            series = done[operation, component]
        except KeyError:
            series = find(operation, component, done)
        if elapsed_ms > 0:  # `Histogram.count`, written out for the path that matters
            series.counts[bisect_left(series.bounds, elapsed_ms)] += 1
            series.total += elapsed_ms
        else:
            series.uncounted += 1
        return result

    return count


class PubSubMeter:
    """The publish/subscribe block's `Meter`."""

    def __init__(self, registry: Registry) -> None:
        self._egress = registry.histogram("component_pubsub_egress_latencies")
        self._egress_bulk = registry.histogram("component_pubsub_egress_bulk_latencies")
        self._ingress = registry.histogram("component_pubsub_ingress_latencies")
        self._ingress_bulk = registry.histogram("component_pubsub_ingress_bulk_latencies")
        self._events = registry.number("component_pubsub_ingress_bulk_event_count")

    def egress(self, pubsub: str, topic: str, success: bool, elapsed_ms: float) -> None:
        self._egress.child(pubsub, _truth(success), topic).count(elapsed_ms)

    def egress_bulk(self, pubsub: str, topic: str, success: bool, elapsed_ms: float) -> None:
        """One bulk: `success` when all of its messages were taken."""
        self._egress_bulk.child(pubsub, _truth(success), topic).count(elapsed_ms)

    def ingress(self, pubsub: str, topic: str, status: str, elapsed_ms: float) -> None:
        self._ingress.child(pubsub, status, topic, "").count(elapsed_ms)

    def ingress_bulk(self, pubsub: str, topic: str, statuses: dict[str, int], elapsed_ms: float) -> None:
        """One bulk: how many of its messages ended with each status."""
        for status, events in statuses.items():
            self._events.child(pubsub, status, topic).value += events
            self._ingress_bulk.child(pubsub, status, topic).count(elapsed_ms)


class CalleeMeter:
    """Calls of one other application through its sidecar: the series are looked up once for each status."""

    __slots__ = ("_answers", "_latency", "_name", "_seen", "_sent")

    def __init__(self, name: str, sent: Family[Number], answers: Family[Number], latency: Family[Histogram]) -> None:
        self._name = name
        self._sent = sent.child(name, STREAMING)
        self._answers, self._latency = answers, latency
        self._seen: dict[int, tuple[Number, Histogram]] = {}

    def sent(self) -> None:
        """A request goes to the other sidecar."""
        self._sent.value += 1

    def answered(self, status: int, elapsed_ms: float) -> None:
        """It was answered, with an HTTP status or a gRPC code."""
        series = self._seen.get(status)
        if series is None:
            text = str(status)
            series = self._answers.child(self._name, text, STREAMING), self._latency.child(self._name, text)
            if len(self._seen) < MOST_STATUSES:
                self._seen[status] = series
        series[0].value += 1
        series[1].observe(elapsed_ms)


class CallerMeter:
    """Calls of the application here by one other."""

    __slots__ = ("_answered", "_name", "_received", "_seen")

    def __init__(self, name: str, received: Family[Number], answered: Family[Number]) -> None:
        self._name = name
        self._received = received.child(name)
        self._answered = answered
        self._seen: dict[int, Number] = {}

    def received(self) -> None:
        """The other application's sidecar asks for the application here."""
        self._received.value += 1

    def replied(self, status: int) -> None:
        """It got its answer."""
        series = self._seen.get(status)
        if series is None:
            series = self._answered.child(self._name, str(status))
            if len(self._seen) < MOST_STATUSES:
                self._seen[status] = series
        series.value += 1


class PeerMeter:
    """Service invocation between sidecars. Applications are remembered up to a bound."""

    def __init__(self, registry: Registry) -> None:
        self._sent = registry.number("runtime_service_invocation_req_sent_total")
        self._received = registry.number("runtime_service_invocation_req_recv_total")
        self._answered = registry.number("runtime_service_invocation_res_sent_total")
        self._answers = registry.number("runtime_service_invocation_res_recv_total")
        self._latency = registry.histogram("runtime_service_invocation_res_recv_latency_ms")
        self._callees: dict[str, CalleeMeter] = {}
        self._callers: dict[str, CallerMeter] = {}

    def callee(self, name: str) -> CalleeMeter:
        """Return what counts calls of the application `name`."""
        meter = self._callees.get(name)
        if meter is None:
            if len(self._callees) >= REMEMBERED:
                self._callees.clear()
            meter = self._callees[name] = CalleeMeter(name, self._sent, self._answers, self._latency)
        return meter

    def caller(self, name: str) -> CallerMeter:
        """Return what counts calls by the application `name`."""
        meter = self._callers.get(name)
        if meter is None:
            if len(self._callers) >= REMEMBERED:
                self._callers.clear()
            meter = self._callers[name] = CallerMeter(name, self._received, self._answered)
        return meter


class ResiliencyMeter:
    """The resiliency policies' `Meter`. Name and namespace are those of the Resiliency that was loaded last."""

    def __init__(self, registry: Registry) -> None:
        self._loaded = registry.number("resiliency_loaded")
        self._count = registry.number("resiliency_count")
        self._activations = registry.number("resiliency_activations_total")
        self._states = registry.number("resiliency_cb_state")
        self._name = self._namespace = ""
        self._used: dict[tuple[str, str, str, str], Number] = {}

    def loaded(self, name: str, namespace: str) -> None:
        self._name, self._namespace = name, namespace
        self._used.clear()
        self._loaded.child(name, namespace).value += 1

    def used(self, policy: str, flow: str, target: str, state: str | None) -> None:
        key = (policy, flow, target, "" if state is None else str(state))
        number = self._used.get(key)  # for every call under a policy, up to three times
        if number is None:
            if len(self._used) >= REMEMBERED:
                self._used.clear()
            number = self._used[key] = self._of(self._count, *key)
        number.value += 1

    def activated(self, policy: str, flow: str, target: str, state: str | None) -> None:
        self._of(self._activations, policy, flow, target, state or "").value += 1

    def changed(self, flow: str, target: str, state: str) -> None:
        for each in STATES:
            self._of(self._states, "circuitbreaker", flow, target, each).value = int(each == state)

    def _of(self, family: Family[Number], policy: str, flow: str, target: str, state: str) -> Number:
        return family.child(self._name, policy, self._namespace, flow, target, str(state))


class Caller(Protocol):
    """Another application, as its certificate names it."""

    @property
    def app_id(self) -> str: ...

    @property
    def trust_domain(self) -> str: ...

    @property
    def namespace(self) -> str: ...


class Decision(Protocol):
    """What became of a call. `by_policy`: a policy for its caller decided, else the default action."""

    @property
    def allowed(self) -> bool: ...

    @property
    def by_policy(self) -> bool: ...

    @property
    def caller(self) -> Caller | None: ...


class AccessMeter:
    """Decisions of access control, by those whom they are about."""

    def __init__(self, registry: Registry) -> None:
        self._families = {
            (named, allowed): registry.number(f"runtime_acl_{scope}_policy_action_{action}_total")
            for named, scope in ((True, "app"), (False, "global"))
            for allowed, action in ((True, "allowed"), (False, "blocked"))
        }

    def decided(self, decision: Decision) -> None:
        caller = decision.caller
        labels = ("", "", "") if caller is None else (caller.app_id, caller.trust_domain, caller.namespace)
        self._families[decision.by_policy, decision.allowed].child(*labels).value += 1


class ComponentWitness:
    """Counts components that were loaded and those that were not; the component registry's `Witness`."""

    def __init__(self, registry: Registry) -> None:
        self._loaded = registry.number("runtime_component_loaded")
        self._opened = registry.number("runtime_component_init_total")
        self._failed = registry.number("runtime_component_init_fail_total")

    def loaded(self, resource: ComponentResource) -> None:
        self._loaded.child().value += 1
        self._opened.child(resource.type).value += 1

    def failed(self, resource: ComponentResource, reason: str) -> None:
        self._failed.child(resource.type, reason, resource.name).value += 1


@record
class Meters:
    """Every meter of one sidecar; those that are None count nothing. `Meters()` is for one without metrics.

    `http_server`, `http_client` and `grpc_client` wrap what they count. `probe` is told the protocol, the status and
    the milliseconds of each health probe, `errors` the code and the category of each error that is answered.
    """

    http_server: Callable[[Handler], Handler] | None = None
    http_client: Callable[[Handler], Handler] | None = None
    grpc_server: grpc_meters.ServerMeter | None = None
    grpc_client: Callable[[CallUnary], CallUnary] | None = None
    components: ComponentWitness | None = None
    pubsub: PubSubMeter | None = None
    peers: PeerMeter | None = None
    resiliency: ResiliencyMeter | None = None
    access: AccessMeter | None = None
    probe: Callable[[str, str, float], None] | None = None
    errors: Callable[[str, str], None] | None = None
    registry: Registry | None = None

    @classmethod
    def of_registry(cls, registry: Registry, metric: Metric) -> Meters:
        """Return the meters that count into `registry`, as the configuration wants it."""
        labels = Labels(
            increased=metric.increased_cardinality is not False,
            patterns=metric.path_matching,
            exclude_verbs=metric.exclude_verbs,
        )
        return cls(
            http_server=http_meters.server(registry, labels),
            http_client=http_meters.client(registry, labels),
            grpc_server=grpc_meters.ServerMeter(registry),
            grpc_client=grpc_meters.client(registry),
            components=ComponentWitness(registry),
            pubsub=PubSubMeter(registry),
            peers=PeerMeter(registry),
            resiliency=ResiliencyMeter(registry),
            access=AccessMeter(registry),
            probe=_probes(registry),
            errors=_errors(registry) if metric.record_error_codes else None,
            registry=registry,
        )

    def of(self, kind: str) -> Timed:
        """Return what times operations of `state`, `secret`, `configuration`, `crypto`, `output_binding`,
        `input_binding` or `conversation` components; the last two have no operation: pass "".
        """
        if self.registry is None:
            return untimed
        return timed(self.registry.histogram(f"component_{kind}_latencies"))


def _probes(registry: Registry) -> Callable[[str, str, float], None]:
    http = registry.histogram("http_healthprobes_roundtrip_latency")
    grpc = registry.histogram("grpc_io_healthprobes_roundtrip_latency")

    def probe(protocol: str, status: str, elapsed_ms: float) -> None:
        (http if protocol == "http" else grpc).child(status).observe(elapsed_ms)

    return probe


def _errors(registry: Registry) -> Callable[[str, str], None]:
    family = registry.number("error_code_total")

    def count(code: str, category: str) -> None:
        family.child(code, category).value += 1

    return count


def _truth(value: bool) -> str:
    return "true" if value else "false"
