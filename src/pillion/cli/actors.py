"""`pillion actors`: which actors are active beside the applications that run here."""

from __future__ import annotations

import json
import os
from typing import Any

import click

from pillion.cli import find, places
from pillion.cli.tables import Column, show
from pillion.sidecar.presence import running


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
    records = [find.one(app_id)] if app_id else running(places.of(os.environ).home)
    rows: list[dict[str, Any]] = []
    for record in records:
        status, body = find.ask(record, "GET", "/v1.0/metadata")
        if status != 200:
            raise click.ClickException(f"the sidecar of {record.app_id} answered {status}")
        runtime = json.loads(body).get("actorRuntime", {})
        rows += [
            {
                "appId": record.app_id, "type": each["type"], "active": each.get("count", 0),
                "status": runtime.get("runtimeStatus", ""), "placement": runtime.get("placement", ""),
            }
            for each in runtime.get("activeActors", [])
        ]  # fmt: skip
    rows = [
        row
        for row in rows
        if (internal or not row["type"].startswith("dapr.internal.")) and (not actor_type or row["type"] == actor_type)
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    show(
        rows,
        (
            Column("APP ID", lambda row: row["appId"]),
            Column("TYPE", lambda row: row["type"]),
            Column("ACTIVE", lambda row: row["active"]),
            Column("STATUS", lambda row: row["status"], tones={"RUNNING": "green"}),
            Column("PLACEMENT", lambda row: row["placement"].removeprefix("placement: ")),
        ),
        empty="No actors are hosted here.",
    )
