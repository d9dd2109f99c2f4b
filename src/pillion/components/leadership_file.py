"""Leadership among the processes of one machine: a locked file.

Knows: `flock`, which the kernel drops when the process ends, however it ends. Never knows: what is led.
A stopped process keeps the lock: then nobody else leads either.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib
import json
import os
import threading
from typing import TYPE_CHECKING, Any

from pillion.errors import ComponentError

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from pillion.clock import Clock

fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None
APART = 1 << 20
"""Terms are so far apart that the versions one leader counts never reach the next one's, whatever the clock does."""
MAX_FILE = 4096
_Won = tuple[int, int, int]
"""The locked file, the term before, the new one."""


class FileLock:
    """A `Leadership` by the file `path`, which also keeps the last term."""

    def __init__(self, path: Path, clock: Clock) -> None:
        self.inherited = False
        self._path, self._clock = path, clock
        self._held: int | None = None
        self._closed = False

    async def open(self) -> None:
        """Raises `ComponentError` when there can be no such file."""
        if fcntl is None:
            raise ComponentError("leadership by a file needs a system with flock")
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        except OSError as error:
            raise ComponentError(f"{self._path}: {error.strerror}") from error

    def holds(self) -> bool:
        return self._held is not None

    def lost(self, tell: Callable[[str], None]) -> None:
        """Never: only this process can give the lock away."""

    async def elected(self) -> int:
        """Wait for the lock, in a thread of its own: nothing but `flock` itself tells when it is free, and a busy disk
        may take seconds over the new term.
        """
        loop = asyncio.get_running_loop()
        got: asyncio.Future[_Won] = loop.create_future()

        def settle(file: int | None, won: _Won | None, error: OSError | None) -> None:
            if won is None or got.cancelled() or self._closed:
                if file is not None:
                    os.close(file)
                if error is not None and not got.cancelled():
                    got.set_exception(ComponentError(f"{self._path}: {error.strerror}"))
            else:
                got.set_result(won)

        def wait() -> None:
            file, won, failure = None, None, None
            try:
                file = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
                fcntl.flock(file, fcntl.LOCK_EX)
                won = self._begin(file)
            except OSError as error:
                failure = error
            try:
                loop.call_soon_threadsafe(settle, file, won, failure)
            except RuntimeError:  # the loop is gone, and with it whoever wanted to lead
                if file is not None:
                    os.close(file)

        threading.Thread(target=wait, name="leadership", daemon=True).start()
        try:
            self._held, before, term = await got
        except asyncio.CancelledError:
            if got.done() and not got.cancelled() and got.exception() is None:  # won, when nobody wanted it any more
                os.close(got.result()[0])
            raise
        self.inherited = before > 0
        return term

    def _begin(self, file: int) -> _Won:
        """Write down a new term."""
        before = _term(os.read(file, MAX_FILE))
        term = max(before + APART, int(self._clock.now() * 1000))
        os.ftruncate(file, 0)
        os.pwrite(file, json.dumps({"term": term}).encode(), 0)
        os.fsync(file)
        return file, before, term

    async def close(self) -> None:
        self._closed = True
        if self._held is not None:
            with contextlib.suppress(OSError):
                os.close(self._held)
            self._held = None

    def __repr__(self) -> str:
        return f"<FileLock {self._path}{', held' if self._held is not None else ''}>"


def _term(content: bytes) -> int:
    """Return the last term; 0 for a new file. A file that was cut short was someone's all the same."""
    if not content.strip():
        return 0
    try:
        return max(1, int(json.loads(content)["term"]))
    except (ValueError, KeyError, TypeError):
        return 1
