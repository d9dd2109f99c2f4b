"""`pillion actors`: which actors are active beside the applications that run here."""

from __future__ import annotations

import json
import os
from typing import TYPE_CHECKING, Any

import click

from pillion.cli import find, places
from pillion.cli.tables import Column, show
from pillion.sidecar.presence import running

if TYPE_CHECKING:
    from pillion.sidecar.presence import Record

_PATIENCE_S = 10.0
"""A sidecar that hangs does not keep the others from being shown."""


@click.group("actors")
def actors() -> None:
    """Show the actors that are active."""


@actors.command("list")
@click.option("-a", "--app-id", default="", help="Only those of this application.")
@click.option("-t", "--type", "actor_type", default="", help="Only those of this type.")
@click.option("--all", "internal", is_flag=True, help="The sidecar's own types too: workflows and activities.")
@click.option("--json", "as_json", is_flag=True, help="JSON for machines.")
def list_command(app_id: str, actor_type: str, internal: bool, as_json: bool) -> None:
    """Show the hosted types and how many of their actors are active."""
    every = running(places.of(os.environ).home)
    records = [record for record in every if record.app_id == app_id or not app_id]
    if app_id and not records:
        raise find.not_running(app_id, [record.app_id for record in every])
    rows: list[dict[str, Any]] = []
    silent: list[click.ClickException] = []
    for record in records:
        try:
            rows += _of(record)
        except click.ClickException as error:  # the others are shown all the same
            silent.append(error)
    rows = [
        row
        for row in rows
        if (internal or not row["type"].startswith("dapr.internal.")) and (not actor_type or row["type"] == actor_type)
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    else:
        show(rows, _COLUMNS, empty="No actors are hosted here.")
    if silent:
        raise click.ClickException("; ".join(error.message for error in silent))


def _of(record: Record) -> list[dict[str, Any]]:
    """What one sidecar hosts. Raises `click.ClickException`."""
    status, body = find.ask(record, "GET", "/v1.0/metadata", timeout_s=_PATIENCE_S)
    if status != 200:
        raise click.ClickException(f"the sidecar of {record.app_id} answered {status}")
    runtime = json.loads(body).get("actorRuntime", {})
    return [
        {
            "appId": record.app_id, "httpPort": record.http_port, "type": each["type"],
            "active": each.get("count", 0), "status": runtime.get("runtimeStatus", ""),
            "placement": runtime.get("placement", ""),
        }
        for each in runtime.get("activeActors", [])
    ]  # fmt: skip


_COLUMNS = (
    Column("APP ID", lambda row: row["appId"]),
    Column("HTTP PORT", lambda row: row["httpPort"] or ""),
    Column("TYPE", lambda row: row["type"]),
    Column("ACTIVE", lambda row: row["active"]),
    Column("STATUS", lambda row: row["status"], tones={"RUNNING": "green"}),
    Column("PLACEMENT", lambda row: row["placement"].removeprefix("placement: ")),
)
