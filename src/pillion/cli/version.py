"""`pillion version`."""

from __future__ import annotations

import json

import click

from pillion import REFERENCE_VERSION, __version__


@click.command()
@click.option("-o", "--output", type=click.Choice(["json"]), help="Output format.")
def version(output: str | None) -> None:
    """Show the versions of the command line and of the runtime whose contract it keeps."""
    if output == "json":
        click.echo(json.dumps({"Cli version": __version__, "Runtime version": REFERENCE_VERSION}))
    else:
        click.echo(f"CLI version: {__version__} \nRuntime version: {REFERENCE_VERSION}")
