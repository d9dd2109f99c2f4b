"""`pillion scheduler`: the jobs a scheduler keeps, and steering them.

Talks to a scheduler by our own protocol. Knows: commands, tables, files. Never knows: schedules, engines.
"""

from __future__ import annotations

import asyncio
import json
import os
import time
from typing import TYPE_CHECKING, TypeVar

import click

from pillion.cli import find, job_tables, jobs, places, say
from pillion.errors import Code, ComponentError
from pillion.jobs.remote_admin import RemoteAdmin
from pillion.kinds.jobs import JobExists, JobFilter, JobMissing, SchedulerFailed
from pillion.net.grpc_client import Channel
from pillion.sidecar.presence import running

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence
    from typing import TextIO

    from pillion.kinds.jobs import Stored

T = TypeVar("T")
DEFAULT = "localhost:50006"
PAGE = 500


@click.group("scheduler")
@click.option(
    "--address", default="", metavar="HOST:PORT",
    help=f"The scheduler; without: that of a sidecar that runs here, else {DEFAULT}.",
)  # fmt: skip
@click.option("-n", "--namespace", default="default", show_default=True, help="The namespace of jobs.")
@click.pass_context
def scheduler(ctx: click.Context, address: str, namespace: str) -> None:
    """Show the jobs and reminders that a scheduler keeps; pause, run and move them.

    Jobs are named app/APP-ID/JOB, actor/TYPE/ID/REMINDER, workflow/APP-ID/INSTANCE/REMINDER, activity/APP-ID/ID, or by
    their composed key.
    """
    ctx.obj = {**(ctx.obj or {}), "address": address, "namespace": namespace}


def _namespace() -> str:
    given: dict[str, str] = click.get_current_context().obj
    return given["namespace"]


def _address() -> str:
    given: dict[str, str] = click.get_current_context().obj
    return given["address"] or _nearby() or DEFAULT


def _nearby() -> str:
    """Return a scheduler that a sidecar on this machine is connected to, "" when none tells of one."""
    for record in reversed(running(places.of(os.environ).home)):
        try:
            status, answer = find.ask(record, "GET", "/v1.0/metadata")
            if status == 200 and (known := json.loads(answer).get("scheduler")):
                return str(known["connected_addresses"][0])
        except (click.ClickException, ValueError, KeyError, IndexError):
            continue
    return ""


def _do(work: Callable[[RemoteAdmin], Awaitable[T]]) -> T:
    """Do something with the scheduler. Raises `click.ClickException`."""
    address = _address()

    async def run() -> T:
        channel = Channel(address, max_receive=2**31 - 1)
        try:
            return await work(RemoteAdmin(channel))
        finally:
            await channel.close()

    try:
        return asyncio.run(run())
    except SchedulerFailed as error:
        hint = " (it is not one of ours)" if error.code is Code.UNIMPLEMENTED else ""
        raise click.ClickException(f"the scheduler at {address}: {error}{hint}") from error
    except ComponentError as error:
        raise click.ClickException(f"the scheduler at {address}: {error}") from error


async def _all(admin: RemoteAdmin, chosen: str, namespace: str, paused: bool | None = None) -> list[Stored]:
    """Every job of a filter, page by page."""
    wanted = JobFilter(jobs.prefix_of(chosen, namespace), paused)
    found: list[Stored] = []
    after = ""
    while page := await admin.find(wanted, after=after, limit=PAGE):
        found += [
            stored for stored in page
            if (chosen == "all" or jobs.kind_of(stored.key) == chosen) and stored.key.namespace == namespace
        ]  # fmt: skip
        after = page[-1].key.text
    return found


_keys = click.argument("names", nargs=-1, required=True, metavar="NAME...")


@scheduler.command("list")
@click.option("--filter", "chosen", type=click.Choice(jobs.FILTERS), default="all", help="Only those of this kind.")
@click.option("--paused/--not-paused", default=None, help="Only those that are paused, or are not.")
@click.option("-o", "--output", type=click.Choice(job_tables.OUTPUTS), default="short", help="Output format.")
@click.option("--json", "as_json", is_flag=True, help="The same as -o json.")
def list_command(chosen: str, paused: bool | None, output: str, as_json: bool) -> None:
    """Show jobs and when they fire next."""
    namespace = _namespace()
    found = _do(lambda admin: _all(admin, chosen, namespace, paused))
    job_tables.show(found, "json" if as_json else output)


@scheduler.command("get")
@_keys
@click.option("-o", "--output", type=click.Choice(job_tables.OUTPUTS), default="short", help="Output format.")
@click.option("--json", "as_json", is_flag=True, help="The same as -o json.")
def get(names: Sequence[str], output: str, as_json: bool) -> None:
    """Show single jobs."""
    job_tables.show(_each(names, lambda admin, key: admin.inspect(key)), "json" if as_json else output)


def _each(names: Sequence[str], work: Callable[[RemoteAdmin, str], Awaitable[T]]) -> list[T]:
    """Do the same with each job that is named; one that there is not ends it with an error."""
    keys = [(name, jobs.composed_key(name, _namespace())) for name in names]

    async def all_of_them(admin: RemoteAdmin) -> list[T]:
        done = []
        for name, key in keys:
            try:
                done.append(await work(admin, key))
            except JobMissing as error:
                raise JobMissing(f"there is no job {name}") from error
        return done

    return _do(all_of_them)


