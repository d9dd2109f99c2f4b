"""`pillion workflow`: start workflows, see how they stand, steer and mend them.

Works on an application that runs on this machine, by its own sidecar. Knows: commands, tables, the timeline. Never
knows: engines.
"""

from __future__ import annotations

import json
import time
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import click

from pillion.cli import find, say, timeline
from pillion.cli.calls import complaint, payload_of
from pillion.cli.listing import age
from pillion.cli.tables import Column, show

if TYPE_CHECKING:
    from collections.abc import Sequence

_OWN, _API = "/v1.0-pillion/workflows", "/v1.0/workflows/dapr"
_TONES = {"COMPLETED": "green", "FAILED": "red", "TERMINATED": "red", "STALLED": "red", "RUNNING": "cyan"}
PAGE = 500
ENDED = ("COMPLETED", "FAILED", "TERMINATED", "CANCELED")


@click.group("workflow")
@click.option("-a", "--app-id", default="", help="The application; not needed while only one runs.")
@click.pass_context
def workflow(ctx: click.Context, app_id: str) -> None:
    """Start workflows, see how they stand, steer and mend them."""
    ctx.obj = {**(ctx.obj or {}), "app_id": app_id}


def _ask(method: str, target: str, body: bytes = b"", *, kind: str = "") -> Any:
    """Ask the sidecar; return the document it answers. Raises `click.ClickException`."""
    record = find.one_or_only(_app())
    status, answer = find.ask(record, method, target, body, content_type=kind)
    if not 200 <= status < 300:
        raise click.ClickException(complaint(answer))
    return json.loads(answer) if answer else {}


def _app() -> str:
    """The application that was named to the group."""
    given: dict[str, str] = click.get_current_context().obj
    return given["app_id"]


def _one(instance_id: str, tail: str = "") -> str:
    return f"{_OWN}/{quote(instance_id, safe='')}{tail}"


_json_flag = click.option("--json", "as_json", is_flag=True, help="JSON for machines.")
_wait_flag = click.option("-w", "--wait", is_flag=True, help="Wait until it has ended, and show how.")


@workflow.command("run")
@click.argument("name")
@click.option("-i", "--instance-id", default="", help="Its id; a random one without.")
@click.option("-x", "--input", "data", help="Its input, as JSON.")
@click.option("-f", "--input-file", metavar="FILE|-", help="A file with its input.")
@_wait_flag
def run_command(name: str, instance_id: str, data: str | None, input_file: str | None, wait: bool) -> None:
    """Start a workflow and print its id."""
    query = f"?{urlencode({'instanceID': instance_id})}" if instance_id else ""
    body = payload_of(data, input_file)
    started = _ask("POST", f"{_API}/{quote(name, safe='')}/start{query}", body, kind="application/json")
    click.echo(started["instanceID"])
    if wait:
        _follow(started["instanceID"])


@workflow.command("list")
@click.option("-s", "--status", "statuses", multiple=True, help="Only those of this status; may be repeated.")
@click.option("-n", "--name", default="", help="Only those of this workflow.")
@click.option("-m", "--max-age", default="", metavar="DURATION", help="Only those younger than this: 30m, 2h.")
@click.option("-l", "--limit", type=click.IntRange(min=1), default=PAGE, show_default=True, help="At most so many.")
@_json_flag
def list_command(statuses: Sequence[str], name: str, max_age: str, limit: int, as_json: bool) -> None:
    """Show the workflows of an application, the newest first."""
    rows = _pages(",".join(statuses), name, limit)
    rows.sort(key=lambda row: row.get("createdAt", "9999"), reverse=True)
    if max_age:
        oldest = time.time() - _duration(max_age)
        rows = [row for row in rows if "createdAt" not in row or timeline.seconds_of(row["createdAt"]) >= oldest]
    if as_json:
        click.echo(json.dumps(rows, indent=2, ensure_ascii=False))
        return
    now = time.time()
    show(
        rows,
        (
            Column("NAME", lambda row: row.get("name", "")),
            Column("ID", lambda row: row["instanceID"]),
            Column("STATUS", lambda row: row["status"], tones=_TONES),
            Column("CUSTOM STATUS", lambda row: _plain(row.get("customStatus", ""))),
            Column("AGE", lambda row: _age(row.get("createdAt"), now)),
            Column("UPDATED", lambda row: _age(row.get("updatedAt"), now)),
        ),
        empty="There are no such workflows.",
    )


def _pages(status: str, name: str, limit: int) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = []
    token = ""
    while len(rows) < limit:
        asked = {"status": status, "name": name, "token": token, "limit": str(min(PAGE, limit - len(rows)))}
        page = _ask("GET", f"{_OWN}?{urlencode({key: value for key, value in asked.items() if value})}")
        rows += page["workflows"]
        token = page["token"]
        if not token:
            break
    return rows


