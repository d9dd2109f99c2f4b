"""The live registries as building blocks see them: each component with the policies that surround it.

Kept by the events of the component registry: components come and go while the sidecar runs. A component without
policies is itself; nothing of this is on the way of a call then.
"""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pillion.blocks.bindings import Binding
from pillion.blocks.broker import Broker
from pillion.resiliency.guarded import guarded
from pillion.resiliency.policies import Flow, Kind
from pillion.security.sealed_state import SealedState
from pillion.sidecar.loading import category

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.resiliency.current import CurrentPolicies
    from pillion.resiliency.run import Policy
    from pillion.sidecar.components import Loaded

STATE = ("get", "set", "delete", "bulk_get", "transact", "query", "keys_like", "delete_with_prefix")
"""The methods of a state store that run under its policy."""
SECRETS = ("get", "bulk_get")
CONFIGURATION = ("get", "subscribe")
LOCK = ("try_lock", "unlock")
CONVERSATION = ("converse",)
CRYPTO = ("get_key", "encrypt", "decrypt", "wrap_key", "unwrap_key", "sign", "verify")


class Live:
    """`brokers`, `states` and so on by name; `updates` are the policies of the changes that configuration stores tell.

    `changed` is told the name of a broker that came or went, `binding_changed` that of a binding;
    `outbox_changed` hears of every broker and state store, `actors_changed` of every state store and of new policies.
    """

    def __init__(self, policies: CurrentPolicies) -> None:
        self._policies = policies
        self._arrived: dict[str, Loaded] = {}
        self.brokers: dict[str, Broker] = {}
        self.states: dict[str, Loaded] = {}
        self.secrets: dict[str, Loaded] = {}
        self.configurations: dict[str, Loaded] = {}
        self.updates: dict[str, Policy] = {}
        self.locks: dict[str, Loaded] = {}
        self.cryptos: dict[str, Loaded] = {}
        self.conversations: dict[str, Loaded] = {}
        self.bindings: dict[str, Binding] = {}
        self.changed: Callable[[str], None] = lambda name: None
        self.binding_changed: Callable[[str], None] = lambda name: None
        self.outbox_changed: Callable[[], None] = lambda: None
        self.actors_changed: Callable[[], None] = lambda: None

    def component_changed(self, loaded: Loaded, arrived: bool) -> None:
        """Follow the component registry."""
        name = loaded.name
        if arrived:
            self._arrived[name] = loaded
        else:
            self._arrived.pop(name, None)
        match category(loaded.resource):
            case "pubsub":
                if arrived:
                    self.brokers[name] = self._broker(loaded)
                else:
                    self.brokers.pop(name, None)
                self.changed(name)
                self.outbox_changed()
            case "bindings":
                self.bindings.pop(name, None)
                if arrived:
                    self.bindings[name] = self._binding(loaded)
                self.binding_changed(name)
            case "state":
                self._follow(self.states, loaded, arrived, Kind.STATESTORE, STATE)
                self.outbox_changed()
                self.actors_changed()
            case "secretstores":
                self._follow(self.secrets, loaded, arrived, Kind.SECRETSTORE, SECRETS)
            case "configuration":
                self._follow(self.configurations, loaded, arrived, Kind.CONFIGURATION, CONFIGURATION)
                inbound = self._policies.component(name, Kind.CONFIGURATION, Flow.INBOUND) if arrived else None
                self.updates.pop(name, None)
                if inbound is not None:
                    self.updates[name] = inbound
            case "lock":
                self._follow(self.locks, loaded, arrived, Kind.LOCK, LOCK)
            case "crypto":
                self._follow(self.cryptos, loaded, arrived, Kind.CRYPTO, CRYPTO)
            case "conversation":
                self._follow(self.conversations, loaded, arrived, Kind.CONVERSATION, CONVERSATION)
            case _:
                pass

    def policies_changed(self) -> None:
        """Put the policies that hold now around everything that is there. Nothing ends or starts: brokers and bindings
        stay the same objects, and calls on their way keep the policies they began with.
        """
        find = self._policies.component
        for name, broker in self.brokers.items():
            broker.outbound = find(name, Kind.PUBSUB, Flow.OUTBOUND)
            broker.inbound = find(name, Kind.PUBSUB, Flow.INBOUND)
        for name, binding in self.bindings.items():
            binding.outbound = find(name, Kind.BINDING, Flow.OUTBOUND)
            binding.inbound = find(name, Kind.BINDING, Flow.INBOUND)
        for loaded in list(self._arrived.values()):
            if category(loaded.resource) not in ("pubsub", "bindings", "state"):
                self.component_changed(loaded, True)
            elif category(loaded.resource) == "state":
                self._follow(self.states, loaded, True, Kind.STATESTORE, STATE)
        self.actors_changed()

    def _broker(self, loaded: Loaded) -> Broker:
        find = self._policies.component
        return Broker(
            loaded.name,
            loaded.component,
            loaded.scopes,
            metadata=loaded.metadata,
            outbound=find(loaded.name, Kind.PUBSUB, Flow.OUTBOUND),
            inbound=find(loaded.name, Kind.PUBSUB, Flow.INBOUND),
        )

    def _binding(self, loaded: Loaded) -> Binding:
        find = self._policies.component
        return Binding(
            loaded.name,
            loaded.component,
            loaded.metadata,
            outbound=find(loaded.name, Kind.BINDING, Flow.OUTBOUND),
            inbound=find(loaded.name, Kind.BINDING, Flow.INBOUND),
        )

    def _follow(
        self, members: dict[str, Loaded], loaded: Loaded, arrived: bool, kind: Kind, methods: tuple[str, ...]
    ) -> None:
        if not arrived:
            members.pop(loaded.name, None)
            return
        policy = self._policies.component(loaded.name, kind, Flow.OUTBOUND)
        if policy is not None:
            loaded = replace(loaded, component=guarded(loaded.component, policy, methods))
        if loaded.sealing is not None:  # outside of the policy: a value that cannot be opened is not read again
            loaded = replace(loaded, component=SealedState(loaded.name, loaded.component, loaded.sealing))
        members[loaded.name] = loaded
