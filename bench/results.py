"""bench/RESULTS.md as text: rows that are measured alone, or take too long for every run, stand beside the others.

Knows: the shape of the page. Never knows: how anything is measured.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Sequence

HEAD = (
    "| work | to reach, us | CPU, us | in floors | rate /s | p50 ms | p99 ms | RSS MB |",
    "| --- | ---: | ---: | ---: | ---: | ---: | ---: | ---: |",
)


@dataclass(slots=True)
class Page:
    """The parts that a run writes; `rows` are cells and `notes` sentences, both by the name of their row."""

    intro: str = ""
    rows: dict[str, Sequence[str]] = field(default_factory=dict)
    summary: str = ""
    notes: dict[str, str] = field(default_factory=dict)


def read(text: str, names: Sequence[str]) -> Page:
    """Return the parts of a page that was written before; rows that are none of `names` any more are left out."""
    before, found, after = text.partition("\n".join(HEAD))
    if not found:
        return Page()
    page = Page(before.strip())
    table, _, rest = after.strip().partition("\n\n")
    for line in table.splitlines():
        cells = [cell.strip() for cell in line.strip("|").split("|")]
        if cells[0] in names:
            page.rows[cells[0]] = cells
    page.summary, _, rest = rest.partition("\n\n")
    for line in rest.splitlines():
        for name in names:
            if line.startswith(f"- {name}: "):
                page.notes[name] = line.removeprefix(f"- {name}: ")
    return page


def part(before: Page, now: Page) -> Page:
    """Return the page after a run of some rows: all others stay, and so does what is said of the whole."""
    return Page(before.intro, before.rows | now.rows, before.summary, _notes(before, now))


def whole(before: Page, now: Page, long: Sequence[str]) -> Page:
    """Return the page after a run of everything but the rows of `long`, which stay as they were."""
    kept = {name: before.rows[name] for name in long if name in before.rows}
    return Page(now.intro, kept | now.rows, now.summary, _notes(before, now))


def _notes(before: Page, now: Page) -> dict[str, str]:
    return {name: note for name, note in before.notes.items() if name not in now.rows} | now.notes


def render(page: Page, names: Sequence[str], more: str) -> str:
    """Return the page with its rows in the order of `names`; `more` is what people wrote beneath."""
    listed = [name for name in names if name in page.rows]
    lines = [page.intro, "", *HEAD, *("| " + " | ".join(page.rows[name]) + " |" for name in listed)]
    lines += ["", page.summary, "", *(f"- {name}: {page.notes[name]}" for name in listed if name in page.notes)]
    return "\n".join([*lines, "", more.strip()]).rstrip() + "\n"
