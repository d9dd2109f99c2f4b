"""Bindings: systems outside that the application calls (output), or that call the application (input).

Spec `components.md` 4, `http-api.md` 4.4 and 5.2, `grpc-api.md` 7. One component may be both.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Protocol, runtime_checkable

from pillion.errors import ComponentError
from pillion.kinds.component import Component
from pillion.records import record

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

# -- output


@record
class Request:
    """What the application asks of a binding. `data` is a JSON text when the caller spoke HTTP, any bytes otherwise."""

    operation: str
    data: bytes = b""
    metadata: Mapping[str, str] = field(default_factory=dict)


@record
class Response:
    """What came back. `metadata` goes to the caller as `metadata.*` headers."""

    data: bytes = b""
    metadata: Mapping[str, str] = field(default_factory=dict)


class BindingError(ComponentError):
    """An operation failed, and the system outside had something to say about it: its status, for example."""

    def __init__(self, text: str, metadata: Mapping[str, str] | None = None) -> None:
        self.metadata: Mapping[str, str] = metadata or {}
        super().__init__(text)


@runtime_checkable
class OutputBinding(Component, Protocol):
    """A system outside that can be asked for something."""

    operations: tuple[str, ...]
    """The names of what can be asked, in the order that error texts list them."""

    async def invoke(self, request: Request) -> Response | None:
        """Do what `request.operation`, one of `operations`, says; None when there is nothing to tell.

        Raises `ComponentError`, or `BindingError` with metadata for the caller. Request metadata hold for this call.
        """
        ...


# -- input


@record
class Event:
    """Something that happened outside, for the application."""

    data: bytes = b""
    metadata: Mapping[str, str] = field(default_factory=dict)


if TYPE_CHECKING:
    Handler = Callable[[Event], Awaitable[bytes]]
    """Hands an event to the application and returns its answer. Raises when the application did not process it: the
    binding shall treat the event as not acknowledged, if its system outside knows such a thing."""


class Reading(Protocol):
    """Events on their way from one input binding."""

    async def close(self, grace_s: float) -> None:
        """Take no further events, wait up to `grace_s` seconds for those in flight, then cancel their handlers. May be
        called twice.
        """
        ...


@runtime_checkable
class InputBinding(Component, Protocol):
    """A system outside that has events. `close` of the component ends its readings too."""

    async def read(self, handler: Handler) -> Reading:
        """Start giving events to `handler`, reconnecting by itself for as long as it lives. Raises `ComponentError`."""
        ...


# -- the application's side


@record
class Answer:
    """What the application said to an event: `data` for the binding, and output bindings that shall get it too."""

    data: bytes = b""
    to: tuple[str, ...] = ()
    parallel: bool = False


class AppOfBindings(Protocol):
    """The application, as input bindings see it."""

    async def wanted(self, routes: Mapping[str, str]) -> frozenset[str]:
        """Ask which of the bindings in `routes` (name to route) the application takes events from. Never raises for
        what the application does wrong: what it does not say in time it does not want.
        """
        ...

    async def deliver(self, name: str, route: str, event: Event) -> Answer:
        """Hand over one event; raises `Unprocessed`."""
        ...
