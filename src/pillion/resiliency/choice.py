"""Which policies a target has: those a resource names for it, else the defaults by name (spec `runtime.md` 4.2).

Knows: names and their order. Never knows: how policies work, what they surround.
"""

from __future__ import annotations

from enum import StrEnum
from typing import TYPE_CHECKING, TypeVar

from pillion.records import record
from pillion.resiliency.documents import APP_CACHE

if TYPE_CHECKING:
    from pillion.resiliency.breaker import BreakerRules
    from pillion.resiliency.documents import Declared, Wanted
    from pillion.resiliency.machine import Retry

V = TypeVar("V")


class Kind(StrEnum):
    """The kinds of components, as names of default policies and labels of metrics have them."""

    BINDING = "Binding"
    CONFIGURATION = "Configuration"
    CONVERSATION = "Conversation"
    CRYPTO = "Crypto"
    LOCK = "Lock"
    PUBSUB = "Pubsub"
    SECRETSTORE = "Secretstore"
    STATESTORE = "Statestore"


class Flow(StrEnum):
    """From the application to the component, or the other way."""

    INBOUND = "inbound"
    OUTBOUND = "outbound"


@record
class Chosen:
    """The policies of one target, found by name."""

    timeout_s: float = 0.0
    retry: Retry | None = None
    breaker: BreakerRules | None = None
    cache: int = 0
    scope: str = ""

    def __bool__(self) -> bool:
        return bool(self.timeout_s or self.retry or self.breaker)


class Choice:
    """The policies of every target. `notes` hears of names that do not exist."""

    def __init__(self, declared: Declared, notes: list[str]) -> None:
        self._declared = declared
        self._notes = notes
        self._apps = {name: self._explicit(wanted, "apps", name) for name, wanted in declared.apps.items()}
        self._actors = {name: self._explicit(wanted, "actors", name) for name, wanted in declared.actors.items()}
        self._components = {
            name: (self._explicit(both[0], "components", name), self._explicit(both[1], "components", name))
            for name, both in declared.components.items()
        }
        self._app_defaults = self._default(("App", ""))
        self._actor_defaults = self._default(("Actor", ""))

    def app(self, app_id: str) -> tuple[Chosen, bool]:
        """Return the policies of an application, and whether a resource names it."""
        explicit = self._apps.get(app_id)
        return (self._app_defaults, False) if explicit is None else (explicit, True)

    def actor(self, actor_type: str) -> Chosen:
        """Return the policies of a type of actors."""
        return self._actors.get(actor_type, self._actor_defaults)

    def component(self, name: str, kind: Kind, flow: Flow) -> Chosen:
        """Return the policies of a component in one direction."""
        explicit = self._components.get(name)
        if explicit is not None:
            return explicit[flow is Flow.OUTBOUND]
        way = flow.title()
        return self._default((f"{kind}Component{way}", f"Component{way}", "Component", ""))

    def _default(self, candidates: tuple[str, ...]) -> Chosen:
        """Return the default policies; of each sort the first candidate that exists counts, each sort by itself."""
        declared = self._declared

        def first(members: dict[str, V], suffix: str) -> V | None:
            names = (f"Default{candidate}{suffix}" for candidate in candidates)
            return next((members[name] for name in names if name in members), None)

        return Chosen(
            first(declared.timeouts, "TimeoutPolicy") or 0.0,
            first(declared.retries, "RetryPolicy"),
            first(declared.breakers, "CircuitBreakerPolicy"),
            cache=APP_CACHE,
            scope="type",
        )

    def _explicit(self, wanted: Wanted, section: str, name: str) -> Chosen:
        declared = self._declared

        def named(members: dict[str, V], policy: str, field: str) -> V | None:
            if policy and policy not in members:
                self._notes.append(
                    f"Resiliency: targets.{section}.{name}: there is no {field} policy {policy!r}; ignored"
                )
            return members.get(policy)

        return Chosen(
            named(declared.timeouts, wanted.timeout, "timeout") or 0.0,
            named(declared.retries, wanted.retry, "retry"),
            named(declared.breakers, wanted.breaker, "circuit breaker"),
            wanted.cache,
            wanted.scope,
        )
