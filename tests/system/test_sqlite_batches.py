"""The SQLite store under many writers: one statement for many values keeps the order and the conditions of each."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pillion.components.sqlite import SqliteState, SqliteStateSettings
from pillion.errors import EtagMismatch
from pillion.kinds.component import Context
from pillion.kinds.state import Delete, Get, Set

if TYPE_CHECKING:
    from pathlib import Path


def test_writes_of_one_turn_take_effect_in_their_order(tmp_path: Path) -> None:
    """More than one statement holds, to the same key and to others, conditions and deletions among them."""

    async def main() -> None:
        store = SqliteState(SqliteStateSettings(connection_string=str(tmp_path / "state.db")), Context("s"))
        await store.open()
        try:
            plain = [store.set(Set("same", b"%d" % number)) for number in range(99)]
            others = [store.set(Set(f"k{number}", b"%d" % number)) for number in range(100)]
            first = store.set(Set("same", b"never", concurrency="first-write"))
            gone = store.delete(Delete("k7"))
            again = store.set(Set("k7", b"new", metadata={"ttlInSeconds": "100"}))
            last = store.set(Set("same", b"last"))
            outcomes = await asyncio.gather(*plain, *others, first, gone, again, last, return_exceptions=True)
            assert [outcome for outcome in outcomes if outcome is not None] == [outcomes[199]]
            assert isinstance(outcomes[199], EtagMismatch)
            assert (await store.get(Get("same"))).value == b"last"
            found = await store.bulk_get([Get(f"k{number}") for number in range(100)])
            assert [one.value for one in found] == [b"new" if number == 7 else b"%d" % number for number in range(100)]
            assert len({one.etag for one in found}) == 100
            assert "ttlExpireTime" in found[7].metadata
        finally:
            await store.close()

    asyncio.run(main())


def test_a_key_that_cannot_be_written_harms_nobody(tmp_path: Path) -> None:
    async def main() -> None:
        store = SqliteState(SqliteStateSettings(connection_string=str(tmp_path / "state.db")), Context("s"))
        await store.open()
        try:
            writes = [store.set(Set("\udcff" if number == 5 else f"k\0{number}", b"1")) for number in range(20)]
            outcomes = await asyncio.gather(*writes, return_exceptions=True)
            assert [number for number, outcome in enumerate(outcomes) if outcome is not None] == [5]
            assert (await store.get(Get("k\0" + "19"))).value == b"1"
        finally:
            await store.close()

    asyncio.run(main())
