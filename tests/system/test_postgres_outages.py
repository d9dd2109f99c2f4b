"""The PostgreSQL state stores: a server that goes away, tables of other levels, several processes at once."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import pytest

from pillion.components.postgresql import PostgresState1, PostgresState2
from pillion.components.postgresql_pool import PostgresPool, PostgresSettings
from pillion.errors import ComponentError, ConfigError, EtagInvalid, EtagMismatch
from pillion.kinds.component import Context, decode
from pillion.kinds.state import Get, Set

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

    from servers import PostgresServer

pytestmark = pytest.mark.postgresql

Kind = type[PostgresState1] | type[PostgresState2]


@asynccontextmanager
async def opened(kind: Kind, **metadata: str) -> AsyncIterator[PostgresState1 | PostgresState2]:
    store = kind(decode(kind.Settings, metadata, where="test"), Context("test"))  # type: ignore[arg-type]
    try:
        await store.open()
        yield store
    finally:
        await store.close()


def test_a_restart_is_survived(private_postgres: PostgresServer) -> None:
    """During the outage every call fails clearly; afterwards the store works, with what was acknowledged."""

    async def main() -> None:
        async with opened(PostgresState2, connectionString=private_postgres.dsn, maxConns="4") as store:
            await asyncio.gather(*(store.set(Set(f"k{number}", b"v")) for number in range(20)))
            private_postgres.kill()
            outcomes = await asyncio.gather(
                *(store.set(Set(f"k{number}", b"lost")) for number in range(20)), return_exceptions=True
            )
            assert all(isinstance(outcome, ComponentError) for outcome in outcomes), outcomes
            private_postgres.start()
            assert (await store.get(Get("k7"))).value == b"v"  # also over connections that broke meanwhile
            await store.set(Set("later", b"v"))
            await store.transact([Set("a", b"1"), Set("b", b"2")], {})

    asyncio.run(main())


def test_a_server_that_hangs_is_given_up(private_postgres: PostgresServer) -> None:
    """No answer within `timeout` is an error, the connection is thrown away, and closing does not hang either."""

    async def main() -> None:
        async with opened(PostgresState2, connectionString=private_postgres.dsn, timeout="4s") as store:
            await store.set(Set("k", b"v"))
            private_postgres.pause()
            async with asyncio.timeout(90):
                with pytest.raises(ComponentError, match="no answer in time"):
                    await store.set(Set("k", b"w"))
            private_postgres.resume()
            async with asyncio.timeout(90):
                assert (await store.get(Get("k"))).value in (b"v", b"w")

    asyncio.run(main())


def test_a_session_that_the_server_has_just_ended(postgres_server: PostgresServer) -> None:
    """Its last word has been read, the end of the connection not yet: neither a read nor a write meets a surprise."""

    async def main() -> None:
        pool = PostgresPool(PostgresSettings(connection_string=postgres_server.dsn, max_conns=1), where="test")
        await pool.open()
        try:
            async with pool.connection() as connection:
                [row] = await connection.fetch("SELECT pg_backend_pid() AS pid")

            async def cut_off() -> None:
                """The loop stands still meanwhile, like that of a stopped process; then it reads what comes first."""
                postgres_server.sql(f"SELECT pg_terminate_backend({row['pid']}, 10000)")
                await asyncio.sleep(0)
                await asyncio.sleep(0)

            async def write(connection: Any) -> None:
                await connection.execute("SELECT 1")
                await cut_off()

            with pytest.raises(ComponentError):
                await pool.transaction(write)
            [row] = await pool.fetch("SELECT pg_backend_pid() AS pid")
            await cut_off()
            assert await pool.fetch("SELECT 1 AS one")
        finally:
            await pool.close()

    asyncio.run(main())


def test_prepared_statements_outlive_a_change_of_the_table(postgres_server: PostgresServer) -> None:
    """A changed column type invalidates what is cached in connections: nobody notices."""

    async def main() -> None:
        async with opened(PostgresState2, url=postgres_server.url, tablePrefix="altered_", maxConns="2") as store:
            await store.set(Set("k", b"v"))
            await asyncio.gather(*(store.get(Get("k")) for _ in range(4)))
            postgres_server.sql("ALTER TABLE altered_state ADD COLUMN more text, ALTER COLUMN key TYPE varchar(500)")
            await asyncio.gather(*(store.get(Get("k")) for _ in range(4)))
            await store.set(Set("k", b"w"))
            await store.transact([Set("k", b"x"), Set("l", b"y")], {})

    asyncio.run(main())


def test_many_processes_prepare_the_same_tables(postgres_server: PostgresServer) -> None:
    """The row `lock` lets one migrate after the other; levels are 3 and 2 (spec `components.md` 2.2)."""

    async def open_one(kind: Kind, **metadata: str) -> None:
        async with opened(kind, connectionString=postgres_server.dsn, metadataTableName="many_meta", **metadata):
            pass

    async def main() -> None:
        await asyncio.gather(
            *(open_one(PostgresState1, tableName="many_one") for _ in range(4)),
            *(open_one(PostgresState2, tablePrefix="many_") for _ in range(4)),
        )

    asyncio.run(main())
    rows = set(postgres_server.sql("SELECT key || '=' || value FROM many_meta").split())
    assert rows == {"migrations=3", "migrations-state-v2-many_=2", "lock=lock"}
    columns = "SELECT string_agg(column_name, ' ' ORDER BY ordinal_position) FROM information_schema.columns WHERE "
    assert postgres_server.sql(columns + "table_name = 'many_one'").split() == [
        "key", "value", "isbinary", "insertdate", "updatedate", "expiredate", "row_id",
    ]  # fmt: skip
    assert postgres_server.sql(columns + "table_name = 'many_state'").split() == [
        "key", "value", "etag", "created_at", "updated_at", "expires_at", "row_id",
    ]  # fmt: skip
    indexes = postgres_server.sql("SELECT indexname FROM pg_indexes WHERE tablename LIKE 'many_%'").split()
    assert {"many_one_row_id_uidx", "many_state_row_id_uidx"} <= set(indexes)


def test_an_older_table_is_brought_up_to_date(postgres_server: PostgresServer) -> None:
    """A table of level 1 gets the columns of later levels and keeps its rows."""
    postgres_server.sql("CREATE TABLE older_meta (key text NOT NULL PRIMARY KEY, value text NOT NULL)")
    postgres_server.sql("INSERT INTO older_meta VALUES ('migrations', '1')")
    postgres_server.sql(
        "CREATE TABLE older (key text NOT NULL PRIMARY KEY, value jsonb NOT NULL, isbinary boolean NOT NULL,"
        " insertdate timestamp with time zone NOT NULL DEFAULT now(), updatedate timestamp with time zone)"
    )
    postgres_server.sql(
        """INSERT INTO older VALUES ('j', '{"a": 1}', false), ('b', '"aGk="', true), ('x', '7', true)"""
    )

    async def main() -> None:
        names = {"tableName": "older", "metadataTableName": "older_meta"}
        async with opened(PostgresState1, connectionString=postgres_server.dsn, **names) as store:
            assert (await store.get(Get("j"))).value == b'{"a": 1}'
            assert (await store.get(Get("b"))).value == b"hi"
            with pytest.raises(ComponentError, match="not base64"):
                await store.get(Get("x"))
            [found] = await store.bulk_get([Get("x")])
            assert "not base64" in found.error
            await store.set(Set("gone", b"v", metadata={"ttlInSeconds": "100"}))
            assert len((await store.keys_like("%"))[0]) == 4

    asyncio.run(main())
    assert postgres_server.sql("SELECT value FROM older_meta WHERE key = 'migrations'").strip() == "3"


def test_the_layout_is_the_reference_s(postgres_server: PostgresServer) -> None:
    """Version 1: bytes as base64 in JSON, the ETag is xmin. Version 2: bytes, the ETag is a UUID."""

    async def main() -> None:
        async with opened(PostgresState1, connectionString=postgres_server.dsn, tableName="layout1") as store:
            await store.set(Set("bytes", b"hi"))
            await store.set(Set("json", b'{"b":"<","a":1}', is_json=True))
            rows = set(postgres_server.sql("SELECT key, value, isbinary FROM layout1").splitlines())
            assert rows == {'bytes|"aGk="|t', 'json|{"a": 1, "b": "<"}|f'}
            xmin = postgres_server.sql("SELECT xmin FROM layout1 WHERE key = 'json'").strip()
            assert (await store.get(Get("json"))).etag == xmin
            for etag in ("x", "4294967296", "-1", "1" * 50):
                with pytest.raises(EtagInvalid):
                    await store.set(Set("json", b"1", etag=etag))
            await store.set(Set("json", b"1", concurrency="last-write"))
            with pytest.raises(ComponentError, match="no item was updated"):
                await store.set(Set("json", b"2", concurrency="first-write"))
            for others in ([], [Set("beside", b"1")]):
                with pytest.raises(EtagMismatch):
                    await store.transact([*others, Set("json", b"2", concurrency="first-write")], {})
        async with opened(PostgresState2, connectionString=postgres_server.dsn, tablePrefix="layout2_") as store2:
            await store2.set(Set("json", b'"<"', is_json=True))
            assert postgres_server.sql("SELECT encode(value, 'escape') FROM layout2_state").strip() == '"\\\\u003c"'
            with pytest.raises(EtagMismatch):
                await store2.set(Set("json", b"1", etag="7"))

    asyncio.run(main())


@pytest.mark.parametrize(("kind", "table"), [(PostgresState1, "clean"), (PostgresState2, "clean_state")])
def test_expired_rows_are_removed_once_an_interval(postgres_server: PostgresServer, kind: Kind, table: str) -> None:
    """Of two processes with the same interval one removes (atomic upsert of `last-cleanup`)."""
    column = "expiredate" if kind is PostgresState1 else "expires_at"
    names = {"tableName": "clean"} if kind is PostgresState1 else {"tablePrefix": "clean_"}

    async def main() -> None:
        async with opened(kind, connectionString=postgres_server.dsn, metadataTableName="clean_meta", **names) as store:
            await store.set(Set("a", b"v", metadata={"ttlInSeconds": "100"}))
            await store.set(Set("b", b"v", metadata={"ttlInSeconds": "100"}))
            await store.set(Set("c", b"v"))
            postgres_server.sql(f"UPDATE {table} SET {column} = now() - interval '1 hour' WHERE key = 'a'")
            assert sorted(await asyncio.gather(store.clean_up(60), store.clean_up(60))) == [0, 1]
            postgres_server.sql(f"UPDATE {table} SET {column} = now() - interval '1 hour' WHERE key = 'b'")
            assert await store.clean_up(60) == 0
            postgres_server.sql("UPDATE clean_meta SET value = '2020-01-01 00:00:00+00' WHERE key LIKE 'last-cleanup%'")
            assert await store.clean_up(60) == 1

    asyncio.run(main())


def test_a_refused_value_fails_alone(postgres_server: PostgresServer) -> None:
    """jsonb has no U+0000: the save of such a value fails, those of the same moment do not; the last of a key stays."""

    async def main() -> None:
        async with opened(PostgresState1, connectionString=postgres_server.dsn, tableName="refused") as store:
            for bad in (False, True):
                calls = [store.set(Set(f"k{number % 7}", str(number).encode(), is_json=True)) for number in range(21)]
                if bad:
                    calls.insert(9, store.set(Set("bad", b'"\\u0000"', is_json=True)))
                outcomes = await asyncio.gather(*calls, return_exceptions=True)
                assert sum(isinstance(outcome, ComponentError) for outcome in outcomes) == bad
                found = await store.bulk_get([Get(f"k{number}") for number in range(7)])
                assert [one.value for one in found] == [str(14 + number).encode() for number in range(7)]
            with pytest.raises(ComponentError, match="0000"):
                await store.set(Set("a\0b", b"v"))

    asyncio.run(main())


def test_a_table_of_the_other_version_is_told(postgres_server: PostgresServer) -> None:
    """Both versions call their table `state` unless told otherwise."""

    async def main() -> None:
        async with opened(PostgresState1, connectionString=postgres_server.dsn, tableName="taken_state"):
            pass
        with pytest.raises(ComponentError, match="another tableName"):
            async with opened(PostgresState2, connectionString=postgres_server.dsn, tablePrefix="taken_"):
                pass

    asyncio.run(main())


def test_crossing_transactions_do_not_fail(postgres_server: PostgresServer) -> None:
    """Transactions that touch the same keys in opposite order would deadlock if they took their locks so."""

    async def main() -> None:
        async with opened(PostgresState2, connectionString=postgres_server.dsn, tablePrefix="crossing_") as store:
            keys = [f"k{number}" for number in range(40)]
            for _ in range(3):
                forth = store.transact([Set(key, b"forth") for key in keys], {})
                back = store.transact([Set(key, b"back") for key in reversed(keys)], {})
                await asyncio.gather(forth, back)
                values = {found.value for found in await store.bulk_get([Get(key) for key in keys])}
                assert len(values) == 1

    asyncio.run(main())


def test_a_wrong_password_is_told_without_repeating_it(postgres_server: PostgresServer) -> None:
    async def main() -> None:
        with pytest.raises(ComponentError, match="password authentication failed") as caught:
            async with opened(PostgresState1, connectionString=postgres_server.dsn, password="secret-of-mine"):
                pass
        assert "secret-of-mine" not in str(caught.value)

    asyncio.run(main())


@pytest.mark.parametrize("metadata", [{}, {"connectionString": "host"}, {"url": "host=h user='x", "host": "h"},
                                      {"connectionString": "host=h", "useAzureAD": "true"},
                                      {"connectionString": "host=h", "timeout": "10ms"},
                                      {"connectionString": "host=h", "tableName": "a; drop"},
                                      {"connectionString": "host=h", "queryExecMode": "fast"}])  # fmt: skip
def test_settings_are_checked(metadata: dict[str, str]) -> None:
    with pytest.raises(ConfigError):
        PostgresState1(decode(PostgresState1.Settings, metadata, where="test"), Context("test"))
