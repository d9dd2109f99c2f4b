"""Two `pillion-placement` as processes: who leads, by each engine, when the leader is killed or stands still."""

from __future__ import annotations

from typing import TYPE_CHECKING

import grpc
import pytest

from placements import PlacementProcess, bare, leads, serves, until

if TYPE_CHECKING:
    from pathlib import Path

    from servers import EtcdServer, PostgresServer


def takes_over(*flags: str, stop: bool) -> None:
    """Of two servers one leads; when it is killed, or stands still, the other follows, and the first one knows."""
    with PlacementProcess(*flags, "--id", "a") as first, PlacementProcess(*flags, "--id", "b") as second:
        until(lambda: leads(first) or leads(second))
        leader, other = (first, second) if leads(first) else (second, first)
        with bare(leader.address) as client, bare(other.address) as refused:
            client.say()
            assert client.next().operation == "lock"
            refused.say()
            assert refused.code() is grpc.StatusCode.FAILED_PRECONDITION
            assert other.get("/healthz")[0] == 200
            if stop:
                leader.pause()
                until(lambda: leads(other))
                leader.resume()
                assert client.code() is grpc.StatusCode.FAILED_PRECONDITION
                assert not leads(leader)
                assert not serves(leader)
            else:
                leader.kill()
                until(lambda: leads(other))
        assert serves(other)


def test_leadership_by_file(tmp_path: Path) -> None:
    """The lock of a killed process is free at once."""
    flags = ("--pillion-leadership", "file", "--pillion-leadership-file", str(tmp_path / "lock"))
    takes_over(*flags, "--pillion-outage-grace", "0s", stop=False)


@pytest.mark.postgresql
@pytest.mark.parametrize("stop", [False, True])
def test_leadership_by_postgresql(postgres_server: PostgresServer, stop: bool) -> None:
    postgres_server.sql("DROP TABLE IF EXISTS pillion_leadership")
    flags = ("--pillion-leadership", "postgresql", "--pillion-postgresql-connection-string", postgres_server.dsn)
    takes_over(*flags, "--pillion-outage-grace", "0s", stop=stop)


@pytest.mark.etcd
@pytest.mark.parametrize("stop", [False, True])
def test_leadership_by_etcd(etcd_server: EtcdServer, stop: bool) -> None:
    flags = ("--pillion-leadership", "etcd", "--pillion-etcd-endpoints", etcd_server.url)
    takes_over(*flags, "--pillion-etcd-key", f"test/{stop}", "--pillion-outage-grace", "0s", stop=stop)
