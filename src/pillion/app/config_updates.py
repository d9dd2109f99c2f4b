"""Changes of configuration for the application that asked for them over HTTP (spec `http-api.md` 5.2).

Knows: the path, the body, and that exactly 200 is "taken". A gRPC application gets the same as an invocation. Never
knows: subscriptions, or what becomes of a change that was not taken.
"""

from __future__ import annotations

from typing import TYPE_CHECKING
from urllib.parse import quote

from pillion.app.invoke import invoke_app
from pillion.app.topics import UNREACHABLE, unreachable
from pillion.errors import Code
from pillion.kinds.invocation import Invocation
from pillion.kinds.topics import Unprocessed

if TYPE_CHECKING:
    from pillion.app.channel import AppChannel


async def tell(channel: AppChannel, store: str, key: str, event: bytes) -> None:
    """Hand one event to the application, under the path of one changed key; raises `Unprocessed`."""
    path = f"configuration/{_escaped(store)}/{_escaped(key)}"
    call = Invocation("", "", path, "POST", content_type=b"application/json", body=event, length=len(event))
    try:
        reply = await invoke_app(channel, call)
        if not isinstance(reply.body, bytes):
            # What an application says here is of no interest to anybody: its connection is worth less than its words.
            closing = getattr(reply.body, "aclose", None)
            if closing is not None:
                await closing()
    except UNREACHABLE as error:
        raise unreachable(error) from error
    if channel.http is None:
        if reply.code != Code.OK:
            raise Unprocessed(f"the application answered {reply.message!r}", grpc_code=Code(reply.code))
    elif reply.code != 200:
        raise Unprocessed(f"the application answered with status {reply.code}", http_status=reply.code)


def _escaped(text: str) -> str:
    """Slashes of a key stay, as the reference has it; a key cannot climb to another route of the application."""
    parts = (part.replace(".", "%2E") if part in (".", "..") else quote(part) for part in text.split("/"))
    return "/".join(parts)
