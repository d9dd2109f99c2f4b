"""Recorded spans on their way out: batches, queues and what becomes of spans that nobody takes (spec `runtime.md` 3.2).

Knows: when a batch is sent, how often it is tried, what is counted. Never knows: formats and protocols: an `Exporter`
(`observe/exporters.py`) sends one batch.
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import deque
from typing import TYPE_CHECKING, Protocol

from pillion.errors import ComponentError

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillion.observe.metrics import Registry
    from pillion.observe.tracing import Span

log = logging.getLogger("pillion.observe.export")

QUEUE = 2048
BATCH = 512
DELAY_S = 1.0
"""How long a span waits for others at most."""
TIMEOUT_S = 10.0
"""For one attempt, unless the configuration says otherwise."""
PAUSES_S = (0.25, 1.0, 3.0)
"""Between the attempts to send one batch."""
LAST_WORD_S = 2.0
"""How long the end of a sidecar waits for spans to go."""


class NotTaken(ComponentError):
    """A batch was not taken. `again`: it may be sent once more."""

    def __init__(self, reason: str, *, again: bool) -> None:
        self.again = again
        super().__init__(reason)


class Exporter(Protocol):
    """Sends spans somewhere. `name` is its label in metrics and in the log."""

    name: str

    async def send(self, spans: Sequence[Span]) -> int:
        """Send one batch; return how many spans were taken. Raises `NotTaken`."""
        ...

    async def close(self) -> None: ...


class Batches:
    """One exporter with its queue. `offer` never waits: what finds the queue full is dropped and counted.

    A sidecar does not slow down, grow or fail because a receiver does.
    """

    def __init__(
        self,
        exporter: Exporter,
        registry: Registry,
        *,
        timeout_s: float = TIMEOUT_S,
        delay_s: float = DELAY_S,
    ) -> None:
        self._exporter = exporter
        self._timeout_s, self._delay_s = timeout_s, delay_s
        self._exported = registry.number("trace_spans_exported_total").child(exporter.name)
        self._dropped = registry.number("trace_spans_dropped_total").child(exporter.name)
        self._queue: deque[Span] = deque()
        self._loop = asyncio.get_running_loop()
        self._wake = asyncio.Event()
        self._timer: asyncio.TimerHandle | None = None
        self._closing = False
        self._complained = False
        self._task = self._loop.create_task(self._run(), name=f"export of spans: {exporter.name}")

    def offer(self, span: Span) -> None:
        """Take a span that has ended."""
        queue = self._queue
        if len(queue) >= QUEUE:
            self._dropped.value += 1
            return
        queue.append(span)
        if self._timer is None:
            self._timer = self._loop.call_later(self._delay_s, self._send)
        if len(queue) == BATCH:
            self._send()

    def _send(self) -> None:
        """What has gathered goes out now."""
        if self._timer is not None:
            self._timer.cancel()
            self._timer = None
        self._wake.set()

    async def _run(self) -> None:
        queue = self._queue
        while True:
            await self._wake.wait()
            self._wake.clear()
            left = len(queue)  # what comes while these are sent waits for others of its kind
            while left > 0:
                batch = [queue.popleft() for _ in range(min(BATCH, len(queue)))]
                left -= len(batch)
                await self._deliver(batch)
            if self._closing and not queue:
                return

    async def _deliver(self, batch: Sequence[Span]) -> None:
        taken = 0
        try:
            taken = await self._insist(batch)
        except NotTaken as error:
            if not self._complained:
                log.warning("spans cannot be sent to %s and are lost: %s", self._exporter.name, error)
            self._complained = True
        except Exception:
            log.exception("spans cannot be sent to %s", self._exporter.name)
        else:
            if self._complained:
                log.info("spans can be sent to %s again", self._exporter.name)
            self._complained = False
        finally:
            self._exported.value += taken
            self._dropped.value += len(batch) - taken

    async def _insist(self, batch: Sequence[Span]) -> int:
        for pause_s in PAUSES_S:
            try:
                return await self._attempt(batch)
            except NotTaken as error:
                if not error.again or self._closing:
                    raise
                log.debug("sending spans to %s again in %g s: %s", self._exporter.name, pause_s, error)
            await asyncio.sleep(pause_s)
        return await self._attempt(batch)

    async def _attempt(self, batch: Sequence[Span]) -> int:
        try:
            async with asyncio.timeout(self._timeout_s):
                return await self._exporter.send(batch)
        except TimeoutError:
            raise NotTaken(f"no answer within {self._timeout_s:g} s", again=True) from None

    async def close(self) -> None:
        """Send what is left, for two seconds at most, and count the rest as dropped."""
        self._closing = True
        self._send()
        async with contextlib.AsyncExitStack() as stack:
            stack.push_async_callback(self._exporter.close)
            await self._end()

    async def _end(self) -> None:
        _, pending = await asyncio.wait((self._task,), timeout=LAST_WORD_S)
        if pending:
            self._task.cancel()
            await asyncio.wait((self._task,))
        self._dropped.value += len(self._queue)
        self._queue.clear()

    def __repr__(self) -> str:
        return f"<Batches for {self._exporter.name}: {len(self._queue)} spans wait>"
