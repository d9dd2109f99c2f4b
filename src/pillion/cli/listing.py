"""`pillion list`: what runs on this machine, started by `pillion run` or as a bare sidecar.

Knows: the columns and names of the reference (spec `runtime.md` 8.4).
"""

from __future__ import annotations

import json
import os
import time
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any

import click

from pillion.cli import places, tables
from pillion.sidecar.presence import Record, running

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

COMMAND_WIDTH = 20


@dataclass(frozen=True, slots=True)
class Column:
    """One value of a row: its heading, its key in JSON and YAML, and how it is had. No heading: not in the table."""

    heading: str
    key: str
    value: Callable[[Record, float], Any]


def age(seconds: float) -> str:
    """Return a whole number of the largest unit that fits: `5s`, `3m`, `2h`, `4d`."""
    for unit, length in (("d", 86400), ("h", 3600), ("m", 60)):
        if seconds >= length:
            return f"{int(seconds // length)}{unit}"
    return f"{max(0, int(seconds))}s"


def _created(record: Record, _: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M.%S", time.localtime(record.created))


COLUMNS = (
    Column("APP ID", "appId", lambda record, _: record.app_id),
    Column("HTTP PORT", "httpPort", lambda record, _: record.http_port),
    Column("GRPC PORT", "grpcPort", lambda record, _: record.grpc_port),
    Column("APP PORT", "appPort", lambda record, _: record.app_port),
    Column("", "metricsEnabled", lambda record, _: record.metrics_enabled),
    Column("COMMAND", "command", lambda record, _: record.command),
    Column("AGE", "age", lambda record, now: age(now - record.created)),
    Column("CREATED", "created", _created),
    Column("DAPRD PID", "daprdPid", lambda record, _: record.pid),
    Column("CLI PID", "cliPid", lambda record, _: record.cli_pid),
    Column("APP PID", "appPid", lambda record, _: record.app_pid),
    Column("", "maxRequestBodySize", lambda record, _: record.max_body_size),
    Column("", "httpReadBufferSize", lambda record, _: record.read_buffer_size),
    Column("RUN_TEMPLATE_PATH", "runTemplatePath", lambda record, _: record.run_file),
    Column("APP_LOG_PATH", "appLogPath", lambda record, _: record.app_log),
    Column("DAPRD_LOG_PATH", "daprdLogPath", lambda record, _: record.sidecar_log),
    Column("RUN_TEMPLATE_NAME", "runTemplateName", lambda record, _: record.run_name),
)


@click.command("list")
@click.option("-o", "--output", type=click.Choice(["table", "json", "yaml"]), default="table", help="Output format.")
@click.option("--json", "as_json", is_flag=True, help="The same as -o json.")
def list_command(output: str, as_json: bool) -> None:
    """Show the sidecars that run on this machine."""
    found = running(places.of(os.environ).home)
    now = time.time()
    rows = [{column.key: column.value(record, now) for column in COLUMNS} for record in found]
    if as_json or output == "json":
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    elif output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(rows, sort_keys=False, allow_unicode=True), nl=False)
    else:
        tables.show(rows, TABLE, empty="No sidecars are running.")


def _cell(column: Column, row: Mapping[str, Any]) -> str:
    value = row[column.key]
    text = "" if value in (0, None) else str(value)
    if column.key == "command" and len(text) > COMMAND_WIDTH:
        return text[: COMMAND_WIDTH - 1] + "…"
    return text


TABLE = [tables.Column(column.heading, partial(_cell, column)) for column in COLUMNS if column.heading]
