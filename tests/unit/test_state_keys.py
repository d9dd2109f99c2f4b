"""Listing keys: a store that cannot, and how far one request looks when others' keys lie between."""

from __future__ import annotations

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

from pillion.blocks.state_keys import READS, StateKeys
from pillion.blocks.state_stores import Stores
from pillion.components.memory import MemoryState
from pillion.errors import ApiError, Code
from pillion.kinds.component import Context
from pillion.kinds.keys import KeyPrefix
from pillion.kinds.state import Feature, Set
from pillion.wire.messages import own_state as m


class Plain(MemoryState):
    """A store without the feature."""

    features = MemoryState.features - {Feature.KEYS_LIKE}


def block(component: Any) -> StateKeys:
    store: Any = SimpleNamespace(name="s", component=component, prefix=KeyPrefix("app||"), sealed=False)
    return StateKeys(Stores("app", {"s": store}))


def test_a_store_that_cannot_says_so() -> None:
    keys = block(Plain(Plain.Settings(), Context("s")))
    with pytest.raises(ApiError, match="state store s doesn't support listing keys") as refused:
        asyncio.run(keys.rpc_list_keys(None, m.ListKeysRequest(store_name="s")))  # type: ignore[arg-type]
    assert (refused.value.http_status, refused.value.grpc_status) == (501, Code.UNIMPLEMENTED)


def test_a_request_looks_at_a_bounded_number_of_keys() -> None:
    """Actor state sorts before and between an application's own keys: pages get short, none is lost."""

    async def run() -> None:
        store = MemoryState(MemoryState.Settings(), Context("s"))
        for number in range(100):
            await store.set(Set(f"app||actor||{number:03}||x", b"v"))
        for name in ("aaa", "zzz"):
            await store.set(Set(f"app||{name}", b"v"))
        found: list[str] = []
        token, requests = "", 0
        while token or not requests:
            request = m.ListKeysRequest(store_name="s", limit=2, token=token)
            page: Any = await block(store).rpc_list_keys(None, request)  # type: ignore[arg-type]
            found += page.keys
            token, requests = page.token, requests + 1
        assert found == ["aaa", "zzz"]
        assert 102 / (2 * READS) <= requests <= 102 / READS + 1

    asyncio.run(run())
