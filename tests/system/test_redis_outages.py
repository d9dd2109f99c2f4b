"""The Redis state store against a server that is killed, hangs, moves or forgets."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

import pytest

from pillion.components.redis import RedisState
from pillion.components.redis_client import slot_of
from pillion.components.redis_link import Interrupted, Unreachable
from pillion.errors import ComponentError, ConfigError, EtagMismatch
from pillion.kinds.component import Context, decode
from pillion.kinds.state import Delete, Get, Set
from servers import RedisCluster, RedisSentinel, RedisServer, wait_until

if TYPE_CHECKING:
    from collections.abc import AsyncIterator

pytestmark = pytest.mark.redis


@contextlib.asynccontextmanager
async def opened(**metadata: str) -> AsyncIterator[RedisState]:
    store = RedisState(decode(RedisState.Settings, metadata, where="test"), Context("test"))
    try:
        await store.open()
        yield store
    finally:
        await store.close()


async def saved(store: RedisState, key: str, value: bytes) -> None:
    """Save, trying again while the server is away: what a caller with a resiliency policy does."""
    async with asyncio.timeout(120):
        while True:
            try:
                return await store.set(Set(key, value))
            except (Unreachable, Interrupted):
                await asyncio.sleep(0.05)


def test_a_kill_fails_what_was_sent_and_heals(private_redis: RedisServer) -> None:
    """Commands without an answer fail as unknown, what was acknowledged is there, the store works without a restart."""

    async def main() -> None:
        async with opened(redisHost=private_redis.address, dialTimeout="60s") as store:
            await store.set(Set("kept", b"v"))
            private_redis.pause()
            writes = [asyncio.ensure_future(store.set(Set(f"k{number}", b"v"))) for number in range(100)]
            read = asyncio.ensure_future(store.get(Get("kept")))
            await asyncio.sleep(0)  # the commands leave at the end of this turn of the loop
            await asyncio.sleep(0)
            private_redis.kill()
            outcomes = await asyncio.gather(*writes, return_exceptions=True)
            assert {type(outcome) for outcome in outcomes} == {Interrupted}
            private_redis.start()
            assert (await read).value == b"v"  # a read is sent again by itself
            await store.set(Set("later", b"v"))
            assert (await store.get(Get("later"))).value == b"v"

    asyncio.run(main())


def test_calls_during_an_outage_end(private_redis: RedisServer) -> None:
    """While nothing listens, every call fails within dialTimeout; a short restart is ridden out."""

    async def main() -> None:
        async with opened(redisHost=private_redis.address, dialTimeout="3s") as store:
            private_redis.stop()
            async with asyncio.timeout(90):
                outcomes = await asyncio.gather(
                    *(store.set(Set(str(number), b"v")) for number in range(50)),
                    store.get(Get("0")),
                    return_exceptions=True,
                )
            assert all(isinstance(outcome, Unreachable | Interrupted) for outcome in outcomes), outcomes
            private_redis.start()
            await saved(store, "k", b"v")

    asyncio.run(main())


def test_a_server_that_hangs_is_given_up(private_redis: RedisServer) -> None:
    """Silence for readTimeout ends the connection; the outcome of a write is unknown, and the caller hears so."""

    async def main() -> None:
        async with opened(redisHost=private_redis.address, readTimeout="3s", dialTimeout="3s") as store:
            private_redis.pause()
            with pytest.raises(Interrupted, match="did not answer"):
                await store.set(Set("k", b"v"))
            with pytest.raises(Unreachable):
                await store.get(Get("k"))
            private_redis.resume()
            await saved(store, "k", b"v")

    asyncio.run(main())


def test_scripts_that_the_server_forgot_are_sent_again(private_redis: RedisServer) -> None:
    async def main() -> None:
        async with opened(redisHost=private_redis.address) as store:
            await store.set(Set("k", b"1"))
            private_redis.cli("SCRIPT", "FLUSH")
            await asyncio.gather(*(store.set(Set("k", b"2")) for _ in range(20)))
            private_redis.cli("SCRIPT", "FLUSH")
            await store.transact([Set("k", b"3")], {})
            assert (await store.get(Get("k"))).etag == "22"

    asyncio.run(main())


def test_the_layout_is_the_reference_s(redis_server: RedisServer) -> None:
    """Spec `components.md` 2.1: a hash of data, version and first-write; a plain string is read without an ETag."""

    async def main() -> None:
        async with opened(redisHost=redis_server.address, ttlInSeconds="500") as store:
            await store.set(Set("layout||1", b"v", concurrency="first-write"))
            await store.set(Set("layout||2", b"<&>", is_json=True, metadata={"ttlInSeconds": "-1"}))
            shown = redis_server.cli("HGETALL", "layout||1").split()
            assert shown == ["data", "v", "first-write", "0", "version", "1"]
            assert 400 < int(redis_server.cli("TTL", "layout||1")) <= 500
            assert redis_server.cli("HGETALL", "layout||2").split() == ["data", "<&>", "version", "1"]
            assert redis_server.cli("TTL", "layout||2").strip() == "-1"
            with pytest.raises(ComponentError, match="first-write"):
                await store.set(Set("layout||1", b"later"))
            redis_server.cli("SET", "layout||plain", "text")
            found = await store.get(Get("layout||plain"))
            assert (found.value, found.etag) == (b"text", None)
            await store.set(Set("layout||plain", b"now a hash"))
            assert (await store.get(Get("layout||plain"))).etag == "1"
            redis_server.cli("HSET", "layout||half", "data", "v")
            with pytest.raises(ComponentError, match="lacks"):
                await store.get(Get("layout||half"))
            await store.set(Set("layout||guarded", b"1"))
            await store.set(Set("layout||guarded", b"2", etag="77", concurrency="last-write"))  # ignores the ETag

    asyncio.run(main())


def test_values_that_say_so_are_json_documents(redis_json_server: RedisServer) -> None:
    """With the JSON module and `contentType: application/json`: a document of data, version and first-write. Versions
    go on over a change between hash and document, and a value cannot write beside its member.
    """
    json = {"contentType": "application/json"}

    async def main() -> None:
        async with opened(redisHost=redis_json_server.address) as store:
            await store.set(Set("json||1", b'{"a": [1, "<"]}', metadata=json, concurrency="first-write"))
            shown = redis_json_server.cli("JSON.GET", "json||1").strip()
            assert shown == '{"data":{"a":[1,"<"]},"version":1,"first-write":0}'
            for metadata in (json, {}):
                found = await store.get(Get("json||1", metadata=metadata))
                assert (found.value, found.etag) == (b'{"a":[1,"<"]}', "1")
            with pytest.raises(ComponentError, match="first-write"):
                await store.set(Set("json||1", b"2", metadata=json))
            for value in (b"not json", b'1},"version":9,"x":{', b"1 2", b""):
                with pytest.raises(ComponentError, match="is not JSON"):
                    await store.set(Set("json||1", value, metadata=json, etag="1"))
            await store.set(Set("json||1", b"bytes now", etag="1"))
            with pytest.raises(EtagMismatch):
                await store.set(Set("json||1", b"3", etag="1", metadata=json))
            await store.transact([Set("json||1", b"4", etag="2", metadata=json), Set("json||2", b"x")], {})
            assert redis_json_server.cli("JSON.GET", "json||1").strip() == '{"data":4,"version":3,"first-write":0}'
            with pytest.raises(EtagMismatch):
                await store.delete(Delete("json||1", etag="2"))
            await store.delete(Delete("json||1", etag="3"))
            assert (await store.get(Get("json||1", metadata=json))).value is None
            redis_json_server.cli("JSON.SET", "json||foreign", "$", "[1]")
            with pytest.raises(ComponentError, match="lacks"):
                await store.get(Get("json||foreign"))

    asyncio.run(main())


def test_a_replica_becomes_master(redis_sentinel: RedisSentinel, monkeypatch: pytest.MonkeyPatch) -> None:
    """With `failover` the store follows the master; strong writes wait for the replica while there is one."""
    monkeypatch.setattr("pillion.components.redis.REPLICATION_WAIT_MS", 60_000)

    async def main() -> None:
        async with opened(
            redisHost=redis_sentinel.sentinel.address,
            failover="true",
            sentinelMasterName=redis_sentinel.name,
            dialTimeout="5s",
            readTimeout="5s",
        ) as store:
            await store.set(Set("k", b"1", consistency="strong"))
            assert "1" in redis_sentinel.replica.cli("HGET", "k", "data")
            stale = (await store.get(Get("k"))).etag
            await store.set(Set("k", b"2", consistency="strong"))
            with pytest.raises(EtagMismatch):
                await store.set(Set("k", b"3", etag=stale, consistency="strong"))
            redis_sentinel.master.kill()
            await saved(store, "after", b"v")
            assert (await store.get(Get("k"))).value == b"2"
            assert redis_sentinel.replica.cli("HGET", "after", "data").strip() == "v"

    asyncio.run(main())


def test_slots_move_while_we_write() -> None:
    """ASK sends one command elsewhere, MOVED all that follow (redis.io/docs/reference/cluster-spec)."""

    async def main(cluster: RedisCluster) -> None:
        async with opened(redisHost=cluster.nodes[0].address, redisType="cluster") as store:
            key = "{moving}||1"
            slot = str(slot_of(key))
            ids = [node.cli("CLUSTER", "MYID").strip() for node in cluster.nodes]
            owner = next(n for n, node in enumerate(cluster.nodes) if "MOVED" not in node.cli("GET", key))
            target = (owner + 1) % 3
            source_node, target_node = cluster.nodes[owner], cluster.nodes[target]
            target_node.cli("CLUSTER", "SETSLOT", slot, "IMPORTING", ids[owner])
            source_node.cli("CLUSTER", "SETSLOT", slot, "MIGRATING", ids[target])
            await store.set(Set(key, b"asked"))
            assert (await store.get(Get(key))).value == b"asked"
            for node in (target_node, source_node, cluster.nodes[(owner + 2) % 3]):
                node.cli("CLUSTER", "SETSLOT", slot, "NODE", ids[target])
            await store.set(Set(key, b"moved"))
            await store.transact([Set(key, b"both"), Set("{moving}||2", b"both")], {})
            assert target_node.cli("HGET", key, "data").strip() == "both"

    with RedisCluster() as cluster:
        asyncio.run(main(cluster))


def test_a_lost_node_of_a_cluster_harms_its_own_keys_only() -> None:
    """While one master is away its keys fail in time and all others work; when it is back, its keys work again."""

    async def main(cluster: RedisCluster) -> None:
        async with opened(redisHost=cluster.addresses, redisType="cluster", dialTimeout="3s") as store:
            keys = [f"k{number}" for number in range(60)]
            await asyncio.gather(*(store.set(Set(key, b"v")) for key in keys))
            lost = cluster.nodes[1]
            away = [key for key in keys if "MOVED" not in lost.cli("GET", key)]
            lost.kill()
            outcomes = await asyncio.gather(*(store.get(Get(key)) for key in keys), return_exceptions=True)
            for key, outcome in zip(keys, outcomes, strict=True):
                if key in away:
                    assert isinstance(outcome, ComponentError), (key, outcome)
                else:
                    assert not isinstance(outcome, BaseException), (key, outcome)
                    assert outcome.value == b"v"
            lost.start()
            wait_until(lambda: "cluster_state:ok" in lost.cli("CLUSTER", "INFO"), lost)
            await saved(store, away[0], b"again")
            assert {found.value for found in await store.bulk_get([Get(key) for key in away])} == {b"v", b"again"}

    with RedisCluster() as cluster:
        asyncio.run(main(cluster))


def test_a_wrong_password_is_told_at_once(redis_acl_server: RedisServer) -> None:
    async def main() -> None:
        with pytest.raises(ComponentError, match="WRONGPASS"):
            async with opened(redisHost=redis_acl_server.address, redisUsername="rider", redisPassword="wrong"):
                pass
        with pytest.raises(ComponentError, match="NOAUTH"):
            async with opened(redisHost=redis_acl_server.address):
                pass

    asyncio.run(main())


@pytest.mark.parametrize("noise", [b"!!!\r\n", b"+PONG\r\n+PONG\r\n+PONG\r\n", b"*99999999999999\r\n", b""])
def test_a_server_that_talks_nonsense_is_refused(noise: bytes) -> None:
    """Whatever comes instead of RESP: an error in time, never a hang or another one's answer."""

    async def main() -> None:
        serving: set[asyncio.Task[None] | None] = set()

        async def nonsense(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            serving.add(asyncio.current_task())
            with contextlib.suppress(OSError):
                await reader.read(10)
                writer.write(noise)
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

        server = await asyncio.start_server(nonsense, "127.0.0.1", 0)
        port = server.sockets[0].getsockname()[1]
        async with server:
            with pytest.raises(ComponentError):
                async with opened(redisHost="127.0.0.1", redisPort=str(port), dialTimeout="300ms") as store:
                    await store.set(Set("k", b"v"))
            await asyncio.wait([task for task in serving if task is not None])

    asyncio.run(main())


@pytest.mark.parametrize(
    ("metadata", "what"),
    [
        ({"redisHost": "h:1", "redisPort": "2"}, "redisPort"),
        ({"redisHost": "h:port"}, "host:port"),
        ({"redisHost": "h", "failover": "true"}, "sentinelMasterName"),
        ({"redisHost": "h", "redisType": "cluster", "redisDB": "1"}, "database 0"),
        ({"redisHost": "h", "enableTLS": "yes"}, "enableTLS"),
        ({"redisHost": "h", "useEntraID": "true"}, "useEntraID"),
        ({"redisHost": "h", "enableTLS": "true", "clientCert": "x"}, "together"),
        ({"redisHost": ""}, "redisHost"),
    ],
)
def test_settings_are_checked(metadata: dict[str, str], what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        RedisState(decode(RedisState.Settings, metadata, where="test"), Context("test"))
