"""`pillion logs`: what an application and its sidecar have written.

Knows: which files a run leaves (spec `runtime.md` 8.3). An application that was run by itself wrote to its terminal,
not to a file; of it there is the sidecar's log.
"""

from __future__ import annotations

import os
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

import click

from pillion.cli import find, places, say, tail
from pillion.cli.output import prefix
from pillion.sidecar import presence

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillion.sidecar.presence import Record

_FOR_EVER_S = 1e8
_PARTS = {"app": "APP", "sidecar": "SIDECAR"}


@click.command("logs")
@click.argument("id", required=False, metavar="[APP-ID]")
@click.option("-a", "--app-id", help="The application.")
@click.option("-f", "--follow", is_flag=True, help="Go on as lines are written, until the application has ended.")
@click.option("-n", "--tail", "count", type=click.IntRange(0), help="Only the last lines of each log.")
@click.option("--only", type=click.Choice(list(_PARTS)), help="Only one of the two logs, without prefixes.")
def logs_command(id: str | None, app_id: str | None, follow: bool, count: int | None, only: str | None) -> None:
    """Show the logs of an application and its sidecar, also of one that has ended."""
    wanted = app_id or id
    if wanted is None:
        raise click.UsageError("name the application: pillion logs -a orders")
    record, paths = _logs_of(wanted, only)
    tails = {tail.Tail(path): part for part, path in paths.items()}
    number = {"app": 0, "sidecar": 1}
    lead = {part: b"" if only else prefix(f"{_PARTS[part]} - {wanted}", number[part], coloured=say.coloured(1))
            for part in paths}  # fmt: skip
    try:
        for one, part in tails.items():
            _print(lead[part], one.last(count))
        if follow and record is not None:
            for one, lines in tail.follow(list(tails), _gone(record)):
                _print(lead[tails[one]], lines)
    finally:
        for one in tails:
            one.close()


def _logs_of(app_id: str, only: str | None) -> tuple[Record | None, dict[str, Path]]:
    """Return the record of an application, if it runs, and the logs there are: the sidecar's first."""
    here = places.of(os.environ)
    running = presence.running(here.home)
    record = next((record for record in reversed(running) if record.app_id == app_id), None)
    if record is not None:
        said = {"sidecar": record.sidecar_log, "app": record.app_log}
        paths = {part: Path(text) for part, text in said.items() if text and Path(text).is_file()}
    else:
        folders = [here.logs, Path.cwd() / ".dapr" / "logs"]
        paths = _last_of(app_id, folders)
        if not paths:
            raise find.not_running(app_id, [record.app_id for record in running])
        say.note(f"{app_id} is not running; its last logs follow")
    if only:
        paths = {part: path for part, path in paths.items() if part == only}
    if record is not None and not record.app_log and record.app_pid and only != "sidecar":
        say.note(f"{app_id} writes to the terminal it was started in (pid {record.app_pid}), not to a file")
    if not paths:
        raise click.ClickException(f"there is no log of {app_id} to show")
    return record, paths


def _last_of(app_id: str, folders: Sequence[Path]) -> dict[str, Path]:
    """Return the newest logs of an application that has ended."""
    newest: dict[str, Path] = {}
    for part, word in (("sidecar", "daprd"), ("app", "app")):
        found = [path for folder in folders for path in folder.glob(f"*_{word}_*.log")]
        mine = [path for path in found if path.name.rsplit("_", 2)[0] == app_id]
        if mine:
            newest[part] = max(mine, key=lambda path: path.name.rsplit("_", 1)[1])
    return newest


def _gone(record: Record) -> int:
    """Return a handle that can be read once the sidecar has ended."""
    read, write = os.pipe()

    def wait() -> None:
        presence.wait_gone(record, places.of(os.environ).home, _FOR_EVER_S)
        os.close(write)

    threading.Thread(target=wait, daemon=True).start()
    return read


def _print(lead: bytes, lines: Sequence[bytes]) -> None:
    sys.stdout.buffer.write(b"".join(lead + line + b"\n" for line in lines))
    sys.stdout.buffer.flush()
