"""`pillion init`: nothing needs it to run; it makes the defaults files that one can edit."""

from __future__ import annotations

import os

import click

from pillion.cli import places, say


@click.command()
def init() -> None:
    """Write the resources and the configuration that `pillion run` uses by default, to be edited.

    Files that exist are left alone.
    """
    here = places.of(os.environ)
    for path, written in places.write_defaults(here):
        if written:
            say.success(f"wrote {path}")
        else:
            say.note(f"left alone: {path}")
