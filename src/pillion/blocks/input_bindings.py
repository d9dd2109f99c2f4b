"""Input bindings: which of the loaded ones are read, and where their events go.

Spec `http-api.md` 5.2, `grpc-api.md` 7, `runtime.md` 1.4. A binding is read while the application is well and wants it.
Knows: directions, routes, policies, answers with `to`. Never knows: technologies, and which protocol the application
speaks.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

import orjson

from pillion.blocks.bindings import Refused
from pillion.errors import ComponentError
from pillion.kinds.bindings import InputBinding, Request
from pillion.observe.meters import untimed
from pillion.tasks import Tasks
from pillion.wire import gojson

if TYPE_CHECKING:
    from collections.abc import Awaitable, Mapping

    from pillion.blocks.bindings import Binding, Outputs
    from pillion.kinds.bindings import Answer, AppOfBindings, Event, Reading
    from pillion.observe.meters import Timed

log = logging.getLogger("pillion.blocks.bindings")
GRACE_S = 5.0
"""How long events on their way may take when the application is unwell or the binding leaves."""


class InputBindings:
    """Reads bindings as long as the application is well. `bindings` is the live registry.

    `app` None: there is no application, and nothing is read.
    """

    def __init__(
        self,
        bindings: Mapping[str, Binding],
        app: AppOfBindings | None,
        outputs: Outputs,
        *,
        timed: Timed = untimed,
    ) -> None:
        self._bindings = bindings
        self._app = app
        self._outputs = outputs
        self._timed = timed
        self._running: dict[str, tuple[Binding, Reading]] = {}
        self._healthy = False
        self._closed = False
        self._due = False
        """A change has been told that the next turn will see to."""
        self._turn = asyncio.Lock()
        self._tasks = Tasks("input bindings")

    def app_changed(self, healthy: bool) -> None:
        """The application became well, or unwell: what follows happens in the background."""
        self._healthy = healthy
        self._soon()

    def changed(self, name: str) -> None:
        """The registry has another component of this name, or none."""
        self._soon()

    def _soon(self) -> None:
        if not self._closed and not self._due and self._app is not None:
            self._due = True
            self._tasks.keep(self._settle, "settling")

    async def settled(self) -> None:
        """Return when all changes told so far have had their effect."""
        await self._tasks.drain(None)

    async def close(self, grace_s: float) -> None:
        """Read nothing any more; events on their way have `grace_s` seconds. May be called twice."""
        self._closed = True
        await self._tasks.close()
        async with self._turn:
            await self._stop(list(self._running), grace_s)

    # -- what is read

    async def _settle(self) -> None:
        """Make what is read what shall be read."""
        async with self._turn:
            self._due = False
            wanted = self._readable() if self._healthy else {}
            gone = [name for name, (binding, _) in self._running.items() if wanted.get(name) is not binding]
            await self._stop(gone, GRACE_S)
            new = {name: binding for name, binding in wanted.items() if name not in self._running}
            for name in sorted(await self._asked_for(new)):
                await self._start(new[name])

    def _readable(self) -> dict[str, Binding]:
        """Return what may be read; a direction without `input` is output alone."""
        found = {}
        for name, binding in self._bindings.items():
            direction = _option(binding.metadata, "direction").lower()
            if isinstance(binding.component, InputBinding) and (not direction or "input" in direction):
                found[name] = binding
        return found

    async def _asked_for(self, bindings: Mapping[str, Binding]) -> set[str]:
        """Return those that say `direction: input`, and of the others those that the application wants."""
        assert self._app is not None
        sure = {name for name, binding in bindings.items() if _option(binding.metadata, "direction")}
        asked = {name: _route(binding) for name, binding in bindings.items() if name not in sure}
        wanted = await self._app.wanted(asked) if asked else frozenset()
        for name in sorted(asked.keys() - wanted):
            log.info("the application does not take events of binding %s", name)
        return sure | wanted

    async def _start(self, binding: Binding) -> None:
        name = binding.name
        if self._bindings.get(name) is not binding or not self._healthy:
            return  # that changed while the application was asked; the next turn sees to it
        try:
            reading = await binding.component.read(_Delivery(self, binding))
        except ComponentError as error:
            log.error("input binding %s cannot be read: %s", name, error)
            return
        except Exception:
            log.exception("input binding %s cannot be read", name)
            return
        self._running[name] = binding, reading
        log.info("input binding %s is read", name)

    async def _stop(self, names: list[str], grace_s: float) -> None:
        async def one(name: str) -> None:
            _, reading = self._running[name]
            try:
                await reading.close(grace_s)
            except Exception:
                log.exception("input binding %s did not end well", name)
            self._running.pop(name, None)
            log.info("input binding %s is not read any more", name)

        if names:
            await asyncio.gather(*(one(name) for name in names))

    # -- one event

    async def deliver(self, binding: Binding, route: str, event: Event) -> bytes:
        """Hand an event to the application under the policy, do what its answer says, and return its data.

        Raises what the application or the policy raises.
        """
        assert self._app is not None
        app, name, policy = self._app, binding.name, binding.inbound
        if policy is None:
            work: Awaitable[Answer] = app.deliver(name, route, event)
        else:
            work = policy(lambda: app.deliver(name, route, event))
        answer = await self._timed("", name, work)
        if answer.to:
            await self._pass_on(name, answer)
        return answer.data

    async def _pass_on(self, name: str, answer: Answer) -> None:
        """Give the answer to the output bindings it names; one after the other, the first failure ends it."""
        request = Request("create", as_json(answer.data))

        async def give(to: str) -> bool:
            try:
                await self._outputs.invoke(to, request)
            except (Refused, ComponentError) as error:
                log.error("the answer to binding %s could not be given to %s: %s", name, to, error)
                return False
            return True

        if answer.parallel:
            await asyncio.gather(*(give(to) for to in answer.to))
            return
        for to in answer.to:
            if not await give(to):
                return

    def __repr__(self) -> str:
        return f"<InputBindings reading {sorted(self._running)}, app {'well' if self._healthy else 'unwell'}>"


class _Delivery:
    """The handler of one binding."""

    __slots__ = ("_binding", "_inputs", "_route")

    def __init__(self, inputs: InputBindings, binding: Binding) -> None:
        self._inputs, self._binding, self._route = inputs, binding, _route(binding)

    async def __call__(self, event: Event) -> bytes:
        return await self._inputs.deliver(self._binding, self._route, event)


def as_json(data: bytes) -> bytes:
    """Return the data of an answer encoded anew, `null` when it is not JSON (spec `grpc-api.md` 7)."""
    try:
        return gojson.escaped(gojson.canonical(data))
    except (orjson.JSONDecodeError, ValueError):
        return b"null"


def _route(binding: Binding) -> str:
    return _option(binding.metadata, "route") or binding.name


def _option(metadata: Mapping[str, str], key: str) -> str:
    return next((value.strip() for name, value in metadata.items() if name.lower() == key), "")
