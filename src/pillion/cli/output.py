"""Output of many sources on one console and into files.

Knows: lines, prefixes, colour codes, log files. Never knows: where applications and sidecars come from. One thread
does all reading and writing: a terminal that is held (Ctrl-S, a pager) holds the applications that write, as it would
without us, and never the sidecars, whose lines wait in a queue with a bound.
"""

from __future__ import annotations

import contextlib
import logging
import os
import re
import select
import selectors
import threading
from collections import deque
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from pillion.errors import ConfigError
from pillion.observe import logs

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

LONGEST_LINE = 1 << 16
"""Bytes; a longer line is cut into several."""
QUEUE = 10_000
"""Lines of sidecars that wait to be written; more are counted and dropped."""
_CODES = re.compile(rb"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]*(?:\x07|\x1b\\)|[@-Z\\^_])")
"""Control sequences of ECMA-48: CSI, OSC and the two-byte ones."""
_LEVEL_COLOURS = {logging.WARNING: 33, logging.ERROR: 31, logging.CRITICAL: 31}
_PALETTE = (36, 35, 33, 34, 32, 96, 95, 93, 94, 92)


def without_colour(text: bytes) -> bytes:
    """Return text without control sequences of terminals."""
    return _CODES.sub(b"", text) if b"\x1b" in text else text


class Lines:
    """Bytes in, whole lines out, without their ends; the last one may lack its end."""

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> list[bytes]:
        """Take what was read, return the lines that it completes."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        while len(self._rest) > LONGEST_LINE:
            lines.append(self._rest[:LONGEST_LINE])
            self._rest = self._rest[LONGEST_LINE:]
        return [line.removesuffix(b"\r") for line in lines]

    def end(self) -> list[bytes]:
        """Return the line that never ended."""
        rest, self._rest = self._rest, b""
        return [rest] if rest else []


def prefix(label: str, number: int, *, coloured: bool) -> bytes:
    """Return what stands before each line on the console: `== APP - orders == `; `number` chooses the colour."""
    text = f"== {label} == ".encode()
    return b"\x1b[%dm%s\x1b[0m" % (_PALETTE[number % len(_PALETTE)], text) if coloured else text


@dataclass(slots=True)
class Sink:
    """Where lines of one source go. `console` is a file descriptor, -1 for none; `path` a file to append to."""

    prefix: bytes = b""
    console: int = -1
    path: Path | None = None
    console_level: int = logging.NOTSET
    file_level: int = logging.NOTSET
    """The least levels of log records for each."""
    _file: int = field(default=-1, repr=False)

    def open(self) -> None:
        """Open the file and its folder. Raises `ConfigError`."""
        if self.path is None:
            return
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = os.open(self.path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o644)
        except OSError as error:
            what = f"the log cannot be written: {error.strerror}"
            raise ConfigError(
                what, where=str(self.path), mend="send the logs to the console, or mend the folder"
            ) from error

    def write(self, lines: list[bytes], *, console: bool = True, file: bool = True) -> None:
        """Write whole lines; an output that fails is left alone from then on."""
        if console and self.console >= 0:
            whole = b"".join(self.prefix + line + b"\n" for line in lines)
            if not _write(self.console, whole):
                self.console = -1
        if file and self._file >= 0:
            whole = b"".join(without_colour(line) + b"\n" for line in lines)
            if not _write(self._file, whole):
                notice = f"the log {self.path} cannot be written any more".encode()
                self.close()
                self.write([notice], file=False)

    def close(self) -> None:
        """Close the file; may be called again."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1


def _write(handle: int, data: bytes) -> bool:
    view = memoryview(data)
    while view:
        try:
            view = view[os.write(handle, view) :]
        except BlockingIOError:  # somebody made the terminal non-blocking
            select.select([], [handle], [])
        except OSError:
            return False
    return True


