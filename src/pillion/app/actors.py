"""Actors of an HTTP application: how a turn reaches it and what its answer means (spec `actors-workflows-jobs.md` 1.6).

Knows: the routes under `/actors`, the answers 200 and 404, the headers that say more than a status. Never knows: which
instance is whose turn, where actors live, who called.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING
from urllib.parse import quote

from pillion.app.topic_headers import read_all
from pillion.app.topics import ASK, insist
from pillion.errors import ComponentError
from pillion.kinds.actors import ActorError, ActorReply, AppRefused, MethodMissing
from pillion.kinds.invocation import MOST_GATHERED
from pillion.net.exchange import BodyIncomplete, BodyTooLarge, Request
from pillion.net.http_client import HttpError
from pillion.wire import gojson
from pillion.wire.http1 import HOP_BY_HOP
from pillion.wire.methods import BadMethod, app_path

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillion.app.channel import AppChannel
    from pillion.kinds.actors import ActorCall, Headers, Tick
    from pillion.net.exchange import Response
    from pillion.resiliency.machine import Retry

_JSON = (b"content-type", b"application/json")
_PROTOBUF = (b"content-type", b"application/x-protobuf")
_REMOTE = (b"x-dapr-remote", b"true")
_UNREACHABLE = (HttpError, ComponentError, BodyIncomplete, BodyTooLarge, OSError, ValueError)
"""What a call to the application fails with when there is no answer; TimeoutError is an OSError."""
_PLAIN = re.compile(r"[A-Za-z0-9_.~@:!$&'()*+,;=-]+")
_SAFE = "~@:!$&'()*+,;="
_TRUE = frozenset((b"y", b"yes", b"true", b"t", b"on", b"1"))

_KEEP, _LEAVE, _TYPE, _ERROR, _CANCEL = range(5)
_RULES = dict.fromkeys(HOP_BY_HOP, _LEAVE) | {
    b"content-length": _LEAVE,
    b"content-type": _TYPE,
    b"x-daprerrorresponseheader": _ERROR,
    b"x-daprremindercancel": _CANCEL,
}


class HttpActors:
    """The application as a `Handler`. A failure to reach it is an `ActorError`, which no other try would mend."""

    def __init__(self, channel: AppChannel) -> None:
        self._channel = channel

    async def invoke(self, call: ActorCall) -> ActorReply:
        """`PUT /actors/T/I/method/M` with the body and the headers of the call."""
        try:
            target = _path(call.actor_type, call.actor_id) + b"/method" + app_path(call.method)
        except BadMethod as error:
            raise ActorError(str(error)) from error
        if call.query:
            target += b"?" + call.query
        headers = call.headers.copy()
        if call.content_type:
            headers.append((b"content-type", call.content_type))
        if call.remote:
            headers.append(_REMOTE)
        reply, _ = await self._ask(target, headers, call.body, call.actor_type, call.actor_id, call.method)
        return reply

    async def tick(self, tick: Tick) -> bool:
        """`PUT …/method/remind/N` or `…/method/timer/N`; True when the answer says that it shall be the last."""
        kind = "timer" if tick.is_timer else "remind"
        target = _path(tick.actor_type, tick.actor_id) + f"/method/{kind}/{_segment(tick.name)}".encode()
        body = timer_body(tick) if tick.is_timer else reminder_body(tick)
        method = f"{kind}/{tick.name}"
        _, cancelled = await self._ask(target, [_JSON, *tick.headers], body, tick.actor_type, tick.actor_id, method)
        return cancelled

    async def deactivate(self, actor_type: str, actor_id: str) -> None:
        """`DELETE /actors/T/I`."""
        try:
            response = await self._channel.request(Request("DELETE", _path(actor_type, actor_id), [_PROTOBUF]))
            body = await read_all(response)
        except _UNREACHABLE as error:
            raise ActorError(_said(error)) from error
        if response.status != 200:
            raise _refused(response.status, body)

    async def _ask(
        self, target: bytes, headers: Headers, body: bytes, actor_type: str, actor_id: str, method: str
    ) -> tuple[ActorReply, bool]:
        """Return the reply, and whether the answer asks for the end of a reminder."""
        try:
            response = await self._channel.request(Request("PUT", target, headers, body))
            answer = response.body
            if not isinstance(answer, bytes):
                answer = await read_all(response, MOST_GATHERED)
        except _UNREACHABLE as error:
            raise ActorError(_said(error)) from error
        if response.status == 404:
            raise MethodMissing(f"actor method not found: actors/{actor_type}/{actor_id}/method/{method}")
        if response.status != 200:
            raise _refused(response.status, answer)
        return read_reply(response, answer)

    def __repr__(self) -> str:
        return f"<HttpActors of {self._channel!r}>"


def read_reply(response: Response, body: bytes) -> tuple[ActorReply, bool]:
    """Return a successful answer as a reply, and whether its headers cancel a reminder."""
    kept: Headers = []
    content_type = b""
    is_error = cancelled = False
    rules = _RULES
    for pair in response.headers:
        rule = rules.get(pair[0], _KEEP)
        if rule == _KEEP:
            kept.append(pair)
        elif rule == _TYPE:
            content_type = pair[1]
        elif rule == _ERROR:
            is_error = True
            kept.append(pair)
        elif rule == _CANCEL:
            cancelled = pair[1].strip().lower() in _TRUE
            kept.append(pair)
    return ActorReply(body, response.status, kept, content_type, is_error), cancelled


async def ask_configuration(
    channel: AppChannel, app_id: str, *, pause: Callable[[float], Awaitable[None]], retry: Retry = ASK
) -> bytes:
    """Return what the application answers to `GET /dapr/config`, b"" for any status but 200 (1.1).

    Asks again only when there is no answer; raises `ComponentError` when there is none in the end.
    """
    headers = [_JSON, (b"dapr-app-id", app_id.encode())]

    async def ask() -> tuple[int, bytes]:
        response = await channel.request(Request("GET", b"/dapr/config", list(headers)))
        return response.status, await read_all(response)

    status, body = await insist(ask, pause, retry, what="its actors")
    return body if status == 200 else b""


def reminder_body(tick: Tick) -> bytes:
    """Return the body of a reminder's turn: data as it was registered, left out where there is none."""
    lead = b'{"data":%b,' % tick.data if tick.data is not None else b"{"
    return lead + b'"dueTime":%b,"period":%b}' % (gojson.dumps(tick.due_time), gojson.dumps(tick.period))


def timer_body(tick: Tick) -> bytes:
    """Return the body of a timer's turn, with the values it was registered with."""
    lead = b'{"data":%b,' % tick.data if tick.data is not None else b"{"
    return lead + b'"callback":%b,"dueTime":%b,"period":%b}' % (
        gojson.dumps(tick.callback), gojson.dumps(tick.due_time), gojson.dumps(tick.period),
    )  # fmt: skip


def _segment(text: str) -> str:
    return text if _PLAIN.fullmatch(text) else quote(text, safe=_SAFE)


def _path(actor_type: str, actor_id: str) -> bytes:
    return f"/actors/{_segment(actor_type)}/{_segment(actor_id)}".encode()


def _refused(status: int, body: bytes) -> AppRefused:
    return AppRefused(f"error from actor service: ({status}) {body.decode('utf-8', 'replace')}", status)


def _said(error: Exception) -> str:
    return str(error) or type(error).__name__
