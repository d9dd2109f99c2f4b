"""`pillion mcpservers`: the MCP servers that the files of a folder describe (spec `runtime.md` 8.4).

Knows: which folder is meant, the columns. Never knows: whether a server can be reached; nothing is asked of one.
"""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from pillion.cli import places, say
from pillion.cli.tables import Column, show
from pillion.errors import ConfigError
from pillion.kinds.mcp import endpoint_of
from pillion.kinds.resources import MCPServerResource
from pillion.sidecar import load

if TYPE_CHECKING:
    from collections.abc import Sequence


@click.command("mcpservers")
@click.option("--resources-path", multiple=True, metavar="FOLDER",
              help="Folder of resources; may be repeated. Default: that of `pillion init`.")  # fmt: skip
@click.option("-n", "--name", default="", help="Only this one.")
@click.option("-o", "--output", type=click.Choice(["list", "json", "yaml"]), default="list", help="Output format.")
@click.option("--json", "as_json", is_flag=True, help="The same as -o json.")
def mcpservers(resources_path: Sequence[str], name: str, output: str, as_json: bool) -> None:
    """Show the MCP servers that resource files describe, for whichever application they are."""
    rows = [row for row in _rows(resources_path) if not name or row["name"] == name]
    if as_json or output == "json":
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
    elif output == "yaml":
        import yaml

        click.echo(yaml.safe_dump(rows, sort_keys=False, allow_unicode=True), nl=False)
    else:
        show(rows, _COLUMNS, empty="No MCP servers are described here.")


def _rows(folders: Sequence[str]) -> list[dict[str, Any]]:
    """Read the files, and say what is wrong with them. A server whose endpoint is wrong is left out, too."""
    if not folders:
        default = places.of(os.environ).components
        folders = [str(default)] if default.is_dir() else []
    try:
        found, warnings = load.read([str(Path(folder).expanduser()) for folder in folders])
    except load.Unreadable as error:
        raise click.ClickException(str(error)) from error
    rows = []
    for resource in found:
        if not isinstance(resource, MCPServerResource):
            continue
        try:
            transport, target = endpoint_of(resource)
        except ConfigError as error:
            warnings.append(str(error))
            continue
        rows.append({
            "name": resource.name, "namespace": resource.namespace, "transport": transport, "url": target,
            "scopes": list(resource.scopes),
        })  # fmt: skip
    for warning in warnings:
        say.warning(warning)
    return rows


_COLUMNS = (
    Column("NAMESPACE", lambda row: row["namespace"]),
    Column("NAME", lambda row: row["name"]),
    Column("TRANSPORT", lambda row: row["transport"]),
    Column("URL", lambda row: row["url"]),
    Column("SCOPES", lambda row: ",".join(row["scopes"])),
)
"""Files do not tell when a resource was created: the reference's last two columns are blank here, and so left out."""
