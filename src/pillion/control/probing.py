"""Whether the process behind a broken connection is gone: its machine says that nobody listens at its address.

A process that was killed and a connection that was reset while both ends live look the same to a server. A machine
answers for its processes: it refuses connections to the port of one that is gone, and takes them for one that lives,
however busy or stopped that is. No answer says nothing.

Knows: TCP. Never knows: what follows.
"""

from __future__ import annotations

import asyncio

from pillion.net.h2_pool import split_address

TIMES_S = (0.0, 0.1, 0.4, 1.0)
"""Pauses before each try: a process that is being ended loses its connections one after the other."""
ANSWER_S = 1.0


async def refuses(address: str) -> bool:
    """Return whether connections to `host:port` are refused, as soon as that is so, within some seconds."""
    try:
        host, port = split_address(address)
    except ValueError:
        return False
    for pause_s in TIMES_S:
        await asyncio.sleep(pause_s)
        try:
            async with asyncio.timeout(ANSWER_S):
                _, writer = await asyncio.open_connection(host, port)
        except ConnectionRefusedError:
            return True
        except (OSError, TimeoutError):
            return False
        writer.close()
    return False
