"""The driver of a sidecar's membership: one stream to whoever leads, opened again and again.

    placement = Placement(["127.0.0.1:50005"], host_name="10.0.0.7:50002", ..., hosting=host, dial=link.dial)
    await placement.open()
    owner = placement.lookup("cart", "7") or await placement.owner("cart", "7")

Knows: when to dial, in what order effects are done, who waits. Never knows: the rules (`membership.py`), gRPC
(`placement_link.py`), instances: they are the `Hosting`'s.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Protocol

from pillion.actors import membership as p
from pillion.actors.membership import Membership, Operation, Standing
from pillion.actors.table import BadTable, Reader
from pillion.kinds.actors import NoPlacement
from pillion.repeats import Repeats
from pillion.tasks import Tasks
from pillion.wire.messages import placement as m

if TYPE_CHECKING:
    import random
    from collections.abc import Awaitable, Callable, Sequence

    from pillion.clock import Clock
    from pillion.kinds.actors import Owner

log = logging.getLogger("pillion.actors.placement")

API_LEVEL = 20
"""What the reference of today sends."""
PAUSE_S = (0.25, 0.75)
"""Between two attempts to reach a server: 500 ms, give or take 250 ms (spec 1.2)."""
SILENT_S = 5.0
"""For so long nobody is told that no server leads: one that is started again, or begins with us, is there by then."""
HEALTH_TARGET = "internal-placement-service"


class LinkLost(Exception):
    """The stream has ended, or could not be opened. `gone`: the server there does not lead, nor will it come back to us
    as the leader that it was; False: nobody can tell."""

    def __init__(self, why: str, *, gone: bool) -> None:
        super().__init__(why)
        self.gone = gone


class Link(Protocol):
    """One open stream of `ReportDaprStatus`. Methods raise `LinkLost`."""

    async def send(self, host: m.Host) -> None: ...

    async def promise(self) -> p.Promised:
        """Wait for the server's initial metadata."""

    async def receive(self) -> m.PlacementOrder: ...

    def abort(self) -> None:
        """End the stream at once; whoever waits on it gets `LinkLost`."""

    async def close(self) -> None:
        """Leave nothing behind."""


class Hosting(Protocol):
    """Who runs the instances of this sidecar."""

    async def drain(self, types: frozenset[str], is_local: Callable[[str, str], bool]) -> None:
        """The owners of `types` have changed: let running calls of instances that are no longer local end within their
        drain time, cancel what is left, deactivate the instances. `is_local(actor_type, actor_id)` tells by the new
        table. Until the `settled` that follows, no call of these types begins here.
        """

    async def halt_all(self) -> None:
        """Deactivate every instance. Whatever runs longer than `membership.HALT_S` seconds is cancelled, however long
        its type may drain: others may be about to take over."""

    def settled(self, types: frozenset[str]) -> None:
        """A table is in force: look-ups of these types, which may be none, are answered again, by owners that may be
        others."""


class Meter(Protocol):
    """What is counted (`runtime_actor_status_report_total` and its neighbours)."""

    def reported(self, operation: str) -> None: ...

    def report_failed(self, reason: str) -> None: ...

    def ordered(self, operation: str) -> None: ...


