"""Many callers, few questions: what is asked while a question is under way goes together into the next one.

Knows: futures and the order of things. Never knows: what is asked, or whom.
"""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Generic, TypeVar

from pillion.errors import ComponentError
from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

log = logging.getLogger("pillion.components.gathered")

Key = TypeVar("Key")
Answer = TypeVar("Answer")

MAX_WAITING = 8192


class Gathered(Generic[Key, Answer]):
    """`ask` gets up to `most` keys and returns one answer for each, in order; at most `parallel` run at a time.

    A question is never joined after it was sent: an answer is no older than its call. When `ask` raises a
    `ComponentError`, every caller of that question gets one; so they do when it fails otherwise, which is logged.
    """

    def __init__(
        self,
        owner: str,
        ask: Callable[[list[Key]], Awaitable[Sequence[Answer]]],
        *,
        parallel: int = 2,
        most: int = 256,
    ) -> None:
        self._ask = ask
        self._parallel = parallel
        self._most = most
        self._tasks = Tasks(owner)
        self._waiting: deque[tuple[Key, asyncio.Future[Answer]]] = deque()
        self._asking = 0

    def get(self, key: Key) -> asyncio.Future[Answer]:
        """Return the future answer; raises `ComponentError` when too many wait."""
        if len(self._waiting) >= MAX_WAITING:
            raise ComponentError("too many requests are waiting for the store")
        future: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()
        self._waiting.append((key, future))
        if self._asking < self._parallel and self._asking * self._most < len(self._waiting):
            self._asking += 1
            self._tasks.start(self._work(), "questions")
        return future

    async def _work(self) -> None:
        """Ask until nobody waits. It starts after the current turn of the loop, so all calls of a turn go together."""
        calls: list[tuple[Key, asyncio.Future[Answer]]] = []
        try:
            while self._waiting:
                count = min(len(self._waiting), self._most)
                calls = [call for call in (self._waiting.popleft() for _ in range(count)) if not call[1].done()]
                if calls:
                    await self._question(calls)
                calls = []
        finally:
            self._asking -= 1
            _refuse(calls, "the store was closed")

    async def _question(self, calls: list[tuple[Key, asyncio.Future[Answer]]]) -> None:
        try:
            answers = await self._ask([key for key, _ in calls])
            for (_, future), answer in zip(calls, answers, strict=True):
                if not future.done():
                    future.set_result(answer)
        except ComponentError as error:
            _refuse(calls, str(error), error)
        except Exception as error:
            log.exception("%s: a question failed in a way that is not expected", self._tasks.owner)
            _refuse(calls, f"the store could not be asked: {type(error).__name__}", error)

    async def close(self) -> None:
        await self._tasks.close()
        _refuse(list(self._waiting), "the store was closed")
        self._waiting.clear()

    def __repr__(self) -> str:
        return f"<Gathered: {len(self._waiting)} waiting, {self._asking} questions under way>"


def _refuse(calls: Sequence[tuple[Key, asyncio.Future[Answer]]], why: str, cause: BaseException | None = None) -> None:
    for _, future in calls:
        if not future.done():
            error = ComponentError(why)
            error.__cause__ = cause
            future.set_exception(error)
