"""Cryptography: documents encrypted and decrypted while they stream (spec `http-api.md` 4.5, `grpc-api.md` 4).

Knows: headers, options and sequence numbers; what is answered before and after output has begun. Never knows: the
document's format (`pillion.wire.encscheme`), keys.
"""

from __future__ import annotations

import asyncio
from functools import partial
from typing import TYPE_CHECKING, TypeVar

from google.protobuf.message import DecodeError

from pillion.api.operation import Http, Operation, Rpc
from pillion.api.render import error_response
from pillion.blocks import crypto_faults as faults
from pillion.blocks.crypto_documents import Wanted, decrypted, encrypted
from pillion.errors import ApiError, ComponentError
from pillion.kinds.component import truthy
from pillion.net.exchange import BodyIncomplete, BodyTooLarge, Response
from pillion.observe.meters import untimed
from pillion.wire.encscheme import SEGMENT, TAG, SchemeError
from pillion.wire.messages import common
from pillion.wire.messages import runtime as m

if TYPE_CHECKING:
    from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Mapping

    from pillion.api.call import HttpCall, RpcCall
    from pillion.blocks.crypto_documents import Timed as TimedOnce
    from pillion.blocks.crypto_faults import Provider
    from pillion.net.exchange import ServerCall
    from pillion.observe.meters import Timed

    Replies = type[m.EncryptResponse] | type[m.DecryptResponse]

R = TypeVar("R", m.EncryptRequest, m.DecryptRequest)
OCTETS = (b"content-type", b"application/octet-stream")
FIRST_MESSAGE_S = 5.0
HELD = 64 << 20
"""Bytes of output that are kept back: documents up to that size fail, or are answered, as a whole. Besides, many
clients send their whole request before they read anything, and would never come to its end if the answer had to be
read first.
"""
JOINED = 1 << 20
"""Bytes of an answer that are copied into one piece."""
MOST_IN_MESSAGE = SEGMENT + TAG
READING = (SchemeError, BodyTooLarge, BodyIncomplete)


class CryptoBlock:
    """The handlers; `providers` is the live registry."""

    def __init__(self, providers: Mapping[str, Provider], *, timed: Timed = untimed) -> None:
        self._providers = providers
        self._timed = timed

    def operations(self) -> list[Operation]:
        """The rows of this block."""
        version, route = "v1alpha1", "v1.0-alpha1/crypto/{name}/"
        return [
            Operation(
                "EncryptAlpha1", "crypto", version,
                http=(Http(("PUT",), route + "encrypt", self.encrypt, streams=True),),
                rpc=Rpc(("EncryptAlpha1",), stream=self.rpc_encrypt),
            ),
            Operation(
                "DecryptAlpha1", "crypto", version,
                http=(Http(("PUT",), route + "decrypt", self.decrypt, streams=True),),
                rpc=Rpc(("DecryptAlpha1",), stream=self.rpc_decrypt),
            ),
        ]  # fmt: skip

    def _once(self, name: str) -> TimedOnce:
        return partial(self._timed, "crypto_op", name)

    # -- HTTP

    async def encrypt(self, call: HttpCall) -> Response:
        [name] = call.params
        provider = faults.find(self._providers, name)
        wanted = Wanted(
            _required(call, "dapr-key-name"),
            _required(call, "dapr-key-wrap-algorithm"),
            _header(call, "dapr-data-encryption-cipher"),
            _header(call, "dapr-decryption-key-name"),
            truthy(_header(call, "dapr-omit-decryption-key-name")),
        )
        return await self._answer(encrypted(provider, wanted, _body(call), self._once(name)))

    async def decrypt(self, call: HttpCall) -> Response:
        [name] = call.params
        provider = faults.find(self._providers, name)
        return await self._answer(decrypted(provider, _header(call, "dapr-key-name"), _body(call), self._once(name)))

    async def _answer(self, beginning: Awaitable[AsyncGenerator[bytes, None]]) -> Response:
        """Answer what fits into `HELD` as a whole; stream what does not: later failures cut the connection."""
        pieces: list[bytes] = []
        size = 0
        try:
            output = await beginning
        except (SchemeError, ComponentError) as error:
            raise ApiError(faults.FAILED, error=error) from (error.__cause__ or error)
        except (BodyTooLarge, BodyIncomplete) as error:
            return error_response(500, "ERROR", str(error))
        try:
            async for piece in output:
                pieces.append(piece)
                size += len(piece)
                if size > HELD:
                    return Response(200, [OCTETS], _given(pieces, output))
        except READING as error:
            return error_response(500, "ERROR", str(error))
        if size <= JOINED:
            return Response(200, [OCTETS], b"".join(pieces))
        return Response(200, [OCTETS, (b"content-length", b"%d" % size)], _given(pieces))

    # -- gRPC

    async def rpc_encrypt(self, call: RpcCall) -> None:
        first = await _first(call.stream, m.EncryptRequest)
        options = first.options
        if not options.key_name:
            raise _missing("keyName")
        if not options.key_wrap_algorithm:
            raise _missing("keyWrapAlgorithm")
        provider = faults.find(self._providers, options.component_name)
        wanted = Wanted(
            options.key_name, options.key_wrap_algorithm, options.data_encryption_cipher, options.decryption_key_name,
            options.omit_decryption_key_name,
        )  # fmt: skip
        source = _payloads(call.stream, first, m.EncryptRequest)
        await _send(
            call.stream, encrypted(provider, wanted, source, self._once(options.component_name)), m.EncryptResponse
        )

    async def rpc_decrypt(self, call: RpcCall) -> None:
        first = await _first(call.stream, m.DecryptRequest)
        options = first.options
        provider = faults.find(self._providers, options.component_name)
        source = _payloads(call.stream, first, m.DecryptRequest)
        await _send(
            call.stream,
            decrypted(provider, options.key_name, source, self._once(options.component_name)),
            m.DecryptResponse,
        )


