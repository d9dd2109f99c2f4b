"""What is counted and traced of a turn that is written (spec `actors-workflows-jobs.md` 3.11)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.workflow import history, traces
from pillion.workflow.snapshot import Status

if TYPE_CHECKING:
    from pillion.workflow.question import Decision
    from pillion.workflow.runner import Runner
    from pillion.workflow.surroundings import Surroundings


def count(surroundings: Surroundings, runner: Runner, decision: Decision) -> None:
    meter = surroundings.meter
    facts = runner.instance.facts
    if facts.started is None:
        return
    name = facts.started.executionStarted.name
    if facts.completed is None:
        if decision.stalled:
            meter.execution(name, "recoverable", None)
        return
    begun, ended = history.nanoseconds(facts.started.timestamp), history.nanoseconds(facts.completed.timestamp)
    status = {Status.COMPLETED: "success", Status.TERMINATED: "terminated"}.get(facts.status, "failed")
    meter.execution(name, status, (ended - begun) / 1e6)
    if surroundings.tracer is not None:
        traces.workflow_ended(surroundings.tracer, facts.started, facts.completed, runner.instance_id, status)
