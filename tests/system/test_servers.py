"""The servers that tests start are real, and go away."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from servers import PostgresServer, RedisCluster, RedisSentinel, RedisServer


@pytest.mark.redis
def test_redis_keeps_its_data_over_a_kill(private_redis: RedisServer) -> None:
    """The append-only file is on: what was written survives `kill -9`."""
    private_redis.cli("SET", "k", "v")
    private_redis.kill()
    private_redis.start()
    assert private_redis.cli("GET", "k").strip() == "v"


@pytest.mark.redis
def test_redis_with_tls_and_a_user(redis_tls_server: RedisServer, redis_acl_server: RedisServer) -> None:
    assert redis_tls_server.cli("ACL", "WHOAMI").strip() == "rider"
    assert redis_acl_server.cli("ACL", "WHOAMI").strip() == "rider"


@pytest.mark.redis
def test_redis_cluster_and_sentinel(redis_cluster: RedisCluster, redis_sentinel: RedisSentinel) -> None:
    assert "cluster_slots_ok:16384" in redis_cluster.nodes[0].cli("CLUSTER", "INFO")
    assert "num-slaves" in redis_sentinel.sentinel.cli("SENTINEL", "MASTER", redis_sentinel.name)


@pytest.mark.postgresql
def test_postgres_keeps_its_data_over_a_kill(private_postgres: PostgresServer) -> None:
    private_postgres.sql("CREATE TABLE t AS SELECT 7 AS n")
    private_postgres.kill()
    private_postgres.start()
    assert private_postgres.sql("SELECT n FROM t").strip() == "7"