class Placement:
    """A sidecar's place among those of its namespace.

    `host_name` is `ip:port` of its internal server: the name in the ring. `dial(address)` opens a stream; `resolve`
    turns what is configured into addresses, anew for every pass over them, and tells whether all could be looked up.
    Without `addresses` actors are switched off.
    """

    def __init__(
        self,
        addresses: Sequence[str],
        *,
        host_name: str,
        app_id: str,
        namespace: str,
        hosting: Hosting,
        dial: Callable[[str], Awaitable[Link]],
        clock: Clock,
        random: random.Random,
        disseminate_timeout_s: float = 30.0,
        resolve: Callable[[Sequence[str]], Awaitable[tuple[list[str], bool]]] | None = None,
        meter: Meter | None = None,
    ) -> None:
        self._addresses = [address for address in (each.strip().strip("\"'").strip() for each in addresses) if address]
        self._host_name, self._app_id, self._namespace = host_name, app_id, namespace
        self._hosting, self._dial, self._clock, self._random = hosting, dial, clock, random
        self._resolve = resolve or _as_given
        self._meter = meter
        self._reader = Reader(host_name, namespace)
        self._machine = Membership(disseminate_timeout_s)
        self._tasks = Tasks("placement")
        self._link: Link | None = None
        self._outbox: deque[p.Say] = deque()
        self._sending = False
        self._draining: asyncio.Task[None] | None = None
        self._halting: asyncio.Task[None] | None = None
        self._timer: asyncio.TimerHandle | None = None
        self._waiting: asyncio.Future[None] | None = None
        self._next = 0
        self._alone_since, self._why = clock.monotonic(), ""
        self._repeats = Repeats(log, clock.monotonic)
        self.ready = False
        """Whether a table has ever been unlocked here: the health target `internal-placement-service`. An outage of
        placement does not take it back: a sidecar that still serves must not be restarted for it."""
        self.connected = False
        """Whether there is a stream to a server that leads."""

    # -- life ---------------------------------------------------------------------------------------------------------

    async def open(self) -> None:
        """Begin to look for the server."""
        if self._addresses:
            self._tasks.keep(self._run, "stream")

    async def close(self) -> None:
        """Leave: end the stream, which takes this host out of the table. Whoever waits gets `NoPlacement`.

        Instances are their host's to halt before this, so that nobody takes an actor over that still runs.
        """
        if self._timer is not None:
            self._timer.cancel()
        await self._tasks.close()
        self._addresses = []
        self.connected = False
        self._wake()

    # -- questions ----------------------------------------------------------------------------------------------------

    def lookup(self, actor_type: str, actor_id: str) -> Owner | None:
        """Return the owner; None when `owner` must be awaited. Raises `NoHost`, `NoPlacement`."""
        if not self._addresses:
            raise NoPlacement("placement is not configured")
        return self._machine.find(actor_type, actor_id, self._clock.monotonic())

    async def owner(self, actor_type: str, actor_id: str) -> Owner:
        """Return the owner, as soon as it is known. Raises `NoHost`, `NoPlacement`."""
        while (found := self.lookup(actor_type, actor_id)) is None:
            if self._waiting is None:
                self._waiting = asyncio.get_running_loop().create_future()
            await asyncio.shield(self._waiting)
        return found

    def is_local(self, actor_type: str, actor_id: str) -> bool:
        """Whether the table in force, unlocked or not, gives the actor to this host."""
        ring = self._machine.table.rings.get(actor_type)
        owner = None if ring is None else ring.owner(actor_id)
        return owner is not None and owner.local

    def rank(self, actor_type: str) -> tuple[int, int]:
        """Where this host stands among those of the type, sorted by address, and how many they are, itself included."""
        ring = self._machine.table.rings.get(actor_type)
        names = sorted({self._host_name, *(() if ring is None else ring.members)})
        return names.index(self._host_name), len(names)

    def version(self, actor_type: str) -> int:
        """Return the version of the table by which the type is placed: the epoch of what is activated under it."""
        return self._machine.table.version

    @property
    def adrift(self) -> bool:
        """Whether the table is used although nobody leads."""
        return self._machine.standing is Standing.ADRIFT

    def types(self, hosted: frozenset[str]) -> None:
        """From now on this sidecar hosts exactly these types."""
        self._feed(p.TypesChanged(hosted))

    # -- events and effects -------------------------------------------------------------------------------------------

    def _feed(self, event: p.Event) -> None:
        for effect in self._machine.feed(event, self._clock.monotonic()):
            self._do(effect)
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        if (due := self._machine.due) is not None:
            loop = asyncio.get_running_loop()
            self._timer = loop.call_later(max(due - self._clock.monotonic(), 0.0), self._feed, p.Ticked())

    def _do(self, effect: p.Effect) -> None:
        match effect:
            case p.Say():
                self._say(effect)
            case p.Drain(types, version):
                self._draining = self._tasks.start(self._drain(self._draining, types, version), "drain")
            case p.Settle(types):
                self.ready = True
                self._hosting.settled(types)
                self._wake()
            case p.Wake():
                self._wake()
            case p.HaltAll(why):
                log.warning("all actors are halted: %s", why)
                self._halting = self._tasks.start(self._halt(self._halting), "halt")
            case p.Disconnect(why):
                log.warning("the stream to placement is given up: %s", why)
                if self._link is not None:
                    self._tasks.start(self._leave(self._link), "leave")

    def _wake(self) -> None:
        waiting, self._waiting = self._waiting, None
        if waiting is not None and not waiting.done():
            waiting.set_result(None)

    async def _drain(self, before: asyncio.Task[None] | None, types: frozenset[str], version: int) -> None:
        """One drain after the other: each leaves less to the next. Without success there is no acknowledgement."""
        if before is not None and not before.done():
            await asyncio.wait((before,))
        if self._machine.table.version != version:
            return  # overtaken: the table that came since has a drain of its own
        if types:
            try:
                await self._hosting.drain(types, self.is_local)
            except Exception:
                log.exception("draining %s failed; the stream is given up and everything halted", sorted(types))
                if self._link is not None:
                    self._link.abort()
                return
        self._feed(p.Drained(version))

    async def _halt(self, before: asyncio.Task[None] | None) -> None:
        if before is not None and not before.done():
            await asyncio.wait((before,))
        await self._hosting.halt_all()

    async def _halted(self) -> None:
        if self._halting is not None:
            await asyncio.wait((self._halting,))

    async def _leave(self, link: Link) -> None:
        await self._halted()
        link.abort()

    # -- the stream ---------------------------------------------------------------------------------------------------

    def _say(self, message: p.Say) -> None:
        if message.operation is Operation.REPORT:  # the newest says it all
            self._outbox = deque(each for each in self._outbox if each.operation is not Operation.REPORT)
        self._outbox.append(message)
        if not self._sending and self._link is not None:
            self._sending = True
            self._tasks.start(self._send(self._link), "send")

    async def _send(self, link: Link) -> None:
        """Send what is in the outbox, in order. It holds an answer for each order at most, and one report."""
        try:
            while self._outbox and link is self._link:
                said = self._outbox.popleft()
                await link.send(self._message(said))
                if self._meter is not None:
                    self._meter.reported(said.operation.name.lower())
        except LinkLost as lost:
            log.debug("placement: %s", lost)  # the reader of the stream is told the same
            if self._meter is not None:
                self._meter.report_failed("send")
        except Exception:
            link.abort()  # what was to be said was not: the server must not wait for it on this stream
            raise
        finally:
            if link is self._link:
                self._sending = False

    def _message(self, said: p.Say) -> m.Host:
        message = m.Host(
            name=self._host_name,
            entities=sorted(said.types),
            id=self._app_id,
            pod=self._host_name.rpartition(":")[0],
            api_level=API_LEVEL,
            namespace=self._namespace,
            operation=said.operation.value,
        )
        if said.version is not None:
            message.version = said.version
        return message

    async def _run(self) -> None:
        while True:
            refused = await self._pass()
            if refused is None:
                continue  # a stream was lost: begin with the next address, at once if the table may be kept
            self._feed(p.Passed(refused))
            if self._clock.monotonic() - self._alone_since >= SILENT_S:
                self._repeats.warning("no placement service serves at %s: %s", ", ".join(self._addresses), self._why)
            await self._pause()

    async def _pass(self) -> bool | None:
        """Try every address once. Return None after a stream that served, else whether all of them refused."""
        addresses, whole = await self._resolve(self._addresses)
        refused = whole and bool(addresses)
        for number in range(len(addresses)):
            address = addresses[self._next % len(addresses)]
            self._next += 1
            served, gone = await self._session(address)
            if served:
                if self._machine.standing is not Standing.UNSURE:
                    await self._pause()
                return None
            refused = refused and gone
            if number + 1 < len(addresses) and self._machine.standing is not Standing.UNSURE:
                await self._pause()
        return refused

    async def _pause(self) -> None:
        await asyncio.sleep(self._random.uniform(*PAUSE_S))

    async def _session(self, address: str) -> tuple[bool, bool]:
        """Hold one stream until it ends. Return whether its server led, and whether it is known not to lead now."""
        await self._halted()
        try:
            link = await self._dial(address)
        except LinkLost as lost:
            log.debug("placement at %s: %s", address, lost)
            self._why = str(lost)
            return False, lost.gone
        self._link, self._sending, served, gone = link, False, False, False
        self._outbox.clear()
        try:
            self._feed(p.Linked())
            promised = await link.promise()
            await self._still_wanted()
            self._feed(promised)
            served = self.connected = True
            log.info("placement: connected to %s", address)
            while True:
                await self._obey(await link.receive())
        except LinkLost as lost:
            (log.info if served else log.debug)("placement at %s: %s", address, lost)
            self._why, gone = str(lost), lost.gone
        except BadTable as error:
            log.error("placement at %s: %s", address, error)
        except Exception:
            self._lose(gone=False)  # whoever begins again finds a stream that was lost
            raise
        finally:
            if served:
                self._alone_since = self._clock.monotonic()
            self._link, self.connected = None, False
            await link.close()
        self._lose(gone=gone)
        return served, gone

    def _lose(self, *, gone: bool) -> None:
        """The stream has ended; of one that we gave up ourselves that is known already."""
        if self._machine.phase is not p.Phase.AWAY:
            self._feed(p.Lost(gone))

    async def _still_wanted(self) -> None:
        """Raise `LinkLost` when the stream was given up while we waited, and everything is halted."""
        if self._machine.phase is p.Phase.AWAY:
            await self._halted()
            raise LinkLost("the stream was given up", gone=False)

    async def _obey(self, order: m.PlacementOrder) -> None:
        if self._meter is not None and order.operation in _ORDERS:
            self._meter.ordered(order.operation)
        await self._still_wanted()
        if order.operation == "lock":
            self._feed(p.Lock(order.version))
        elif order.operation == "update":
            self._feed(p.Update(self._reader.read(order.tables, order.version, self._machine.table)))
        elif order.operation == "unlock":
            self._feed(p.Unlock(order.version))
        else:
            log.warning("placement gave the order %r, which is not known; it is ignored", order.operation[:64])

    def __repr__(self) -> str:
        return f"<Placement of {self._host_name}: {self._machine!r}>"


_ORDERS = frozenset(("lock", "update", "unlock"))


async def _as_given(addresses: Sequence[str]) -> tuple[list[str], bool]:
    return list(addresses), True
