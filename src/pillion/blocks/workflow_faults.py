"""The faults of the workflow API (spec `http-api.md` 3.2, `grpc-api.md` 3). gRPC gives them without details."""

from pillion.errors import Code, Fault

_WORKFLOW = "workflow"


def _fault(code: str, status: int, grpc: Code, text: str) -> Fault:
    return Fault(code, status, grpc, text, category=_WORKFLOW)


NO_INSTANCE_ID = _fault(
    "ERR_INSTANCE_ID_PROVIDED_MISSING", 400, Code.INVALID_ARGUMENT, "no instance ID was provided"
)  # fmt: skip
ID_TOO_LONG = _fault(
    "ERR_INSTANCE_ID_TOO_LONG", 400, Code.INVALID_ARGUMENT,
    "workflow instance ID exceeds the max length of {most} characters",
)  # fmt: skip
ID_INVALID = _fault(
    "ERR_INSTANCE_ID_INVALID", 400, Code.INVALID_ARGUMENT,
    "workflow instance ID '{id}' is invalid: only alphanumeric and underscore characters are allowed",
)  # fmt: skip
NOT_FOUND = _fault(
    "ERR_INSTANCE_ID_NOT_FOUND", 404, Code.NOT_FOUND,
    "unable to find workflow with the provided instance ID: {id}",
)  # fmt: skip
NO_NAME = _fault("ERR_WORKFLOW_NAME_MISSING", 400, Code.INVALID_ARGUMENT, "workflow name is not configured")
NO_EVENT = _fault("ERR_WORKFLOW_EVENT_NAME_MISSING", 400, Code.INVALID_ARGUMENT, "missing workflow event name")
START_TIME = _fault(
    "ERR_START_WORKFLOW", 400, Code.INVALID_ARGUMENT,
    "error starting workflow '{name}': dapr.workflow.start_time must be a time as in RFC 3339, not {given!r}",
)  # fmt: skip
BODY_READ = _fault("ERR_BODY_READ", 400, Code.INVALID_ARGUMENT, "failed to read body: {error}")
NOT_TEXT = _fault(
    "ERR_MALFORMED_REQUEST", 400, Code.INVALID_ARGUMENT, "the {what} must be UTF-8 text: {error}"
)  # fmt: skip
START = _fault("ERR_START_WORKFLOW", 500, Code.INTERNAL, "error starting workflow '{name}': {error}")
GET = _fault(
    "ERR_GET_WORKFLOW", 500, Code.INTERNAL, "error while getting workflow info on instance '{id}': {error}"
)  # fmt: skip
TERMINATE = _fault("ERR_TERMINATE_WORKFLOW", 500, Code.INTERNAL, "error terminating workflow '{id}': {error}")
RAISE = _fault("ERR_RAISE_EVENT_WORKFLOW", 500, Code.INTERNAL, "error raising event on workflow '{id}': {error}")
PAUSE = _fault("ERR_PAUSE_WORKFLOW", 500, Code.INTERNAL, "error pausing workflow {id}: {error}")
RESUME = _fault("ERR_RESUME_WORKFLOW", 500, Code.INTERNAL, "error resuming workflow {id}: {error}")
PURGE = _fault("ERR_PURGE_WORKFLOW", 500, Code.INTERNAL, "error purging workflow {id}: {error}")

# What is asked of our own routes alone.
BAD_QUERY = _fault("ERR_MALFORMED_REQUEST", 400, Code.INVALID_ARGUMENT, "{text}")
LIST = _fault("ERR_LIST_WORKFLOWS", 500, Code.INTERNAL, "error listing workflows: {error}")
RERUN = _fault("ERR_RERUN_WORKFLOW", 500, Code.INTERNAL, "error rerunning workflow '{id}': {error}")
TURN = _fault("ERR_WORKFLOW_TURN", 500, Code.INTERNAL, "error mending the turn of workflow '{id}': {error}")
ACTIVITY = _fault(
    "ERR_WORKFLOW_ACTIVITY", 500, Code.INTERNAL, "error mending activity {task} of workflow '{id}': {error}"
)  # fmt: skip