def _header(call: HttpCall, name: str) -> str:
    """A header as UTF-8, which names of keys may be."""
    value = call.request.header(name.encode())
    return "" if value is None else value.decode("utf-8", "replace").strip()


def _required(call: HttpCall, name: str) -> str:
    value = _header(call, name)
    if not value:
        raise ApiError(faults.BAD_REQUEST, error=f"missing header {name}")
    return value


async def _body(call: HttpCall) -> AsyncIterator[bytes]:
    if call.request.failure is not None:
        raise call.request.failure
    body = call.request.body
    if isinstance(body, bytes):
        yield body
        return
    async for piece in body:
        yield piece


async def _given(pieces: list[bytes], rest: AsyncIterator[bytes] | None = None) -> AsyncGenerator[bytes, None]:
    for piece in pieces:
        yield piece
    pieces.clear()
    if rest is not None:
        async for piece in rest:
            yield piece


def _missing(name: str) -> ApiError:
    return ApiError(faults.BAD_REQUEST, error=f"missing property '{name}' in the options message")


async def _first(stream: ServerCall, kind: type[R]) -> R:
    """Return the first message, which has options. Raises `ApiError`."""
    waiting = "error waiting for first message: "
    try:
        async with asyncio.timeout(FIRST_MESSAGE_S):
            data = await stream.receive()
        if data is None:
            raise ApiError(faults.BAD_REQUEST, error=waiting + "EOF")
        message = kind.FromString(data)
    except TimeoutError as error:
        raise ApiError(faults.BAD_REQUEST, error=waiting + "context deadline exceeded") from error
    except DecodeError as error:
        raise ApiError(faults.BAD_REQUEST, error=f"{waiting}{error}") from error
    if not message.HasField("options"):
        raise ApiError(faults.BAD_REQUEST, error="first message does not contain the required options")
    return message


async def _payloads(stream: ServerCall, message: R, kind: type[R]) -> AsyncIterator[bytes]:
    """Yield the payloads of `message` and of all that follow, in their order. Raises `SchemeError`."""
    expected = 0
    while True:
        if message.HasField("payload"):
            payload = message.payload
            if payload.seq != expected:
                raise SchemeError(f"invalid sequence number received: {payload.seq} (expected: {expected})")
            expected += 1
            if payload.data:
                yield payload.data
        data = await stream.receive()
        if data is None:
            return
        try:
            message = kind.FromString(data)
        except DecodeError as error:
            raise SchemeError(f"error receiving message: {error}") from error
        if message.HasField("options"):
            raise SchemeError("options found in non-leading message")


async def _send(stream: ServerCall, beginning: Awaitable[AsyncGenerator[bytes, None]], kind: Replies) -> None:
    """Send a document in messages of one segment at most."""
    number = 0
    try:
        async for piece in await beginning:
            for at in range(0, len(piece), MOST_IN_MESSAGE):
                payload = common.StreamPayload(data=piece[at : at + MOST_IN_MESSAGE], seq=number)
                await stream.send(kind(payload=payload).SerializeToString())
                number += 1
    except (SchemeError, ComponentError) as error:
        raise ApiError(faults.FAILED, error=error) from (error.__cause__ or error)