@workflow.command("show")
@click.argument("instance_id")
@_json_flag
def show_command(instance_id: str, as_json: bool) -> None:
    """Show how a workflow stands and what it waits for."""
    found = _ask("GET", _one(instance_id))
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    now = time.time()
    facts = [
        ("name", found.get("name", "") + (f" {found['version']}" if found.get("version") else "")),
        ("status", found["status"]),
        ("created", _when(found.get("createdAt"), now)),
        ("updated", _when(found.get("updatedAt"), now)),
        ("completed", _when(found.get("completedAt"), now)),
        ("starts at", _when(found.get("scheduledAt"), now)),
        ("parent", " ".join(filter(None, (found.get("parentID"), found.get("parentApp"))))),
        ("custom status", _plain(found.get("customStatus", ""))),
        ("input", found.get("input", "")),
        ("output", found.get("output", "")),
        ("failure", _failure(found.get("failure"))),
        ("history", f"{found['historyLength']} events, {found['inboxLength']} waiting, {found['sizeBytes']:,} bytes"),
        ("driven by", found.get("owner") or "nobody at present"),
    ]
    for key, value in facts:
        if value:
            click.echo(f"{click.style(key.ljust(14), bold=True)} {value}")
    for wait in found["waiting"]:
        click.echo(f"{click.style('waits for'.ljust(14), bold=True)} {_wait(wait, now)}")
    quarantined = [wait for wait in found["waiting"] if wait["kind"] == "quarantine"]
    for wait in quarantined:
        task = wait.get("task")
        if task is None:
            say.note(f"mend it with: pillion workflow retry {instance_id}")
        else:
            say.note(
                f"mend it with: pillion workflow retry {instance_id} {task}"
                f"   or: pillion workflow skip {instance_id} {task} --result JSON"
            )


def _wait(wait: dict[str, Any], now: float) -> str:
    parts = [wait["kind"]]
    if wait.get("name"):
        parts.append(wait["name"])
    if wait.get("task") is not None:
        parts.append(f"(task {wait['task']})")
    if wait.get("until"):
        left = timeline.seconds_of(wait["until"]) - now
        parts.append(f"in {timeline.span(left)}" if left > 0 else "due now")
    if wait.get("since"):
        parts.append(f"since {timeline.span(max(0.0, now - timeline.seconds_of(wait['since'])))}")
    if wait.get("attempts"):
        parts.append(f"after {wait['attempts']} attempts")
    if wait.get("error"):
        parts.append(f"- {wait['error']}")
    return " ".join(parts)


@workflow.command("history")
@click.argument("instance_id")
@_json_flag
def history_command(instance_id: str, as_json: bool) -> None:
    """Show what happened in a workflow, as a timeline."""
    found = _ask("GET", _one(instance_id, "/history"))
    if as_json:
        click.echo(json.dumps(found, indent=2, ensure_ascii=False))
        return
    lines = timeline.lines(found["events"])
    width = max((len(timeline.span(line.elapsed_s)) for line in lines), default=0)
    names = max((len(line.what) for line in lines), default=0)
    for line in lines:
        tone = {"good": "green", "bad": "red"}.get(line.tone)
        took = f"[{timeline.span(line.took_s)}]" if line.took_s is not None else ""
        number = f"#{line.event_id}" if line.event_id >= 0 else ""
        text = f"{timeline.span(line.elapsed_s).rjust(width)}  {line.symbol} {line.what.ljust(names)}"
        click.echo(f"{click.style(text, fg=tone)}  {number:>5}  {took:>12}  {line.details}".rstrip())


@workflow.command("raise")
@click.argument("instance_id")
@click.argument("event")
@click.option("-x", "--data", help="What comes with it, as JSON.")
def raise_command(instance_id: str, event: str, data: str | None) -> None:
    """Raise an event to a workflow."""
    target = f"{_API}/{quote(instance_id, safe='')}/raiseEvent/{quote(event, safe='')}"
    _ask("POST", target, payload_of(data, None), kind="application/json")
    say.success(f"{event} was raised")


@workflow.command("suspend")
@click.argument("instance_id")
@click.option("-r", "--reason", default="", help="Why.")
def suspend_command(instance_id: str, reason: str) -> None:
    """Let a workflow rest."""
    _ask("POST", _one(instance_id, "/suspend"), reason.encode())
    say.success(f"{instance_id} is asked to rest")


@workflow.command("resume")
@click.argument("instance_id")
@click.option("-r", "--reason", default="", help="Why.")
def resume_command(instance_id: str, reason: str) -> None:
    """Let a suspended workflow go on."""
    _ask("POST", _one(instance_id, "/resume"), reason.encode())
    say.success(f"{instance_id} is asked to go on")


@workflow.command("terminate")
@click.argument("instance_id")
@click.option("-o", "--output", default="", help="What becomes its output, as JSON.")
@click.option("--alone", is_flag=True, help="Leave the workflows that it started alone.")
@_wait_flag
def terminate_command(instance_id: str, output: str, alone: bool, wait: bool) -> None:
    """End a workflow, and those that it started."""
    _ask("POST", _one(instance_id, f"/terminate?recursive={'false' if alone else 'true'}"), output.encode())
    if wait:
        _follow(instance_id)
    else:
        say.success(f"{instance_id} is asked to end")


