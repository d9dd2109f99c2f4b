"""The resource kinds, each a frozen value made from one document (spec `runtime.md` 2.2 to 2.7).

Knows: the fields of every kind, and what makes a document unusable. Never knows: files, scopes of the running
application, secrets. Equality leaves out where a resource came from: a resource that is equal has not changed.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any

from pillion.kinds.fields import Fields, where
from pillion.records import record
from pillion.wire.durations import go_duration
from pillion.wire.yamltext import Node, json_text

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

INIT_TIMEOUT_S = 5.0


@record
class SecretRef:
    """A key of a secret; an empty `key` means the secret's own name."""

    name: str
    key: str = ""


@record
class Item:
    """One entry of `metadata` or `headers`: a value, a secret, or a variable of the environment.

    `value` is the text as written; what was no string is its compact JSON text. None: not given.
    """

    name: str
    value: str | None = None
    secret: SecretRef | None = None
    variable: str = ""


@record(kw_only=True)
class Resource:
    """What all kinds have in common. `where` is `file:line`."""

    name: str
    namespace: str = field(default="", compare=False)
    scopes: tuple[str, ...] = ()
    where: str = field(default="", compare=False)

    def in_scope(self, app_id: str) -> bool:
        return not self.scopes or app_id in self.scopes


@record(kw_only=True)
class ComponentResource(Resource):
    """A Component. `type` and `version` are as written."""

    type: str = ""
    version: str = ""
    metadata: tuple[Item, ...] = ()
    ignore_errors: bool = False
    init_timeout_s: float = INIT_TIMEOUT_S
    secret_store: str = ""

    @property
    def label(self) -> str:
        """`name (type/version)`, as logs and errors have it."""
        return f"{self.name} ({self.type}/{self.version})"


@record
class Route:
    """A route: the CEL expression `match` ("" is always) and the application's path."""

    match: str
    path: str


@record
class BulkOptions:
    """`spec.bulkSubscribe`; 0 leaves the choice to the receiver."""

    enabled: bool = False
    max_messages: int = 0
    max_wait_ms: int = 0


@record(kw_only=True)
class SubscriptionResource(Resource):
    """A Subscription of either version; the default route is the last of the rules."""

    pubsub: str = ""
    topic: str = ""
    rules: tuple[Route, ...] = ()
    metadata: Mapping[str, str] = field(default_factory=dict)
    dead_letter_topic: str = ""
    bulk: BulkOptions = BulkOptions()


@record(kw_only=True)
class HTTPEndpointResource(Resource):
    """An HTTPEndpoint. The items of `tls` are named `rootCA`, `certificate` and `privateKey`."""

    base_url: str = ""
    headers: tuple[Item, ...] = ()
    tls: tuple[Item, ...] = ()
    renegotiation: str = ""
    secret_store: str = ""


@record(kw_only=True)
class RawResource(Resource):
    """A kind whose `spec` is read by the part that acts on it: `spec` is plain, `node` knows the lines."""

    spec: Mapping[str, Any] = field(default_factory=dict)
    node: Node | None = field(default=None, compare=False, repr=False)
    secret_store: str = ""


@record(kw_only=True)
class ResiliencyResource(RawResource):
    """A Resiliency."""


@record(kw_only=True)
class FaultInjectionResource(RawResource):
    """A FaultInjection: a kind of our own (docs/fault-injection.md)."""


@record(kw_only=True)
class MCPServerResource(RawResource):
    """An MCPServer."""


@record(kw_only=True)
class WorkflowAccessPolicyResource(RawResource):
    """A WorkflowAccessPolicy."""


def name_problem(name: str) -> str:
    """Return what is wrong with a resource's name, "" when nothing is."""
    if name in (".", ".."):
        return f"the name cannot be {name!r}"
    return next((f"the name {name!r} contains {bad!r}" for bad in "/%" if bad in name), "")


def _common(document: Fields) -> dict[str, Any]:
    document.text("apiVersion")
    document.text("kind")
    meta = document.nested("metadata")
    name = meta.text("name")
    problem = name_problem(name)
    if problem:
        raise meta.wrong("name", problem, "rename the resource")
    node = document.node
    assert node is not None
    return {
        "name": name,
        "namespace": meta.text("namespace"),
        "scopes": document.texts("scopes"),
        "where": where(node),
    }


def items(fields: Fields, name: str) -> tuple[Item, ...]:
    """Read a list of name-value pairs in the forms of 2.3: `value`, `secretKeyRef` or `envRef`."""
    return tuple(_item(entry, entry.text("name")) for entry in fields.items(name))


def _item(entry: Fields, name: str) -> Item:
    node = entry.raw("value")
    value = None if node is None else node.value if isinstance(node.value, str) else json_text(node)
    reference = entry.nested("secretKeyRef")
    secret = SecretRef(reference.text("name"), reference.text("key")) if reference else None
    variable = entry.text("envRef")
    entry.done()
    reference.done()
    return Item(name, value, secret if secret and secret.name else None, variable)


