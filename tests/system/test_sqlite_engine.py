"""The SQLite engine and store on real files: acknowledged means durable, errors stay alone, processes get along."""

from __future__ import annotations

import asyncio
import sqlite3
import subprocess
import sys
import threading
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING, Any

import pytest

from pillion.components import sqlite_engine
from pillion.components.sqlite import SqliteState
from pillion.components.sqlite_engine import Engine, Location, open_engine
from pillion.errors import ComponentError, ConfigError
from pillion.kinds.component import Context, decode
from pillion.kinds.state import Get, Set

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

WRITER = """
import asyncio, sys
from pillion.components.sqlite import SqliteState
from pillion.kinds.component import Context, decode
from pillion.kinds.state import Set

async def main(path, who, count):
    store = SqliteState(decode(SqliteState.Settings, {"connectionString": path}, where="t"), Context("t"))
    await store.open()
    async def caller(number):
        for turn in range(count):
            key = f"{who}-{number}-{turn}"
            await store.set(Set(key, b"v"))
            sys.stdout.write(key + "\\n")
            sys.stdout.flush()
    await asyncio.gather(*(caller(number) for number in range(16)))
    await store.close()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


@asynccontextmanager
async def engine_of(path: Path, **options: float) -> AsyncIterator[Engine]:
    engine = await open_engine(Location.parse(str(path)), **options)
    try:
        await engine.write(lambda db: db.execute("CREATE TABLE IF NOT EXISTS t (k TEXT PRIMARY KEY, v TEXT)") and None)
        yield engine
    finally:
        await engine.close()


def put(key: str, value: str = "v") -> Callable[[sqlite3.Connection], int]:
    return lambda db: db.execute("INSERT INTO t VALUES (?, ?)", (key, value)).rowcount


def keys(path: Path) -> set[str]:
    with closing(sqlite3.connect(path)) as db:
        return {row[0] for row in db.execute("SELECT k FROM t")}


def writer(path: Path, who: str, count: int) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", WRITER, str(path), who, str(count)]
    return subprocess.Popen(command, stdout=subprocess.PIPE, text=True)


def test_what_was_acknowledged_survives_a_kill(tmp_path: Path) -> None:
    """`kill -9` in the middle of group commits: every key whose save was answered is there, and whole."""
    path = tmp_path / "state.sqlite"
    with writer(path, "w", 100_000) as process:
        assert process.stdout is not None
        acknowledged = [process.stdout.readline().strip() for _ in range(500)]
        process.kill()
        rest = process.stdout.read()
    acknowledged += [line.strip() for line in rest.splitlines(keepends=True) if line.endswith("\n")]
    with closing(sqlite3.connect(path)) as db:
        there = {row[0] for row in db.execute("SELECT key FROM state WHERE value = 'dg==' AND etag <> ''")}
        assert db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    assert set(acknowledged) <= there


def test_processes_share_a_file(tmp_path: Path) -> None:
    """Two processes write back to back into one file: both finish, nobody starves into an error."""
    path = tmp_path / "state.sqlite"
    writers = [writer(path, who, 60) for who in ("a", "b")]
    written = [process.communicate(timeout=60)[0].split() for process in writers]
    assert [process.returncode for process in writers] == [0, 0]
    with closing(sqlite3.connect(path)) as db:
        assert db.execute("SELECT count(*) FROM state").fetchone() == (2 * 16 * 60,)
    assert sum(map(len, written)) == 2 * 16 * 60


def test_an_error_undoes_its_own_call_alone(tmp_path: Path) -> None:
    """A unit of work that wrote and then failed leaves nothing; its neighbours of the same moment are committed."""

    def fails_halfway(db: sqlite3.Connection) -> None:
        db.execute("INSERT INTO t VALUES ('half', 'v')")
        db.execute("CREATE TABLE half (x)")
        raise LookupError("no luck")

    async def main() -> None:
        async with engine_of(tmp_path / "f") as engine:
            calls: list[Any] = [engine.write(put(str(number))) for number in range(50)]
            calls[25:25] = [engine.write(fails_halfway), engine.write(put("7"))]
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            failed = [outcome for outcome in outcomes if isinstance(outcome, Exception)]
            assert sorted(type(error).__name__ for error in failed) == ["ComponentError", "LookupError"]
            tables = await engine.read(lambda db: db.execute("SELECT name FROM sqlite_master").fetchall())
            assert ("half",) not in tables

    asyncio.run(main())
    assert keys(tmp_path / "f") == {str(number) for number in range(50)}


def test_a_batch_takes_all_that_wait_and_answers_each(tmp_path: Path) -> None:
    """One call of a batch function serves the callers of a moment; a result that is an exception is its caller's."""
    sizes: list[int] = []

    def many(db: sqlite3.Connection, rows: Sequence[str]) -> list[Any]:
        sizes.append(len(rows))
        if "bad" in rows:
            raise ValueError("a bad row spoils the call")
        return [
            LookupError(row) if row == "no" else db.execute("INSERT INTO t VALUES (?, '')", (row,)) and row
            for row in rows
        ]

    async def main() -> None:
        async with engine_of(tmp_path / "f") as engine:
            good = await asyncio.gather(
                *(engine.write_row(many, str(number)) for number in range(30)),
                engine.write_row(many, "no"),
                return_exceptions=True,
            )
            assert good[:30] == [str(number) for number in range(30)]
            assert isinstance(good[30], LookupError)
            assert max(sizes) > 1
            mixed = await asyncio.gather(
                *(engine.write_row(many, row) for row in ("x", "bad", "y")), return_exceptions=True
            )
            assert (mixed[0], type(mixed[1]), mixed[2]) == ("x", ValueError, "y")

    asyncio.run(main())
    assert keys(tmp_path / "f") == {*map(str, range(30)), "x", "y"}


