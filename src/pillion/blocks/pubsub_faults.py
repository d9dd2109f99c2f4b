"""The faults of publishing (spec `http-api.md` 3.2, `grpc-api.md` 2 gate P and 3)."""

from pillion.errors import Code, Fault


def _fault(
    http_code: str, status: int, code: Code, text: str, reason: str, shape: str = "resource", *, details: bool = True
) -> Fault:
    return Fault(http_code, status, code, text, reason, shape, "pubsub", http_details=details, category="pubsub")


NAME_EMPTY = _fault("ERR_PUBSUB_EMPTY", 404, Code.INVALID_ARGUMENT, "pubsub name is empty", "DAPR_PUBSUB_NAME_EMPTY")
NOT_FOUND = _fault(
    "ERR_PUBSUB_NOT_FOUND", 404, Code.INVALID_ARGUMENT, "pubsub {pubsub} is not found", "DAPR_PUBSUB_NOT_FOUND", "basic"
)
TOPIC_EMPTY = _fault(
    "ERR_TOPIC_NAME_EMPTY",
    404,
    Code.INVALID_ARGUMENT,
    "topic is empty in pubsub {pubsub}",
    "DAPR_PUBSUB_TOPIC_NAME_EMPTY",
)
METADATA = _fault(
    "ERR_PUBSUB_REQUEST_METADATA", 400, Code.INVALID_ARGUMENT,
    "failed deserializing metadata. Error: rawPayload value must be a valid boolean: actual is '{value}'",
    "DAPR_PUBSUB_METADATA_DESERIALIZATION",
)  # fmt: skip
DELAY = _fault(
    "ERR_PUBSUB_REQUEST_METADATA", 400, Code.INVALID_ARGUMENT, "failed deserializing metadata. Error: {error}",
    "DAPR_PUBSUB_METADATA_DESERIALIZATION",
)  # fmt: skip
CLOUDEVENT = _fault(
    "ERR_PUBSUB_CLOUD_EVENTS_SER", 500, Code.INVALID_ARGUMENT, "cannot create cloudevent",
    "DAPR_PUBSUB_CLOUD_EVENT_CREATION",
)  # fmt: skip
UNMARSHAL = _fault(
    "ERR_PUBSUB_EVENTS_SER", 400, Code.INVALID_ARGUMENT,
    "error when unmarshaling the request for topic {topic} pubsub {pubsub}: {error}", "DAPR_PUBSUB_UNMARSHAL_EVENTS",
)  # fmt: skip
ENTRY_IDS = _fault(
    "ERR_PUBSUB_EVENTS_SER", 400, Code.INVALID_ARGUMENT,
    "error marshaling events to bytes for topic {topic} pubsub {pubsub}. error: "
    "entryId is duplicated or not present for entry",
    "DAPR_PUBSUB_MARSHAL_EVENTS",
)  # fmt: skip
ENVELOPE = _fault(
    "ERR_PUBSUB_EVENTS_SER", 400, Code.INVALID_ARGUMENT,
    "error marshaling event in entry {entry} for topic {topic} pubsub {pubsub}: {error}",
    "DAPR_PUBSUB_MARSHAL_ENVELOPE",
)  # fmt: skip
FORBIDDEN = _fault(
    "ERR_PUBSUB_FORBIDDEN", 403, Code.PERMISSION_DENIED, "topic {topic} is not allowed for app id {app}",
    "DAPR_PUBSUB_FORBIDDEN",
)  # fmt: skip
PUBLISH = _fault(
    "ERR_PUBSUB_PUBLISH_MESSAGE", 500, Code.INTERNAL,
    "error when publishing to topic {topic} in pubsub {pubsub}: {error}", "DAPR_PUBSUB_PUBLISH_MESSAGE",
)  # fmt: skip
