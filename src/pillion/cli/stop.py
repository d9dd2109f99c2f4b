"""`pillion stop`: end what runs, and return when it is gone.

Knows: whom to tell. A run of one application and a bare sidecar get SIGTERM. One of several applications of a run file
shares its process with the others: its application gets SIGTERM, or its sidecar is asked to shut down, and the run ends
the rest of the pair.
"""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import TYPE_CHECKING

import click

from pillion.cli import find, places, say
from pillion.sidecar import presence

if TYPE_CHECKING:
    from pathlib import Path

    from pillion.sidecar.presence import Record

PATIENCE_S = 20.0
"""More than an application and a sidecar are given to end."""


@click.command()
@click.argument("ids", nargs=-1, metavar="[APP-ID]...")
@click.option("-a", "--app-id", "named", multiple=True, help="An application; may be repeated.")
@click.option("-f", "--run-file", metavar="FILE|FOLDER", help="All applications of a run file.")
def stop(ids: tuple[str, ...], named: tuple[str, ...], run_file: str | None) -> None:
    """Stop applications and their sidecars, and wait until they are gone."""
    home = places.of(os.environ).home
    wanted = [*ids, *named]
    if not wanted and run_file is None:
        raise click.UsageError("name the applications to stop, or a run file with -f")
    found = presence.running(home)
    chosen: list[Record] = []
    missing = []
    for app_id in wanted:
        matching = [record for record in found if record.app_id == app_id]
        chosen += matching
        if not matching:
            missing.append(find.not_running(app_id, [record.app_id for record in found]).message)
    if run_file is not None:
        chosen += _of_file(run_file, found)
    _tell(chosen, found)
    late = _wait(chosen, home)
    for record in chosen:
        if record in late:
            say.failure(f"{record.app_id} has not ended after {PATIENCE_S:g} s (pid {record.pid})")
        else:
            say.success(f"{record.app_id} has stopped")
    for text in missing:
        say.failure(text)
    if missing or late:
        raise click.exceptions.Exit(1)


def _of_file(run_file: str, found: list[Record]) -> list[Record]:
    from pillion.cli.run import run_file_path

    path = str(run_file_path(run_file))
    matching = [record for record in found if record.run_file == path]
    if not matching:
        raise click.ClickException(f"nothing of {path} is running")
    return matching


def _tell(chosen: list[Record], found: list[Record]) -> None:
    pids = {record.pid for record in chosen}
    for pid in sorted(pids):
        mates = [record for record in found if record.pid == pid]
        if all(record in chosen for record in mates):
            _signal(pid)
            continue
        for record in mates:
            if record not in chosen:
                continue
            if record.app_pid:
                _signal(record.app_pid, group=True)
            else:
                find.ask(record, "POST", "/v1.0/shutdown")


def _signal(pid: int, *, group: bool = False) -> None:
    with contextlib.suppress(ProcessLookupError):
        try:
            if group:
                os.killpg(pid, signal.SIGTERM)
            else:
                os.kill(pid, signal.SIGTERM)
        except PermissionError as error:
            raise click.ClickException(f"not permitted to stop process {pid}: it is another user's") from error


def _wait(chosen: list[Record], home: Path) -> list[Record]:
    """Wait until none of the sidecars is listed any more; return those that still are."""
    until = time.monotonic() + PATIENCE_S
    for record in chosen:
        if not presence.wait_gone(record, home, until - time.monotonic()):
            break
    keys = {(record.app_id, record.pid, record.created) for record in presence.running(home)}
    return [record for record in chosen if (record.app_id, record.pid, record.created) in keys]
