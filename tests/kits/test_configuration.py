"""Every configuration store passes the kit, written to by other clients than ours."""

from __future__ import annotations

import asyncio
import sqlite3
from contextlib import asynccontextmanager, closing
from typing import TYPE_CHECKING

import pytest

from pillion.components.postgres_configuration import PostgresConfiguration
from pillion.components.redis_client import RedisClient
from pillion.components.redis_configuration import RedisConfiguration
from pillion.components.sqlite_configuration import SqliteConfiguration
from pillion.errors import NotSupported
from pillion.kinds.component import Context, decode
from pillion.kinds.configuration import Item
from pillion.testing.configuration_kit import ConfigurationKit, Recorder

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from servers import PostgresServer, RedisCluster, RedisServer

TRIGGER = """
CREATE TABLE IF NOT EXISTS kit_config
    (key VARCHAR NOT NULL, value VARCHAR NOT NULL, version VARCHAR NOT NULL, metadata JSON);
CREATE OR REPLACE FUNCTION kit_notify() RETURNS trigger AS $$
DECLARE changed json;
BEGIN
    changed = CASE TG_OP WHEN 'DELETE' THEN row_to_json(OLD) ELSE row_to_json(NEW) END;
    PERFORM pg_notify('kit', json_build_object('table', TG_TABLE_NAME, 'action', TG_OP, 'data', changed)::text);
    RETURN NULL;
END $$ LANGUAGE plpgsql;
CREATE OR REPLACE TRIGGER kit_config AFTER INSERT OR UPDATE OR DELETE ON kit_config
    FOR EACH ROW EXECUTE FUNCTION kit_notify();
"""


@pytest.mark.redis
class TestRedis(ConfigurationKit):
    server: RedisServer

    @pytest.fixture(autouse=True)
    def _server(self, redis_server: RedisServer) -> None:
        type(self).server = redis_server

    @asynccontextmanager
    async def store(self) -> AsyncIterator[RedisConfiguration]:
        settings = decode(RedisConfiguration.Settings, {"redisHost": self.server.address}, where="kit")
        yield RedisConfiguration(settings, Context("kit"))

    def put(self, key: str, value: str, version: str) -> None:
        self.server.cli("SET", key, f"{value}||{version}")

    def remove(self, key: str) -> None:
        self.server.cli("DEL", key)


@pytest.mark.postgresql
class TestPostgres(ConfigurationKit):
    server: PostgresServer

    @pytest.fixture(autouse=True)
    def _server(self, postgres_server: PostgresServer) -> None:
        type(self).server = postgres_server
        postgres_server.sql(TRIGGER)

    @asynccontextmanager
    async def store(self) -> AsyncIterator[PostgresConfiguration]:
        metadata = {"connectionString": self.server.dsn, "table": "kit_config", "notifyChannel": "kit"}
        yield PostgresConfiguration(decode(PostgresConfiguration.Settings, metadata, where="kit"), Context("kit"))

    def put(self, key: str, value: str, version: str) -> None:
        self.server.sql(f"INSERT INTO kit_config VALUES ('{key}', '{value}', '{version}', NULL)")

    def remove(self, key: str) -> None:
        self.server.sql(f"DELETE FROM kit_config WHERE key = '{key}'")


class TestSqlite(ConfigurationKit):
    path: Path
    metadata: dict[str, str] = {}  # noqa: RUF012 - replaced by a subclass

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        type(self).path = tmp_path / "configuration.sqlite"

    @asynccontextmanager
    async def store(self) -> AsyncIterator[SqliteConfiguration]:
        metadata = {"connectionString": str(self.path), **self.metadata}
        yield SqliteConfiguration(decode(SqliteConfiguration.Settings, metadata, where="kit"), Context("kit"))

    def put(self, key: str, value: str, version: str) -> None:
        self.sql("REPLACE INTO configuration (key, value, version) VALUES (?, ?, ?)", key, value, version)

    def remove(self, key: str) -> None:
        self.sql("DELETE FROM configuration WHERE key = ?", key)

    def sql(self, statement: str, *values: str) -> None:
        with closing(sqlite3.connect(self.path, timeout=60)) as db, db:
            db.execute(statement, values)