def test_reads_see_what_was_acknowledged(tmp_path: Path) -> None:
    async def main() -> None:
        async with engine_of(tmp_path / "f") as engine:
            for number in range(50):
                await engine.write(put(str(number)))
                count = await engine.read(lambda db: db.execute("SELECT count(*) FROM t").fetchone())
                assert count == (number + 1,)
            with pytest.raises(ComponentError, match="readonly"):
                await engine.read(put("a reader writes nothing"))

    asyncio.run(main())


def test_waiting_for_another_process_ends(tmp_path: Path) -> None:
    """A transaction of somebody else delays for `busy_timeout_s`, then it is an error; later it works again."""

    async def main() -> None:
        async with engine_of(tmp_path / "f", busy_timeout_s=1) as engine:
            with closing(sqlite3.connect(tmp_path / "f", isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                with pytest.raises(ComponentError, match="locked"):
                    await engine.write(put("a"))
                other.execute("COMMIT")
            await engine.write(put("b"))

    asyncio.run(main())
    assert keys(tmp_path / "f") == {"b"}


def test_the_queue_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """More callers than the queue holds are held back, and served in the end; those that waited too long fail."""
    monkeypatch.setattr(sqlite_engine, "MAX_WAITING", 5)

    async def main() -> None:
        async with engine_of(tmp_path / "f", busy_timeout_s=60) as engine:
            with closing(sqlite3.connect(tmp_path / "f", isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                calls = [asyncio.ensure_future(engine.write(put(str(number)))) for number in range(100)]
                await asyncio.sleep(0)
                calls[50].cancel()
                other.execute("COMMIT")
            outcomes = await asyncio.gather(*calls, return_exceptions=True)
            assert [outcome for outcome in outcomes if not isinstance(outcome, asyncio.CancelledError)] == [1] * 99
        async with engine_of(tmp_path / "f", busy_timeout_s=5, timeout_s=2) as engine:
            with closing(sqlite3.connect(tmp_path / "f", isolation_level=None)) as other:
                other.execute("BEGIN IMMEDIATE")
                late = await asyncio.gather(
                    *(engine.write(put(f"late {number}")) for number in range(20)), return_exceptions=True
                )
            assert all(isinstance(outcome, ComponentError) for outcome in late)

    asyncio.run(main())
    assert len(keys(tmp_path / "f")) == 99


def test_a_full_disk_fails_and_heals(tmp_path: Path) -> None:
    """SQLITE_FULL: the call that does not fit fails, what fits is kept."""

    async def main() -> None:
        engine = await open_engine(Location.parse(f"{tmp_path / 'f'}?_pragma=max_page_count(40)"))
        await engine.write(lambda db: db.execute("CREATE TABLE t (k TEXT PRIMARY KEY, v TEXT)") and None)
        calls = [engine.write(put("small")), engine.write(put("huge", "x" * 500_000)), engine.write(put("also small"))]
        outcomes = await asyncio.gather(*calls, return_exceptions=True)
        assert isinstance(outcomes[1], ComponentError)
        assert "full" in str(outcomes[1])
        await engine.write(put("later"))
        await engine.close()

    asyncio.run(main())
    assert {"later"} <= keys(tmp_path / "f") <= {"small", "also small", "later"}


def test_one_engine_for_a_file(tmp_path: Path) -> None:
    """The same location is the same engine; the last user ends its threads."""

    async def main() -> None:
        before = set(threading.enumerate())
        first = await open_engine(Location.parse(str(tmp_path / "f")))
        second = await open_engine(Location.parse(f"file:{tmp_path}/../{tmp_path.name}/f"))
        assert first is second
        await first.close()
        await second.write(lambda db: db.execute("SELECT 1").fetchone())
        await second.close()
        assert not [each for each in set(threading.enumerate()) - before if each.name.startswith("sqlite")]
        with pytest.raises(ComponentError, match="closed"):
            await second.write(lambda db: None)

    asyncio.run(main())


def test_a_file_that_cannot_be_opened_is_told(tmp_path: Path) -> None:
    async def main() -> None:
        for path in (tmp_path / "missing" / "f", tmp_path):
            with pytest.raises(ComponentError, match="cannot open"):
                await open_engine(Location.parse(str(path)))
        (tmp_path / "noise").write_bytes(b"this is no database" * 100)
        with pytest.raises(ComponentError, match="not a database"):
            await open_engine(Location.parse(str(tmp_path / "noise")))

    asyncio.run(main())


@pytest.mark.parametrize(
    ("text", "location"),
    [
        ("/a/b c.db", Location("file:/a/b%20c.db")),
        ("file:/a/b.db?mode=ro", Location("file:/a/b.db?mode=ro", read_only=True, wal=False)),
        ("file:///a/b.db?immutable=1&cache=shared", Location("file:/a/b.db?immutable=1", read_only=True, wal=False)),
        (
            "file:/a?_pragma=cache_size(-200)&_txlock=immediate",
            Location("file:/a", pragmas=("PRAGMA cache_size=-200",)),
        ),
        (":memory:", Location("file::memory:?mode=memory&cache=shared", memory=True, wal=False)),
        ("file:x?mode=memory", Location("file:x?mode=memory&cache=shared", memory=True, wal=False)),
    ],
)
def test_connection_strings(text: str, location: Location) -> None:
    assert Location.parse(text) == location


@pytest.mark.parametrize(
    "text", ["", "f?_pragma=journal_mode(WAL)", "f?_pragma=busy_timeout=1", "f?_pragma=a(1);drop", "f?_txlock=never"]
)
def test_connection_strings_that_are_refused(text: str) -> None:
    """Spec `components.md` 1: `_pragma` must not say what the metadata says."""
    with pytest.raises(ConfigError):
        Location.parse(text)


def test_the_layout_is_the_reference_s(tmp_path: Path) -> None:
    """Spec `components.md` 2.2: the order of the columns, base64 with a flag, level 1; rows of others are read."""
    path = tmp_path / "state.sqlite"

    async def main() -> None:
        metadata = {"connectionString": str(path), "cleanupInterval": "1h"}
        store = SqliteState(decode(SqliteState.Settings, metadata, where="t"), Context("t"))
        await store.open()
        await store.set(Set("bytes", b"\x00hi"))
        await store.set(Set("json", b'{"a":"<"}', is_json=True, metadata={"ttlInSeconds": "100"}))
        with closing(sqlite3.connect(path)) as db:
            columns = [row[1:3] for row in db.execute("PRAGMA table_info(state)")]
            assert columns == [
                ("key", "TEXT"), ("value", "TEXT"), ("is_binary", "BOOLEAN"), ("etag", "TEXT"),
                ("expiration_time", "TIMESTAMP"), ("update_time", "TIMESTAMP"),
            ]  # fmt: skip
            rows = db.execute(
                "SELECT key, value, is_binary, expiration_time IS NULL FROM state ORDER BY key"
            ).fetchall()
            assert rows == [("bytes", "AGhp", 1, 1), ("json", '{"a":"\\u003c"}', 0, 0)]
            assert db.execute("SELECT * FROM metadata").fetchall() == [("migrations", "1")]
            row = ("theirs", "not base64!", 1, "e")
            db.execute("INSERT INTO state (key, value, is_binary, etag) VALUES (?, ?, ?, ?)", row)
            db.execute("UPDATE state SET expiration_time = '2020-01-01 00:00:00' WHERE key = 'json'")
            db.commit()
        with pytest.raises(ComponentError, match="not base64"):
            await store.get(Get("theirs"))
        assert (await store.get(Get("json"))).value is None
        assert [await store.clean_up(3600), await store.clean_up(3600)] == [1, 0]
        await store.close()

    asyncio.run(main())
