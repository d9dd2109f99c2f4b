"""Jobs as `pillion scheduler` shows them: tables, JSON, YAML. Never knows schedulers."""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING

import click

from pillion.cli import jobs, tables
from pillion.cli.listing import age

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pillion.kinds.jobs import Stored

OUTPUTS = ("short", "wide", "yaml", "json")


def show(found: Sequence[Stored], output: str) -> None:
    """Print jobs as one of `OUTPUTS`."""
    if output == "json":
        click.echo(json.dumps([jobs.document_of(stored) for stored in found], indent=2, ensure_ascii=False))
    elif output == "yaml":
        import yaml

        rows = [jobs.document_of(stored) for stored in found]
        click.echo(yaml.safe_dump(rows, sort_keys=False, allow_unicode=True), nl=False)
    else:
        now = time.time()
        columns = _wide(now) if output == "wide" else _short(now)
        tables.show([{"stored": stored} for stored in found], columns, empty="There are no such jobs.")


def _column(heading: str, value: Callable[[Stored], object], **tones: str) -> tables.Column:
    return tables.Column(heading, lambda row: value(row["stored"]), tones)


def _short(now: float) -> tuple[tables.Column, ...]:
    return (
        _column("NAME", lambda stored: jobs.short_name(stored.key)),
        _column("BEGIN", lambda stored: _when(stored.anchor, now)),
        _column("NEXT", lambda stored: _when(stored.next, now)),
        _column("COUNT", lambda stored: stored.count or ""),
        _column("LAST TRIGGER", lambda stored: _when(stored.last, now)),
        _column("STATE", _state, paused="yellow", retrying="red"),
    )


def _wide(now: float) -> tuple[tables.Column, ...]:
    return (
        _column("NAMESPACE", lambda stored: stored.key.namespace),
        _column("NAME", lambda stored: jobs.short_name(stored.key)),
        _column("BEGIN", lambda stored: jobs.rfc3339(stored.anchor)),
        _column("EXPIRATION", lambda stored: jobs.rfc3339(stored.expires)),
        _column("SCHEDULE", lambda stored: stored.job.schedule),
        _column("DUE TIME", lambda stored: stored.job.due_time),
        _column("TTL", lambda stored: stored.job.ttl),
        _column("REPEATS", lambda stored: stored.job.repeats),
        _column("NEXT", lambda stored: jobs.rfc3339(stored.next)),
        _column("COUNT", lambda stored: stored.count or ""),
        _column("LAST TRIGGER", lambda stored: jobs.rfc3339(stored.last)),
        _column("STATE", _state, paused="yellow", retrying="red"),
    )


def _state(stored: Stored) -> str:
    return "paused" if stored.paused else "retrying" if stored.attempts else ""


def _when(seconds: float | None, now: float) -> str:
    """How long ago, or how long until."""
    if seconds is None:
        return ""
    return f"{age(now - seconds)} ago" if seconds <= now else f"in {age(seconds - now)}"
