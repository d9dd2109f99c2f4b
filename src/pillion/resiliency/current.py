"""The policies that hold now: Resiliency and FaultInjection resources change while calls go on.

Whoever asks for a policy at each call asks here; a call that has begun ends under the policy it began with. Breakers
and counts of the policies before are forgotten with them.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pillion.resiliency.builtin import BuiltIn
    from pillion.resiliency.machine import Retry
    from pillion.resiliency.policies import ActorPolicies, Flow, Kind, Policies
    from pillion.resiliency.run import Policy


class CurrentPolicies:
    """`Policies` that can be exchanged. `names` are the Resiliency resources they were made of."""

    def __init__(self, policies: Policies, names: Sequence[str] = ()) -> None:
        self.replace(policies, names)

    def replace(self, policies: Policies, names: Sequence[str]) -> None:
        """Let others hold from now on."""
        self._policies = policies
        self.names = tuple(names)

    @property
    def notes(self) -> Mapping[str, str]:
        """What the metadata API tells of them besides their names."""
        injections = self._policies.injections
        return {"pillion.faultInjection": ", ".join(injections)} if injections else {}

    def find(self, app_id: str, method: str) -> tuple[Policy | None, bool]:
        """As `Policies.find`; costs next to nothing where nothing is configured."""
        policies = self._policies
        return policies.find(app_id, method) if policies.active else (None, True)

    def component(self, name: str, kind: Kind, flow: Flow) -> Policy | None:
        """As `Policies.component`."""
        return self._policies.component(name, kind, flow)

    def actor(self, actor_type: str, actor_id: str) -> ActorPolicies | None:
        """As `Policies.actor`."""
        policies = self._policies
        return policies.actor(actor_type, actor_id) if policies.active else None

    def retry(self, name: BuiltIn) -> Retry:
        """As `Policies.retry`."""
        return self._policies.retry(name)

    def __repr__(self) -> str:
        return f"<CurrentPolicies of {', '.join(self.names) or 'nothing'}>"