class Output:
    """The thread, and what it reads: pipes of applications, and lines that sidecars log."""

    def __init__(self) -> None:
        self._waiting = selectors.DefaultSelector()
        self._woken, self._wake = os.pipe()
        for handle in (self._woken, self._wake):
            os.set_blocking(handle, False)
        self._waiting.register(self._woken, selectors.EVENT_READ)
        self._logged: deque[tuple[Sink, bytes, bool, bool]] = deque()
        self._dropped = 0
        self._sinks: list[Sink] = []
        self._closing = threading.Event()
        self._thread = threading.Thread(target=self._run, name="output", daemon=True)

    def pipe(self, sink: Sink) -> int:
        """Return the writing end of a new pipe whose lines go to `sink`. Only before `start`. Raises `ConfigError`."""
        self.adopt(sink)
        read, write = os.pipe()
        os.set_blocking(read, False)
        self._waiting.register(read, selectors.EVENT_READ, (sink, Lines()))
        return write

    def adopt(self, sink: Sink) -> None:
        """Open a sink; it is closed with the output. Raises `ConfigError`."""
        sink.open()
        self._sinks.append(sink)

    def start(self) -> None:
        """Start reading."""
        self._thread.start()

    def log(self, sink: Sink, line: bytes, *, console: bool = False, file: bool = False) -> None:
        """Have a line written soon. Never waits, from any thread."""
        if len(self._logged) >= QUEUE:
            self._dropped += 1
            return
        self._logged.append((sink, line, console, file))
        with contextlib.suppress(BlockingIOError, OSError):
            os.write(self._wake, b".")

    def close(self, patience_s: float = 2.0) -> None:
        """Write what is there, then end. A pipe that somebody still holds open is not waited for."""
        self._closing.set()
        with contextlib.suppress(BlockingIOError):
            os.write(self._wake, b".")
        self._thread.join(patience_s)  # a terminal that is held must not hold the end
        if self._thread.is_alive():
            return
        for key in list(self._waiting.get_map().values()):
            os.close(key.fd)
        os.close(self._wake)
        self._waiting.close()
        for sink in self._sinks:
            sink.close()

    def _run(self) -> None:
        while True:
            closing = self._closing.is_set()
            ready = self._waiting.select(0 if closing else None)
            for key, _ in ready:
                if key.data is None:
                    with contextlib.suppress(BlockingIOError):
                        os.read(self._woken, 4096)
                else:
                    self._copy(key.fd, *key.data)
            self._write_logged()
            if closing and not any(key.data for key, _ in ready):
                return

    def _copy(self, handle: int, sink: Sink, lines: Lines) -> None:
        data = os.read(handle, 1 << 16)
        whole = lines.feed(data) if data else lines.end()
        if whole:
            sink.write(whole)
        if not data:
            self._waiting.unregister(handle)
            os.close(handle)

    def _write_logged(self) -> None:
        while self._logged:
            sink, line, console, file = self._logged.popleft()
            sink.write(line.split(b"\n"), console=console, file=file)
            if self._dropped and not self._logged:
                dropped, self._dropped = self._dropped, 0
                sink.write([f"{dropped} lines were logged faster than they could be written, and dropped".encode()])


class SidecarLog(logging.Handler):
    """Log records of all sidecars of the process, each to the sink of its application.

    `sinks` has the application's id as key; "" takes what belongs to none.
    """

    def __init__(self, output: Output, sinks: Mapping[str, Sink], *, as_json: bool, coloured: bool) -> None:
        super().__init__()
        self._output, self._sinks = output, sinks
        whole: logging.Formatter = logs.JsonFormatter("localhost") if as_json else logs.TextFormatter("localhost")
        self._for_file = whole
        self._for_console = whole if as_json else ShortFormatter(coloured=coloured)

    def emit(self, record: logging.LogRecord) -> None:
        sink = self._sinks.get(logs.app_id.get()) or self._sinks.get("")
        if sink is None:
            return
        # API logs are a switch of their own, whatever the level (spec `runtime.md` 1.6).
        level = logging.CRITICAL if record.name.startswith("pillion.api.") else record.levelno
        if sink.console >= 0 and level >= sink.console_level:
            self._output.log(sink, _bytes(self._for_console, record), console=True)
        if sink.path is not None and level >= sink.file_level:
            self._output.log(sink, _bytes(self._for_file, record), file=True)


def _bytes(formatter: logging.Formatter, record: logging.LogRecord) -> bytes:
    return formatter.format(record).encode("utf-8", "replace")


class ShortFormatter(logging.Formatter):
    """For people at a terminal: time of day, level, message, and what was said besides."""

    def __init__(self, *, coloured: bool) -> None:
        super().__init__(datefmt="%H:%M:%S")
        self._coloured = coloured

    def format(self, record: logging.LogRecord) -> str:
        level = f"{record.levelname.lower():<8}"
        colour = _LEVEL_COLOURS.get(record.levelno)
        if colour and self._coloured:
            level = f"\x1b[{colour}m{level}\x1b[0m"
        said = getattr(record, "fields", None) or {}
        tail = "".join(f"  {name}={value}" for name, value in said.items())
        text = f"{self.formatTime(record, self.datefmt)} {level} {record.getMessage()}{tail}"
        if record.exc_info and record.exc_info[0] is not None:
            text += "\n" + self.formatException(record.exc_info)
        return text
