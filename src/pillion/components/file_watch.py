"""Hears that somebody, in any process of this machine, writes to a file and its companions or to a folder.

On Linux that is the kernel's word (inotify(7)), through the C library; elsewhere, and where the kernel has no watch to
spare, a look at the files' times every `LOOK_S` seconds. Either says that a write happened, not that it is complete.
Knows: files' names. Never knows: what is in them.
"""

from __future__ import annotations

import asyncio
import ctypes
import logging
import os
import struct
import sys
from functools import partial
from typing import TYPE_CHECKING

from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

log = logging.getLogger("pillion.components.file_watch")

LOOK_S = 1.0
_MODIFY, _CLOSE_WRITE, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE, _OVERFLOW = 0x2, 0x8, 0x40, 0x80, 0x100, 0x200, 0x4000
"""<sys/inotify.h>"""
_WRITES = _MODIFY | _MOVED_TO | _CREATE | _DELETE
_COMPLETE = _CLOSE_WRITE | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
_HEAD = struct.Struct("iIII")
"""struct inotify_event: watch, mask, cookie, length of the name that follows."""


class _Watch:
    """A watch over files of `folder`; `names` None: all of them. `mask` is what is asked of the kernel."""

    def __init__(
        self, folder: str, names: frozenset[bytes] | None, mask: int, heard: Callable[[], None], kernel: bool
    ) -> None:
        self._folder, self._names, self._mask = folder, names, mask
        self._heard = heard
        self._kernel = kernel
        self._descriptor = -1
        self._tasks = Tasks(f"watch over {folder}")

    def open(self) -> None:
        """Begin; the folder exists."""
        if self._kernel:
            try:
                self._descriptor = _watched(self._folder, self._mask)
            except OSError as error:
                log.warning("no watch over %s (%s): looking every %g s", self._folder, error, LOOK_S)
        if self._descriptor >= 0:
            asyncio.get_running_loop().add_reader(self._descriptor, self._events)
        else:
            self._tasks.keep(partial(self._look, self._times()), "looking")

    async def close(self) -> None:
        descriptor, self._descriptor = self._descriptor, -1
        if descriptor >= 0:
            asyncio.get_running_loop().remove_reader(descriptor)
            os.close(descriptor)
        await self._tasks.close()

    def _events(self) -> None:
        try:
            data = os.read(self._descriptor, 65536)
        except BlockingIOError:
            return
        at, stirred = 0, False
        while at < len(data):
            _, mask, _, length = _HEAD.unpack_from(data, at)
            name = data[at + _HEAD.size : at + _HEAD.size + length].rstrip(b"\0")
            stirred = stirred or bool(mask & _OVERFLOW) or self._names is None or name in self._names
            at += _HEAD.size + length
        if stirred:
            self._heard()

    async def _look(self, before: dict[bytes, tuple[int, int]]) -> None:
        """Where there is no event to be had."""
        while True:
            await asyncio.sleep(LOOK_S)
            now = self._times()
            if now != before:
                before = now
                self._heard()

    def _times(self) -> dict[bytes, tuple[int, int]]:
        found = {}
        for name in self._listed() if self._names is None else self._names:
            try:
                state = os.stat(os.path.join(os.fsencode(self._folder), name))
            except OSError:
                continue
            found[name] = (state.st_mtime_ns, state.st_size)
        return found

    def _listed(self) -> list[bytes]:
        try:
            return os.listdir(os.fsencode(self._folder))
        except OSError:
            return []


class FileWatch(_Watch):
    """Calls `heard` on the loop after each burst of writes to `path` or to `path` plus one of `suffixes`."""

    def __init__(
        self,
        path: str,
        heard: Callable[[], None],
        *,
        suffixes: Sequence[str] = (),
        kernel: bool = sys.platform == "linux",
    ) -> None:
        folder, name = os.path.split(os.path.abspath(path))
        names = frozenset(os.fsencode(name + suffix) for suffix in ("", *suffixes))
        super().__init__(folder, names, _WRITES, heard, kernel)


class FolderWatch(_Watch):
    """Calls `heard` on the loop when files of `folder` came, went or were written and closed: seldom half a file."""

    def __init__(self, folder: str, heard: Callable[[], None], *, kernel: bool = sys.platform == "linux") -> None:
        super().__init__(os.path.abspath(folder), None, _COMPLETE, heard, kernel)


def _watched(folder: str, mask: int) -> int:
    """Return a descriptor that is readable after changes in `folder`; raises OSError."""
    library = ctypes.CDLL(None, use_errno=True)
    descriptor: int = library.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    if library.inotify_add_watch(descriptor, os.fsencode(folder), mask) < 0:
        number = ctypes.get_errno()
        os.close(descriptor)
        raise OSError(number, os.strerror(number))
    return descriptor
