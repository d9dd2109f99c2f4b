"""Meters of workflows (spec `actors-workflows-jobs.md` 3.11, `runtime.md` 6.1). Names of workflows and activities are
few: they are those in the application's code; more than the registry's bound fall into one series."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pillion.observe.metrics import Registry


class WorkflowMeter:
    """The `Meter` of the engine."""

    def __init__(self, registry: Registry) -> None:
        self._operation = registry.histogram("runtime_workflow_operation_latency")
        self._execution = registry.histogram("runtime_workflow_execution_latency")
        self._executed = registry.number("runtime_workflow_execution_count")
        self._scheduling = registry.histogram("runtime_workflow_scheduling_latency")
        self._activity_operation = registry.histogram("runtime_workflow_activity_operation_latency")
        self._activity_execution = registry.histogram("runtime_workflow_activity_execution_latency")
        self._payload = registry.histogram("runtime_workflow_payload_size_ratio")
        self._activity_payload = registry.histogram("runtime_workflow_activity_payload_size_ratio")

    def operation(self, operation: str, status: str, elapsed_ms: float) -> None:
        self._operation.child(operation, status).count(elapsed_ms)

    def execution(self, workflow: str, status: str, elapsed_ms: float | None) -> None:
        """`elapsed_ms` None: a turn that did not end the instance, which is counted without a time."""
        if elapsed_ms is None:
            self._executed.child(workflow, status).value += 1
        else:
            self._execution.child(workflow, status).count(elapsed_ms)

    def scheduling(self, workflow: str, elapsed_ms: float) -> None:
        self._scheduling.child(workflow).count(elapsed_ms)

    def activity_operation(self, activity: str, status: str, elapsed_ms: float) -> None:
        self._activity_operation.child(activity, status).count(elapsed_ms)

    def activity_execution(self, activity: str, status: str, elapsed_ms: float) -> None:
        self._activity_execution.child(activity, status).count(elapsed_ms)

    def payload(self, workflow: str, ratio: float) -> None:
        self._payload.child(workflow).count(ratio)

    def activity_payload(self, workflow: str, activity: str, ratio: float) -> None:
        self._activity_payload.child(workflow, activity).count(ratio)


class WorkflowAccessMeter:
    """Decisions of workflow access policies, by caller."""

    def __init__(self, registry: Registry) -> None:
        self._allowed = registry.number("runtime_workflow_acl_action_allowed_total")
        self._denied = registry.number("runtime_workflow_acl_action_denied_total")

    def decided(self, allowed: bool, caller: str, operation: str, kind: str) -> None:
        """`kind` is "workflow" or "activity"."""
        (self._allowed if allowed else self._denied).child(caller, operation, kind).value += 1
