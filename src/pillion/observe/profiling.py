"""The profiling port: where this process spends its time and memory, and what it waits for, as plain text.

The paths are those of Go's pprof, so that habits and scripts carry over; the answers are text for people and for tools
that read collapsed stacks (`flamegraph.pl`, speedscope). Nothing runs until somebody asks: a profile samples the stacks
of all threads a hundred times a second, a heap report traces allocations for as long as it was asked to.
"""

from __future__ import annotations

import asyncio
import sys
import threading
import tracemalloc
from collections import Counter
from typing import TYPE_CHECKING

from pillion.api.call import parse_query
from pillion.api.render import text_response

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import FrameType

    from pillion.net.exchange import Headers, Request, Response

INTERVAL_S = 0.01
PROFILE_S, HEAP_S, LONGEST_S = 30.0, 5.0, 300.0
"""How long a profile and a heap report take when nothing is said, and at most."""
DEEPEST = 128
SHOWN = 100
"""Rows of a heap report."""
_FRAMES = 8
PREFIX = "/debug/pprof"
INDEX = f"""\
{PREFIX}/profile?seconds=30   CPU: collapsed stacks, "frame;frame;frame count", sampled every 10 ms
{PREFIX}/heap?seconds=5       memory: what was allocated and kept during that time, by place
{PREFIX}/goroutine            tasks and threads, and where they wait
"""


class ProfilingApi:
    """The `HttpService` of the profiling port. One profile and one heap report at a time: others get a 409."""

    def __init__(self) -> None:
        self._sampling = False
        self._tracing = False

    def streams(self, method: str, target: bytes, headers: Headers) -> bool:
        return False

    async def serve(self, request: Request) -> Response:
        path, _, query = request.target.partition(b"?")
        asked = dict(parse_query(query)) if query else {}
        try:
            match path.decode("latin-1").rstrip("/"):
                case "/debug/pprof":
                    return text_response(200, INDEX)
                case "/debug/pprof/profile":
                    return await self._profile(_seconds(asked, PROFILE_S))
                case "/debug/pprof/heap":
                    return await self._heap(_seconds(asked, HEAP_S))
                case "/debug/pprof/goroutine":
                    return text_response(200, "".join(tasks_text()))
                case _:
                    return text_response(404, "404 page not found\n")
        except ValueError as error:
            return text_response(400, f"{error}\n")

    async def _profile(self, seconds: float) -> Response:
        if self._sampling:
            return text_response(409, "a profile is being taken already\n")
        self._sampling = True
        ended = threading.Event()
        try:
            stacks = await asyncio.to_thread(sample, seconds, ended)
        finally:
            ended.set()  # the client went away: the thread need not go on
            self._sampling = False
        return text_response(200, "".join(f"{stack} {count}\n" for stack, count in stacks.most_common()))

    async def _heap(self, seconds: float) -> Response:
        if self._tracing or tracemalloc.is_tracing():
            return text_response(409, "allocations are being traced already\n")
        self._tracing = True
        tracemalloc.start(_FRAMES)
        try:
            await asyncio.sleep(seconds)
            report = await asyncio.to_thread(heap_text)
        finally:
            tracemalloc.stop()
            self._tracing = False
        return text_response(200, report)


def _seconds(asked: dict[str, str], usual: float) -> float:
    text = asked.get("seconds", "")
    try:
        seconds = float(text) if text else usual
    except ValueError:
        raise ValueError(f"seconds must be a number, not {text!r}") from None
    if not 0 < seconds <= LONGEST_S:
        raise ValueError(f"seconds must be more than 0 and at most {LONGEST_S:g}")
    return seconds


def sample(seconds: float, ended: threading.Event) -> Counter[str]:
    """Sample the stacks of all other threads until `ended` is set or the time is over; runs in a thread of its own."""
    mine = threading.get_ident()
    found: Counter[str] = Counter()
    names: dict[int, str] = {}
    for _ in range(max(1, round(seconds / INTERVAL_S))):
        if ended.wait(INTERVAL_S):
            break
        for ident, frame in sys._current_frames().items():
            if ident != mine:
                if ident not in names:
                    names = {thread.ident: thread.name for thread in threading.enumerate() if thread.ident is not None}
                found[";".join((names.get(ident, "thread"), *_collapsed(frame)))] += 1
    return found


def _collapsed(frame: FrameType | None) -> list[str]:
    """Return the functions of a stack, the outermost first."""
    names: list[str] = []
    while frame is not None and len(names) < DEEPEST:
        code = frame.f_code
        names.append(f"{frame.f_globals.get('__name__', code.co_filename)}.{code.co_qualname}".replace(";", ","))
        frame = frame.f_back
    return names[::-1]


def heap_text() -> str:
    """Return what is allocated since tracing began, largest first, with the line and its callers."""
    snapshot = tracemalloc.take_snapshot().filter_traces((tracemalloc.Filter(False, tracemalloc.__file__),))
    rows = snapshot.statistics("traceback")
    lines = [f"{sum(row.size for row in rows)} bytes in {sum(row.count for row in rows)} blocks\n"]
    for row in rows[:SHOWN]:
        where = " < ".join(f"{frame.filename}:{frame.lineno}" for frame in reversed(row.traceback))
        lines.append(f"{row.size:>12} {row.count:>8} {where}\n")
    return "".join(lines)


def tasks_text() -> Iterator[str]:
    """Return every task of this loop, then every thread, with the places where they are."""
    tasks = sorted(asyncio.all_tasks(), key=lambda task: task.get_name())
    yield f"{len(tasks)} tasks\n\n"
    for task in tasks:
        yield f"task {task.get_name()}\n"
        for frame in task.get_stack(limit=16):
            yield f"    {frame.f_code.co_filename}:{frame.f_lineno} {frame.f_code.co_qualname}\n"
        yield "\n"
    frames = sys._current_frames()
    threads = threading.enumerate()
    yield f"{len(threads)} threads\n\n"
    for thread in threads:
        yield f"thread {thread.name}{' (daemon)' if thread.daemon else ''}\n"
        for name in reversed(_collapsed(frames.get(thread.ident or 0))):
            yield f"    {name}\n"
        yield "\n"
