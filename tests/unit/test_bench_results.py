"""The page of the benchmark keeps the rows that a run has not measured."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

BENCH = Path(__file__).parents[2] / "bench"
NAMES = ("floor", "state: get", "memory")
PAGE = """\
# What a request costs

Measured at commit 1.

| work | to reach, us | CPU, us | in floors | rate /s | p50 ms | p99 ms | RSS MB |
| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |
| floor |  | 7.0 | 1.0 | 1 | 1 | 1 | 20 |
| state: get | 30 | 14.0 | 2.0 | 1 | 1 | 1 | 40 |

ready in 1 ms.

- state: get: quick.

- By hand: a note.
"""
FLOOR, GET = ["floor", "", "7.0", "1.0", "1", "1", "1", "20"], ["state: get", "30", "14.0", "2.0", "1", "1", "1", "40"]
MEMORY = ["memory", "", "", "", "9", "1", "1", "117"]


@pytest.fixture(scope="module")
def results() -> Iterator[Any]:
    spec = importlib.util.spec_from_file_location("bench_results", BENCH / "results.py")
    assert spec is not None
    assert spec.loader is not None
    module = sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    yield module
    del sys.modules[spec.name]


def test_a_page_is_read_as_it_was_written(results: Any) -> None:
    page = results.read(PAGE, NAMES)
    assert (page.rows, page.notes) == ({"floor": FLOOR, "state: get": GET}, {"state: get": "quick."})
    assert results.render(page, NAMES, "- By hand: a note.") == PAGE


def test_a_row_that_is_measured_alone_takes_its_place(results: Any) -> None:
    """Nothing else changes; measured again, it changes alone, also with what is said of it."""
    now = results.Page("not this", {"memory": MEMORY}, "nor this", {"memory": "at commit 2."})
    page = results.part(results.read(PAGE, NAMES), now)
    text = results.render(page, NAMES, "- By hand: a note.")
    added = {"| memory |  |  |  | 9 | 1 | 1 | 117 |", "- memory: at commit 2."}
    assert [line for line in text.splitlines() if line not in added] == PAGE.splitlines()
    again = results.Page("", {"memory": [*MEMORY[:-1], "118"]}, "", {"memory": "at commit 3."})
    page = results.part(results.read(text, NAMES), again)
    assert (page.rows["memory"][-1], page.notes["memory"]) == ("118", "at commit 3.")
    assert (page.rows["state: get"], page.intro) == (GET, results.read(PAGE, NAMES).intro)


def test_a_whole_run_keeps_the_long_rows_alone(results: Any) -> None:
    """A row that is no more, and a note that a row has no more, go."""
    before = results.part(
        results.read(PAGE, NAMES), results.Page("", {"memory": MEMORY}, "", {"memory": "at commit 2."})
    )
    page = results.whole(before, results.Page("new", {"floor": FLOOR, "state: get": GET}, "sum"), ["memory"])
    assert (list(page.rows), page.notes, page.intro) == (
        ["memory", "floor", "state: get"], {"memory": "at commit 2."}, "new",
    )  # fmt: skip
    assert results.read("no page", NAMES) == results.Page()
    assert list(results.read(PAGE, NAMES[:1]).rows) == ["floor"]
