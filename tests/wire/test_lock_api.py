"""Distributed locks over HTTP and gRPC, through real sidecars: exact bytes, the order of checks, keys, contention."""

from __future__ import annotations

import asyncio
import sqlite3
import threading
from contextlib import closing
from typing import TYPE_CHECKING, Any

import pytest

from pillion.errors import Code
from pillion.net.exchange import RpcError
from pillion.net.grpc_client import Channel
from pillion.wire.messages import runtime as m
from sidecars import SidecarProcess, component, eventually, sidecars

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from servers import RedisServer

SERVICE = "/dapr.proto.runtime.v1.Dapr/"
WHOLE = {"resourceId": "r", "lockOwner": "me", "expiryInSeconds": 60}


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("locks")


@pytest.fixture(scope="module")
def pair(folder: Path) -> Iterator[tuple[SidecarProcess, ...]]:
    """Two instances of one application, on one file."""
    resources = {
        "locks.yaml": component("locks", "lock.sqlite", connectionString=str(folder / "l.sqlite")),
        "named.yaml": component("named", "lock.sqlite", connectionString=str(folder / "l.sqlite"), keyPrefix="name"),
    }
    one, another = (SidecarProcess(folder, "shop", resources=resources) for _ in range(2))
    with sidecars(one, another) as running:
        yield running


@pytest.fixture(scope="module")
def bare(folder: Path) -> Iterator[SidecarProcess]:
    with SidecarProcess(folder, "bare") as running:
        yield running


def test_lock_and_unlock(pair: tuple[SidecarProcess, ...]) -> None:
    one, another = pair
    body = {**WHOLE, "resourceId": "r1", "unknown": 1}
    assert one.post_json("/v1.0-alpha1/lock/locks", body).body == b'{"success":true}'
    assert another.post_json("/v1.0-alpha1/lock/locks", body).body == b'{"success":false}'
    other = {"resource_id": "r1", "lock_owner": "you"}
    assert another.post_json("/v1.0-alpha1/unlock/locks", other).body == b'{"status":2}'
    reply = another.post_json("/v1.0-alpha1/unlock/locks", body)
    assert (reply.status, reply.body, reply.headers["content-type"]) == (200, b'{"status":0}', "application/json")
    assert one.post_json("/v1.0-alpha1/unlock/locks", body).body == b'{"status":1}'


def test_keys(pair: tuple[SidecarProcess, ...], folder: Path) -> None:
    """`lock||<app>||<resource>`; `keyPrefix` chooses another word."""
    one, _ = pair
    one.post_json("/v1.0-alpha1/lock/locks", {**WHOLE, "resourceId": "keyed"})
    one.post_json("/v1.0-alpha1/lock/named", {**WHOLE, "resourceId": "keyed"})
    with closing(sqlite3.connect(folder / "l.sqlite")) as db:
        keys = {key for [key] in db.execute("SELECT key FROM lock WHERE key LIKE '%keyed'")}
    assert keys == {"lock||shop||keyed", "lock||named||keyed"}


CHECKS = [
    ({"expiryInSeconds": 0}, "ERR_MALFORMED_REQUEST", "ExpiryInSeconds is not positive in lock store nowhere"),
    (
        {**WHOLE, "expiryInSeconds": -1},
        "ERR_MALFORMED_REQUEST",
        "ExpiryInSeconds is not positive in lock store nowhere",
    ),
    ({"expiryInSeconds": 1}, "ERR_MALFORMED_REQUEST", "ResourceId is empty in lock store nowhere"),
    ({**WHOLE, "lockOwner": ""}, "ERR_MALFORMED_REQUEST", "LockOwner is empty in lock store nowhere"),
    (WHOLE, "ERR_LOCK_STORE_NOT_FOUND", "lock store nowhere not found"),
]


@pytest.mark.parametrize(("body", "code", "text"), CHECKS)
def test_checks_of_a_lock(pair: tuple[SidecarProcess, ...], body: dict[str, Any], code: str, text: str) -> None:
    """In the order of the specification, each before the store is looked for."""
    reply = pair[0].post_json("/v1.0-alpha1/lock/nowhere", body)
    assert (reply.status, reply.json()) == (400, {"errorCode": code, "message": text})


def test_checks_of_an_unlock(pair: tuple[SidecarProcess, ...]) -> None:
    for body, text in (
        ({}, "ResourceId is empty in lock store nowhere"),
        ({"resourceId": "r"}, "LockOwner is empty in lock store nowhere"),
        (WHOLE, "lock store nowhere not found"),
    ):
        reply = pair[0].post_json("/v1.0-alpha1/unlock/nowhere", body)
        assert (reply.status, reply.json()["message"]) == (400, text)


def test_no_store(bare: SidecarProcess) -> None:
    """A missing expiry is said before, missing names after."""
    reply = bare.post_json("/v1.0-alpha1/lock/locks", {})
    assert reply.json()["message"] == "ExpiryInSeconds is not positive in lock store locks"
    for verb in ("lock", "unlock"):
        reply = bare.post_json(f"/v1.0-alpha1/{verb}/locks", {"expiryInSeconds": 1})
        assert (reply.status, reply.json()) == (
            500, {"errorCode": "ERR_LOCK_STORE_NOT_CONFIGURED", "message": "lock store is not configured"},
        )  # fmt: skip


