"""Subtle cryptography: single operations with the keys of a provider (spec `http-api.md` 4.5, `grpc-api.md` 3).

What a provider says of a failure is for the log: callers learn which operation failed, not why, so that they cannot
learn about a key by trying. Knows: requests and replies, the same over both protocols. Never knows: algorithms.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

import orjson
from google.protobuf import json_format

from pillion.api.operation import Http, Operation, Rpc
from pillion.api.render import JSON
from pillion.blocks import crypto_faults as faults
from pillion.errors import ApiError, ComponentError, MissingExtra
from pillion.net.exchange import BodyIncomplete, BodyTooLarge, Response
from pillion.observe.meters import untimed
from pillion.wire.messages import runtime as m

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping
    from types import ModuleType

    from google.protobuf.message import Message

    from pillion.api.call import HttpCall, RpcCall
    from pillion.api.operation import ServeHttp, ServeUnary
    from pillion.blocks.crypto_faults import Provider
    from pillion.kinds.crypto import CryptoProvider
    from pillion.observe.meters import Timed

    Serve = Callable[[CryptoProvider, Any], Awaitable[Message]]

log = logging.getLogger("pillion.blocks.subtle")
FORMATS = ("PEM", "JSON", 0, 1)


class SubtleBlock:
    """The handlers; `providers` is the live registry."""

    def __init__(self, providers: Mapping[str, Provider], *, timed: Timed = untimed) -> None:
        self._providers = providers
        self._timed = timed

    def operations(self) -> list[Operation]:
        """The rows of this block."""
        rows: tuple[tuple[str, type[Message], Serve], ...] = (
            ("GetKey", m.SubtleGetKeyRequest, self._get_key),
            ("Encrypt", m.SubtleEncryptRequest, self._encrypt),
            ("Decrypt", m.SubtleDecryptRequest, self._decrypt),
            ("WrapKey", m.SubtleWrapKeyRequest, self._wrap_key),
            ("UnwrapKey", m.SubtleUnwrapKeyRequest, self._unwrap_key),
            ("Sign", m.SubtleSignRequest, self._sign),
            ("Verify", m.SubtleVerifyRequest, self._verify),
        )
        return [
            Operation(
                f"Subtle{name}Alpha1", "subtlecrypto", "v1alpha1",
                http=(Http(("POST",), f"v1.0-alpha1/subtlecrypto/{{name}}/{name.lower()}", self._http(kind, serve)),),
                rpc=Rpc((f"Subtle{name}Alpha1",), kind, self._unary(serve)),
            )
            for name, kind, serve in rows
        ]  # fmt: skip

    def _unary(self, serve: Serve) -> ServeUnary:
        async def unary(call: RpcCall, request: Any) -> Message:
            return await serve(faults.find(self._providers, request.component_name), request)

        return unary

    def _http(self, kind: type[Message], serve: Serve) -> ServeHttp:
        async def http(call: HttpCall) -> Response:
            request = _read(call, kind)
            provider = faults.find(self._providers, request.component_name)
            return Response(200, [JSON], _written(await serve(provider, request)))

        return http

    async def _run(self, request: Any, phrase: str, work: Awaitable[Any]) -> Any:
        """Await an operation; its failure is told as `phrase` alone."""
        try:
            return await self._timed("crypto_op", request.component_name, work)
        except ComponentError as error:
            log.info("%s: %s: %s", request.component_name, phrase, error)
            raise ApiError(faults.FAILED, error=phrase) from error

    async def _get_key(self, provider: CryptoProvider, request: m.SubtleGetKeyRequest) -> Message:
        if request.format not in FORMATS:
            raise ApiError(faults.BAD_REQUEST, error="invalid key format")
        try:
            found = await self._timed("get", request.component_name, provider.get_key(request.name))
            text = _rendered(found.spki, as_jwk=request.format == 1)
        except ComponentError as error:
            raise ApiError(faults.KEY, key=request.name, error=error) from error
        return m.SubtleGetKeyResponse(name=found.name, public_key=text)

    async def _encrypt(self, provider: CryptoProvider, request: m.SubtleEncryptRequest) -> Message:
        work = provider.encrypt(
            request.plaintext, request.algorithm, request.key_name, request.nonce, request.associated_data
        )
        ciphertext, tag = await self._run(request, "failed to encrypt", work)
        return m.SubtleEncryptResponse(ciphertext=ciphertext, tag=tag)

    async def _decrypt(self, provider: CryptoProvider, request: m.SubtleDecryptRequest) -> Message:
        work = provider.decrypt(
            request.ciphertext, request.algorithm, request.key_name, request.nonce, request.tag, request.associated_data
        )
        return m.SubtleDecryptResponse(plaintext=await self._run(request, "failed to decrypt", work))

    async def _wrap_key(self, provider: CryptoProvider, request: m.SubtleWrapKeyRequest) -> Message:
        async def work() -> tuple[bytes, bytes]:
            key = _serialized(request.plaintext_key)
            return await provider.wrap_key(
                key, request.algorithm, request.key_name, request.nonce, request.associated_data
            )

        wrapped, tag = await self._run(request, "failed to wrap key", work())
        return m.SubtleWrapKeyResponse(wrapped_key=wrapped, tag=tag)

    async def _unwrap_key(self, provider: CryptoProvider, request: m.SubtleUnwrapKeyRequest) -> Message:
        work = provider.unwrap_key(
            request.wrapped_key,
            request.algorithm,
            request.key_name,
            request.nonce,
            request.tag,
            request.associated_data,
        )
        return m.SubtleUnwrapKeyResponse(plaintext_key=await self._run(request, "failed to unwrap key", work))

    async def _sign(self, provider: CryptoProvider, request: m.SubtleSignRequest) -> Message:
        work = provider.sign(request.digest, request.algorithm, request.key_name)
        return m.SubtleSignResponse(signature=await self._run(request, "failed to sign", work))

    async def _verify(self, provider: CryptoProvider, request: m.SubtleVerifyRequest) -> Message:
        work = provider.verify(request.digest, request.signature, request.algorithm, request.key_name)
        return m.SubtleVerifyResponse(valid=await self._run(request, "failed to verify signature", work))


def _formats() -> ModuleType:
    """The module of key formats; its library comes with an extra. Raises `ComponentError`."""
    try:
        from pillion.wire import cryptokeys
    except ModuleNotFoundError as error:
        raise ComponentError(str(MissingExtra("the subtle API", "crypto"))) from error
    return cryptokeys


def _rendered(spki: bytes, *, as_jwk: bool) -> str:
    formats = _formats()
    try:
        text: str = formats.jwk_of(spki) if as_jwk else formats.pem_of(spki)
    except formats.KeyFormatError as error:
        raise ComponentError(str(error)) from error
    return text


def _serialized(key: bytes) -> bytes:
    """Return what is wrapped of a key that came as a file of keys would; raises `ComponentError`."""
    formats = _formats()
    try:
        raw: bytes = formats.serialized(formats.parse_key(key))
    except formats.KeyFormatError as error:
        raise ComponentError(f"the key to wrap: {error}") from error
    return raw


def _read(call: HttpCall, kind: type[Message]) -> Any:
    """Fill a message from the body; the provider is the one of the path."""
    request: Any = kind()
    try:
        body = call.body()
        document = orjson.loads(body) if body.strip() else {}
        if not isinstance(document, dict):
            raise ValueError("not a JSON object")
        if kind is m.SubtleGetKeyRequest and document.get("format", 0) not in FORMATS:
            raise ApiError(faults.BAD_REQUEST, error="invalid key format")
        json_format.ParseDict(document, request, ignore_unknown_fields=True)
    except (json_format.ParseError, ValueError, TypeError, BodyTooLarge, BodyIncomplete) as error:
        raise ApiError(faults.MALFORMED, error=error) from error
    request.component_name = call.params[0]
    return request


def _written(reply: Message) -> bytes:
    """Zero fields are left out, but for a verdict: `valid` is always said."""
    document = json_format.MessageToDict(reply)
    if isinstance(reply, m.SubtleVerifyResponse):
        document["valid"] = reply.valid
    return orjson.dumps(document)
