"""The faults of the jobs block (spec `http-api.md` 3.2, `grpc-api.md` 3, `actors-workflows-jobs.md` 2.1)."""

from pillion.errors import Code, Fault


def _refused(reason: str, text: str) -> Fault:
    return Fault("", 400, Code.INVALID_ARGUMENT, text, reason, "basic", http_details=True, category="job")


def _failed(reason: str, text: str) -> Fault:
    return Fault("", 500, Code.INTERNAL, text, reason, "basic", http_details=True, category="job")


MALFORMED = Fault(
    "ERR_MALFORMED_REQUEST", 400, Code.INVALID_ARGUMENT, "failed deserializing HTTP body: {error}", category="job"
)
NAME_IN_BODY = _refused("DAPR_SCHEDULER_JOB_NAME", "Set the job name in the url only")
NO_JOB = _refused("DAPR_SCHEDULER_EMPTY", "Job is empty")
NO_NAME = _refused("DAPR_SCHEDULER_JOB_NAME_EMPTY", "Name is empty")
NO_SCHEDULE = _refused("DAPR_SCHEDULER_SCHEDULE_EMPTY", "Schedule is empty")
CATCH_UP = _refused("PILLION_SCHEDULER_CATCH_UP", "{error}")
SCHEDULE = _failed("DAPR_SCHEDULER_SCHEDULE_JOB", "failed to schedule job due to: {error}")
GET = _failed("DAPR_SCHEDULER_GET_JOB", "failed to get job due to: {error}")
LIST = _failed("DAPR_SCHEDULER_LIST_JOBS", "failed to list jobs due to: {error}")
DELETE = _failed("DAPR_SCHEDULER_DELETE_JOB", "failed to delete job due to: {error}")