class TestSqliteWithoutWal(TestSqlite):
    metadata = {"disableWAL": "true"}  # noqa: RUF012


def test_a_long_transaction_is_waited_for(tmp_path: Path) -> None:
    """The file stirs long before the COMMIT: several keys of one transaction are told together, and only then."""
    path = tmp_path / "c.sqlite"

    async def run() -> None:
        settings = decode(SqliteConfiguration.Settings, {"connectionString": str(path)}, where="here")
        store = SqliteConfiguration(settings, Context("here"))
        recorder = Recorder()
        try:
            await store.open()
            await store.subscribe(["a", "b"], {}, recorder)

            def write() -> None:
                with closing(sqlite3.connect(path, isolation_level=None)) as db:
                    db.execute("PRAGMA cache_size = 2")  # what does not fit goes to the file before the COMMIT
                    db.execute("BEGIN IMMEDIATE")
                    db.execute("INSERT INTO configuration (key, value) VALUES ('a', '1')")
                    rows = [(f"filler {n}", "x" * 4000) for n in range(100)]
                    db.executemany("INSERT INTO configuration (key, value) VALUES (?, ?)", rows)
                    db.execute("INSERT INTO configuration (key, value, metadata) VALUES ('b', '2', '{\"n\": 3}')")
                    db.execute("COMMIT")

            await asyncio.to_thread(write)
            await recorder.hears("b", "2")
            assert recorder.told == [{"a": Item("1"), "b": Item("2", "", {"n": "3"})}]
        finally:
            await store.close()

    asyncio.run(run())


@pytest.mark.redis
def test_redis_in_a_cluster(redis_cluster: RedisCluster) -> None:
    """Items come from whichever server has them; subscribing, which one server cannot serve, is refused."""

    async def run() -> None:
        metadata = {"redisHost": redis_cluster.addresses, "redisType": "cluster"}
        store = RedisConfiguration(decode(RedisConfiguration.Settings, metadata, where="here"), Context("here"))
        client = RedisClient(decode(RedisConfiguration.Settings, metadata, where="here"), "here")
        try:
            await store.open()
            await client.open()
            names = [f"cluster configuration {n}" for n in range(10)]
            for name in names:
                await client.call(name, "SET", name, f"{name}||1")
            await client.call("cluster hash", "HSET", "cluster hash", "field", "value")
            items = {name: Item(name, "1") for name in names}
            assert await store.get([*names, "cluster hash", "missing"], {}) == items
            assert await store.get(["cluster hash"], {}) == {}
            assert items.items() <= (await store.get([], {})).items()
            with pytest.raises(NotSupported, match="cluster"):
                await store.subscribe(names, {}, Recorder())
        finally:
            await client.close()
            await store.close()

    asyncio.run(run())


@pytest.mark.redis
def test_redis_over_tls(redis_tls_server: RedisServer, monkeypatch: pytest.MonkeyPatch) -> None:
    """The listening connection logs in and is encrypted like the other one, and hears another database's events."""
    tls = redis_tls_server.certificates
    assert tls is not None
    monkeypatch.setenv("SSL_CERT_FILE", str(tls.authority))
    metadata = {
        "redisHost": redis_tls_server.address, "redisUsername": redis_tls_server.username,
        "redisPassword": redis_tls_server.password, "enableTLS": "true", "redisDB": "5",
        "clientCert": tls.client.read_text(), "clientKey": tls.client_key.read_text(),
    }  # fmt: skip

    async def run() -> None:
        settings = decode(RedisConfiguration.Settings, metadata, where="here")
        store, client, recorder = (
            RedisConfiguration(settings, Context("here")),
            RedisClient(settings, "here"),
            Recorder(),
        )
        try:
            await store.open()
            await client.open()
            await store.subscribe(["secret"], {}, recorder)
            await client.call("secret", "SET", "secret", "x||2")
            assert await recorder.hears("secret", "x") == Item("x", "2")
        finally:
            await client.close()
            await store.close()

    asyncio.run(run())
