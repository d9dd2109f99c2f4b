"""Following files that grow: whole lines as they are written.

Knows: what the system offers to be told of a write: inotify(7) on Linux, kqueue(2) on macOS and BSD. Where there is
neither, or a network file system keeps quiet, it looks every `LOOK_S`.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import select
import selectors
import sys
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

LOOK_S = 2.0
_LINUX = sys.platform == "linux"
_IN_MODIFY = 0x2


class Tail:
    """One file, read from a position on."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        self._rest = b""

    def last(self, count: int | None) -> list[bytes]:
        """Return what is there, or its last `count` lines."""
        lines = self.more()
        return lines if count is None else lines[len(lines) - min(count, len(lines)) :]

    def more(self) -> list[bytes]:
        """Return the whole lines written since."""
        lines: list[bytes] = []
        while data := os.read(self.handle, 1 << 20):
            *whole, self._rest = (self._rest + data).split(b"\n")
            lines += whole
        return lines

    def close(self) -> None:
        os.close(self.handle)


def follow(tails: Sequence[Tail], stop: int) -> Iterator[tuple[Tail, list[bytes]]]:
    """Yield new lines until `stop`, a handle, can be read; what was written until then is yielded too."""
    watch = _Inotify(tails) if _LINUX else _Kqueue(tails) if hasattr(select, "kqueue") else None
    with contextlib.ExitStack() as stack, selectors.DefaultSelector() as waiting:
        waiting.register(stop, selectors.EVENT_READ)
        if watch is not None:
            stack.callback(watch.close)
            waiting.register(watch.handle, selectors.EVENT_READ)
        stopped = False
        while not stopped:
            for tail in tails:
                if lines := tail.more():
                    yield tail, lines
            stopped = any(key.fd == stop for key, _ in waiting.select(LOOK_S))
            if watch is not None:
                watch.forget()
        for tail in tails:
            if lines := tail.more():
                yield tail, lines


class _Inotify:
    """A handle that can be read after one of the files was written; `forget` makes it wait for the next time."""

    def __init__(self, tails: Sequence[Tail]) -> None:
        libc: Any = ctypes.CDLL(None)
        self.handle: int = libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
        for tail in tails:
            libc.inotify_add_watch(self.handle, os.fsencode(tail.path), _IN_MODIFY)

    def forget(self) -> None:
        with contextlib.suppress(BlockingIOError):
            os.read(self.handle, 1 << 16)

    def close(self) -> None:
        os.close(self.handle)


class _Kqueue:
    """The same on macOS and BSD."""

    def __init__(self, tails: Sequence[Tail]) -> None:
        system: Any = select
        self._queue = system.kqueue()
        self.handle: int = self._queue.fileno()
        flags = system.KQ_EV_ADD | system.KQ_EV_CLEAR
        kinds = {"filter": system.KQ_FILTER_VNODE, "flags": flags, "fflags": system.KQ_NOTE_WRITE}
        self._queue.control([system.kevent(tail.handle, **kinds) for tail in tails], 0)

    def forget(self) -> None:
        self._queue.control(None, 64, 0)

    def close(self) -> None:
        self._queue.close()
