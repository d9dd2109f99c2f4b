"""`pillion`: the command line for people.

Knows: the names of the commands, and how an error is told. Each command lives in a module of its own that is imported
when it is called, so that `pillion --version` and a mistyped word answer at once.
"""

from __future__ import annotations

import difflib
import importlib
import os
import sys
from typing import TYPE_CHECKING, Any, cast

import click

from pillion import REFERENCE_VERSION, __version__
from pillion.cli import say
from pillion.errors import ConfigError

if TYPE_CHECKING:
    from collections.abc import Sequence

    _Resolved = tuple[str | None, click.Command | None, list[str]]

FAILED, INTERRUPTED = 1, 130
COMMANDS = {
    "run": ("pillion.cli.run:run", "Run an application with its sidecar, or all those of a run file."),
    "list": ("pillion.cli.listing:list_command", "Show the sidecars that run on this machine."),
    "stop": ("pillion.cli.stop:stop", "Stop applications and their sidecars."),
    "logs": ("pillion.cli.logs:logs_command", "Show the logs of an application and its sidecar."),
    "invoke": ("pillion.cli.calls:invoke", "Call a method of an application."),
    "publish": ("pillion.cli.calls:publish", "Publish a message to a topic."),
    "workflow": ("pillion.cli.workflow:workflow", "Start workflows, see how they stand, steer and mend them."),
    "actors": ("pillion.cli.actors:actors", "Show the actors that are active."),
    "scheduler": ("pillion.cli.scheduler:scheduler", "Show the jobs of a scheduler; pause, run and move them."),
    "mcpservers": ("pillion.cli.mcpservers:mcpservers", "Show the MCP servers that resource files describe."),
    "init": ("pillion.cli.init:init", "Write the default resources as files to edit."),
    "version": ("pillion.cli.version:version", "Show the versions."),
}
"""Every command: where it is, and what the help says of it."""


class Commands(click.Group):
    """Commands that are imported when they are called."""

    def list_commands(self, ctx: click.Context) -> list[str]:
        return list(COMMANDS)

    def get_command(self, ctx: click.Context, cmd_name: str) -> click.Command | None:
        if cmd_name not in COMMANDS:
            return None
        module, _, name = COMMANDS[cmd_name][0].partition(":")
        return cast(click.Command, getattr(importlib.import_module(module), name))

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        if args and not args[0].startswith("-") and args[0] not in COMMANDS:
            near = difflib.get_close_matches(args[0], COMMANDS, n=1, cutoff=0.5)
            meant = f" (did you mean {near[0]}?)" if near else f" (there are: {', '.join(COMMANDS)})"
            raise click.UsageError(f"no such command: {args[0]}{meant}", ctx=ctx)
        return super().resolve_command(ctx, args)

    def format_commands(self, ctx: click.Context, formatter: click.HelpFormatter) -> None:
        with formatter.section("Commands"):
            formatter.write_dl([(name, text) for name, (_, text) in COMMANDS.items()])


def _show_version(ctx: click.Context, _: click.Parameter, wanted: bool) -> None:
    if wanted and not ctx.resilient_parsing:
        click.echo(f"CLI version: {__version__} \nRuntime version: {REFERENCE_VERSION}")
        ctx.exit()


@click.group(
    cls=Commands,
    invoke_without_command=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 110},
)
@click.option("--log-as-json", is_flag=True, help="Write status lines and logs as JSON objects.")
@click.option("-v", "--version", is_flag=True, is_eager=True, expose_value=False, callback=_show_version,
              help="Show the versions and exit.")  # fmt: skip
@click.pass_context
def pillion(ctx: click.Context, log_as_json: bool) -> None:
    """Run applications with a sidecar each, and talk to what runs."""
    ctx.obj = {"log_as_json": log_as_json}
    say.use_json(log_as_json)
    if ctx.invoked_subcommand is None:
        click.echo(ctx.get_help())


def main(argv: Sequence[str] | None = None) -> int:
    """Run the program; return its exit status."""
    try:
        outcome: Any = pillion.main(
            args=None if argv is None else list(argv), prog_name="pillion", standalone_mode=False
        )
    except click.UsageError as error:
        if error.ctx is not None:
            click.echo(error.ctx.get_usage(), err=True)
        say.failure(error.format_message())
        if error.ctx is not None:
            click.echo(f"Help: {error.ctx.command_path} --help", err=True)
        return error.exit_code
    except click.ClickException as error:
        say.failure(error.format_message())
        return error.exit_code
    except ConfigError as error:
        say.failure(str(error))
        return FAILED
    except (KeyboardInterrupt, click.Abort):
        return INTERRUPTED
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # the interpreter flushes on its way out
        return FAILED
    return outcome if isinstance(outcome, int) else 0


if __name__ == "__main__":
    sys.exit(main())
