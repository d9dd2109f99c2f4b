"""Ports for whatever a test starts: the one place where tests, their helpers and the benchmarks get them.

Nobody else has them, neither another worker or run of the tests nor an outgoing connection, so what is started later,
or killed and started again, finds its port free. `pillion run` itself chooses from other ones (`cli/ports.py`), and no
default of any program here lies among them.
"""

from __future__ import annotations

import errno
from typing import TYPE_CHECKING, TypeVar

from pillion.cli.port_blocks import SIZE, PortBlocks, ephemeral_from

if TYPE_CHECKING:
    from collections.abc import Callable

T = TypeVar("T")
_FIRST, _END = 12_000, 20_000


def _blocks() -> PortBlocks:
    """Below the ephemeral range, unless somebody has set that so low that there is no such place."""
    end = min(_END, ephemeral_from())
    return PortBlocks(_FIRST, end if end >= _FIRST + 10 * SIZE else _END)


_BLOCKS = _blocks()


def free_port() -> int:
    """Return a TCP port that nobody uses and that no other test gets."""
    port = _BLOCKS.take()
    assert port is not None, f"no port of this machine is free: {_BLOCKS}"
    return port


def free_ports(count: int) -> list[int]:
    """Return several, all different."""
    return [free_port() for _ in range(count)]


def bound(bind: Callable[[int], T]) -> T:
    """Give `bind` a free port that it binds at once.

    A thread that starts a process just then gives it a copy of every socket, also of that with which the port was
    tried, until the process has become another program: so the port may be in use for some milliseconds.
    """
    while True:
        try:
            return bind(free_port())
        except OSError as error:
            if error.errno != errno.EADDRINUSE:
                raise
