"""Conversations with language models (spec `http-api.md` 4.7, `grpc-api.md` 3, `crypto-conversation-mcp.md` 4).

Knows: the order of checks, scrubbing, both versions of the API on both protocols. Never knows: providers.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Protocol, TypeVar, cast

import orjson

from pillion.api.operation import Http, Operation, Rpc
from pillion.api.render import JSON
from pillion.blocks import conversation_faults as faults
from pillion.blocks import conversation_messages as messages
from pillion.errors import ApiError, ComponentError
from pillion.net.exchange import BodyIncomplete, BodyTooLarge, Response
from pillion.wire.messages import runtime as m

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from google.protobuf.descriptor_pool import DescriptorPool

    from pillion.api.call import HttpCall, RpcCall
    from pillion.kinds.conversation import ConversationModel, Reply, Request
    from pillion.observe.meters import Timed

T = TypeVar("T")
R = TypeVar("R", m.ConversationRequest, m.ConversationRequestAlpha2)

POOL = cast("DescriptorPool", m.ConversationRequest.DESCRIPTOR.file.pool)
"""Where the types of `parameters` are looked up."""
LONG_BYTES = 32 << 10
"""Requests and answers from this size on are scrubbed beside the event loop, which others wait for."""


class Model(Protocol):
    """A loaded conversation component."""

    @property
    def component(self) -> ConversationModel: ...


class ConversationBlock:
    """The handlers; `models` is the live registry."""

    def __init__(self, models: Mapping[str, Model], *, timed: Timed) -> None:
        self._models = models
        self._timed = timed

    def operations(self) -> list[Operation]:
        """The rows of this block."""
        return [
            Operation(
                "ConverseAlpha1", "conversation", "v1alpha1",
                http=(Http(("POST",), "v1.0-alpha1/conversation/{name}/converse", self.alpha1),),
                rpc=Rpc(("ConverseAlpha1",), m.ConversationRequest, self.rpc_alpha1),
            ),
            Operation(
                "ConverseAlpha2", "conversation", "v1alpha2",
                http=(Http(("POST",), "v1.0-alpha2/conversation/{name}/converse", self.alpha2),),
                rpc=Rpc(("ConverseAlpha2",), m.ConversationRequestAlpha2, self.rpc_alpha2),
            ),
        ]  # fmt: skip

    async def alpha1(self, call: HttpCall) -> Response:
        return _write(await self._alpha1(_read(call, m.ConversationRequest())))

    async def alpha2(self, call: HttpCall) -> Response:
        return _write(await self._alpha2(_read(call, m.ConversationRequestAlpha2())))

    async def rpc_alpha1(self, call: RpcCall, request: m.ConversationRequest) -> m.ConversationResponse:
        return await self._alpha1(request)

    async def rpc_alpha2(self, call: RpcCall, request: m.ConversationRequestAlpha2) -> m.ConversationResponseAlpha2:
        return await self._alpha2(request)

    async def _alpha1(self, request: m.ConversationRequest) -> m.ConversationResponse:
        name = request.name
        model = self._find(name)
        try:
            messages.temperature_of(request.metadata)
        except ValueError as error:
            raise ApiError(faults.METADATA, error=error) from error
        if not request.inputs:
            raise ApiError(faults.MISSING_INPUTS, name=name)
        long = any(item.scrubPII for item in request.inputs) and request.ByteSize() >= LONG_BYTES
        asked = await _beside(long, lambda: messages.from_alpha1(request, _scrub))
        reply = await self._converse(name, model, asked)
        texts = await _texts(reply, request.scrubPII)
        return messages.to_alpha1(request, texts[:1])

    async def _alpha2(self, request: m.ConversationRequestAlpha2) -> m.ConversationResponseAlpha2:
        name = request.name
        model = self._find(name)
        if not any(group.messages for group in request.inputs):
            raise ApiError(faults.MISSING_INPUTS, name=name)
        long = any(group.scrub_pii for group in request.inputs) and request.ByteSize() >= LONG_BYTES
        try:
            asked = await _beside(long, lambda: messages.from_alpha2(request, _scrub))
        except ValueError as error:
            raise ApiError(faults.INVALID_PARAMETERS, name=name, error=error) from error
        reply = await self._converse(name, model, asked)
        return messages.to_alpha2(request, reply, await _texts(reply, request.scrub_pii))

    def _find(self, name: str) -> ConversationModel:
        found = self._models.get(name)
        if found is None:
            raise ApiError(faults.NOT_FOUND, name=name)
        return found.component

    async def _converse(self, name: str, model: ConversationModel, request: Request) -> Reply:
        try:
            reply = await self._timed("", name, model.converse(request))
            silent = not any(choice.text or choice.calls for choice in reply.choices)
            if silent and request.tools and request.tool_choice == "required":
                raise ComponentError(faults.EMPTY_ANSWER.format(count=len(request.tools)))
        except ComponentError as error:
            raise ApiError(faults.INVOKE, name=name, error=error) from error
        return reply

    def __repr__(self) -> str:
        return f"<ConversationBlock: {', '.join(self._models)}>"


async def _texts(reply: Reply, scrubbed: bool) -> list[str]:
    texts = [choice.text for choice in reply.choices]
    if not scrubbed:
        return texts
    return await _beside(sum(map(len, texts)) >= LONG_BYTES, lambda: [_scrub(text) for text in texts])


def _scrub(text: str) -> str:
    from pillion.security.pii import scrub  # when somebody converses: its patterns take 2 ms

    return scrub(text)


async def _beside(long: bool, work: Callable[[], T]) -> T:
    return await asyncio.to_thread(work) if long else work()


def _read(call: HttpCall, request: R) -> R:
    """Fill a message from the body; the component is the one of the path."""
    from google.protobuf import json_format  # when somebody converses, over HTTP

    try:
        if body := call.body().strip():
            document = orjson.loads(body)
            if not isinstance(document, dict):
                raise ValueError("not a JSON object")
            json_format.ParseDict(document, request, ignore_unknown_fields=True, descriptor_pool=POOL)
    except (json_format.ParseError, ValueError, TypeError, RecursionError, BodyTooLarge, BodyIncomplete) as error:
        raise ApiError(faults.MALFORMED, error=error) from error
    request.name = call.params[0]
    return request


def _write(reply: m.ConversationResponse | m.ConversationResponseAlpha2) -> Response:
    from google.protobuf import json_format

    return Response(200, [JSON], orjson.dumps(json_format.MessageToDict(reply, descriptor_pool=POOL)))
