"""The faults of the state block (spec `http-api.md` 3.2, `grpc-api.md` 2 and 3)."""

from pillion.errors import Code, Fault

NOT_CONFIGURED = Fault(
    "ERR_STATE_STORE_NOT_CONFIGURED", 500, Code.FAILED_PRECONDITION, "state store {store} is not configured",
    "DAPR_STATE_NOT_CONFIGURED", "basic", http_details=True, category="state",
)  # fmt: skip
NOT_FOUND = Fault(
    "ERR_STATE_STORE_NOT_FOUND", 400, Code.INVALID_ARGUMENT, "state store {store} is not found",
    "DAPR_STATE_NOT_FOUND", "basic", http_details=True, category="state",
)  # fmt: skip
ILLEGAL_KEY = Fault(
    "ERR_MALFORMED_REQUEST", 400, Code.INVALID_ARGUMENT, "{text}",
    "DAPR_STATE_ILLEGAL_KEY", "key", "state", http_details=True, category="state",
)  # fmt: skip
MALFORMED = Fault("ERR_MALFORMED_REQUEST", 400, Code.INVALID_ARGUMENT, "{text}", category="state")
EMPTY_KEY = Fault(
    "ERR_MALFORMED_REQUEST", 400, Code.INVALID_ARGUMENT, "state key cannot be empty", "ERR_STATE_SAVE", "basic",
    category="state",
)  # fmt: skip
GET = Fault(
    "ERR_STATE_GET", 500, Code.INTERNAL, "fail to get {key} from state store {store}: {error}", "ERR_STATE_GET",
    "basic", category="state",
)  # fmt: skip
BULK_GET = Fault("ERR_STATE_BULK_GET", 500, Code.UNKNOWN, "{error}", category="state")
SAVE = Fault(
    "ERR_STATE_SAVE", 500, Code.INTERNAL, "failed saving state in state store {store}: {error}", "ERR_STATE_SAVE",
    "basic", category="state",
)  # fmt: skip
DELETE = Fault(
    "ERR_STATE_DELETE", 500, Code.INTERNAL, "failed deleting state with key {key}: {error}", "ERR_STATE_DELETE",
    "basic", category="state",
)  # fmt: skip
BULK_DELETE = Fault(
    "ERR_STATE_BULK_DELETE", 500, Code.INTERNAL, "failed deleting state in state store {store}: {error}",
    "ERR_STATE_BULK_DELETE", "basic", category="state",
)  # fmt: skip
TRANSACTIONS_NOT_SUPPORTED = Fault(
    "ERR_STATE_STORE_NOT_SUPPORTED", 500, Code.UNIMPLEMENTED, "state store {store} doesn't support transactions",
    "DAPR_STATE_TRANSACTIONS_NOT_SUPPORTED", "help", "state", http_details=True, category="state",
)  # fmt: skip
UNKNOWN_OPERATION = Fault(
    "ERR_NOT_SUPPORTED_STATE_OPERATION", 400, Code.UNIMPLEMENTED, "operation type {operation} not supported",
    "ERR_NOT_SUPPORTED_STATE_OPERATION", "basic", category="state",
)  # fmt: skip
TOO_MANY = Fault(
    "ERR_STATE_STORE_TOO_MANY_TRANSACTIONS", 400, Code.INVALID_ARGUMENT,
    "the transaction contains {count} operations, which is more than what the state store supports: {limit}",
    "DAPR_STATE_TOO_MANY_TRANSACTIONS", "resource", "state", http_details=True, category="state",
)  # fmt: skip
TRANSACTION = Fault(
    "ERR_STATE_TRANSACTION", 500, Code.INTERNAL, "error while executing state transaction: {error}",
    "ERR_STATE_TRANSACTION", "basic", category="state",
)  # fmt: skip
QUERY_NOT_SUPPORTED = Fault(
    "ERR_STATE_STORE_NOT_SUPPORTED", 500, Code.INTERNAL, "state store does not support querying",
    "DAPR_STATE_QUERYING_NOT_SUPPORTED", "resource", "state", http_details=True, category="state",
)  # fmt: skip
KEYS_NOT_SUPPORTED = Fault(
    "ERR_STATE_STORE_NOT_SUPPORTED", 501, Code.UNIMPLEMENTED, "state store {store} doesn't support listing keys",
    "PILLION_STATE_LISTING_NOT_SUPPORTED", "resource", "state", http_details=True, category="state",
)  # fmt: skip
KEYS = Fault(
    "ERR_STATE_KEYS", 500, Code.INTERNAL, "failed listing keys of state store {store}: {error}", "ERR_STATE_KEYS",
    "basic", category="state",
)  # fmt: skip
QUERY = Fault(
    "ERR_STATE_QUERY", 500, Code.INTERNAL, "state store {store} query failed: {error}", "DAPR_STATE_QUERY_FAILED",
    "resource", "state", http_details=True, category="state",
)  # fmt: skip
OUTBOX = Fault(
    "ERR_PUBLISH_OUTBOX", 500, Code.INTERNAL, "error while publishing outbox message: {error}", "DAPR_PUBSUB_OUTBOX",
    "basic", http_details=True, category="pubsub",
)  # fmt: skip
