"""What comes for one instance: made durable where its sender waits for that, then left for the next turn.

Knows: which of it was seen before, what need not be written. Never knows: turns.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pillion.kinds.actors import LostPlace, Moved
from pillion.workflow.faults import InstanceStalled
from pillion.workflow.history import nanoseconds
from pillion.workflow.instance import Mail, has_heard, mark_of
from pillion.workflow.rows import Step
from pillion.workflow.writing import Gone, Writing

if TYPE_CHECKING:
    from pillion.workflow.engine import Engine
    from pillion.workflow.history import Event
    from pillion.workflow.instance import Instance

log = logging.getLogger("pillion.workflow")

RAISED = 1024
"""So many raised events are known again although they are no longer, or not yet, in the history."""


class Reception(Writing):
    """Takes what comes. `mail` is what waits for a turn, in its order; `in_turn` what the turn under way has of it.
    `kick` and `rested` are for who takes the turns.
    """

    __slots__ = ("_raised", "flushing", "in_turn", "incoming", "mail", "slow")

    def __init__(self, engine: Engine, instance: Instance) -> None:
        super().__init__(engine, instance)
        self.mail: list[Mail] = list(instance.inbox)
        self._raised: dict[tuple[str, int], asyncio.Future[None] | None] = {
            _mark(one.event): None for one in instance.inbox if one.event.HasField("eventRaised")
        }
        self.in_turn: list[Mail] = []
        self.incoming: list[tuple[Mail, asyncio.Future[None]]] = []
        self.slow = False
        self.flushing = False

    def kick(self) -> None:
        """Begin to work on what waits."""
        raise NotImplementedError

    def rested(self) -> None:
        """Nothing more is written for now."""
        raise NotImplementedError

    async def add(self, event: Event, execution: str | None = None) -> None:
        """Take an event from outside: durable when this returns. What was seen before, what comes too late, and what is
        for another `execution` of the instance, is taken without effect. Raises `InstanceStalled`, `Moved`.
        """
        if self.closed:  # since it was found: nobody would write it any more
            raise Moved(f"workflow '{self.instance_id}' has moved")
        facts = self.instance.facts
        mail = Mail.of(event, execution)
        if facts.completed is not None or not self.instance.is_for(mail):
            return
        done: asyncio.Future[None] = self.engine.loop.create_future()
        if event.HasField("eventRaised"):
            if facts.stalled is not None:
                raise InstanceStalled
            mark = _mark(event)
            heard = self.instance.heard
            if mark in facts.raised or (heard and has_heard(heard, mark_of(*mark))):
                return
            if mark in self._raised:
                # The sender heard no answer and tries again: it hears one when the first is durable.
                first = self._raised[mark]
                if first is not None:
                    await asyncio.shield(first)
                return
            self._raised[mark] = done
            if len(self._raised) > RAISED:
                del self._raised[next(iter(self._raised))]
        self.incoming.append((mail, done))
        if not self.flushing:
            self.flushing = True
            self.engine.tasks.start(self._flush(), "inbox")
        await asyncio.shield(done)

    async def _flush(self) -> None:
        """Write what came to the inbox, all of it at once, and let its senders go."""
        taken: list[tuple[Mail, asyncio.Future[None]]] = []
        try:
            while self.incoming and not self.closed:
                async with self.lock:
                    most = self.engine.rows.most_mail
                    taken, self.incoming = self.incoming[:most], self.incoming[most:]
                    if self.instance.facts.completed is None:
                        mail = [one for one, _ in taken if self.instance.is_for(one)]  # it may have begun anew
                        await self._write(Step([*self.instance.inbox, *mail], self.instance.generation))
                        self.mail += mail
                for _, done in taken:
                    if not done.done():
                        done.set_result(None)
                taken = []
                self.kick()
        except (Gone, LostPlace) as error:
            self.dropped(error)
        except Exception as error:
            log.exception("workflow '%s': what came cannot be written", self.instance_id)
            self.failed(error)  # which refuses what came meanwhile, too
        finally:
            self.flushing = False
            for _, done in taken:
                if not done.done():
                    _refuse(done, Moved(f"workflow '{self.instance_id}' has moved"))
        self.rested()

    def deliver(self, mail: Mail) -> None:
        """Take an event that is not durable and need not be: a result that would be made again, a timer."""
        if self.closed:
            return
        self.mail.append(mail)
        if self.slow:
            self.persist()
        self.kick()

    def persist(self) -> None:
        """Write what came and has no row yet: the turn takes long."""
        self.slow = True
        if not self.closed and any(precious(one) for one in (*self.in_turn, *self.mail)):
            self.engine.tasks.start(self._persist(), "inbox")

    async def _persist(self) -> None:
        try:
            async with self.lock:
                loose = [one for one in (*self.in_turn, *self.mail) if precious(one)]
                if loose and not self.closed:
                    await self._write(Step([*self.instance.inbox, *loose], self.instance.generation))
        except (Gone, LostPlace) as error:
            self.dropped(error)
        except Exception as error:
            log.exception("workflow '%s': what came cannot be written", self.instance_id)
            self.failed(error)

    def refuse_all(self, error: Exception) -> None:
        """Tell those whose events are not durable that they have to try again."""
        for _, done in self.incoming:
            if not done.done():
                _refuse(done, Moved(str(error)))
        self.incoming.clear()


def _mark(event: Event) -> tuple[str, int]:
    """What tells one raised event from another."""
    return event.eventRaised.name, nanoseconds(event.timestamp)


def _refuse(done: asyncio.Future[None], error: Exception) -> None:
    """End a wait; its caller may have gone already."""
    done.set_exception(error)
    done.exception()


def precious(mail: Mail) -> bool:
    """Whether losing it would cost work: a result without a row. Timers fire again by themselves."""
    return not mail.stored and not mail.event.HasField("timerFired")
