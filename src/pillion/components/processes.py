"""Is that process still the one it was? Process numbers are used again; number, start and place together are not.

Knows: `/proc` (proc(5)) and, where there is none, signal 0. Never knows: who asks.
"""

from __future__ import annotations

import functools
import os
import platform
import re
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True, slots=True)
class Process:
    """`started` is the kernel's start time as text, empty where the system does not tell it. `place` names the running
    system and the space of process numbers within it: a number from another place says nothing here.
    """

    pid: int
    started: str
    place: str


def this_process() -> Process:
    """Return the identity of the running process; not kept, since a fork changes it."""
    pid = os.getpid()
    return Process(pid, _started(pid) or "", _place())


def alive(process: Process) -> bool | None:
    """Tell whether `process` runs; None when that cannot be told from here."""
    if process.place != _place() or process.pid <= 0 or os.name != "posix":
        return None
    started = _started(process.pid)
    if started is not None and process.started:
        return started == process.started
    try:
        os.kill(process.pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return None if process.started else True


def _started(pid: int) -> str | None:
    """Return field 22 of /proc/PID/stat, clock ticks from boot to the process's start; None without such a file. A
    zombie (state Z) has ended: "".
    """
    try:
        text = Path(f"/proc/{pid}/stat").read_text(encoding="ascii", errors="replace")
    except OSError:
        return None if not os.path.exists("/proc/self/stat") else ""
    fields = text[text.rindex(")") + 2 :].split()  # the name in brackets may hold blanks and brackets
    return "" if fields[0] in "ZX" else fields[19]


@functools.cache
def _place() -> str:
    try:
        boot = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        space = re.sub(r"\D", "", os.readlink("/proc/self/ns/pid"))
    except OSError:
        return platform.node()
    return f"{boot}/{space}"
