"""What operators ask of workflows, on routes of our own: lists with filters, what an instance waits for, its history,
and mending: run again from an event, give a quarantined activity another chance, or do without it.

    GET  /v1.0-pillion/workflows?status=&name=&limit=&token=
    GET  /v1.0-pillion/workflows/{id}               POST /v1.0-pillion/workflows/{id}/rerun?eventID=&newID=&input=
    GET  /v1.0-pillion/workflows/{id}/history       POST /v1.0-pillion/workflows/{id}/purge?force=true
    POST /v1.0-pillion/workflows/{id}/terminate?recursive=false     the body becomes the output
    POST /v1.0-pillion/workflows/{id}/suspend, .../resume           the body is the reason
    POST /v1.0-pillion/workflows/{id}/retry                         a turn that took too many workers down
    POST /v1.0-pillion/workflows/{id}/activities/{task}/retry
    POST /v1.0-pillion/workflows/{id}/activities/{task}/skip        the body becomes the activity's result

Times are RFC 3339. Knows: the shape of the answers. Never knows: instances, stores.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

import orjson
from google.protobuf import json_format

from pillion.api.operation import Http, Operation
from pillion.api.render import JSON
from pillion.blocks import workflow_faults as faults
from pillion.blocks.workflow import as_text, body_of, time_text
from pillion.errors import ApiError, Code, ComponentError, TokenInvalid
from pillion.kinds.component import truthy
from pillion.net.exchange import Response
from pillion.wire.messages import taskhub
from pillion.workflow.faults import InstanceMissing, NothingToMend
from pillion.workflow.hub import Rerun
from pillion.workflow.snapshot import Status

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from pillion.api.call import HttpCall
    from pillion.blocks.actor_access import Gate
    from pillion.errors import Fault
    from pillion.workflow.hub import Workflows
    from pillion.workflow.snapshot import Inspection, Snapshot, Wait

DEFAULT_PAGE, MOST_PAGE = 100, 1000
AT_ONCE = 32
"""Instances that are read at the same time for a page."""
READS = 20
"""Pages of ids that are read for one of ours, when filters leave little of them."""
_ROOT = "v1.0-pillion/workflows"
_NANOS = 1_000_000_000


class WorkflowAdminBlock:
    """The handlers. `gate` is that of the actors, in which workflows live."""

    def __init__(self, workflows: Workflows, gate: Gate) -> None:
        self._workflows = workflows
        self._gate = gate

    def operations(self) -> list[Operation]:
        one = _ROOT + "/{instance}"
        task = one + "/activities/{task}"
        rows = (
            ("ListWorkflows", "GET", _ROOT, self.list_all),
            ("InspectWorkflow", "GET", one, self.inspect),
            ("WorkflowHistory", "GET", f"{one}/history", self.history),
            ("RerunWorkflow", "POST", f"{one}/rerun", self.rerun),
            ("PurgeWorkflowByForce", "POST", f"{one}/purge", self.purge),
            ("TerminateWorkflowWithOutput", "POST", f"{one}/terminate", self.terminate),
            ("SuspendWorkflow", "POST", f"{one}/suspend", self.suspend),
            ("ResumeWorkflowForReason", "POST", f"{one}/resume", self.resume),
            ("RetryTurn", "POST", f"{one}/retry", self.retry_turn),
            ("RetryActivity", "POST", f"{task}/retry", self.retry),
            ("SkipActivity", "POST", f"{task}/skip", self.skip),
        )
        return [Operation(name, "workflows", http=(Http((verb,), path, serve),)) for name, verb, path, serve in rows]

    async def _enter(self) -> Workflows:
        await self._gate.enter()
        return self._workflows

    async def list_all(self, call: HttpCall) -> Response:
        """A page of instances, those of `status` (several with commas) and `name` where given."""
        workflows = await self._enter()
        wanted, name, limit = _statuses(call.first("status")), call.first("name"), _limit(call.first("limit"))
        token = call.first("token")
        found: list[Snapshot] = []
        for _ in range(READS):
            try:
                ids, token = await workflows.list_ids(token=token, page_size=limit - len(found))
                read = await _read(workflows, ids)
            except TokenInvalid as error:
                raise ApiError(faults.BAD_QUERY, text="the token is not one that was given here") from error
            except ComponentError as error:
                raise ApiError(faults.LIST, error=error) from error
            found += [each for each in read if _matches(each, wanted, name)]
            if not token or len(found) >= limit:
                break
        return _json({"workflows": [_brief(each) for each in found], "token": token})

    async def inspect(self, call: HttpCall) -> Response:
        workflows, instance_id = await self._enter(), call.params[0]
        try:
            found = await workflows.inspect(instance_id)
        except ComponentError as error:
            raise ApiError(faults.GET, id=instance_id, error=error) from error
        if found is None:
            raise ApiError(faults.NOT_FOUND, id=instance_id)
        return _json(_whole(found))

    async def history(self, call: HttpCall) -> Response:
        workflows, instance_id = await self._enter(), call.params[0]
        try:
            events = await workflows.history(instance_id)
        except ComponentError as error:
            raise ApiError(faults.GET, id=instance_id, error=error) from error
        if events is None:
            raise ApiError(faults.NOT_FOUND, id=instance_id)
        return _json({"instanceID": instance_id, "events": [event_document(event) for event in events]})

    async def rerun(self, call: HttpCall) -> Response:
        workflows, instance_id = await self._enter(), call.params[0]
        text = call.first("eventID")
        if not (text.isascii() and text.isdigit() and len(text) < 10):
            raise ApiError(faults.BAD_QUERY, text=f"eventID must be the number of an event, not {text!r}")
        given = call.first("input")
        order = Rerun(
            instance_id, int(text), call.first("newID") or None, given or None, overwrite_input=bool(given)
        )  # fmt: skip
        return _json({"instanceID": await _mend(faults.RERUN, workflows.rerun(order), id=instance_id)}, 202)

    async def purge(self, call: HttpCall) -> Response:
        workflows, instance_id = await self._enter(), call.params[0]
        going = workflows.purge(instance_id, force=truthy(call.first("force")))
        return _json({"purged": await _mend(faults.PURGE, going, id=instance_id)}, 202)

    async def terminate(self, call: HttpCall) -> Response:
        workflows, instance_id = await self._enter(), call.params[0]
        output, recursive = as_text(body_of(call), "output") or None, truthy(call.first("recursive") or "true")
        ending = workflows.terminate(instance_id, output, recursive=recursive)
        await _mend(faults.TERMINATE, ending, id=instance_id)
        return _json({}, 202)

    async def suspend(self, call: HttpCall) -> Response:
        workflows, instance_id = await self._enter(), call.params[0]
        reason = as_text(body_of(call), "reason") or None
        await _mend(faults.PAUSE, workflows.suspend(instance_id, reason), id=instance_id)
        return _json({}, 202)

    async def resume(self, call: HttpCall) -> Response:
        workflows, instance_id = await self._enter(), call.params[0]
        reason = as_text(body_of(call), "reason") or None
        await _mend(faults.RESUME, workflows.resume(instance_id, reason), id=instance_id)
        return _json({}, 202)

    async def retry(self, call: HttpCall) -> Response:
        workflows, (instance_id, task) = await self._enter(), _activity(call)
        await _mend(faults.ACTIVITY, workflows.retry_activity(instance_id, task), id=instance_id, task=task)
        return _json({}, 202)

    async def retry_turn(self, call: HttpCall) -> Response:
        workflows, instance_id = await self._enter(), call.params[0]
        await _mend(faults.TURN, workflows.retry_turn(instance_id), id=instance_id)
        return _json({}, 202)

    async def skip(self, call: HttpCall) -> Response:
        workflows, (instance_id, task) = await self._enter(), _activity(call)
        result = as_text(body_of(call), "result") or None
        await _mend(faults.ACTIVITY, workflows.skip_activity(instance_id, task, result), id=instance_id, task=task)
        return _json({}, 202)


async def _mend(fault: Fault, work: Awaitable[object], **values: object) -> object:
    try:
        return await work
    except NothingToMend as error:
        raise ApiError(fault, error=error, http_status=404, grpc_status=Code.NOT_FOUND, **values) from error  # type: ignore[arg-type]
    except InstanceMissing as error:
        raise ApiError(faults.NOT_FOUND, id=values["id"]) from error
    except ComponentError as error:
        raise ApiError(fault, error=error, **values) from error  # type: ignore[arg-type]


async def _read(workflows: Workflows, ids: list[str]) -> list[Snapshot]:
    """Read instances, some at a time; those that went meanwhile are left out."""
    found: list[Snapshot] = []
    for start in range(0, len(ids), AT_ONCE):
        page = await asyncio.gather(*(workflows.get(each) for each in ids[start : start + AT_ONCE]))
        found += [each for each in page if each is not None]
    return found


def _statuses(text: str) -> frozenset[Status]:
    try:
        return frozenset(Status[name.strip().upper()] for name in text.split(",") if name.strip())
    except KeyError as error:
        known = ", ".join(status.name for status in Status)
        raise ApiError(faults.BAD_QUERY, text=f"there is no status {error.args[0]!r}, only {known}") from error


def _limit(text: str) -> int:
    if not text:
        return DEFAULT_PAGE
    if not (text.isascii() and text.isdigit() and len(text) < 6 and 1 <= int(text) <= MOST_PAGE):
        raise ApiError(faults.BAD_QUERY, text=f"limit must be a number from 1 to {MOST_PAGE}, not {text!r}")
    return int(text)


def _activity(call: HttpCall) -> tuple[str, int]:
    instance_id, task = call.params
    if not (task.isascii() and task.isdigit() and len(task) < 10):
        raise ApiError(faults.BAD_QUERY, text=f"an activity is named by its number in the history, not {task!r}")
    return instance_id, int(task)


def _matches(found: Snapshot, wanted: frozenset[Status], name: str) -> bool:
    return (not wanted or found.status in wanted) and (not name or name in (found.name, found.asked_name))


def _brief(found: Snapshot) -> dict[str, object]:
    created_ns = found.asked_ns if found.created_ns is None else found.created_ns
    times = (("createdAt", created_ns), ("updatedAt", found.updated_ns), ("completedAt", found.completed_ns),
             ("scheduledAt", found.scheduled_ns))  # fmt: skip
    document: dict[str, object] = {"instanceID": found.instance_id, "name": found.name or found.asked_name}
    document["status"] = found.status.name
    document |= {key: time_text(ns) for key, ns in times if ns is not None}
    texts = (("version", found.version), ("customStatus", found.custom_status), ("parentID", found.parent_id or None),
             ("parentApp", found.parent_app or None))  # fmt: skip
    return document | {key: text for key, text in texts if text is not None}


def _whole(found: Inspection) -> dict[str, object]:
    snapshot = found.snapshot
    document = _brief(snapshot)
    document |= {
        key: text for key, text in (("input", snapshot.input), ("output", snapshot.output)) if text is not None
    }
    if snapshot.failure is not None:
        document["failure"] = json_format.MessageToDict(snapshot.failure)
    return document | {
        "waiting": [_wait(each) for each in found.waiting],
        "generation": found.generation,
        "historyLength": found.history_length,
        "inboxLength": found.inbox_length,
        "sizeBytes": found.size_bytes,
        "owner": found.owner,
    }


def _wait(wait: Wait) -> dict[str, object]:
    document: dict[str, object] = {"kind": wait.kind}
    if wait.name:
        document["name"] = wait.name
    if wait.task_id is not None:
        document["task"] = wait.task_id
    if wait.attempts:
        document["attempts"] = wait.attempts
    if wait.error:
        document["error"] = wait.error
    for key, at in (("since", wait.since), ("until", wait.until)):
        if at is not None:
            document[key] = time_text(int(at * _NANOS))
    return document


_TIMES = {"executionStarted": "scheduledStartTimestamp", "timerCreated": "fireAt", "timerFired": "fireAt"}


def event_document(data: bytes) -> dict[str, object]:
    """An event of a history as JSON: its type, number and time, and its own fields."""
    event = taskhub.HistoryEvent.FromString(data)
    kind = event.WhichOneof("eventType") or ""
    try:
        fields = json_format.MessageToDict(getattr(event, kind)) if kind else {}
    except (ValueError, json_format.Error):  # a time beyond the years that JSON has
        if kind not in _TIMES:
            raise
        body, name = getattr(event, kind), _TIMES[kind]
        stamp = getattr(body, name)
        shown = time_text(stamp.seconds * _NANOS + stamp.nanos)
        body.ClearField(name)
        fields = json_format.MessageToDict(body) | {name: shown}
    stamp = event.timestamp
    return {
        "id": event.eventId, "type": kind, "time": time_text(stamp.seconds * _NANOS + stamp.nanos), "fields": fields,
    }  # fmt: skip


def _json(document: object, status: int = 200) -> Response:
    return Response(status, [JSON], orjson.dumps(document))
