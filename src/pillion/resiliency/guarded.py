"""A component behind a policy: the same interface, each call under the policy of its component.

    store = guarded(component, policy, ("get", "set", "delete"))

For blocks that call a component as it is; a block that must decide what is repeated (messages) asks for the policy
itself. Knows: names of methods. Never knows: what they do.
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable

    from pillion.resiliency.run import Policy

PLAIN = ("features", "max_operations", "open", "ping", "close")
"""What `runtime_checkable` protocols look for besides the methods; it must be there, not just be found."""


class Guarded:
    """Stands for `component`; whatever is not among its own attributes is the component's."""

    def __init__(self, component: Any, policy: Policy, methods: Iterable[str]) -> None:
        self._component = component
        for name in PLAIN:
            if hasattr(component, name):
                setattr(self, name, getattr(component, name))
        for name in methods:
            if hasattr(component, name):
                setattr(self, name, _under(policy, getattr(component, name)))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._component, name)

    def __repr__(self) -> str:
        return f"<Guarded {self._component!r}>"


def guarded(component: Any, policy: Policy, methods: Iterable[str]) -> Any:
    """Return an object of the component's interface whose `methods` run under `policy`."""
    return Guarded(component, policy, methods)


def _under(policy: Policy, method: Callable[..., Awaitable[Any]]) -> Callable[..., Awaitable[Any]]:
    def call(*values: Any, **named: Any) -> Awaitable[Any]:
        return policy(partial(method, *values, **named))

    return call