@pytest.mark.parametrize(
    "body",
    [
        b"{",
        b"[]",
        b'{"expiryInSeconds": "x"}',
        b'{"expiryInSeconds": 99999999999}',
        b'{"resourceId": "r", "lockOwner": "o", "expiryInSeconds": 1} x',
        b'{"resourceId": {"a": []}, "lockOwner": "o", "expiryInSeconds": 1}',
    ],
)
def test_bodies_that_are_none(pair: tuple[SidecarProcess, ...], body: bytes) -> None:
    for verb in ("lock", "unlock"):
        reply = pair[0].request("POST", f"/v1.0-alpha1/{verb}/locks", body)
        assert (reply.status, reply.json()["errorCode"]) == (400, "ERR_MALFORMED_REQUEST")


def test_the_separator_in_a_resource(pair: tuple[SidecarProcess, ...]) -> None:
    """Would reach into another application's locks."""
    body = {**WHOLE, "resourceId": "a||b"}
    text = "input key/keyPrefix 'a||b' can't contain '||'"
    reply = pair[0].post_json("/v1.0-alpha1/lock/locks", body)
    assert (reply.status, reply.json()) == (
        500, {"errorCode": "ERR_TRY_LOCK", "message": f"failed to try acquiring lock: {text}"},
    )  # fmt: skip
    reply = pair[0].post_json("/v1.0-alpha1/unlock/locks", body)
    assert (reply.status, reply.json()) == (
        500, {"errorCode": "ERR_UNLOCK", "message": f"failed to release lock: {text}"},
    )  # fmt: skip


def test_grpc(pair: tuple[SidecarProcess, ...], bare: SidecarProcess) -> None:
    """Plain statuses, without details."""

    async def call(sidecar: SidecarProcess, method: str, request: Any) -> bytes | RpcError:
        channel = Channel(f"127.0.0.1:{sidecar.grpc_port}")
        try:
            return (await channel.unary(SERVICE + method, request.SerializeToString())).message
        except RpcError as error:
            return error
        finally:
            await channel.close()

    async def run() -> None:
        one = pair[0]
        lock: dict[str, Any] = {
            "store_name": "locks",
            "resource_id": "rpc",
            "lock_owner": "me",
            "expiry_in_seconds": 60,
        }
        unlock = {key: value for key, value in lock.items() if key != "expiry_in_seconds"}
        for expected in (True, False):
            reply = await call(one, "TryLockAlpha1", m.TryLockRequest(**lock))
            assert isinstance(reply, bytes)
            assert m.TryLockResponse.FromString(reply).success is expected
        for status in (m.UnlockResponse.SUCCESS, m.UnlockResponse.LOCK_DOES_NOT_EXIST):
            reply = await call(one, "UnlockAlpha1", m.UnlockRequest(**unlock))
            assert isinstance(reply, bytes)
            assert m.UnlockResponse.FromString(reply).status == status
        for sidecar, change, code, text in (
            (
                one, {"expiry_in_seconds": 0}, Code.INVALID_ARGUMENT,
                "ExpiryInSeconds is not positive in lock store locks",
            ),
            (bare, {"resource_id": ""}, Code.FAILED_PRECONDITION, "lock store is not configured"),
            (one, {"resource_id": ""}, Code.INVALID_ARGUMENT, "ResourceId is empty in lock store locks"),
            (one, {"lock_owner": ""}, Code.INVALID_ARGUMENT, "LockOwner is empty in lock store locks"),
            (one, {"store_name": "x"}, Code.INVALID_ARGUMENT, "lock store x not found"),
            (
                one, {"resource_id": "a||b"}, Code.INTERNAL,
                "failed to try acquiring lock: input key/keyPrefix 'a||b' can't contain '||'",
            ),
        ):  # fmt: skip
            error = await call(sidecar, "TryLockAlpha1", m.TryLockRequest(**{**lock, **change}))
            assert isinstance(error, RpcError)
            assert (error.code, error.message, error.details) == (code, text, b"")

    asyncio.run(run())


def test_two_sidecars_contend(pair: tuple[SidecarProcess, ...]) -> None:
    """Of sixteen requests through two processes exactly one is granted."""
    granted: list[bool] = []

    def ask(number: int) -> None:
        body = {**WHOLE, "resourceId": "contended", "lockOwner": f"owner {number}"}
        granted.append(pair[number % 2].post_json("/v1.0-alpha1/lock/locks", body).json()["success"])

    threads = [threading.Thread(target=ask, args=(number,)) for number in range(16)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(granted) == [False] * 15 + [True]


@pytest.mark.redis
def test_a_lock_that_runs_out(folder: Path, redis_server: RedisServer) -> None:
    """After its five seconds, and through a kill of the sidecar, the lock is another's to take."""
    resources = {"locks.yaml": component("locks", "lock.redis", redisHost=redis_server.address)}
    body = {"resourceId": "short", "lockOwner": "me", "expiryInSeconds": 5}
    with SidecarProcess(folder, "expiring", resources=resources) as running:
        assert running.post_json("/v1.0-alpha1/lock/locks", body).json()["success"]
        assert redis_server.cli("GET", "lock||expiring||short").strip() == "me"
        running.kill()
        assert running.process is not None
        running.process.wait()
        running.start()
        yours = {**body, "lockOwner": "you", "expiryInSeconds": 60}
        eventually(lambda: running.post_json("/v1.0-alpha1/lock/locks", yours).json()["success"])
        assert running.post_json("/v1.0-alpha1/unlock/locks", body).json() == {"status": 2}
