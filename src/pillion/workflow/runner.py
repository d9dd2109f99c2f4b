"""The driver of one instance on the host that owns it: takes what comes, runs turns, writes, then acts on that.

    event -> (inbox row) -> turn -> worker -> one transaction -> activities, children, timers, messages

One writer: everything that touches the store goes through `lock`, and the ETag of the metadata row sees to it that no
other host writes beside it. Nothing is dispatched that is not saved. Results of activities go straight into a turn;
they are written to the inbox only when the turn takes long, for a lost one is made again by running the activity anew.

Knows: one instance. Never knows: routing, gRPC, which instances there are.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pillion.kinds.actors import LostPlace
from pillion.wire.messages import taskhub as m
from pillion.workflow import outbox, waits
from pillion.workflow import turn as turns
from pillion.workflow.faults import StoreUnfit
from pillion.workflow.history import nanoseconds
from pillion.workflow.instance import Mail, heard_by_now
from pillion.workflow.items import Item, Oversized
from pillion.workflow.losses import TURN, Lost
from pillion.workflow.reception import Reception, precious
from pillion.workflow.rows import Step
from pillion.workflow.writing import Gone

if TYPE_CHECKING:
    from pillion.workflow.activities import Run
    from pillion.workflow.deliveries import Delivery
    from pillion.workflow.engine import Engine
    from pillion.workflow.instance import Instance
    from pillion.workflow.items import Answer
    from pillion.workflow.outbox import Send
    from pillion.workflow.question import Decision, Turn
    from pillion.workflow.snapshot import Wait

log = logging.getLogger("pillion.workflow")

_RESULTS = frozenset({
    "taskCompleted", "taskFailed", "timerFired", "childWorkflowInstanceCompleted", "childWorkflowInstanceFailed",
})  # fmt: skip


class Forced(Exception):
    """The turn is put aside, for it takes workers down, and the instance is to be terminated."""


class Again(Exception):
    """The turn is to be offered to workers again: one was lost that had it, or it is given another chance."""


class Runner(Reception):
    """Drives one committed instance."""

    __slots__ = (
        "activities", "answer", "deliveries", "driving", "finishing", "item", "leaving", "renewing", "sends", "serial",
        "settled", "turn_since", "wake_due",
    )  # fmt: skip

    def __init__(self, engine: Engine, instance: Instance) -> None:
        super().__init__(engine, instance)
        self.activities: dict[int, Run] = {}
        self.deliveries: dict[str, Delivery] = {}
        self.settled: list[asyncio.Future[None]] = []
        self.sends: list[Send] = []
        self.item: Item | None = None
        self.answer: asyncio.Future[m.WorkflowResponse] | None = None
        self.finishing: asyncio.Task[bool] | None = None
        self.leaving: asyncio.Future[None] | None = None
        self.renewing = False
        """Whether it has ended and is being begun anew: its last duties are done, nobody is to do them again."""
        self.wake_due = 0.0
        self.serial = 0
        self.turn_since = 0.0
        self.driving = False

    def dropped(self, error: Exception) -> None:
        self.engine.drop(self, error)

    def failed(self, error: Exception) -> None:
        self.engine.failed(self, error)

    def rested(self) -> None:
        self.engine.rest(self)

    @property
    def idle(self) -> bool:
        """Nothing is under way here: the instance could be read again when something comes."""
        return not (
            self.driving or self.flushing or self.mail or self.activities or self.deliveries or self.finishing
            or self.incoming
        )  # fmt: skip

    # --- turns ---

    def kick(self) -> None:
        """Begin to work on what waits, unless that is being done or is not due; try again what stalled."""
        if self.driving and self.losses.aside(TURN) and self._ends():
            self._interrupt(Forced())
        if self.driving or self.closed or self.leaving is not None or not self.mail or not self._due():
            return
        self.driving = True
        self.engine.tasks.start(self._drive(), "turn")

    def _due(self) -> bool:
        """Whether the instance has begun, or may begin now; a termination need not wait for a start."""
        if self.instance.facts.started is not None:
            return True
        at_ns = self.start_ns
        if at_ns is None or at_ns <= self.engine.surroundings.now_ns():
            return True
        if self._ends():
            return True
        self.engine.timers.arm_start(self, at_ns)
        return False

    def _ends(self) -> bool:
        """Whether a termination waits for its turn."""
        return any(one.event.HasField("executionTerminated") for one in self.mail)

    @property
    def start_ns(self) -> int | None:
        """When the instance is to begin, if it was started for a later time."""
        start = self.instance.start_event
        if start is None or not start.executionStarted.HasField("scheduledStartTimestamp"):
            return None
        return nanoseconds(start.executionStarted.scheduledStartTimestamp)

    async def _drive(self) -> None:
        try:
            again = True
            while again and self.mail and not self.closed and self._due():
                again = await self._turn()
        except (Gone, LostPlace) as error:
            self.engine.drop(self, error)
        except Exception as error:
            # A fault of ours, or rows that cannot be understood: the instance is read anew, later and later.
            log.exception("workflow '%s': the turn failed", self.instance_id)
            self.engine.failed(self, error)
        finally:
            self.driving = False
        if not self.closed:
            self.engine.rest(self)

    async def _turn(self) -> bool:
        """One turn, from what came to what was written; False: it stalled."""
        surroundings = self.engine.surroundings
        most = self.engine.rows.most_mail
        mail, self.mail = self.mail[:most], self.mail[most:]
        self.in_turn = mail
        now_ns = surroundings.now_ns()
        turn = turns.begin(self.instance, mail, now_ns)
        if turn is None:
            self.in_turn = []
            if any(one.stored for one in mail):
                async with self.lock:
                    await self._write(Step(self._without(mail), self.instance.generation))
            return True
        self.serial += 1
        if turn.facts.started is None and (started := turn.started) is not None:
            due_ns = max(nanoseconds(started.timestamp), self.start_ns or 0)
            surroundings.meter.scheduling(started.executionStarted.name, max(0.0, (now_ns - due_ns) / 1e6))
        self.turn_since = now_ns / 1e9
        due = self.start_ns
        if turn.terminating is not None and turn.facts.started is None and due is not None and due > now_ns:
            decision = turns.force(turn, now_ns)
        else:
            if any(precious(one) for one in mail):
                self.engine.slow.watch(self)
            try:
                turn, decision = await self._ask(turn)
            except Forced:
                # Nothing has been written: the same turn with its end, without a worker.
                end = next(one for one in self.mail if one.event.HasField("executionTerminated"))
                self.mail = [one for one in self.mail if one is not end]
                self.in_turn = mail = [*mail, end]
                turn = turns.begin(self.instance, mail, now_ns) or turn
                decision = turns.force(turn, surroundings.now_ns())
        self.slow = False
        await self._commit(turn, decision, mail)
        return not decision.stalled

    async def _ask(self, turn: Turn) -> tuple[Turn, Decision]:
        """Have a worker run the turn, and those that follow it in place."""
        engine = self.engine
        surroundings = engine.surroundings
        most = surroundings.bounds.most_bytes
        while True:
            now_ns = surroundings.now_ns()
            size = len(turn.framed) + sum([len(raw) + 4 for _, raw in turn.fresh]) + len(turn.propagated or b"")
            if size > most:
                if turn.terminating is not None:
                    return turn, turns.force(turn, now_ns)
                said = f"history of {size} bytes exceeds {most} bytes, 95% of the largest message"
                return turn, turns.stall(turn, m.PAYLOAD_SIZE_EXCEEDED, said, now_ns)
            started = turn.started
            name = started.executionStarted.name if started is not None else ""
            engine.surroundings.meter.payload(name, size / surroundings.bounds.max_body)
            try:
                said_ = await self._worked(turn, name)
            except Oversized as error:
                if turn.terminating is not None:
                    return turn, turns.force(turn, surroundings.now_ns())
                return turn, turns.stall(turn, m.PAYLOAD_SIZE_EXCEEDED, str(error), surroundings.now_ns())
            decision = turns.apply(turn, said_, engine.setting, surroundings.now_ns())
            if decision.again is None:
                return turn, decision
            turn = decision.again

    async def _worked(self, turn: Turn, name: str) -> m.WorkflowResponse:
        """Have a worker answer the turn, however many are lost over it; what lost too many waits here for people."""
        engine = self.engine
        mark = (0, 0) if turn.reset else self.instance.mark
        while True:
            answer: asyncio.Future[m.WorkflowResponse] = engine.loop.create_future()
            self.answer = answer
            self.item = Item(self.instance_id, name, self._answered, self._lost, turn=turn, mark=mark)
            try:
                if not self.losses.suspicious(TURN):
                    engine.workers.offer(self.item)
                    return await answer
                if self.losses.aside(TURN):
                    if self._ends():
                        raise Forced
                    return await answer
                async with engine.apart:
                    if not await self.tries(TURN):
                        raise Gone
                    engine.workers.offer(self.item)
                    return await answer
            except Again:
                if not await self.record():
                    raise Gone from None
            finally:
                self.item = self.answer = None

    def _interrupt(self, error: Exception) -> None:
        """End the wait for a worker's answer."""
        if self.item is not None:
            self.engine.workers.withdraw(self.item)
        if self.answer is not None and not self.answer.done():
            self.answer.set_exception(error)
            self.answer.exception()  # it may wait for its place, and not look at this any more

    def _lost(self) -> None:
        self.losses.lost(TURN, Lost.WORKER)
        if self.losses.aside(TURN):
            log.warning("workflow '%s': its turn is put aside: %s", self.instance_id, self.losses.of(TURN).why)
        self._interrupt(Again())

    def retry_turn(self) -> bool:
        """Give a turn that was put aside another chance; False when none is under way."""
        if self.losses.aside(TURN):
            self.losses.forget(TURN)
            self._interrupt(Again())
            return True
        return self.item is not None

    def _answered(self, answer: Answer) -> None:
        if self.answer is None or self.answer.done():
            return
        if isinstance(answer, m.WorkflowResponse):
            self.answer.set_result(answer)
        elif isinstance(answer, Oversized):
            self.answer.set_exception(answer)

    def _without(self, mail: list[Mail]) -> list[Mail]:
        """The inbox without these."""
        inbox = self.instance.inbox
        if not inbox:
            return []
        gone = {id(one) for one in mail}
        return [one for one in inbox if id(one) not in gone]

    async def _commit(self, turn: Turn, decision: Decision, mail: list[Mail]) -> None:
        """Write what was decided, then act on it."""
        instance = self.instance
        seen = len(turn.fresh)
        async with self.lock:
            if not decision.stalled:
                made = outbox.numbered(decision.sends, self.engine.surroundings.now_ns())
                step = self._step(decision, mail, made)
                past = (0, 0) if decision.reset else (instance.facts.length, len(instance.framed))
                try:
                    await self._write(step)
                except StoreUnfit as error:
                    decision = turns.stall(turn, m.PAYLOAD_SIZE_EXCEEDED, str(error), self.engine.surroundings.now_ns())
                else:
                    self.sends += made
                    instance.mark = past
            if decision.stalled:
                self.losses.forget(TURN)
                # The past may have been given up in memory only: what is written down is that it stalled, and all
                # that came, for this may take days.
                loose = [one for one in (*mail, *self.mail) if precious(one)]
                if decision.events or loose:
                    step = Step([*instance.inbox, *loose], instance.generation, events=decision.events)
                    await self._write(step)
                self.mail = mail + self.mail
        self.in_turn = []
        instance.facts.satisfied.clear()
        if self.leaving is not None and not self.leaving.done():
            self.leaving.set_result(None)  # what follows from this step is for the next owner
        if self.closed or self.leaving is not None:
            raise Gone
        if decision.reset and not decision.stalled:
            self.engine.forget(self)
            self.mail = [*decision.carried, *(one for one in self.mail if not _is_result(one))]
        await self.engine.committed(self, decision, seen)

    def _step(self, decision: Decision, mail: list[Mail], made: list[Send]) -> Step:
        kept = self._without(mail)
        if decision.reset:
            kept = [one for one in kept if not _is_result(one)]
        if self.losses.tallies:
            self.losses.keep(() if decision.reset else self._open_after(decision))
        return Step(
            [*decision.carried, *kept], decision.generation, events=decision.events, reset=decision.reset,
            writes_status=decision.writes_status, custom_status=decision.custom_status,
            writes_outbox=bool(made), outbox=outbox.pack([*self.sends, *made]) if made else b"",
            heard=heard_by_now(self.instance, mail) if decision.reset else None,
        )  # fmt: skip

    def _open_after(self, decision: Decision) -> set[int]:
        """The activities without a result, once this is written."""
        done = {
            (event.taskCompleted if event.HasField("taskCompleted") else event.taskFailed).taskScheduledId
            for event, _ in decision.events
            if event.WhichOneof("eventType") in ("taskCompleted", "taskFailed")
        }
        return self.instance.facts.tasks.keys() - done

    async def sent(self, done: Send) -> None:
        """One of `sends` has arrived; when it was the last, the row goes."""
        self.sends.remove(done)
        if self.sends:
            return
        try:
            async with self.lock:
                if not self.sends:
                    await self._write(
                        Step(self.instance.inbox, self.instance.generation, writes_outbox=True, outbox=b"")
                    )
        except (Gone, LostPlace) as error:
            self.engine.drop(self, error)

    def close(self, error: Exception) -> None:
        """The instance is not ours any more, or not needed now: end everything that is under way, write nothing."""
        if self.closed:
            return
        self.closed = True
        self.engine.forget(self)
        self._interrupt(Gone())
        if self.finishing is not None and self.finishing is not asyncio.current_task():
            self.finishing.cancel()
        self.refuse_all(error)

    def waiting(self) -> tuple[Wait, ...]:
        """What the instance waits for; never empty while it is not finished."""
        return waits.waiting(self)

    def __repr__(self) -> str:
        return f"<Runner {self.instance!r}{' driving' if self.driving else ''}{' closed' if self.closed else ''}>"


def _is_result(mail: Mail) -> bool:
    return mail.event.WhichOneof("eventType") in _RESULTS
