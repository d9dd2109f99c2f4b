"""Many operations of a store that has no bulk of its own: some of them at the same time.

Knows: how many, and which error is told. Never knows: what the operations are.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

from pillion.errors import ComponentError, EtagInvalid, EtagMismatch

if TYPE_CHECKING:
    from collections.abc import Sequence

PARALLEL = 100
"""Single operations in flight for one bulk request."""


async def gather(work: Any, requests: Sequence[Any], limit: int) -> list[Any]:
    """Run `work` over `requests`, at most `limit` at once, answers in order; the first error ends the rest."""
    if len(requests) == 1:
        return [await work(requests[0])]
    slots = asyncio.Semaphore(limit)

    async def one(request: Any) -> Any:
        async with slots:
            return await work(request)

    try:
        async with asyncio.TaskGroup() as group:
            tasks = [group.create_task(one(request)) for request in requests]
    except* ComponentError as errors:
        raise _leaf(errors) from errors
    return [task.result() for task in tasks]


async def each(work: Any, requests: Sequence[Any]) -> None:
    """Run a write for every request and let all of them end before the first error is raised, ETag conflicts first."""
    slots = asyncio.Semaphore(PARALLEL)

    async def one(request: Any) -> BaseException | None:
        async with slots:
            try:
                await work(request)
            except ComponentError as error:
                return error
        return None

    failures = [error for error in await asyncio.gather(*map(one, requests)) if error is not None]
    if failures:
        raise next((e for e in failures if isinstance(e, (EtagMismatch, EtagInvalid))), failures[0])


def _leaf(errors: BaseExceptionGroup[ComponentError]) -> ComponentError:
    first = errors.exceptions[0]
    return _leaf(first) if isinstance(first, BaseExceptionGroup) else first
