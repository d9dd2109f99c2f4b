"""Requests to a scheduler: read, named in metrics, and its errors as statuses. Pure."""

from __future__ import annotations

from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import DecodeError, Message

from pillion.errors import Code
from pillion.jobs.protocol import CATCH_UP, CATCH_UP_PER_SECOND, catch_up_of
from pillion.jobs.statuses import code_of
from pillion.net.exchange import RpcError

if TYPE_CHECKING:
    from pillion.errors import ComponentError
    from pillion.kinds.jobs import CatchUp, Job
    from pillion.net.exchange import Metadata, ServerCall
    from pillion.wire.messages import scheduler as m

R = TypeVar("R", bound=Message)


def parsed(takes: type[R], raw: bytes) -> R:
    """Return a request. Raises `RpcError` for bytes that are none."""
    try:
        return takes.FromString(raw)
    except DecodeError as error:
        raise RpcError(Code.INTERNAL, f"grpc: error unmarshalling request: {error}") from error


def status_of(error: ComponentError) -> RpcError:
    """Return the status that tells a scheduler's error."""
    return RpcError(code_of(error), str(error))


def kind_of(metadata: m.JobMetadata) -> str:
    """Return the label by which metrics know the target of a job."""
    return metadata.target.WhichOneof("type") or "unknown"


def catch_up_headers(job: Job) -> Metadata:
    """Return metadata that tell how late ticks are caught up with, none for the reference's way."""
    found: Metadata = [(CATCH_UP, job.catch_up.value)] if job.catch_up != "all" else []
    if job.catch_up_per_second:
        found.append((CATCH_UP_PER_SECOND, f"{job.catch_up_per_second:g}"))
    return found


def catch_up_asked(call: ServerCall) -> tuple[CatchUp, float]:
    """Return what such metadata ask for. Raises `JobInvalid`."""
    mode, rate = call.first(CATCH_UP), call.first(CATCH_UP_PER_SECOND)
    return catch_up_of(mode if isinstance(mode, str) else "", rate if isinstance(rate, str) else "")
