"""Merged output: whole lines with prefixes on the console, plain ones in files."""

from __future__ import annotations

import logging
import os
import threading
from typing import TYPE_CHECKING

from hypothesis import given
from hypothesis import strategies as st

from pillion.cli import output
from pillion.cli.output import LONGEST_LINE, Lines, Output, SidecarLog, Sink, prefix, without_colour
from pillion.observe import logs

if TYPE_CHECKING:
    from pathlib import Path


@given(st.binary(max_size=300), st.lists(st.integers(0, 300), max_size=6))
def test_lines_do_not_depend_on_how_they_arrive(data: bytes, cuts: list[int]) -> None:
    """However the bytes are cut, the lines are those of the whole."""
    lines, found, at = Lines(), [], 0
    for cut in [*sorted(cuts), len(data)]:
        found += lines.feed(data[at:cut])
        at = max(at, cut)
    found += lines.end()
    expected = data.split(b"\n")
    rest = expected.pop()
    assert found == [line.removesuffix(b"\r") for line in expected] + ([rest] if rest else [])


def test_a_line_without_end_is_bounded() -> None:
    """What never ends a line is written in pieces."""
    lines = Lines()
    pieces = lines.feed(b"x" * (2 * LONGEST_LINE + 5))
    assert [len(piece) for piece in pieces] == [LONGEST_LINE, LONGEST_LINE]
    assert lines.end() == [b"xxxxx"]


def test_colours_are_taken_out() -> None:
    """Control sequences of ECMA-48 and links of terminals leave no trace."""
    text = b"\x1b[1;31mred\x1b[0m \x1b]8;;http://x\x1b\\link\x1b]8;;\x07 \x1b[2Kend \x1bMup"
    assert without_colour(text) == b"red link end up"


def test_prefix() -> None:
    """As the reference writes it, in the colour of its number where there is colour."""
    assert prefix("APP - orders", 0, coloured=False) == b"== APP - orders == "
    assert prefix("APP - orders", 0, coloured=True) == b"\x1b[36m== APP - orders == \x1b[0m"


def test_pipes_to_console_and_file(tmp_path: Path) -> None:
    """Two applications on one console, each in its own file, the colours on the console alone."""
    read, write = os.pipe()
    merged = Output()
    handles = [
        merged.pipe(Sink(b"== APP - a == ", write, tmp_path / "logs" / "a.log")),
        merged.pipe(Sink(b"== APP - b == ", -1, tmp_path / "logs" / "b.log")),
    ]
    merged.start()
    os.write(handles[0], b"\x1b[31mone\x1b[0m\ntwo")
    os.write(handles[1], b"other\n")
    for handle in handles:
        os.close(handle)
    merged.close()
    os.close(write)
    with os.fdopen(read, "rb") as console:
        assert console.read() == b"== APP - a == \x1b[31mone\x1b[0m\n== APP - a == two\n"
    assert (tmp_path / "logs" / "a.log").read_bytes() == b"one\ntwo\n"
    assert (tmp_path / "logs" / "b.log").read_bytes() == b"other\n"


def test_closing_does_not_wait_for_a_pipe_that_is_held(tmp_path: Path) -> None:
    """What is there is written; somebody who keeps the pipe open does not keep us."""
    merged = Output()
    handle = merged.pipe(Sink(path=tmp_path / "a.log"))
    merged.start()
    os.write(handle, b"last words\n")
    merged.close()
    assert (tmp_path / "a.log").read_bytes() == b"last words\n"
    os.close(handle)


def test_a_console_that_is_gone_does_not_stop_the_file(tmp_path: Path) -> None:
    """A closed pipe on the console's side is left alone from then on."""
    read, write = os.pipe()
    os.close(read)
    merged = Output()
    handle = merged.pipe(Sink(b"", write, tmp_path / "a.log"))
    merged.start()
    os.write(handle, b"one\n")
    os.close(handle)
    merged.close()
    os.close(write)
    assert (tmp_path / "a.log").read_bytes() == b"one\n"


def record(level: int, text: str, name: str = "pillion.sidecar") -> logging.LogRecord:
    return logging.LogRecord(name, level, __file__, 1, text, None, None)


def test_logs_go_to_their_application(tmp_path: Path) -> None:
    """The sidecar's context decides whose log it is; console and file have levels of their own, API logs none."""
    read, write = os.pipe()
    merged = Output()
    sinks = {
        "a": Sink(b"== a == ", write, tmp_path / "a.log", logging.WARNING, logging.INFO),
        "b": Sink(path=tmp_path / "b.log"),
    }
    for sink in sinks.values():
        merged.adopt(sink)
    handler = SidecarLog(merged, sinks, as_json=False, coloured=False)
    merged.start()
    with logs.of_app("a"):
        handler.emit(record(logging.DEBUG, "quiet"))
        handler.emit(record(logging.INFO, "told"))
        handler.emit(record(logging.WARNING, "loud"))
        handler.emit(record(logging.INFO, "called", "pillion.api.http"))
    with logs.of_app("b"):
        handler.emit(record(logging.DEBUG, "of b"))
    handler.emit(record(logging.ERROR, "of nobody"))
    merged.close()
    os.close(write)
    with os.fdopen(read) as console:
        shown = console.read().splitlines()
    assert [line.split()[-1] for line in shown] == ["loud", "called"]
    assert all(line.startswith("== a == ") for line in shown)
    written = (tmp_path / "a.log").read_text()
    assert "quiet" not in written
    assert [word in written for word in ("told", "loud", "called", "nobody")] == [True, True, True, False]
    assert 'msg="of b"' in (tmp_path / "b.log").read_text()


def test_a_held_terminal_holds_nobody(tmp_path: Path) -> None:
    """Lines of sidecars never wait: beyond the bound they are counted, and the count is told."""
    read, write = os.pipe()
    merged = Output()
    sink = Sink(b"", write)
    merged.adopt(sink)
    merged.start()
    size = output.QUEUE + 5000
    for _ in range(size):
        merged.log(sink, b"x" * 100, console=True)
    held: list[bytes] = []

    def drain() -> None:
        with os.fdopen(read, "rb") as console:
            held.extend(console.read().splitlines())

    reader = threading.Thread(target=drain)
    reader.start()
    merged.close(20)
    os.close(write)
    reader.join()
    *lines, last = held
    dropped = int(last.split()[0])
    assert last.endswith(b"and dropped")
    assert len(lines) + dropped == size
