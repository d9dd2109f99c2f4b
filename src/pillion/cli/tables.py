"""Rows as a table that lines up, coloured where there is a terminal, and never cut to its width."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import click

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

_ENDLESS = 10_000


@dataclass(frozen=True, slots=True)
class Column:
    """A heading, how its values are had from a row, and the colours of some of them."""

    heading: str
    value: Callable[[Mapping[str, Any]], object]
    tones: Mapping[str, str] = field(default_factory=dict)


def show(rows: Sequence[Mapping[str, Any]], columns: Sequence[Column], *, empty: str) -> None:
    """Print the rows; a column without a value in any of them is left out. Without rows: the text `empty`."""
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    if not rows:
        click.echo(empty)
        return
    cells = [[_text(column.value(row)) for column in columns] for row in rows]
    shown = [index for index in range(len(columns)) if any(row[index] for row in cells)]
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for index in shown:
        table.add_column(columns[index].heading, no_wrap=True)
    for row in cells:
        table.add_row(*(Text(row[index], style=columns[index].tones.get(row[index], "")) for index in shown))
    width = Console(width=_ENDLESS).measure(table).maximum
    Console(highlight=False, markup=False, width=width, soft_wrap=True).print(table)


def _text(value: object) -> str:
    return "" if value is None else str(value)
