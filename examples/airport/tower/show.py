"""What the tower shows: steps, a progress bar with the rate, a table, the verdict. Plain lines where no terminal is."""

from __future__ import annotations

import contextlib
import time
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn
from rich.table import Table

import flights
from tower.account import OUTCOMES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from tower.account import Account

EVERY_S = 2.0
"""How often a line of progress is written where no terminal is."""
console = Console(highlight=False, soft_wrap=True)


def step(text: str) -> None:
    console.print(f"[bold cyan]•[/] {text}")


def warn(text: str) -> None:
    console.print(f"[bold yellow]![/] {text}")


def fail(text: str) -> None:
    console.print(f"[bold red]✗[/] {text}")


@contextlib.contextmanager
def progress(total: int, started: float) -> Iterator[Callable[[int, int], None]]:
    """Yield a function that is told how many flights are on the board and how many are lost.

    `started`, by the monotonic clock, is when the rate is counted from.
    """

    def rate(done: int) -> str:
        return f"{done / max(time.monotonic() - started, 0.001):,.0f}/s"

    if not console.is_terminal:
        said = time.monotonic()

        def tell(shown: int, lost: int) -> None:
            nonlocal said
            done = shown + lost
            if time.monotonic() - said >= EVERY_S or done >= total:
                said = time.monotonic()
                console.print(f"  {done:,} of {total:,} flights, {lost} of them lost, {rate(done)}")

        yield tell
        return
    columns = (
        TextColumn("  flights"), BarColumn(), MofNCompleteColumn(), TextColumn("{task.fields[rate]}"),
        TextColumn("[red]{task.fields[lost]} lost[/]"),
    )  # fmt: skip
    with Progress(*columns, console=console) as bar:
        task = bar.add_task("", total=total, rate="", lost=0)
        yield lambda shown, lost: bar.update(task, completed=shown + lost, lost=lost, rate=rate(shown + lost))


def table(account: Account) -> None:
    """Show what became of the flights, by airport and by airline."""
    names = {airline["carrier"]: airline["name"] for airline in flights.reference("airlines")}
    names |= {airport["faa"]: airport["name"] for airport in flights.reference("airports")}
    shown = Table(box=None, pad_edge=False, header_style="bold")
    for column in ("", "", "flights", "on time", "late", "cancelled", "lost"):
        shown.add_column(column, justify="left" if not column else "right")
    for counts in (account.airports, account.carriers):
        for code, count in sorted(counts.items(), key=lambda item: -item[1]["flights"]):
            numbers = [f"{count.get(what, 0):,}" for what in ("flights", *OUTCOMES)]
            shown.add_row(code, names.get(code, "unknown"), *numbers)
        shown.add_section()
        shown.add_row()
    console.print(shown)
    rebooking = account.rebooking
    chased, not_named = account.of_aircraft("chased"), account.notes.get("aircraft not named", 0)
    console.print(
        f"aircraft: {len(account.aircraft):,} with {account.of_aircraft('flights'):,} flights, of which "
        f"{account.of_aircraft('flown'):,} departed, {account.of_aircraft('late_min'):,} minutes late; "
        f"{chased:,} chased; {not_named:,} flights name none"
    )
    console.print(
        f"cancelled: {rebooking['flights']:,} workflows for {rebooking['passengers']:,} passengers, "
        f"{rebooking['rebooked']:,} rebooked, {rebooking['refunded']:,} refunded; "
        f"{rebooking['refused']:,} flights could not be moved by their airline"
    )
    for title, found in (("cannot be true", account.reasons), ("odd, but true", account.notes)):
        console.print(f"{title}: " + (", ".join(f"{count:,} {what}" for what, count in found.items()) or "none"))
