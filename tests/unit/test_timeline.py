"""A history becomes lines that people can read: what began is joined with what ended it."""

from __future__ import annotations

from typing import Any

import pytest

from pillion.cli import timeline


def _event(kind: str, second: float, event_id: int = -1, **fields: Any) -> dict[str, Any]:
    return {"id": event_id, "type": kind, "time": f"2026-01-01T00:00:{second:012.9f}Z", "fields": fields}


def test_a_history() -> None:
    lines = timeline.lines(
        [
            _event("workflowStarted", 1),
            _event("executionStarted", 1, name="order", input='{"id": 7}'),
            _event("taskScheduled", 1, 0, name="pay", input="7"),
            _event("timerCreated", 1, 1, fireAt="2026-01-01T00:01:00Z", externalEvent={"name": "approval"}),
            _event("taskCompleted", 1.25, taskScheduledId=0, result='"paid"'),
            _event("eventRaised", 2, name="approval"),
            _event("childWorkflowInstanceCreated", 2, 2, name="ship", instanceId="order:0002"),
            _event(
                "childWorkflowInstanceFailed", 5, taskScheduledId=2,
                failureDetails={"errorType": "Lost", "errorMessage": "at sea"},
            ),
            _event("executionCompleted", 6, workflowStatus="ORCHESTRATION_STATUS_FAILED"),
        ]
    )  # fmt: skip
    assert [(line.elapsed_s, line.what, line.took_s, line.tone) for line in lines] == [
        (0.0, "started order", None, ""),
        (0.0, "activity pay", None, ""),
        (0.0, "timer for event approval", None, ""),
        (0.25, "activity pay completed", 0.25, "good"),
        (1.0, "event approval", None, ""),
        (1.0, "child ship", None, ""),
        (4.0, "child ship failed", 3.0, "bad"),
        (5.0, "failed", None, "bad"),
    ]
    assert lines[6].details == "Lost: at sea"


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0124, "12 ms"),
        (3.42, "3.4 s"),
        (310, "5 min 10 s"),
        (7385, "2 h 3 min"),
        (349_201, "4 d 1 h"),
        (9e6, "104 d 4 h"),
    ],
)
def test_spans(seconds: float, text: str) -> None:
    assert timeline.span(seconds) == text
