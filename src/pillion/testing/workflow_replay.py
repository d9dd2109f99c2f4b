"""Whether workflow code still does what a recorded history says, turn by turn, and where it departs from it.

    replay(json.loads(body_of("/v1.0-pillion/workflows/order-7/history")), Executor({"order": order}))

A workflow is replayed from its history whenever it goes on. Code that was changed so that it asks for other things, or
for the same in another order, fails there, in production, for the instances that began before the change. Histories of
such instances, kept as files, tell it before.

Knows: histories and the messages of turns. Never knows: engines, stores.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from google.protobuf import json_format

from pillion.wire.messages import taskhub as m

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pillion.testing.workflow_test import WorkflowCode

_ACTIONS = {
    "taskScheduled": "scheduleTask", "timerCreated": "createTimer",
    "childWorkflowInstanceCreated": "createChildWorkflow", "eventSent": "sendEvent",
    "detachedWorkflowInstanceCreated": "createDetachedWorkflow", "executionCompleted": "completeWorkflow",
}  # fmt: skip
_MADE = frozenset({*_ACTIONS, "executionStalled"})
"""Events that a turn makes; all others came to it."""


class Step(NamedTuple):
    """One thing that a turn asked for. `number` is its place among all that the workflow asked for."""

    number: int
    action: str
    name: str

    def __str__(self) -> str:
        return f"{self.action} {self.name!r} ({self.number})" if self.name else f"{self.action} ({self.number})"


class Departed(AssertionError):
    """The code does something else than the history says. `turn` counts from 1, `event` is the place in the history."""

    def __init__(self, turn: int, event: int, recorded: str, found: str) -> None:
        super().__init__(f"turn {turn}, event {event}: the history has {recorded}, the code {found}")
        self.turn, self.event, self.recorded, self.found = turn, event, recorded, found


def replay(
    history: Mapping[str, Any] | Iterable[bytes | m.HistoryEvent], code: WorkflowCode, *, instance_id: str = "replay"
) -> int:
    """Run every turn of `history` with `code` and compare what it asks for. Return the number of turns.

    `history` is the document of `/v1.0-pillion/workflows/{id}/history`, or events, serialised or not. Raises
    `Departed`; `ValueError` for what is no history.
    """
    events = _events(history)
    begins = [number for number, event in enumerate(events) if event.HasField("workflowStarted")]
    if not begins or begins[0] != 0:
        raise ValueError("a history begins with a turn")
    for turn, (first, end) in enumerate(zip(begins, [*begins[1:], len(events)], strict=True), 1):
        came = [event for event in events[first:end] if event.WhichOneof("eventType") not in _MADE]
        request = m.WorkflowRequest(instanceId=instance_id, pastEvents=events[:first], newEvents=came)
        answer = code.turn(request, "")
        if any(
            event.HasField("executionTerminated") or event.HasField("executionStalled") for event in events[first:end]
        ):
            continue  # the engine ended this turn, whatever the code said
        _compare(turn, first, events[first:end], answer)
    return len(begins)


def _compare(turn: int, first: int, events: list[m.HistoryEvent], answer: m.WorkflowResponse) -> None:
    recorded = [(number, _of_event(event)) for number, event in enumerate(events, first) if _is_made(event)]
    found = sorted((_of_action(action) for action in answer.actions), key=_order)
    recorded.sort(key=lambda one: _order(one[1]))
    last = first + len(events) - 1
    for place in range(max(len(recorded), len(found))):
        number, was = recorded[place] if place < len(recorded) else (last, None)
        now = found[place] if place < len(found) else None
        if was != now:
            raise Departed(turn, number, "nothing more" if was is None else str(was), _told(now, answer))


def _told(now: Step | None, answer: m.WorkflowResponse) -> str:
    for action in answer.actions:
        failure = action.completeWorkflow.failureDetails if action.HasField("completeWorkflow") else None
        if failure is not None and failure.errorType:
            return f"{'nothing more' if now is None else now}: {failure.errorType}: {failure.errorMessage}"
    return "nothing more" if now is None else str(now)


def _is_made(event: m.HistoryEvent) -> bool:
    return event.WhichOneof("eventType") in _ACTIONS


def _order(step: Step) -> tuple[bool, int]:
    return step.action == "completeWorkflow", step.number


def _of_event(event: m.HistoryEvent) -> Step:
    kind = event.WhichOneof("eventType") or ""
    if kind == "executionCompleted":
        return Step(0, _ACTIONS[kind], m.OrchestrationStatus.Name(event.executionCompleted.workflowStatus))
    named = kind in ("taskScheduled", "childWorkflowInstanceCreated", "eventSent", "detachedWorkflowInstanceCreated")
    return Step(event.eventId, _ACTIONS[kind], getattr(event, kind).name if named else "")


def _of_action(action: m.WorkflowAction) -> Step:
    kind = action.WhichOneof("workflowActionType") or ""
    if kind == "completeWorkflow":
        return Step(0, kind, m.OrchestrationStatus.Name(action.completeWorkflow.workflowStatus))
    body = getattr(action, kind) if kind else None
    return Step(action.id, kind, "" if kind == "createTimer" else str(getattr(body, "name", "")))


def _events(history: Mapping[str, Any] | Iterable[bytes | m.HistoryEvent]) -> list[m.HistoryEvent]:
    if hasattr(history, "keys"):
        documents = history["events"]  # type: ignore[index]
        return [_event(one) for one in documents]
    return [one if isinstance(one, m.HistoryEvent) else m.HistoryEvent.FromString(one) for one in history]


def _event(document: Mapping[str, Any]) -> m.HistoryEvent:
    """Read one event of the JSON document."""
    try:
        event = m.HistoryEvent(eventId=int(document["id"]))
        event.timestamp.FromJsonString(document["time"])
        body = getattr(event, document["type"])
        body.SetInParent()
        json_format.ParseDict(document.get("fields", {}), body, ignore_unknown_fields=True)
    except (KeyError, AttributeError, TypeError, ValueError, json_format.ParseError) as error:
        raise ValueError(f"not an event of a history: {document!r}: {error}") from error
    return event
