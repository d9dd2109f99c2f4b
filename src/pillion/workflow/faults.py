"""What can go wrong when a workflow is asked for something (spec `actors-workflows-jobs.md` 3.6, 3.8, 3.9).

Each fault carries the gRPC code under which it travels between sidecars, and its text is the reference's: the blocks
render it, and `from_remote` makes it a fault again on the other side. Never knows: HTTP, engines.
"""

from __future__ import annotations

import re

from pillion.errors import Code
from pillion.kinds.actors import RemoteFailure


class WorkflowFault(RemoteFailure):
    """A request about a workflow that cannot be served. `code` is its gRPC status."""

    status = Code.UNKNOWN

    def __init__(self, message: str) -> None:
        super().__init__(message, self.status)


class InstanceMissing(WorkflowFault):
    """There is no instance of this id."""

    def __init__(self, message: str = "no such instance exists") -> None:
        super().__init__(message)


class NothingToMend(InstanceMissing):
    """The instance is there, but not what should be retried or skipped."""


class IdInvalid(WorkflowFault):
    """No job can be named after an instance of this id, so there cannot be one."""

    status = Code.INVALID_ARGUMENT


class InstanceActive(WorkflowFault):
    """An instance of this id is there and not finished."""

    status = Code.ALREADY_EXISTS


class DescendantsActive(WorkflowFault):
    """An instance of this id finished, but a workflow that it started did not: the id cannot be used again yet."""

    status = Code.ALREADY_EXISTS


class DescendantsUnknown(WorkflowFault):
    """Whether the descendants of a finished instance are finished could not be found out in time."""

    status = Code.UNAVAILABLE


class NotCompleted(WorkflowFault):
    """Only a finished instance can be purged."""

    def __init__(self, message: str = "orchestration has not yet completed") -> None:
        super().__init__(message)


class InstanceStalled(WorkflowFault):
    """The instance is stalled and takes no events."""

    def __init__(self, message: str = "workflow is stalled") -> None:
        super().__init__(message)


class RerunRefused(WorkflowFault):
    """The request to run again contradicts the source: it is not terminal, is a child, or its ids clash."""

    status = Code.INVALID_ARGUMENT


class RerunMissing(WorkflowFault):
    """The source, or the event from which it should run again, is not there."""

    status = Code.NOT_FOUND


class RerunExists(WorkflowFault):
    """The new instance id is taken."""

    status = Code.ALREADY_EXISTS


class AccessDenied(WorkflowFault):
    """A `WorkflowAccessPolicy` does not let the caller do this."""

    status = Code.PERMISSION_DENIED

    def __init__(self, message: str = "access denied by workflow access policy") -> None:
        super().__init__(message)


class NotReady(WorkflowFault):
    """Nobody can take the request at present: no worker is connected, or the instance is moving. Try again."""

    status = Code.UNAVAILABLE
    retryable = True


class StoreUnfit(WorkflowFault):
    """The state store cannot hold the step: it is too large for one of its transactions."""

    status = Code.FAILED_PRECONDITION


_BY_TEXT: tuple[tuple[str, type[WorkflowFault]], ...] = (
    ("no such instance exists", InstanceMissing),
    ("orchestration has not yet completed", NotCompleted),
    ("workflow is stalled", InstanceStalled),
    ("access denied by workflow access policy", AccessDenied),
)
_BY_FORM: tuple[tuple[re.Pattern[str], type[WorkflowFault]], ...] = tuple(
    (re.compile(f"(?:{form})$", re.DOTALL), fault)
    for form, fault in (
        ("an active workflow with ID '.*' already exists", InstanceActive),
        ("no workflow can have the ID '.*': .*", IdInvalid),
        (r"workflow '.*' waits for no activity -?\d+|no turn of workflow '.*' is put aside", NothingToMend),
        ("a workflow with ID '.*' has finished, but its child '.*' has not", DescendantsActive),
        ("how the child '.*' stands could not be found out: .*", DescendantsUnknown),
        ("the finished workflow '.*' still has something to tell", NotReady),
        ("workflow '[^']*' has just been put away|the workflow engine is shutting down", NotReady),
        ("workflow '[^']*' has already been created", RerunExists),
        ("workflow instance does not exist with ID '.*'", RerunMissing),
        ("'[^']*' does not have history event with ID '.*'", RerunMissing),
        ("'[^']*' is not in a terminal state|'[^']*': cannot rerun from child-workflows", RerunRefused),
        ("cannot write input to timer event '.*'|the new instance needs an ID of its own", RerunRefused),
        ("a new child workflow id is for child workflow events only", RerunRefused),
        ("expect rerun workflow inbox to not be empty|unexpected event type '.*' in inbox", RerunRefused),
    )
)
"""What the other sidecar said, at the end of whatever was put before it on its way."""
_BY_CODE: dict[int, type[WorkflowFault]] = {
    Code.ALREADY_EXISTS: InstanceActive,
    Code.PERMISSION_DENIED: AccessDenied,
    Code.NOT_FOUND: RerunMissing,
    Code.INVALID_ARGUMENT: RerunRefused,
}


def from_remote(error: RemoteFailure) -> RemoteFailure:
    """Return the fault that another sidecar answered with, or `error` itself when it is none of these.

    The text decides where it can: sidecars nest each other's errors, and the outermost status is then of no use.
    """
    if isinstance(error, WorkflowFault):
        return error
    text = str(error)
    for ending, fault in _BY_TEXT:
        if text.endswith(ending):
            return fault(ending)
    for form, fault in _BY_FORM:
        if (found := form.search(text)) is not None:
            return fault(found[0])
    kind = _BY_CODE.get(error.code)
    return error if kind is None else kind(text)
