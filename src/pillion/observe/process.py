"""Metrics of this process under the names that Prometheus client libraries share.

Knows: `/proc` where there is one, the standard library elsewhere. Several sidecars of one process show the same values.
"""

from __future__ import annotations

import gc
import os
import platform
import resource
import sys
import time
from pathlib import Path

from pillion.observe.metrics import head, number_text

_STAT = Path("/proc/self/stat")
_FDS = Path("/proc/self/fd")
_BOOT = Path("/proc/stat")
_STARTED = time.time()


def text() -> str:
    """Return the exposition of the process."""
    lines: list[str] = []
    usage = resource.getrusage(resource.RUSAGE_SELF)
    _add(lines, "process_cpu_seconds_total", "counter", "User and system CPU time in seconds.",
         round(usage.ru_utime + usage.ru_stime, 3))  # fmt: skip
    virtual, resident, started = _memory_and_start(usage.ru_maxrss)
    if virtual:
        _add(lines, "process_virtual_memory_bytes", "gauge", "Virtual memory in bytes.", virtual)
    _add(lines, "process_resident_memory_bytes", "gauge", "Resident memory in bytes.", resident)
    _add(lines, "process_start_time_seconds", "gauge", "Start of the process, in seconds since 1970.", started)
    if _FDS.is_dir():
        _add(lines, "process_open_fds", "gauge", "Open file descriptors.", len(os.listdir(_FDS)))
    soft = resource.getrlimit(resource.RLIMIT_NOFILE)[0]
    if soft != resource.RLIM_INFINITY:
        _add(lines, "process_max_fds", "gauge", "Most file descriptors that may be open.", soft)
    for name, key, about in (
        ("python_gc_objects_collected_total", "collected", "Objects that the collector freed."),
        ("python_gc_objects_uncollectable_total", "uncollectable", "Objects that the collector could not free."),
        ("python_gc_collections_total", "collections", "Runs of the collector."),
    ):
        lines.append(head(name, "counter", about))
        lines += [f'{name}{{generation="{at}"}} {row[key]}\n' for at, row in enumerate(gc.get_stats())]
    major, minor, patch = sys.version_info[:3]
    version = f'version="{platform.python_version()}",major="{major}",minor="{minor}",patchlevel="{patch}"'
    name = "python_info"
    lines.append(head(name, "gauge", "The Python that runs this."))
    lines.append(f'{name}{{implementation="{platform.python_implementation()}",{version}}} 1\n')
    return "".join(lines)


def _add(lines: list[str], name: str, kind: str, about: str, value: float) -> None:
    lines.append(f"{head(name, kind, about)}{name} {number_text(value)}\n")


def _memory_and_start(most_kib: int) -> tuple[int, int, float]:
    """Return virtual and resident bytes and the time of the start; without `/proc` what is nearest to them."""
    try:
        # proc(5): the fields after the name in parentheses, of which 20 is the start, 21 and 22 are the memory.
        fields = _STAT.read_text().rpartition(")")[2].split()
        booted = next(int(line.split()[1]) for line in _BOOT.read_text().splitlines() if line.startswith("btime"))
        started = booted + int(fields[19]) / os.sysconf("SC_CLK_TCK")
        return int(fields[20]), int(fields[21]) * os.sysconf("SC_PAGE_SIZE"), started
    except (OSError, ValueError, IndexError, StopIteration):
        scale = 1 if sys.platform == "darwin" else 1024
        return 0, most_kib * scale, _STARTED