@workflow.command("purge")
@click.argument("instance_ids", nargs=-1)
@click.option("--all", "everything", is_flag=True, help="All that have ended.")
@click.option("--all-filter-status", "status", default="", help="All of this status.")
@click.option("--all-older-than", "older", default="", metavar="DURATION", help="All that ended so long ago.")
@click.option("--force", is_flag=True, help="Whatever its state.")
def purge_command(instance_ids: Sequence[str], everything: bool, status: str, older: str, force: bool) -> None:
    """Delete workflows that have ended, with everything that is known of them."""
    if bool(instance_ids) == bool(everything or status or older):
        raise click.UsageError("name the workflows, or say which: --all, --all-filter-status, --all-older-than")
    ids = list(instance_ids) or _ended(status.upper(), _duration(older) if older else 0.0, force=force)
    gone = 0
    from rich.progress import track

    several = len(ids) > 20
    for instance_id in track(ids, "purging", disable=not several, transient=True):
        gone += _ask("POST", _one(instance_id, f"/purge?force={'true' if force else 'false'}"))["purged"]
    say.success(f"{gone} workflows were purged")


def _ended(status: str, older_s: float, *, force: bool) -> list[str]:
    if status and status not in ENDED and not force:
        raise click.UsageError(f"workflows that are {status} are purged with --force only")
    rows = _pages(status or ",".join(ENDED), "", 1_000_000)
    newest = time.time() - older_s
    return [
        row["instanceID"]
        for row in rows
        if not older_s or timeline.seconds_of(row.get("completedAt") or row["updatedAt"]) <= newest
    ]


@workflow.command("rerun")
@click.argument("instance_id")
@click.option("-e", "--event-id", type=int, default=0, show_default=True, help="From which event of its history.")
@click.option("--new-instance-id", default="", help="The id of the new one.")
@click.option("-x", "--input", "data", default="", help="Another input for what that event began, as JSON.")
@_wait_flag
def rerun_command(instance_id: str, event_id: int, new_instance_id: str, data: str, wait: bool) -> None:
    """Run a workflow that has ended again, from one of its events."""
    asked = {"eventID": str(event_id), "newID": new_instance_id, "input": data}
    query = urlencode({key: value for key, value in asked.items() if value})
    new_id = _ask("POST", _one(instance_id, f"/rerun?{query}"))["instanceID"]
    click.echo(new_id)
    if wait:
        _follow(new_id)


@workflow.command("retry")
@click.argument("instance_id")
@click.argument("task", type=int, required=False)
def retry_command(instance_id: str, task: int | None) -> None:
    """Give a quarantined activity another chance, or without TASK the workflow's own turn."""
    if task is None:
        _ask("POST", _one(instance_id, "/retry"))
        say.success("the turn is offered again")
        return
    _ask("POST", _one(instance_id, f"/activities/{task}/retry"))
    say.success(f"activity {task} is offered again")


@workflow.command("skip")
@click.argument("instance_id")
@click.argument("task", type=int)
@click.option("--result", default="", help="What counts as its result, as JSON.")
def skip_command(instance_id: str, task: int, result: str) -> None:
    """Let an activity count as completed without having run."""
    _ask("POST", _one(instance_id, f"/activities/{task}/skip"), result.encode())
    say.success(f"activity {task} counts as completed")


def _follow(instance_id: str) -> None:
    """Wait until an instance has ended, tell how, and fail when it did not complete."""
    pause = 0.05
    while True:
        found = _ask("GET", _one(instance_id))
        if found["status"] in (*ENDED, "STALLED"):
            break
        time.sleep(pause)
        pause = min(pause * 1.5, 2.0)
    if found["status"] == "COMPLETED":
        say.success(f"{instance_id} has completed")
        if found.get("output"):
            click.echo(found["output"])
        return
    reason = _failure(found.get("failure")) or "no reason given"
    raise click.ClickException(f"{instance_id} is {found['status']}: {reason}")


def _failure(failure: dict[str, Any] | None) -> str:
    return f"{failure.get('errorType', '')}: {failure.get('errorMessage', '')}" if failure else ""


def _plain(text: str) -> str:
    """A JSON string without its quotes; anything else as it is."""
    try:
        value = json.loads(text)
    except ValueError:
        return text
    return value if isinstance(value, str) else text


def _age(text: str | None, now: float) -> str:
    return age(now - timeline.seconds_of(text)) if text else ""


def _when(text: str | None, now: float) -> str:
    if not text:
        return ""
    past = now - timeline.seconds_of(text)
    return f"{text} ({timeline.span(past)} ago)" if past >= 0 else f"{text} (in {timeline.span(-past)})"


def _duration(text: str) -> float:
    from pillion.wire.durations import go_duration

    try:
        return go_duration(text)
    except ValueError as error:
        raise click.UsageError(str(error)) from error
