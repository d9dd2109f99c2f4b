"""The faults of the actors' API (spec `actors-workflows-jobs.md` 1.7, `http-api.md` 3.2, `grpc-api.md` 2 and 3).

Codes without details over gRPC: the reference answers actors' errors in that form.
"""

from pillion.errors import Code, Fault

_ACTOR = "actor"

NO_PLACEMENT = Fault(
    "ERR_ACTOR_NO_PLACEMENT", 400, Code.UNAVAILABLE, "placement service is not configured", category=_ACTOR
)
CLOSED = Fault("ERR_ACTOR_RUNTIME_CLOSED", 503, Code.UNAVAILABLE, "actor runtime is closed", category=_ACTOR)
NO_STATE_STORE = Fault(
    "ERR_ACTOR_RUNTIME_NOT_FOUND", 500, Code.INTERNAL,
    "the state store is not configured to use the actor runtime. Have you set the - name: actorStateStore value: "
    '"true" in your state store component file?', category=_ACTOR,
)  # fmt: skip
TYPE_RESERVED = Fault(
    "ERR_ACTOR_TYPE_RESERVED", 403, Code.PERMISSION_DENIED,
    'actor type "{type}" is reserved for the Dapr workflow runtime; direct actor API access is not permitted',
    category=_ACTOR,
)  # fmt: skip
BAD_REQUEST = Fault("ERR_BAD_REQUEST", 400, Code.INVALID_ARGUMENT, "{text}")
MALFORMED = Fault(
    "ERR_MALFORMED_REQUEST", 400, Code.INVALID_ARGUMENT, "failed deserializing HTTP body: {text}", category=_ACTOR
)
RESERVED_KEY = Fault(
    "ERR_BAD_REQUEST", 400, Code.INVALID_ARGUMENT,
    "the state key {key} is reserved: the sidecar keeps its own mark there", category=_ACTOR,
)  # fmt: skip
INSTANCE_MISSING = Fault("ERR_ACTOR_INSTANCE_MISSING", 400, Code.INTERNAL, "actor instance is missing", category=_ACTOR)
INVOKE = Fault("ERR_ACTOR_INVOKE_METHOD", 500, Code.INTERNAL, "error invoke actor method: {error}", category=_ACTOR)
NO_ADDRESS = Fault(
    "ERR_ACTOR_NO_ADDRESS", 404, Code.FAILED_PRECONDITION, "did not find address for actor '{type}||{id}'",
    category=_ACTOR,
)  # fmt: skip
LOOKUP = Fault(
    "ERR_ACTOR_NO_ADDRESS", 404, Code.FAILED_PRECONDITION, "failed to lookup actor: {error}", category=_ACTOR
)
STACK_DEPTH = Fault(
    "ERR_ACTOR_STACK_DEPTH", 500, Code.RESOURCE_EXHAUSTED, "maximum stack depth exceeded", category=_ACTOR
)
STATE_GET = Fault("ERR_ACTOR_STATE_GET", 500, Code.INTERNAL, "error getting actor state: {error}", category=_ACTOR)
STATE_SAVE = Fault(
    "ERR_ACTOR_STATE_TRANSACTION_SAVE", 500, Code.INTERNAL, "error saving actor transaction state: {error}",
    category=_ACTOR,
)  # fmt: skip
UNKNOWN_OPERATION = Fault(
    "ERR_ACTOR_STATE_TRANSACTION_SAVE", 500, Code.UNIMPLEMENTED, "operation type {operation} not supported",
    "ERR_NOT_SUPPORTED_STATE_OPERATION", "basic", category=_ACTOR,
)  # fmt: skip
NOT_HOSTED = Fault(
    "ERR_ACTOR_REMINDER_NON_HOSTED", 403, Code.PERMISSION_DENIED,
    "operations on actor reminders are only possible on hosted actor types", category=_ACTOR,
)  # fmt: skip
REMINDER_CREATE = Fault(
    "ERR_ACTOR_REMINDER_CREATE", 500, Code.INTERNAL, "error creating actor reminder: {error}", category=_ACTOR
)
REMINDER_GET = Fault(
    "ERR_ACTOR_REMINDER_GET", 500, Code.INTERNAL, "error getting actor reminder: {error}", category=_ACTOR
)
REMINDER_DELETE = Fault(
    "ERR_ACTOR_REMINDER_DELETE", 500, Code.INTERNAL, "error deleting actor reminder: {error}", category=_ACTOR
)
REMINDER_NOT_FOUND = Fault(
    "ERR_ACTOR_REMINDER_NOT_FOUND", 404, Code.NOT_FOUND, "actor reminder not found: {name}", category=_ACTOR
)
REMINDER_EXISTS = Fault(
    "ERR_ACTOR_REMINDER_ALREADY_EXISTS", 409, Code.ALREADY_EXISTS, "actor reminder already exists: {name}",
    category=_ACTOR,
)  # fmt: skip
TIMER_CREATE = Fault(
    "ERR_ACTOR_TIMER_CREATE", 500, Code.INTERNAL, "error creating actor timer: {error}", category=_ACTOR
)
