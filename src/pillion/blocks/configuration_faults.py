"""The faults of the configuration block (spec `http-api.md` 3.2 and 4.4, `grpc-api.md` 2 to 4)."""

from pillion.errors import Code, Fault

NOT_CONFIGURED = Fault(
    "ERR_CONFIGURATION_STORE_NOT_CONFIGURED", 500, Code.FAILED_PRECONDITION, "configuration stores not configured",
    "ERR_CONFIGURATION_STORE_NOT_CONFIGURED", "basic", category="configuration",
)  # fmt: skip
NOT_FOUND = Fault(
    "ERR_CONFIGURATION_STORE_NOT_FOUND", 400, Code.INVALID_ARGUMENT, "configuration store {store} not found",
    "ERR_CONFIGURATION_STORE_NOT_FOUND", "basic", category="configuration",
)  # fmt: skip
GET = Fault(
    "ERR_CONFIGURATION_GET", 500, Code.INTERNAL, "failed to get {keys} from Configuration store {store}: {error}",
    "ERR_CONFIGURATION_GET", "basic", category="configuration",
)  # fmt: skip
SUBSCRIBE = Fault(
    "ERR_CONFIGURATION_SUBSCRIBE", 500, Code.INVALID_ARGUMENT,
    "failed to subscribe {keys} from Configuration store {store}: {error}",
    "ERR_CONFIGURATION_SUBSCRIBE", "basic", category="configuration",
)  # fmt: skip
NO_APP = Fault(
    "ERR_APP_CHANNEL_NIL", 500, Code.INTERNAL,
    "app channel is not initialized. cannot subscribe to configuration updates", category="configuration",
)  # fmt: skip
UNSUBSCRIBE = "failed to unsubscribe to configuration request {id}: {error}"
UNKNOWN_ID = "subscription does not exist"
