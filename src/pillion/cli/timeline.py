"""A workflow's history as a timeline that people can read. Pure: events in, lines out.

Each event is one line: when, counted from the start; how it nests; a symbol; what happened; how long what it ends took.
Events that begin something and events that end it are joined by their number.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from collections.abc import Sequence

WIDTH = 60
"""Characters of an input or output that are shown."""
_ENDS = {
    "taskCompleted": "taskScheduledId", "taskFailed": "taskScheduledId", "timerFired": "timerId",
    "childWorkflowInstanceCompleted": "taskScheduledId", "childWorkflowInstanceFailed": "taskScheduledId",
}  # fmt: skip
"""Events that end another one, and the field that names it."""
_BEGINS = ("taskScheduled", "timerCreated", "childWorkflowInstanceCreated")


@dataclass(frozen=True, slots=True)
class Line:
    """One event. `elapsed_s` counts from the earliest one, `took_s` from the one it ends; `tone` is good, bad or ""."""

    elapsed_s: float
    symbol: str
    what: str
    details: str = ""
    took_s: float | None = None
    tone: str = ""
    event_id: int = -1


def lines(events: Sequence[dict[str, Any]]) -> list[Line]:
    """Return the lines of a history as `/v1.0-pillion/workflows/{id}/history` gives it."""
    found: list[Line] = []
    begun: dict[int, tuple[float, str]] = {}
    start = min((seconds_of(event["time"]) for event in events), default=0.0)
    for event in events:
        at = seconds_of(event["time"])
        kind, fields, number = event["type"], event.get("fields", {}), event.get("id", -1)
        if kind in _BEGINS:
            begun[number] = (at, _name(kind, fields))
        ended = begun.get(int(fields.get(_ENDS[kind], 0))) if kind in _ENDS else None
        line = _line(kind, fields, ended[1] if ended else "")
        if line is not None:
            symbol, what, details, tone = line
            took = None if ended is None else at - ended[0]
            found.append(Line(at - start, symbol, what, details, took, tone, number))
    return found


def _line(kind: str, fields: dict[str, Any], began: str) -> tuple[str, str, str, str] | None:
    """Return symbol, text, details and tone of an event; None for those that say nothing to people."""
    failure = fields.get("failureDetails", {})
    reason = f"{failure.get('errorType', '')}: {failure.get('errorMessage', '')}".strip(": ") if failure else ""
    match kind:
        case "executionStarted":
            version = f" {fields['version']}" if fields.get("version") else ""
            return "▶", f"started {fields.get('name', '')}{version}", _short(fields.get("input")), ""
        case "taskScheduled":
            return "┌", f"activity {fields.get('name', '')}", _short(fields.get("input")), ""
        case "taskCompleted":
            return "└", f"activity {began} completed", _short(fields.get("result")), "good"
        case "taskFailed":
            return "└", f"activity {began} failed", _short(reason), "bad"
        case "timerCreated":
            return "┌", f"timer {_name(kind, fields)}", f"until {fields.get('fireAt', '')}", ""
        case "timerFired":
            return "└", f"timer {began} fired", "", "good"
        case "childWorkflowInstanceCreated":
            return "┌", f"child {fields.get('name', '')}", fields.get("instanceId", ""), ""
        case "childWorkflowInstanceCompleted":
            return "└", f"child {began} completed", _short(fields.get("result")), "good"
        case "childWorkflowInstanceFailed":
            return "└", f"child {began} failed", _short(reason), "bad"
        case "eventRaised":
            return "•", f"event {fields.get('name', '')}", _short(fields.get("input")), ""
        case "eventSent":
            return "•", f"event {fields.get('name', '')} sent", fields.get("instanceId", ""), ""
        case "executionSuspended":
            return "‖", "suspended", _short(fields.get("input")), ""
        case "executionResumed":
            return "▶", "resumed", _short(fields.get("input")), ""
        case "executionStalled":
            return "!", "stalled", f"{fields.get('reason', '')} {fields.get('description', '')}".strip(), "bad"
        case "executionTerminated":
            return "■", "terminated", _short(fields.get("input")), "bad"
        case "executionCompleted":
            status = str(fields.get("workflowStatus", "")).removeprefix("ORCHESTRATION_STATUS_").lower()
            good = status == "completed"
            return "■", status or "completed", _short(fields.get("result") if good else reason), _tone(good=good)
        case "workflowStarted":
            return None
        case _:
            return "•", kind, "", ""


def _tone(*, good: bool) -> str:
    return "good" if good else "bad"


def _name(kind: str, fields: dict[str, Any]) -> str:
    if kind != "timerCreated":
        return str(fields.get("name", ""))
    waits = fields.get("externalEvent", {}).get("name")
    if waits:
        return f"for event {waits}"
    retried = next((key for key in ("activityRetry", "childWorkflowRetry") if key in fields), "")
    return "before a retry" if retried else str(fields.get("name", ""))


def _short(text: object) -> str:
    if text is None:
        return ""
    flat = " ".join(str(text).split())
    return flat if len(flat) <= WIDTH else flat[: WIDTH - 1] + "…"


def seconds_of(text: str) -> float:
    """Read a time as the sidecar writes it: RFC 3339 in UTC with up to nine digits after the point."""
    whole, _, fraction = text.rstrip("Z").partition(".")
    return datetime.fromisoformat(whole + "+00:00").timestamp() + (float(f"0.{fraction}") if fraction else 0.0)


def span(seconds: float) -> str:
    """Return a length of time in the unit that suits it: `12 ms`, `3.4 s`, `5 min 10 s`, `2 h 3 min`, `4 d 1 h`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms"
    if seconds < 60:
        return f"{seconds:.1f} s"
    for large, small, length, part in (("min", "s", 60, 1), ("h", "min", 3600, 60), ("d", "h", 86400, 3600)):
        if seconds < length * (60 if large == "min" else 24) or large == "d":
            return f"{int(seconds // length)} {large} {int(seconds % length // part)} {small}"
    raise AssertionError("days have no end")
