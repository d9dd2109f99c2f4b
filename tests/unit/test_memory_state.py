"""The in-memory store where the kit cannot look: time without waiting, and memory that does not grow."""

from __future__ import annotations

import asyncio

import pytest

from pillion.clock import FakeClock
from pillion.components.memory import MemoryState, MemoryStateSettings, new_etag
from pillion.kinds.component import Context
from pillion.kinds.state import Get, Set


def test_time_decides_what_is_there() -> None:
    """A row is there before its last second and not after; the time of expiry is told in RFC 3339."""

    async def main() -> None:
        clock = FakeClock()
        store = MemoryState(MemoryStateSettings(), Context("t"), clock)
        await store.set(Set("k", b"v", metadata={"ttlInSeconds": "10"}))
        assert (await store.get(Get("k"))).metadata == {"ttlExpireTime": "2026-01-01T00:00:10Z"}
        clock.advance(9.9)
        assert (await store.get(Get("k"))).value == b"v"
        await store.set(Set("k", b"w", metadata={"ttlInSeconds": "10"}))
        clock.advance(9.9)
        assert (await store.get(Get("k"))).value == b"w"
        clock.advance(0.1)
        assert (await store.get(Get("k"))).value is None
        assert repr(store) == "<MemoryState: 0 keys>"

    asyncio.run(main())


def test_rewriting_a_key_with_a_ttl_does_not_grow() -> None:
    async def main() -> None:
        store = MemoryState(MemoryStateSettings(), Context("t"), FakeClock())
        for _ in range(10_000):
            await store.set(Set("k", b"v", metadata={"ttlInSeconds": "1000000"}))
        assert len(store._expiries) < 100

    asyncio.run(main())


def test_etags_are_uuids_of_version_4() -> None:
    from uuid import UUID

    etags = [UUID(new_etag()) for _ in range(100)]
    assert {etag.version for etag in etags} == {4}
    assert len(set(etags)) == 100


@pytest.mark.parametrize("count", [1, 10])
def test_a_failed_transaction_puts_expiring_rows_back(count: int) -> None:
    async def main() -> None:
        clock = FakeClock()
        store = MemoryState(MemoryStateSettings(), Context("t"), clock)
        await store.set(Set("k", b"v", metadata={"ttlInSeconds": "10"}))
        for _ in range(count):
            with pytest.raises(Exception, match="etag"):
                await store.transact([Set("k", b"w"), Set("k", b"x", etag="stale")], {})
        assert (await store.get(Get("k"))).value == b"v"
        clock.advance(10)
        assert (await store.get(Get("k"))).value is None

    asyncio.run(main())
