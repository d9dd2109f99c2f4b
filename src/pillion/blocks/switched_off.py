"""The rows of actors and workflows in a sidecar without a placement service: each says so (spec 1.1).

Knows: which rows of the contract are theirs. Never knows: what they would do.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pillion.api.operation import Operation, Rpc
from pillion.blocks import actors_faults as faults
from pillion.blocks import reserved
from pillion.errors import ApiError
from pillion.kinds.actors import RESERVED
from pillion.wire.messages import wellknown

if TYPE_CHECKING:
    from collections.abc import Sequence

    from google.protobuf.message import Message

    from pillion.api.call import RpcCall

TASK_HUB = "TaskHubSidecarService"
_THEIRS = re.compile(r"Actor|Workflow$|Workflow(Alpha|Beta)\d+$")


def operations() -> list[Operation]:
    """Return the rows."""
    hello = Operation("Hello", "workers", rpc=Rpc(("Hello",), wellknown.Empty, _hello, service=TASK_HUB))
    return [hello, *(row for row in reserved.operations([hello], _refusal) if _is_theirs(row))]


def _is_theirs(row: Operation) -> bool:
    if row.rpc is None:
        return row.group in ("actors", "workflows")
    return row.rpc.service == TASK_HUB or any(map(_THEIRS.search, row.rpc.methods))


def _refusal(route: str, parameters: Sequence[str]) -> ApiError:
    """State, timers and reminders of the sidecar's own types are refused for what they are, whatever else is wrong."""
    if parameters and parameters[0].startswith(RESERVED) and "/actors/" in route and "/method/" not in route:
        return ApiError(faults.TYPE_RESERVED, type=parameters[0])
    return ApiError(faults.NO_PLACEMENT)


async def _hello(call: RpcCall, request: wellknown.Empty) -> Message:
    """SDKs say it to find out whether a sidecar is there."""
    return request
