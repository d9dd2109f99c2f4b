"""Errors of schedulers as gRPC statuses, both ways."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.errors import Code, code_name
from pillion.kinds.jobs import (
    JobExists,
    JobInvalid,
    JobMissing,
    SchedulerFailed,
    SchedulerTimeout,
    SchedulerUnavailable,
)

if TYPE_CHECKING:
    from pillion.errors import ComponentError
    from pillion.net.exchange import RpcError


def code_of(error: ComponentError) -> Code:
    """Return the status that tells an error. The reference has UNKNOWN where the caller is to blame."""
    match error:
        case JobExists():
            return Code.ALREADY_EXISTS
        case JobInvalid():
            return Code.INVALID_ARGUMENT
        case JobMissing():
            return Code.NOT_FOUND
        case SchedulerTimeout():
            return Code.DEADLINE_EXCEEDED
        case SchedulerUnavailable():
            return Code.UNAVAILABLE
        case SchedulerFailed():
            return error.code
        case _:
            return Code.UNKNOWN


def error_of(error: RpcError) -> ComponentError:
    """Return what a scheduler's status means."""
    match error.code:
        case Code.ALREADY_EXISTS:
            return JobExists(error.message)
        case Code.INVALID_ARGUMENT:
            return JobInvalid(error.message)
        case Code.NOT_FOUND:
            return JobMissing(error.message)
        case Code.UNAVAILABLE:
            return SchedulerUnavailable(error.message)
        case Code.DEADLINE_EXCEEDED:
            return SchedulerTimeout(error.message)
        case _:
            try:
                code = Code(error.code)
            except ValueError:  # gRPC has no such status
                code = Code.UNKNOWN
            return SchedulerFailed(error.message, code)


def quoted(error: ComponentError) -> str:
    """Return an error as the reference's texts quote a scheduler's: `rpc error: code = NotFound desc = …`."""
    return f"rpc error: code = {code_name(code_of(error))} desc = {error}"
