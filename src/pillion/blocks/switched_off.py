"""The rows of actors and workflows in a sidecar without a placement service: each says so (spec 1.1).

Knows: which rows of the contract are theirs. Never knows: what they would do.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from google.protobuf.message import Message

from pillion.api.operation import Operation, Rpc
from pillion.blocks import actors_faults as faults
from pillion.blocks import reserved
from pillion.errors import ApiError
from pillion.kinds.actors import RESERVED
from pillion.wire.messages import wellknown

if TYPE_CHECKING:
    from pillion.api.call import RpcCall
    from pillion.blocks.reserved import Asked

_THEIRS = frozenset({"actors", "workflows", "workers"})


def operations() -> list[Operation]:
    """Return the rows."""
    hello = Operation("Hello", "workers", rpc=Rpc(("Hello",), wellknown.Empty, _hello, service=reserved.TASK_HUB))
    return [hello, *(row for row in reserved.operations([hello], _refusal) if row.group in _THEIRS)]


def _refusal(name: str, asked: Asked) -> ApiError:
    """State, timers and reminders of the sidecar's own types are refused for what they are, whatever else is wrong."""
    if "Actor" in name and name != "InvokeActor":
        actor_type = _type_of(asked)
        if actor_type.startswith(RESERVED):
            return ApiError(faults.TYPE_RESERVED, type=actor_type)
    return ApiError(faults.NO_PLACEMENT)


def _type_of(asked: Asked) -> str:
    """Return the type of an actor that is asked for; "" of a stream, which names none before it is accepted."""
    if isinstance(asked, Message):
        return str(asked.actor_type)  # type: ignore[attr-defined]
    return asked[0] if asked else ""


async def _hello(call: RpcCall, request: wellknown.Empty) -> Message:
    """SDKs say it to find out whether a sidecar is there."""
    return request
