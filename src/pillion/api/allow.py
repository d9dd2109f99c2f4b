"""Which routes and methods are open (spec `runtime.md` 3.5, `http-api.md` 1, `grpc-api.md` 1).

Knows: how a rule of `spec.api` names routes and methods. Never knows: how a closed one is answered. The two protocols
are independent: one without rules is fully open, denied wins, and where anything is allowed all else is closed.
"""

from __future__ import annotations

import re
from dataclasses import replace
from typing import TYPE_CHECKING

from pillion.wire.messages import services

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pillion.api.operation import Http, Operation
    from pillion.kinds.config import ApiRule

DAPR = "dapr.proto.runtime.v1.Dapr"
OWN = {"pillion.state.v1.State": "state.v1"}
"""Services of our own, and the rule of the block that they add to."""
CHECKED = ("/dapr.proto.runtime.", *(f"/{service}/" for service in OWN))
"""Methods outside these packages - proxied ones, workflow workers - are nobody's business here."""
INVOKE = "v1.0/invoke/"
_ALWAYS_OPEN = ("v1.0/healthz", "v1.0/healthz/outbound")
OWN_VERSION = "v1.0-pillion/"
"""Routes of our own: what is said of the same block's `v1.0/` holds for them too."""
_GROUP_VERSIONS = {
    "v1.0": "v1", "v1.0-pillion": "v1", "v1.0-alpha1": "v1alpha1", "v1.0-alpha2": "v1alpha2", "v1.0-beta1": "v1beta1",
}  # fmt: skip

_FAMILIES = (
    ("invoke", r"InvokeService"),
    ("state", r"\w*State\w*"),
    ("publish", r"(Bulk)?PublishEvent"),
    ("subscribe", r"SubscribeTopicEvents"),
    ("bindings", r"InvokeBinding"),
    ("secrets", r"Get(Bulk)?Secret"),
    ("actors", r"\w*Actor\w*"),
    ("metadata", r"[GS]etMetadata"),
    ("configuration", r"\w+Configuration"),
    ("lock", r"TryLock"),
    ("unlock", r"Unlock"),
    ("crypto", r"Encrypt|Decrypt"),
    ("subtlecrypto", r"Subtle\w+"),
    ("workflows", r"\w+Workflow"),
    ("jobs", r"\w+Jobs?(ByPrefix)?"),
    ("shutdown", r"Shutdown"),
    ("conversation", r"Converse"),
)
"""Names of gRPC methods without their suffix, by the name of their rule."""
_SUFFIX = re.compile(r"(Alpha\d+|Beta\d+)$")


def grpc_key(method: str) -> str:
    """Return `name.version` of a method of the Dapr service: `state.v1alpha1` of QueryStateAlpha1; "" for others."""
    suffix = _SUFFIX.search(method)
    base = method[: suffix.start()] if suffix else method
    version = "v1" + suffix[0].lower() if suffix else "v1"
    if "Actor" in base:
        return f"actors.{version}"
    return next((f"{name}.{version}" for name, form in _FAMILIES if re.fullmatch(form, base)), "")


class HttpRules:
    """The rules for HTTP routes; their protocol may be written in any case."""

    def __init__(self, allowed: Sequence[ApiRule], denied: Sequence[ApiRule]) -> None:
        self._allowed = _named(allowed)
        self._denied = _named(denied)

    def __bool__(self) -> bool:
        return bool(self._allowed or self._denied)

    def open(self, path: str) -> bool:
        """Whether the route `path`, as in its row, is open."""
        if path in _ALWAYS_OPEN:
            return True
        version, _, rest = path.partition("/")
        group = f"{_GROUP_VERSIONS.get(version, version)}/{rest.partition('/')[0]}"
        names = (path, f"v1.0/{rest}") if path.startswith(OWN_VERSION) else (path,)

        def named(rules: tuple[str, ...]) -> bool:
            return any(rule == group or any(name.startswith(rule) for name in names) for rule in rules)

        return not named(self._denied) and (not self._allowed or named(self._allowed))

    def offered(self, operations: Iterable[Operation]) -> list[Operation]:
        """Return the operations without their closed routes; gRPC methods stay."""

        def routes(operation: Operation) -> tuple[Http, ...]:
            return tuple(row for row in operation.http if self.open(row.path))

        return [replace(operation, http=routes(operation)) for operation in operations]

    @property
    def invocation(self) -> bool:
        """Whether service invocation, and with it the fallback of all other paths, is open."""
        return self.open(INVOKE)


class GrpcRules:
    """The rules for methods of the Dapr service; their protocol is exactly `grpc`. Keys nobody knows are ignored."""

    def __init__(self, allowed: Sequence[ApiRule], denied: Sequence[ApiRule]) -> None:
        by_key: dict[str, set[str]] = {}
        for method in services.methods(DAPR):
            by_key.setdefault(grpc_key(method), set()).add(f"/{DAPR}/{method}")
        for service, key in OWN.items():
            by_key.setdefault(key, set()).update(f"/{service}/{method}" for method in services.methods(service))

        def resolved(rules: Sequence[ApiRule]) -> frozenset[str]:
            keys = {f"{rule.name}.{rule.version}" for rule in rules if rule.protocol == "grpc"} - {""}
            return frozenset().union(*(by_key.get(key, set()) for key in keys))

        self._allowed = resolved(allowed)
        self._denied = resolved(denied)

    def __bool__(self) -> bool:
        return bool(self._allowed or self._denied)

    def open(self, method: str) -> bool:
        """Whether a method, by its full name, is open."""
        if not method.startswith(CHECKED):
            return True
        return method not in self._denied and (not self._allowed or method in self._allowed)


def _named(rules: Sequence[ApiRule]) -> tuple[str, ...]:
    return tuple(f"{rule.version}/{rule.name}" for rule in rules if rule.protocol.lower() == "http")
