"""A connection of its own that listens to one channel of PostgreSQL, and is made again when it is lost.

Knows: LISTEN, the signs of a lost connection. Never knows: what is said.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from pillion.errors import ComponentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.components.postgresql_pool import PostgresPool

log = logging.getLogger("pillion.components.postgresql")

ALIVE_S = 15.0
"""How often the listening connection is asked whether it is alive."""
PAUSE_S = 1.0
"""The pause before a lost connection is made again."""


async def listen(pool: PostgresPool, channel: str, heard: Callable[[str], None], anew: Callable[[], None]) -> None:
    """Call `heard` with what is said on `channel`, and `anew` whenever listening begins (what was said before is
    missed), until cancelled.
    """
    while True:
        try:
            await _listen_once(pool, channel, heard, anew)
        except ComponentError as error:
            log.warning("what is said on %s is heard later: %s", channel, error)
        await asyncio.sleep(PAUSE_S)


async def _listen_once(
    pool: PostgresPool, channel: str, heard: Callable[[str], None], anew: Callable[[], None]
) -> None:
    lost = asyncio.Event()

    def said(connection: Any, process: int, channel: str, payload: str) -> None:
        heard(payload)

    def ended(connection: Any) -> None:
        lost.set()

    async with pool.connection() as connection:
        connection.add_termination_listener(ended)
        try:
            await connection.add_listener(channel, said)
            anew()
            while not lost.is_set():
                try:
                    async with asyncio.timeout(ALIVE_S):
                        await lost.wait()
                except TimeoutError:
                    await connection.execute("SELECT 1")
        finally:
            if not lost.is_set():
                connection.remove_termination_listener(ended)
                await connection.remove_listener(channel, said)
        raise ComponentError("postgresql: the server closed the connection")
