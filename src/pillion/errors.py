"""The fault table: every error the API can answer, as a row.

Knows: codes, statuses and texts (spec `http-api.md` 3.2, `grpc-api.md` 2 and 3). Never knows: sockets, JSON or
protobuf; `pillion.api.render` alone turns an `ApiError` into bytes. What is not raised as an `ApiError` is "internal"
to the caller and complete in the log.
"""

from __future__ import annotations

from enum import IntEnum
from typing import TYPE_CHECKING

from pillion.records import record

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence


class Code(IntEnum):
    """gRPC status codes (github.com/grpc/grpc/blob/master/doc/statuscodes.md)."""

    OK = 0
    CANCELLED = 1
    UNKNOWN = 2
    INVALID_ARGUMENT = 3
    DEADLINE_EXCEEDED = 4
    NOT_FOUND = 5
    ALREADY_EXISTS = 6
    PERMISSION_DENIED = 7
    RESOURCE_EXHAUSTED = 8
    FAILED_PRECONDITION = 9
    ABORTED = 10
    OUT_OF_RANGE = 11
    UNIMPLEMENTED = 12
    INTERNAL = 13
    UNAVAILABLE = 14
    DATA_LOSS = 15
    UNAUTHENTICATED = 16


GRPC_TO_HTTP: Mapping[int, int] = {
    0: 200, 1: 408, 2: 500, 3: 400, 4: 504, 5: 404, 6: 409, 7: 403, 8: 429,
    9: 400, 10: 409, 11: 400, 12: 501, 13: 500, 14: 503, 15: 500, 16: 401,
}  # fmt: skip
"""HTTP status for a gRPC code (spec `grpc-api.md` 5)."""

_HTTP_TO_GRPC: Mapping[int, Code] = {
    408: Code.CANCELLED, 500: Code.UNKNOWN, 400: Code.INTERNAL, 504: Code.DEADLINE_EXCEEDED, 404: Code.NOT_FOUND,
    409: Code.ALREADY_EXISTS, 403: Code.PERMISSION_DENIED, 401: Code.UNAUTHENTICATED, 429: Code.RESOURCE_EXHAUSTED,
    501: Code.UNIMPLEMENTED, 503: Code.UNAVAILABLE,
}  # fmt: skip


def http_to_grpc(status: int) -> Code:
    """Return the gRPC code for an HTTP status (spec `grpc-api.md` 5); 400 is INTERNAL, as the reference has it."""
    return Code.OK if 200 <= status < 300 else _HTTP_TO_GRPC.get(status, Code.UNKNOWN)


def code_name(code: int) -> str:
    """Return the CamelCase name that error texts and metric labels use: `NotFound`, `OK`."""
    if code == 0:
        return "OK"
    if code == Code.CANCELLED:
        return "Canceled"
    try:
        return Code(code).name.title().replace("_", "")
    except ValueError:
        return f"Code({code})"


@record
class Fault:
    """One row of the table.

    `http_code` is the `errorCode` of the JSON body, `grpc_reason` the `ErrorInfo.reason`; an empty `grpc_reason` means
    an error without details. `text` is a `str.format` pattern. `shape` names the details that accompany it:
    `""` none, `"basic"` ErrorInfo alone, `"resource"` ResourceInfo + ErrorInfo, `"key"` BadRequest + ResourceInfo +
    ErrorInfo, `"help"` Help + ResourceInfo + ErrorInfo. `http_details` tells whether the HTTP body carries them.
    """

    http_code: str
    http_status: int
    grpc_status: Code
    text: str
    grpc_reason: str = ""
    shape: str = ""
    resource_type: str = ""
    http_details: bool = False
    category: str = "common"


class ApiError(Exception):
    """A fault with its particulars, raised by handlers and rendered at the edge.

    Arguments: `fault`, then the fields of its text. `metadata` goes into ErrorInfo, `resource` into
    ResourceInfo.resource_name, `fields` into BadRequest; `http_status` and `grpc_status` override the row where the
    specification says that a component's own error does.
    """

    def __init__(
        self,
        fault: Fault,
        *,
        metadata: Mapping[str, str] | None = None,
        resource: str = "",
        fields: Sequence[tuple[str, str]] = (),
        http_status: int | None = None,
        grpc_status: Code | None = None,
        **values: object,
    ) -> None:
        self.fault = fault
        self.text = fault.text.format(**values) if values else fault.text
        self.metadata = metadata
        self.resource = resource
        self.fields = tuple(fields)
        self.http_status = http_status or fault.http_status
        self.grpc_status = fault.grpc_status if grpc_status is None else grpc_status
        super().__init__(self.text)

    def __str__(self) -> str:
        """The form in which one error is quoted inside another (spec `http-api.md` 3.1)."""
        return f"api error: code = {code_name(self.grpc_status)} desc = {self.text}"


class ComponentError(Exception):
    """A component failed: its server, its configuration or the request it was given. The text is shown to callers."""


class EtagMismatch(ComponentError):
    """The stored version is not the one that the caller expected; HTTP 409, gRPC ABORTED."""

    def __str__(self) -> str:
        inner = super().__str__()
        return "possible etag mismatch. error from state store" + (f": {inner}" if inner else "")


class EtagInvalid(ComponentError):
    """The given ETag cannot be one of this store's; HTTP 400, gRPC INVALID_ARGUMENT."""

    def __str__(self) -> str:
        inner = super().__str__()
        return "invalid etag value" + (f": {inner}" if inner else "")


class TokenInvalid(ComponentError):
    """A continuation token that is not one of this store's."""


class QueryInvalid(ComponentError):
    """A query that no store could answer: the fault is its author's."""


class NotSupported(ComponentError):
    """The component lacks the feature that was asked of it."""


class ConfigError(Exception):
    """Something an operator wrote is wrong. `where` names file, document, line and field, `mend` says what to do."""

    def __init__(self, what: str, *, where: str = "", mend: str = "") -> None:
        self.what, self.where, self.mend = what, where, mend
        super().__init__(what)

    def __str__(self) -> str:
        lead = f"{self.where}: " if self.where else ""
        tail = f" ({self.mend})" if self.mend else ""
        return f"{lead}{self.what}{tail}"


class MissingExtra(ConfigError):
    """An optional library is not installed; the text names the `pip install` that brings it."""

    def __init__(self, wanted_by: str, extra: str) -> None:
        super().__init__(
            f"{wanted_by} needs libraries that are not installed", mend=f"run: pip install 'pillion[{extra}]'"
        )
