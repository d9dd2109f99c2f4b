"""Subscriptions to configuration across outages: nothing that changed meanwhile is lost in silence."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any, cast

import pytest

from apps import HttpApp
from pillion import tasks
from pillion.components import postgres_configuration
from pillion.components.postgres_configuration import PostgresConfiguration
from pillion.components.redis_configuration import RedisConfiguration
from pillion.errors import ComponentError
from pillion.kinds.component import Context, decode
from pillion.kinds.configuration import ConfigurationStore, Item
from pillion.testing.configuration_kit import Recorder
from servers import RedisSentinel, RedisServer, wait_until
from sidecars import SidecarProcess, component

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
    from pathlib import Path

    from servers import PostgresServer

TABLE = """
CREATE TABLE config (key VARCHAR NOT NULL, value VARCHAR NOT NULL, version VARCHAR NOT NULL, metadata JSON);
CREATE FUNCTION notify() RETURNS trigger AS $$ BEGIN
    PERFORM pg_notify('changes', json_build_object('table', TG_TABLE_NAME, 'data', row_to_json(NEW))::text);
    RETURN NULL;
END $$ LANGUAGE plpgsql;
CREATE TRIGGER config AFTER INSERT OR UPDATE ON config FOR EACH ROW EXECUTE FUNCTION notify();
"""


@asynccontextmanager
async def opened(kind: Any, **metadata: str) -> AsyncIterator[ConfigurationStore]:
    store = kind(decode(kind.Settings, metadata, where="test"), Context("test"))
    try:
        await store.open()
        yield store
    finally:
        await store.close()


@pytest.mark.redis
def test_redis_is_restarted(tmp_path: Path, private_redis: RedisServer) -> None:
    """The application hears of a change that nobody could tell, and of those after it: events are switched on anew."""
    resources = {"conf.yaml": component("conf", "configuration.redis", redisHost=private_redis.address)}
    with HttpApp() as app, SidecarProcess(tmp_path, app_port=app.port, resources=resources) as sidecar:

        def hears(value: str) -> None:
            app.wait(lambda calls: any(call.json()["items"]["a"]["value"] == value for call in calls))

        private_redis.cli("SET", "a", "1||1")
        assert sidecar.request("GET", "/v1.0/configuration/conf/subscribe?key=a").status == 200
        private_redis.cli("SET", "a", "2||2")
        hears("2")
        private_redis.kill()
        private_redis.start()
        private_redis.cli("SET", "a", "3||3")
        hears("3")
        private_redis.cli("SET", "a", "4||4")
        hears("4")
        assert {call.path for call in app.calls} == {"/configuration/conf/a"}


@pytest.mark.redis
def test_redis_hangs(private_redis: RedisServer) -> None:
    """Subscribing fails in time while the server does not answer, and leaves nothing behind."""

    async def run() -> None:
        metadata = {"redisHost": private_redis.address, "dialTimeout": "3s", "readTimeout": "3s"}
        recorder, later = Recorder(), Recorder()
        async with opened(RedisConfiguration, **metadata) as store:
            private_redis.pause()
            async with asyncio.timeout(90):
                with pytest.raises(ComponentError):
                    await store.subscribe(["a"], {}, recorder)
            private_redis.resume()
            async with asyncio.timeout(90):
                while True:
                    try:
                        await store.subscribe(["a"], {}, later)
                        break
                    except ComponentError:
                        await asyncio.sleep(0.05)
            private_redis.cli("SET", "a", "1")
            await later.hears("a", "1")
            assert recorder.told == []

    asyncio.run(run())


@pytest.mark.redis
def test_events_that_others_switched_on_stay(private_redis: RedisServer) -> None:
    """What we need is added; a server that does not let us is told of in the log, and works if it is set up."""

    async def run() -> None:
        private_redis.cli("CONFIG", "SET", "notify-keyspace-events", "Elx")
        recorder = Recorder()
        async with opened(RedisConfiguration, redisHost=private_redis.address) as store:
            await store.subscribe(["a"], {}, recorder)
            flags = private_redis.cli("CONFIG", "GET", "notify-keyspace-events").split()[-1]
            assert set(flags) == set("KEg$lxe")
            private_redis.cli("ACL", "SETUSER", "default", "-config")
        second = Recorder()
        async with opened(RedisConfiguration, redisHost=private_redis.address) as store:
            await store.subscribe([], {}, second)
            private_redis.cli("SET", "b", "1", "EX", "1000")
            await second.hears("b", "1")
            private_redis.cli("SET", "b", "2", "PX", "1")
            await second.until(lambda told: told.last["b"] == Item())

    asyncio.run(run())


@pytest.mark.redis
def test_redis_fails_over(redis_sentinel: RedisSentinel) -> None:
    """The new master is listened to."""

    async def run() -> None:
        metadata = {
            "redisHost": redis_sentinel.sentinel.address, "failover": "true",
            "sentinelMasterName": redis_sentinel.name,
        }  # fmt: skip
        recorder = Recorder()
        async with opened(RedisConfiguration, **metadata) as store:
            redis_sentinel.master.cli("SET", "a", "1||1")
            await store.subscribe(["a"], {}, recorder)
            redis_sentinel.master.kill()

            def promoted() -> bool:
                return "role:master" in redis_sentinel.replica.cli("INFO", "replication")

            await asyncio.to_thread(wait_until, promoted, redis_sentinel.replica)
            redis_sentinel.replica.cli("SET", "a", "2||2")
            await recorder.hears("a", "2")
            redis_sentinel.replica.cli("SET", "a", "3||3")
            await recorder.hears("a", "3")

    asyncio.run(run())


@pytest.mark.postgresql
def test_postgresql_is_restarted(private_postgres: PostgresServer) -> None:
    """A change made while nobody listened is read, later ones are notified; the channel may come with the request."""

    async def run() -> None:
        private_postgres.sql(TABLE)
        recorder, everything = Recorder(), Recorder()
        async with opened(PostgresConfiguration, connectionString=private_postgres.dsn, table="config") as store:
            with pytest.raises(ComponentError, match="no channel"):
                await store.subscribe(["a"], {}, recorder)
            await store.subscribe(["a"], {"pgNotifyChannel": "changes"}, recorder)
            await store.subscribe([], {"pgNotifyChannel": "Other Channel"}, everything)
            private_postgres.sql("INSERT INTO config VALUES ('a', '1', '1', NULL)")
            await recorder.hears("a", "1")
            private_postgres.kill()
            private_postgres.start()
            private_postgres.sql("INSERT INTO config VALUES ('a', '2', '2', NULL)")
            await asyncio.gather(recorder.hears("a", "2"), everything.hears("a", "2"))
            private_postgres.sql("INSERT INTO config VALUES ('a', '3', '3', '{\"by\": \"ada\"}')")
            assert await recorder.hears("a", "3") == Item("3", "3", {"by": "ada"})
            private_postgres.sql("ALTER TABLE config DISABLE TRIGGER ALL; INSERT INTO config VALUES ('b', '1', '1')")
            private_postgres.sql("NOTIFY \"Other Channel\", 'whatever this is'")
            await everything.hears("b", "1")

    asyncio.run(run())


@pytest.mark.postgresql
def test_postgresql_keys_and_tables(postgres_server: PostgresServer) -> None:
    """Names that could be more than names are refused; request metadata do not hide items."""

    async def run() -> None:
        postgres_server.sql('CREATE TABLE "odd/name" (key VARCHAR, value VARCHAR, version VARCHAR, metadata JSON)')
        postgres_server.sql("INSERT INTO \"odd/name\" VALUES ('a', '1', 'x', '[]'), ('a', '2', '1', NULL)")
        async with opened(PostgresConfiguration, connectionString=postgres_server.dsn, table="odd/name") as store:
            assert await store.get(["a"], {"label": "x"}) == {"a": Item("2", "1")}
            for key in ("a b", "'", "", "ü"):
                with pytest.raises(ComponentError, match="characters"):
                    await store.get([key], {})
        for table in ("Config", "config; --", "", "a.b.c", "x" * 65, "missing_table"):
            with pytest.raises(Exception, match="table"):
                async with opened(PostgresConfiguration, connectionString=postgres_server.dsn, table=table):
                    raise AssertionError(table)

    asyncio.run(run())


def test_a_listener_to_postgresql_begins_again_after_what_nobody_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waited is served, and what was said meanwhile is looked for."""
    monkeypatch.setattr(tasks, "FIRST_PAUSE_S", 0.001)
    monkeypatch.setattr(postgres_configuration, "FIRST_PAUSE_S", 0.001)
    connections: list[Any] = []

    class Connection:
        def __init__(self) -> None:
            self.ended: Callable[[Any], None] = lambda _: None

        def add_termination_listener(self, ended: Callable[[Any], None]) -> None:
            self.ended = ended

        def remove_termination_listener(self, ended: Callable[[Any], None]) -> None:
            pass

        async def add_listener(self, channel: str, heard: object) -> None:
            if len(connections) in (1, 3):
                raise RuntimeError("nobody expects this")

        async def remove_listener(self, channel: str, heard: object) -> None:
            pass

    class Pool:
        timeout_s = 90.0

        @asynccontextmanager
        async def connection(self) -> AsyncIterator[Connection]:
            connections.append(Connection())
            yield connections[-1]

    async def main() -> None:
        resumptions: asyncio.Queue[int] = asyncio.Queue()
        listener = postgres_configuration._Listener(
            cast("Any", Pool()), "test", lambda said: None, lambda: resumptions.put_nowait(len(connections))
        )
        async with asyncio.timeout(90):
            await listener.listen("c")
            assert await resumptions.get() == 2
            connections[1].ended(None)
            assert await resumptions.get() == 4
            await listener.listen("c")
        await listener.close()

    asyncio.run(main())