@scheduler.command("pause")
@_keys
def pause(names: Sequence[str]) -> None:
    """Let jobs rest until they are resumed."""
    for stored in _each(names, lambda admin, key: admin.pause(key)):
        say.success(f"{jobs.short_name(stored.key)} is paused")


@scheduler.command("resume")
@_keys
def resume(names: Sequence[str]) -> None:
    """Go on with paused jobs; what they missed follows their catch-up."""
    for stored in _each(names, lambda admin, key: admin.resume(key)):
        say.success(f"{jobs.short_name(stored.key)} goes on, next {jobs.rfc3339(stored.next) or 'never'}")


@scheduler.command("skip")
@_keys
@click.option("--ticks", default=1, show_default=True, type=click.IntRange(1), help="How many.")
def skip(names: Sequence[str], ticks: int) -> None:
    """Pass over the next ticks of jobs."""
    for stored in _each(names, lambda admin, key: admin.skip(key, ticks)):
        say.success(f"{jobs.short_name(stored.key)} fires next {jobs.rfc3339(stored.next) or 'never'}")


@scheduler.command("run-now")
@_keys
def run_now(names: Sequence[str]) -> None:
    """Fire jobs once, now, beside their schedule."""
    _each(names, lambda admin, key: admin.run_now(key))
    for name in names:
        say.success(f"{name} was fired")


@scheduler.command("backfill")
@click.argument("name")
@click.option("--since", required=True, metavar="TIME", help="RFC 3339, or how long ago: 2h30m.")
@click.option("--until", default="0s", metavar="TIME", help="RFC 3339, or how long ago; without: now.")
def backfill(name: str, since: str, until: str) -> None:
    """Fire every tick that the schedule of a job has in a span of time, beside the schedule."""
    now = time.time()
    try:
        first, last = jobs.instant(since, now), jobs.instant(until, now)
    except ValueError as error:
        raise click.ClickException(f"not a point in time: {error}") from error
    [ticks] = _each([name], lambda admin, key: admin.backfill(key, first, last))
    say.success(f"{name}: {ticks} ticks were fired")


@scheduler.command("delete")
@_keys
def delete(names: Sequence[str]) -> None:
    """Delete jobs."""
    _each(names, lambda admin, key: admin.remove(key))
    for name in names:
        say.success(f"{name} is deleted")


@scheduler.command("delete-all")
@click.argument("chosen", metavar="FILTER", type=click.Choice(jobs.FILTERS))
@click.option("-y", "--yes", is_flag=True, help="Do not ask.")
def delete_all(chosen: str, yes: bool) -> None:
    """Delete all jobs of a kind in the namespace: all, app, actor, workflow or activity."""
    namespace = _namespace()
    if not yes:
        click.confirm(f"Delete every job ({chosen}) of namespace {namespace}?", abort=True)

    async def work(admin: RemoteAdmin) -> int:
        found = await _all(admin, chosen, namespace)
        for stored in found:
            try:
                await admin.remove(stored.key.text)
            except JobMissing:
                continue  # it fired for the last time meanwhile
        return len(found)

    say.success(f"{_do(work)} jobs are deleted")


@scheduler.command("export")
@click.option("-o", "--output-file", "file", type=click.File("w", encoding="utf-8"), default="-", help="Write here.")
@click.option("--filter", "chosen", type=click.Choice(jobs.FILTERS), default="all", help="Only those of this kind.")
def export(file: TextIO, chosen: str) -> None:
    """Write jobs to a file from which another scheduler goes on where they stand."""
    namespace = _namespace()
    found = _do(lambda admin: _all(admin, chosen, namespace))
    json.dump({"version": 1, "jobs": [jobs.exported(stored) for stored in found]}, file, indent=2, ensure_ascii=False)
    file.write("\n")
    click.echo(f"{len(found)} jobs", err=True)


@scheduler.command("import")
@click.option("-f", "--input-file", "file", type=click.File("r", encoding="utf-8"), default="-", help="Read this.")
@click.option("--overwrite", is_flag=True, help="Replace jobs that there are already; without: pass over them.")
def import_command(file: TextIO, overwrite: bool) -> None:
    """Take over the jobs of a file."""
    try:
        document = json.load(file)
        if document["version"] != 1:
            raise ValueError(f"version {document['version']} of the file is not known")
        rows = [jobs.imported(row) for row in document["jobs"]]
    except (ValueError, KeyError, TypeError, ComponentError) as error:
        raise click.ClickException(f"{file.name} is not a file of `pillion scheduler export`: {error}") from error

    async def work(admin: RemoteAdmin) -> tuple[int, int]:
        taken = 0
        for key, job, paused in rows:
            try:
                await admin.put(key, job, overwrite=overwrite)
            except JobExists:
                continue
            if paused:
                await admin.pause(key.text)
            taken += 1
        return taken, len(rows) - taken

    taken, left = _do(work)
    say.success(f"{taken} jobs were taken over" + (f", {left} were there already" if left else ""))
