"""What the kits of all components ask of a component's life.

Knows: `open`, `ping` and `close` (`kinds.component.Component`). Never knows: what a component does.
"""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, TypeVar

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from contextlib import AbstractAsyncContextManager

    from pillion.kinds.component import Component

C = TypeVar("C", bound="Component")


@asynccontextmanager
async def opened(made: AbstractAsyncContextManager[C]) -> AsyncIterator[C]:
    """Open what `made` gives, and close it whatever happens."""
    async with made as component:
        try:
            await component.open()
            yield component
        finally:
            await component.close()


async def closes_at_any_time(make: Callable[[], AbstractAsyncContextManager[Component]]) -> None:
    """`close` without `open`, and twice after it; `ping` answers in between."""
    async with make() as component:
        await component.close()
    async with make() as component:
        await component.open()
        await component.ping()
        await component.close()
        await component.close()