def _secret_store(document: Fields) -> str:
    auth = document.nested("auth")
    store = auth.text("secretStore")
    auth.done()
    return store


def component(document: Fields) -> ComponentResource:
    """Read a Component."""
    spec = document.nested("spec")
    timeout_s, written = INIT_TIMEOUT_S, spec.text("initTimeout")
    if written:
        try:
            timeout_s = go_duration(written)
        except ValueError as error:
            spec.note("initTimeout", f"{error}; {INIT_TIMEOUT_S:g}s is used")
    made = ComponentResource(
        **_common(document),
        type=spec.text("type"),
        version=spec.text("version"),
        metadata=items(spec, "metadata"),
        ignore_errors=spec.flag("ignoreErrors"),
        init_timeout_s=timeout_s,
        secret_store=_secret_store(document),
    )
    spec.done()
    document.done()
    return made


def _subscription(document: Fields, rules: Callable[[Fields], tuple[Route, ...]]) -> SubscriptionResource:
    spec = document.nested("spec")
    for name in ("pubsubname", "topic"):
        if not spec.text(name):
            raise spec.wrong(name, "is missing")
    bulk = spec.nested("bulkSubscribe")
    made = SubscriptionResource(
        **_common(document),
        pubsub=spec.text("pubsubname"),
        topic=spec.text("topic"),
        rules=rules(spec),
        metadata=spec.mapping("metadata"),
        dead_letter_topic=spec.text("deadLetterTopic"),
        bulk=BulkOptions(bulk.flag("enabled"), bulk.integer("maxMessagesCount"), bulk.integer("maxAwaitDurationMs")),
    )
    bulk.done()
    spec.done()
    document.done()
    return made


def subscription1(document: Fields) -> SubscriptionResource:
    """Read a Subscription v1alpha1: one route."""
    return _subscription(document, lambda spec: (Route("", spec.text("route")),) if spec.text("route") else ())


def subscription2(document: Fields) -> SubscriptionResource:
    """Read a Subscription v2alpha1: rules and a default."""
    return _subscription(document, _routes)


def _routes(spec: Fields) -> tuple[Route, ...]:
    routes = spec.nested("routes")
    rules = []
    for entry in routes.items("rules"):
        rules.append(Route(entry.text("match"), entry.text("path")))
        entry.done()
    default = routes.text("default")
    routes.done()
    return (*rules, Route("", default)) if default else tuple(rules)


RENEGOTIATION = ("", "Never", "OnceAsClient", "FreelyAsClient")


def http_endpoint(document: Fields) -> HTTPEndpointResource:
    """Read an HTTPEndpoint."""
    spec = document.nested("spec")
    if not spec.text("baseUrl"):
        raise spec.wrong("baseUrl", "is missing", "write the address that paths are appended to")
    tls = spec.nested("clientTLS")
    renegotiation = tls.text("renegotiation")
    if renegotiation not in RENEGOTIATION:
        raise tls.wrong("renegotiation", f"is {renegotiation!r}", f"use one of: {', '.join(RENEGOTIATION[1:])}")
    if renegotiation not in ("", "Never"):
        tls.note("renegotiation", "has no effect: TLS 1.3 has none")
    made = HTTPEndpointResource(
        **_common(document),
        base_url=spec.text("baseUrl"),
        headers=items(spec, "headers"),
        tls=tuple(_item(tls.nested(key), key) for key in ("rootCA", "certificate", "privateKey") if tls.raw(key)),
        renegotiation=renegotiation,
        secret_store=_secret_store(document),
    )
    tls.done()
    spec.done()
    document.done()
    return made


def _raw(document: Fields) -> dict[str, Any]:
    common = _common(document)
    spec = document.nested("spec")
    plain = spec.node.plain() if spec.node is not None else {}
    values = {**common, "spec": plain, "node": spec.node, "secret_store": _secret_store(document)}
    document.done()
    return values


KINDS: Mapping[tuple[str, str], Callable[[Fields], Resource]] = {
    ("dapr.io/v1alpha1", "Component"): component,
    ("dapr.io/v1alpha1", "Subscription"): subscription1,
    ("dapr.io/v2alpha1", "Subscription"): subscription2,
    ("dapr.io/v1alpha1", "HTTPEndpoint"): http_endpoint,
    ("dapr.io/v1alpha1", "Resiliency"): lambda document: ResiliencyResource(**_raw(document)),
    ("pillion.dev/v1alpha1", "FaultInjection"): lambda document: FaultInjectionResource(**_raw(document)),
    ("dapr.io/v1alpha1", "MCPServer"): lambda document: MCPServerResource(**_raw(document)),
    ("dapr.io/v1alpha1", "WorkflowAccessPolicy"): lambda document: WorkflowAccessPolicyResource(**_raw(document)),
}
"""The reader of every kind that lives in a resources directory. Raises `ConfigError` (unusable) and `YamlError`."""
