"""One stream of triggers to a sidecar (spec `actors-workflows-jobs.md` 2.5).

Triggers go out in the order they come, those of one turn of the loop in one write; a bounded number of them waits for
an answer. Knows: the messages of WatchJobs. Never knows: which stream is chosen for what.
"""

from __future__ import annotations

import asyncio
from collections import deque
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from pillion.errors import Code
from pillion.jobs.protocol import UNDELIVERABLE, metadata_of
from pillion.kinds.jobs import Outcome
from pillion.net.exchange import RpcError
from pillion.wire.messages import scheduler as m

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from pillion.kinds.jobs import Trigger
    from pillion.net.exchange import ServerCall

WINDOW = 1024
"""Triggers of one stream that wait for an answer; further ones wait for room."""
_OUTCOMES = {m.SUCCESS: Outcome.SUCCESS, m.FAILED: Outcome.FAILED, UNDELIVERABLE: Outcome.UNDELIVERABLE}


class JobStream:
    """A stream from its first message on. `deliver` is what a scheduler's watch calls; `close` gives all back."""

    def __init__(self, call: ServerCall, window: int = WINDOW) -> None:
        self._call = call
        self._window = window
        self._loop = asyncio.get_running_loop()
        self._next = 0
        self._open: dict[int, asyncio.Future[Outcome]] = {}
        self._room: deque[asyncio.Future[None]] = deque()
        self._outgoing: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._closed = False
        self._idle: asyncio.Future[None] | None = None

    def deliver(self, trigger: Trigger) -> Awaitable[Outcome]:
        """Send a trigger; what is returned resolves with its answer. A stream that ends takes it for undeliverable."""
        if len(self._open) < self._window and not self._room and not self._over:
            return self._sent(trigger)
        return self._sent_later(trigger)

    def _sent(self, trigger: Trigger) -> asyncio.Future[Outcome]:
        number, self._next = self._next, self._next + 1
        key = trigger.key
        message = m.WatchJobsResponse(name=key.name, id=number, metadata=metadata_of(key, trigger.concurrency_key))
        if trigger.payload:
            message.data.MergeFromString(trigger.payload)
        answer: asyncio.Future[Outcome] = self._loop.create_future()
        self._open[number] = answer
        self._outgoing.append(message.SerializeToString())
        self._wake.set()
        return answer

    async def _sent_later(self, trigger: Trigger) -> Outcome:
        if self._over:
            return Outcome.UNDELIVERABLE
        waiter = self._loop.create_future()
        self._room.append(waiter)
        try:
            await waiter
        except asyncio.CancelledError:
            if waiter.done() and not waiter.cancelled():
                self._free()  # the room that was for this one is for the next
            raise
        return Outcome.UNDELIVERABLE if self._over else await self._sent(trigger)

    async def run(self, stopping: asyncio.Event) -> None:
        """Serve until the sidecar or the scheduler has enough. Raises `RpcError` for an answer to nothing."""
        work = [
            self._loop.create_task(each, name="job stream") for each in (self._send(), self._receive(), stopping.wait())
        ]
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
        for task in done:
            if not task.cancelled():
                task.result()

    async def _send(self) -> None:
        outgoing = self._outgoing
        while True:
            while outgoing:
                await self._call.send(outgoing.popleft())
            self._wake.clear()
            await self._wake.wait()

    async def _receive(self) -> None:
        while (raw := await self._call.receive()) is not None:
            try:
                request = m.WatchJobsRequest.FromString(raw)
            except DecodeError as error:
                raise RpcError(Code.INTERNAL, f"grpc: error unmarshalling request: {error}") from error
            if request.WhichOneof("watch_job_request_type") != "result":
                raise RpcError(Code.INVALID_ARGUMENT, "a message after the first is not a result")
            answer = self._open.pop(request.result.id, None)
            if answer is None:
                raise RpcError(Code.INVALID_ARGUMENT, f"no job with id {request.result.id} waits for a result")
            self._free()
            if not answer.done():
                answer.set_result(_OUTCOMES.get(request.result.status, Outcome.FAILED))

    @property
    def _over(self) -> bool:
        return self._closed or self._idle is not None

    async def drained(self) -> None:
        """Send no more triggers, and wait until those that are out have their answers."""
        if self._idle is None:
            self._idle = self._loop.create_future()
            self._free_all()
            if not self._open:
                self._idle.set_result(None)
        await asyncio.shield(self._idle)

    def _free(self) -> None:
        """Let the next one in that waits for room."""
        if self._idle is not None and not self._open and not self._idle.done():
            self._idle.set_result(None)
        while self._room:
            waiter = self._room.popleft()
            if not waiter.done():
                waiter.set_result(None)
                return

    def close(self) -> None:
        """Nothing goes out any more; what has no answer was not delivered."""
        self._closed = True
        self._outgoing.clear()
        for answer in self._open.values():
            if not answer.done():
                answer.set_result(Outcome.UNDELIVERABLE)
        self._open.clear()
        if self._idle is not None and not self._idle.done():
            self._idle.set_result(None)
        self._free_all()

    def _free_all(self) -> None:
        while self._room:
            waiter = self._room.popleft()
            if not waiter.done():
                waiter.set_result(None)

    def __repr__(self) -> str:
        return f"<JobStream, {len(self._open)} open, {len(self._room)} waiting>"
