"""Listing an application's own keys by prefix: an addition of ours (docs/state.md).

Knows: what a page is and whose keys belong into it. Never knows: how a store finds them. Actor state, other
applications' keys and whatever else shares the store are not listed: their keys have another prefix, or a further `||`,
which the keys of an application never have.
"""

from __future__ import annotations

import base64
import binascii
from typing import TYPE_CHECKING

import orjson

from pillion.api.operation import Http, Operation, Rpc
from pillion.api.render import JSON
from pillion.blocks import state_faults as faults
from pillion.errors import ApiError, ComponentError, TokenInvalid
from pillion.kinds.keys import SEPARATOR
from pillion.kinds.state import Feature, KeysStore, like_prefix
from pillion.net.exchange import Response
from pillion.observe.meters import untimed
from pillion.wire.messages import own_state as m

if TYPE_CHECKING:
    from google.protobuf.message import Message

    from pillion.api.call import HttpCall, RpcCall
    from pillion.blocks.state_stores import Store, Stores
    from pillion.observe.meters import Timed

SERVICE = "pillion.state.v1.State"
DEFAULT_LIMIT = 100
MAX_LIMIT = 1000
MAX_PREFIX = 1024
"""Characters of a prefix."""
MAX_TOKEN = 8192
REPLACED = "\ufffd"
"""What bytes of a query become that are not UTF-8."""
READS = 10
"""Pages of the store that are read for one of ours, when foreign keys lie between; then a short page is answered."""


class StateKeys:
    """The handlers of one operation."""

    def __init__(self, stores: Stores, *, timed: Timed = untimed) -> None:
        self._stores = stores
        self._timed = timed

    def operations(self) -> list[Operation]:
        return [
            Operation(
                "ListStateKeys", "state", http=(Http(("GET",), "v1.0-pillion/state/{store}/keys", self.list_keys),),
                rpc=Rpc(("ListKeys",), m.ListKeysRequest, self.rpc_list_keys, service=SERVICE),
            )
        ]  # fmt: skip

    async def list_keys(self, call: HttpCall) -> Response:
        store = self._stores.find(call.params[0], http=True)
        text = call.first("limit")
        if text and not (text.isascii() and text.isdigit() and len(text) < 10):
            raise ApiError(faults.MALFORMED, text=f"limit must be a number from 1 to {MAX_LIMIT}, not {text!r}")
        if text and int(text) == 0:
            raise _limit(0)
        keys, token = await self._page(store, call.first("prefix"), int(text or 0), call.first("token"), http=True)
        return Response(200, [JSON], orjson.dumps({"keys": keys, "token": token}))

    async def rpc_list_keys(self, call: RpcCall, request: m.ListKeysRequest) -> Message:
        store = self._stores.find(request.store_name, http=False)
        keys, token = await self._page(store, request.prefix, request.limit, request.token, http=False)
        return m.ListKeysResponse(keys=keys, token=token)

    async def _page(self, store: Store, prefix: str, limit: int, token: str, *, http: bool) -> tuple[list[str], str]:
        component = store.component
        if Feature.KEYS_LIKE not in component.features or not isinstance(component, KeysStore):
            raise ApiError(faults.KEYS_NOT_SUPPORTED, store=store.name, resource=store.name)
        if not 0 <= limit <= MAX_LIMIT:
            raise _limit(limit)
        _check_prefix(prefix)
        whole = self._stores.key(store, prefix, http=http)
        try:
            return await self._timed("keys", store.name, _collect(component, whole, prefix, limit, token))
        except TokenInvalid as error:
            raise ApiError(faults.MALFORMED, text="the token is not one that this store gave") from error
        except ComponentError as error:
            raise ApiError(faults.KEYS, store=store.name, error=error) from error


async def _collect(store: KeysStore, whole: str, prefix: str, limit: int, token: str) -> tuple[list[str], str]:
    """Return up to `limit` keys that begin with `prefix`, which the store knows as `whole`, and the next token."""
    pattern, head, limit = like_prefix(whole), len(whole) - len(prefix), limit or DEFAULT_LIMIT
    keys: list[str] = []
    after = _opened(token)
    for _ in range(READS):
        page, after = await store.keys_like(pattern, token=after, limit=limit - len(keys))
        # A store may be less exact than its pattern; whose key it is must be.
        own = (key[head:] for key in page if key.startswith(whole))
        keys += [key for key in own if SEPARATOR not in key]
        if not after or len(keys) == limit:
            break
    return keys, base64.urlsafe_b64encode(after.encode()).decode().rstrip("=")


def _opened(token: str) -> str:
    """Return the store's own token. Raises `TokenInvalid`."""
    if len(token) > MAX_TOKEN:
        raise TokenInvalid("too long")
    try:
        padded = token.encode("ascii") + b"=" * (-len(token) % 4)
        return base64.b64decode(padded, altchars=b"-_", validate=True).decode()
    except (UnicodeError, binascii.Error) as error:
        raise TokenInvalid("not base64") from error


def _check_prefix(prefix: str) -> None:
    if len(prefix) > MAX_PREFIX:
        raise ApiError(faults.MALFORMED, text=f"prefix is longer than {MAX_PREFIX} characters")
    if "\0" in prefix or REPLACED in prefix or any("\ud800" <= character <= "\udfff" for character in prefix):
        raise ApiError(faults.MALFORMED, text="prefix must be UTF-8 without the character U+0000")


def _limit(given: int) -> ApiError:
    return ApiError(faults.MALFORMED, text=f"limit must be a number from 1 to {MAX_LIMIT}, not {given}")
