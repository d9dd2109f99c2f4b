"""One activation's hold on the state of its actor: what it wrote into the fence row, and how it stands there now.

Knows: who holds a fence. Never knows: stores (`state.py` takes and checks fences).
"""

from __future__ import annotations

import asyncio


class Fence:
    """`etag` is that of the row as this activation left it, "" before it took the fence. `lock` is held by whoever
    takes or moves it.
    """

    __slots__ = ("etag", "lock")

    def __init__(self) -> None:
        self.etag = ""
        self.lock = asyncio.Lock()
