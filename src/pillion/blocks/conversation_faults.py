"""The faults of the conversation block (spec `http-api.md` 3.2, `grpc-api.md` 3)."""

from pillion.errors import Code, Fault

MALFORMED = Fault(
    "ERR_MALFORMED_REQUEST", 400, Code.INVALID_ARGUMENT, "failed deserializing HTTP body: {error}",
    category="conversation",
)  # fmt: skip
NOT_FOUND = Fault(
    "ERR_CONVERSATION_NOT_FOUND", 400, Code.INVALID_ARGUMENT, "failed finding conversation component {name}",
    category="conversation",
)  # fmt: skip
METADATA = Fault("ERROR", 500, Code.UNKNOWN, "failed decoding metadata: {error}", category="conversation")
MISSING_INPUTS = Fault(
    "ERR_CONVERSATION_MISSING_INPUTS", 400, Code.INVALID_ARGUMENT,
    "failed conversing with component {name}: missing inputs in request", category="conversation",
)  # fmt: skip
INVALID_PARAMETERS = Fault(
    "ERR_CONVERSATION_INVALID_PARMS", 400, Code.INVALID_ARGUMENT,
    "failed conversing with component {name}: invalid params: {error}", category="conversation",
)  # fmt: skip
INVOKE = Fault(
    "ERR_CONVERSATION_INVOKE", 500, Code.INTERNAL, "failed conversing with component {name}: {error}",
    category="conversation",
)  # fmt: skip
EMPTY_ANSWER = "LLM returned empty response with no tool calls despite {count} tools being available"
