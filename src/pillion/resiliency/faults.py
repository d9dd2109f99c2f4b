"""Fault injection: faults that are made up on purpose, to see how applications and policies bear them.

A resource of our own, `apiVersion: pillion.dev/v1alpha1`, `kind: FaultInjection` (docs/fault-injection.md). It acts
inside of the policies, so that retries, timeouts and breakers see what it makes up. Knows: chances and what comes of
them. Never knows: targets. Without such a resource nothing of this is on the way of a call.
"""

from __future__ import annotations

import asyncio
import logging
from dataclasses import replace
from random import Random
from typing import TYPE_CHECKING, Any, TypeVar

from pillion.kinds.invocation import Reply, Unsuccessful
from pillion.kinds.topics import Unprocessed, Verdict
from pillion.resiliency.choice import Flow
from pillion.resiliency.failures import Injected

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    from pillion.resiliency.injections import Chances, Injections

T = TypeVar("T")
log = logging.getLogger("pillion.resiliency.faults")

LOST_S = 30.0
"""A call that is lost ends with an error after so many seconds, unless a timeout or its caller ends it before."""
MARK = (b"x-pillion-fault", b"error")
"""The header of a made-up answer of an application."""


def of_app(chances: Chances) -> Exception:
    """Make the error of an invocation: an answer of the application if it has a status."""
    code = chances.code
    if code is None:
        return Injected(chances.message)
    if code >= 100:
        return Unsuccessful(Reply(code, [MARK], b"text/plain; charset=utf-8", chances.message.encode()))
    return Unsuccessful(Reply(code, [MARK], message=chances.message))


def of_component(chances: Chances) -> Exception:
    """Make the error of a component."""
    return Injected(chances.message, chances.code)


def of_delivery(chances: Chances) -> Exception:
    """Make the error of an application that is handed a message."""
    code = chances.code or 0
    if code >= 100:
        return Unprocessed(chances.message, http_status=code)
    return Unprocessed(chances.message, grpc_code=code)


class Faults:
    """Makes up the faults of one target: `await faults(operation)`.

    `made` makes the error. With `messages` a drop is a message that got lost in silence: the operation is not performed
    and `dropped` is its result. Without, a call that is dropped is not answered. Each target has its own source of
    chance: what others are asked changes nothing here.
    """

    __slots__ = ("_chances", "_dropped", "_label", "_made", "_messages", "_random")

    def __init__(
        self,
        label: str,
        chances: Chances,
        seed: int | None,
        made: Callable[[Chances], Exception],
        *,
        messages: bool = False,
        dropped: Any = None,
    ) -> None:
        self._label = label
        self._chances = chances
        self._made = made
        self._messages = messages
        self._dropped = dropped
        self._random = Random(None if seed is None else f"{seed} {label}")

    async def __call__(self, operation: Callable[[], Awaitable[T]]) -> T:
        chances = self._chances
        if self._falls(chances.latency):
            wait_s = max(0.0, chances.latency_s + chances.jitter_s * (2 * self._random.random() - 1))
            self._tell(f"held back for {wait_s * 1000:.0f} ms")
            await asyncio.sleep(wait_s)
        if self._falls(chances.error):
            self._tell("error")
            raise self._made(chances)
        if self._falls(chances.drop):
            if self._messages:
                self._tell("message dropped")
                nothing: T = self._dropped
                return nothing
            self._tell("call lost")
            await asyncio.sleep(LOST_S)
            raise Injected("the call was lost by fault injection")
        if self._falls(chances.duplicate):
            self._tell("message duplicated")
            await operation()
        return await operation()

    def _falls(self, percent: float) -> bool:
        return percent > 0 and self._random.random() * 100 < percent

    def _tell(self, what: str) -> None:
        log.info("fault injection: %s: %s", self._label, what)

    def __repr__(self) -> str:
        return f"<Faults of {self._label}: {self._chances}>"


def of_an_app(injected: Sequence[Injections], app_id: str) -> Faults | None:
    """Return the faults of an application: what the last resource says that names it."""
    for one in reversed(injected):
        chances = one.apps.get(app_id)
        if chances is not None:
            return Faults(f"app {app_id}", chances, one.seed, of_app) if chances else None
    return None


def of_an_actor(injected: Sequence[Injections], actor_type: str) -> Faults | None:
    """Return the faults of a type of actors."""
    for one in reversed(injected):
        chances = one.actors.get(actor_type)
        if chances is not None:
            return Faults(f"actor {actor_type}", chances, one.seed, of_component) if chances else None
    return None


def of_a_component(injected: Sequence[Injections], name: str, flow: Flow, *, messages: bool) -> Faults | None:
    """Return the faults of a component in one direction. `messages`: it is a broker."""
    for one in reversed(injected):
        both = one.components.get(name)
        if both is None:
            continue
        chances = both[flow is Flow.OUTBOUND]
        if chances.duplicate and not messages:
            log.warning("FaultInjection %s: component %s has no messages to duplicate", one.name, name)
            chances = replace(chances, duplicate=0.0)
        if not chances:
            return None
        label = f"component {name} {flow}"
        if flow is Flow.INBOUND:
            return Faults(label, chances, one.seed, of_delivery, messages=messages, dropped=Verdict.DONE)
        return Faults(label, chances, one.seed, of_component, messages=messages)
    return None
