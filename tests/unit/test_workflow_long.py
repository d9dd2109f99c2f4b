"""A long history: a step costs the engine, the store and the wire what it did when the history was short."""

from __future__ import annotations

import asyncio
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pillion.workflow
from pillion.components.memory import MemoryState, MemoryStateSettings
from pillion.kinds.component import Context as ComponentContext
from pillion.kinds.state import Set
from pillion.testing.workflow_worker import Executor, InProcess, Worker
from pillion.workflow.hub import Start
from workflow_support import WAIT_S, Bench

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence
    from types import FrameType

    from pillion.kinds.state import Operation
    from pillion.testing.workflow_worker import Context
    from pillion.wire.messages import taskhub as m

STEPS, SPAN = 900, 150
ENGINE = str(Path(pillion.workflow.__file__).parent)


@dataclass
class Work:
    """What was done so far: calls in the engine's code, bytes to the store and to the worker, operations."""

    calls: int = 0
    stored: int = 0
    operations: int = 0
    sent: int = 0

    def note(self, frame: FrameType, event: str, _: object) -> None:
        if event in ("call", "c_call") and frame.f_code.co_filename.startswith(ENGINE):
            self.calls += 1

    def now(self) -> tuple[int, ...]:
        return (self.calls, self.stored, self.operations, self.sent)


class Store(MemoryState):
    """A store that counts."""

    def __init__(self, work: Work) -> None:
        super().__init__(MemoryStateSettings(), ComponentContext(name="store"))
        self.work = work

    async def transact_versions(self, operations: Sequence[Operation], metadata: Mapping[str, str]) -> list[str | None]:
        self.work.operations += len(operations)
        self.work.stored += sum(len(each.value) for each in operations if isinstance(each, Set))
        return await super().transact_versions(operations, metadata)


class Wire(InProcess):
    """A worker's stream that counts."""

    def __init__(self, bench: Bench, work: Work) -> None:
        super().__init__(bench.hub, stateful=True)
        self.work = work

    async def next(self) -> m.WorkItem:
        item = await super().next()
        self.work.sent += item.ByteSize()
        return item


def chain(ctx: Context, count: int) -> Generator[Any, Any, Any]:
    for number in range(count):
        yield ctx.call_activity("note", number)


def test_a_step_costs_the_same_at_the_end() -> None:
    """Of 2,700 events: the last steps are compared with as many near the beginning."""
    work = Work()
    marks: dict[int, tuple[int, ...]] = {}

    async def main() -> None:
        bench = Bench({"chain": chain}, store=Store(work))
        executor = Executor(
            {"chain": chain}, {"note": lambda number: marks.setdefault(number, work.now())}, stateful=True
        )
        worker = Worker(executor, Wire(bench, work))
        await bench.hub.start(Start("chain", "long", input=str(STEPS)))
        async with asyncio.timeout(WAIT_S):
            await bench.hub.wait_completion("long")
        await worker.close()
        assert len(await bench.hub.history("long") or []) > 3 * STEPS
        await bench.kill()

    sys.setprofile(work.note)
    try:
        asyncio.run(main())
    finally:
        sys.setprofile(None)

    def spent(begin: int) -> list[int]:
        return [after - before for before, after in zip(marks[begin], marks[begin + SPAN - 1], strict=True)]

    early, late = spent(SPAN), spent(STEPS - SPAN)
    assert all(early)
    assert all(last <= 1.1 * first for first, last in zip(early, late, strict=True)), (early, late)
