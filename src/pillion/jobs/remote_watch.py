"""The streams of triggers from schedulers that are far away (spec `actors-workflows-jobs.md` 2.5).

A stream that breaks is opened again; triggers that were on their way to the application then are carried out, and the
scheduler, which did not hear of it, hands them out once more. Knows: WatchJobs. Never knows: who carries triggers out.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from functools import partial
from typing import TYPE_CHECKING

from google.protobuf.message import DecodeError

from pillion.errors import code_name
from pillion.jobs.protocol import OURS, SERVICE, UNDELIVERABLE, interest_message, key_of
from pillion.kinds.jobs import JobInvalid, Outcome, Trigger
from pillion.net.exchange import RpcError
from pillion.tasks import Tasks
from pillion.wire.messages import scheduler as m

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillion.kinds.jobs import Interest
    from pillion.net.exchange import ClientStream, GrpcChannel

    Deliver = Callable[[Trigger], Awaitable[Outcome]]

log = logging.getLogger("pillion.jobs")
METHOD = SERVICE + "WatchJobs"
MOST_OPEN = 2048
"""Triggers of one stream that are carried out at once; the scheduler's further ones wait in the connection."""
GIVE_BACK_S = 1.0
"""How long a stream that gives a trigger back waits for the others that it carries out."""
_STATUS = {Outcome.SUCCESS: m.SUCCESS, Outcome.FAILED: m.FAILED, Outcome.UNDELIVERABLE: UNDELIVERABLE}


class RemoteWatch:
    """A `Watch`: the streams to every scheduler there is. `gone` is told when it was closed."""

    def __init__(
        self,
        interest: Interest,
        deliver: Deliver,
        streams: int,
        pause_s: Callable[[], float],
        gone: Callable[[RemoteWatch], None],
    ) -> None:
        self._first = interest_message(interest).SerializeToString()
        self._interest = interest
        self._deliver = deliver
        self._streams = streams
        self._pause_s = pause_s
        self._gone = gone
        self._runs: dict[str, list[asyncio.Task[None]]] = {}
        self._tasks = Tasks("job streams")
        self._ending: set[asyncio.Task[None]] = set()
        self._closed = False

    def join(self, address: str, channel: GrpcChannel) -> None:
        """Open the streams to one more scheduler."""
        self._runs[address] = [
            self._tasks.keep(partial(self._run, address, channel), f"stream {number} to {address}")
            for number in range(self._streams)
        ]

    def leave(self, address: str) -> None:
        """End the streams to a scheduler that is gone."""
        for task in self._runs.pop(address, ()):
            task.cancel()

    def close(self) -> None:
        """End the streams; answers that are there already still go out."""
        if self._closed:
            return
        self._closed = True
        for tasks in self._runs.values():
            for task in tasks:
                task.cancel()
                self._ending.add(task)
        self._runs.clear()
        self._gone(self)

    async def ended(self) -> None:
        """Wait until the streams have ended and what came over them is carried out; cancelled, that is broken off."""
        try:
            if self._ending:
                await asyncio.wait(self._ending)
            await self._tasks.drain(None)
        finally:
            await self._tasks.close()

    async def _run(self, address: str, channel: GrpcChannel) -> None:
        last = ""
        while True:
            session = _Session(channel.stream(METHOD), self._deliver, self._tasks)
            try:
                await session.run(self._first)
                reason = "the stream ended"
            except RpcError as error:
                reason = f"{code_name(error.code)}: {error.message}"
            except (DecodeError, JobInvalid) as error:
                reason = f"a trigger cannot be read: {error}"
            if session.heard:
                last = ""
            if reason != last:
                log.info("the stream of jobs from the scheduler at %s is opened again: %s", address, reason)
                last = reason
            await asyncio.sleep(self._pause_s())

    def __repr__(self) -> str:
        return f"<RemoteWatch of {self._interest.app_id} on {', '.join(self._runs) or 'nobody'}>"


class _Session:
    """One stream, from its opening to its end. `heard`: a trigger came."""

    def __init__(self, stream: ClientStream, deliver: Deliver, tasks: Tasks) -> None:
        self.heard = False
        self._tasks = tasks
        self._stream = stream
        self._deliver = deliver
        self._open: set[asyncio.Task[None]] = set()
        self._answers: deque[bytes] = deque()
        self._wake = asyncio.Event()
        self._room = asyncio.Event()
        self._giving_back = asyncio.Event()

    async def run(self, first: bytes) -> None:
        """Serve until the stream breaks, a trigger has to be given back, or this is cancelled. Raises `RpcError`."""
        try:
            await self._stream.send(first)
            await self._serve()
        finally:
            self._stream.cancel()

    async def _serve(self) -> None:
        loop = asyncio.get_running_loop()
        work = [loop.create_task(each) for each in (self._receive(), self._send(), self._giving_back.wait())]
        broken = False
        try:
            done, _ = await asyncio.wait(work, return_when=asyncio.FIRST_COMPLETED)
            for task in done:
                broken = task is not work[2]
                task.result()
        except (RpcError, DecodeError, JobInvalid):
            broken = True
            raise
        finally:
            for task in work:
                task.cancel()
            await asyncio.gather(*work, return_exceptions=True)
            if not broken:
                if self._giving_back.is_set() and self._open:
                    await asyncio.wait(self._open, timeout=GIVE_BACK_S)
                await self._part()

    async def _part(self) -> None:
        """Send the answers that are there, and say that there will be no more."""
        try:
            async with asyncio.timeout(GIVE_BACK_S):
                while self._answers:
                    await self._stream.send(self._answers.popleft())
                await self._stream.half_close()
                while await self._stream.receive() is not None:
                    pass  # triggers that crossed: the scheduler gives them to somebody else
        except (RpcError, TimeoutError) as error:
            log.debug("a stream of jobs ended without its last answers: %s", error)

    async def _receive(self) -> None:
        while (raw := await self._stream.receive()) is not None:
            self.heard = True
            message = m.WatchJobsResponse.FromString(raw)
            task = self._tasks.start(self._carry_out(message), f"job {message.name}")
            self._open.add(task)
            task.add_done_callback(self._carried_out)
            while len(self._open) >= MOST_OPEN:
                self._room.clear()
                await self._room.wait()

    def _carried_out(self, task: asyncio.Task[None]) -> None:
        self._open.discard(task)
        self._room.set()
        if task.cancelled() or task.exception() is not None:
            self._giving_back.set()

    async def _carry_out(self, message: m.WatchJobsResponse) -> None:
        payload = message.data.SerializeToString() if message.HasField("data") else b""
        key = key_of(message.name, message.metadata)
        outcome = await self._deliver(Trigger(key, payload, 0.0, message.metadata.concurrency_key))
        if outcome is Outcome.UNDELIVERABLE and not await self._understood():
            # The protocol has no word for it: a stream that ends without an answer says the same.
            self._giving_back.set()
            return
        answer = m.WatchJobsRequest()
        answer.result.id, answer.result.status = message.id, _STATUS[outcome]
        self._answers.append(answer.SerializeToString())
        self._wake.set()

    async def _understood(self) -> bool:
        """Whether the scheduler is one of ours; its first words are there, since a trigger is."""
        return any(name == OURS for name, _ in await self._stream.initial_metadata())

    async def _send(self) -> None:
        while True:
            while self._answers:
                await self._stream.send(self._answers.popleft())
            self._wake.clear()
            await self._wake.wait()

    def __repr__(self) -> str:
        return f"<job stream, {len(self._open)} open>"
