"""Listing keys by prefix through real sidecars, over HTTP and gRPC, on every store."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any
from urllib.parse import quote, urlencode

import grpc
import pytest

from pillion.wire.messages import own_state as m
from sidecars import SidecarProcess, component, sidecars

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from servers import PostgresServer, RedisServer

LIST = "/v1.0-pillion/state/{}/keys"
NAMES = ["a%b", "a_b", "a\\b", "axb", "ab", "Ab", "b", "ä/ö", "a|b"]
STORES = [
    "memory",
    "sqlite",
    pytest.param("redis", marks=pytest.mark.redis),
    pytest.param("postgres1", marks=pytest.mark.postgresql),
    pytest.param("postgres2", marks=pytest.mark.postgresql),
]


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory, redis_server: RedisServer, postgres_server: PostgresServer
) -> Iterator[tuple[SidecarProcess, ...]]:
    """Two applications that share their stores."""
    folder: Path = tmp_path_factory.mktemp("keys")
    postgres = {"connectionString": postgres_server.dsn, "metadataTableName": "keys_meta"}
    path = str(folder / "s.db")
    resources = {
        "memory.yaml": component("memory", "state.in-memory"),
        "sqlite.yaml": component("sqlite", "state.sqlite", connectionString=path),
        "redis.yaml": component("redis", "state.redis", redisHost=redis_server.address, redisDB="7"),
        "postgres1.yaml": component("postgres1", "state.postgresql", tableName="keys1", **postgres),
        "postgres2.yaml": component("postgres2", "state.postgresql", tablePrefix="keys2_", **postgres).replace(
            "version: v1", "version: v2"
        ),
        "shared.yaml": component("shared", "state.sqlite", connectionString=path, keyPrefix="none"),
    }
    each = [SidecarProcess(folder, name, resources=resources) for name in ("shop", "shop_")]
    with sidecars(*each):
        yield tuple(each)


def listed(sidecar: SidecarProcess, store: str, **query: object) -> tuple[list[str], str]:
    answer = sidecar.request("GET", f"{LIST.format(store)}?{urlencode(query)}")
    assert answer.status == 200, answer
    assert answer.headers["content-type"] == "application/json"
    found = answer.json()
    assert list(found) == ["keys", "token"]
    return found["keys"], found["token"]


@pytest.mark.parametrize("store", STORES)
def test_an_application_sees_its_own_keys_by_exact_prefix(pair: tuple[SidecarProcess, ...], store: str) -> None:
    """`%`, `_` and a backslash in a prefix mean themselves; other applications' keys never appear."""
    shop, other = pair
    assert shop.post_json(f"/v1.0/state/{store}", [{"key": name, "value": 1} for name in NAMES]).status == 204
    assert other.post_json(f"/v1.0/state/{store}", [{"key": "a%b", "value": 2}, {"key": "x", "value": 2}]).status == 204
    keys, token = listed(shop, store)
    assert (sorted(keys), token) == (sorted(NAMES), "")
    for prefix in ("a", "a%", "a_", "a\\", "A", "ä/", "a|", "%", "_", "zz", "[a]", "*", "?"):
        keys, token = listed(shop, store, prefix=prefix)
        assert (sorted(keys), token) == (sorted(name for name in NAMES if name.startswith(prefix)), ""), prefix
    assert sorted(listed(other, store)[0]) == ["a%b", "x"]


@pytest.mark.parametrize("store", STORES)
def test_keys_come_in_pages(pair: tuple[SidecarProcess, ...], store: str) -> None:
    """Every key once; sorted where the store says so, else in the order of their first write."""
    shop = pair[0]
    names = [f"page/{number:02}" for number in reversed(range(25))]
    for name in names:
        assert shop.post_json(f"/v1.0/state/{store}", [{"key": name, "value": 1}]).status == 204
    found: list[str] = []
    token, pages = "", 0
    while token or not pages:
        keys, token = listed(shop, store, prefix="page/", limit=10, token=token)
        found += keys
        pages += 1
    assert pages == 3
    assert found == (sorted(names) if store in ("memory", "redis") else names)


def test_keys_of_actors_and_of_others_are_not_an_applications(pair: tuple[SidecarProcess, ...]) -> None:
    """Without a prefix every key without `||` is everybody's; keys with one have an owner. Pages may then be short."""
    shop = pair[0]
    keys, _ = listed(shop, "shared")
    assert keys == []
    assert shop.post_json("/v1.0/state/shared", [{"key": "everybody's", "value": 1}]).status == 204
    found, token = [], ""
    for _ in range(50):
        keys, token = listed(shop, "shared", limit=1, token=token)
        found += keys
        if not token:
            break
    assert found == ["everybody's"]


@pytest.mark.parametrize(
    ("path", "status", "code"),
    [
        (LIST.format("sqlite") + "?limit=0", 400, "ERR_MALFORMED_REQUEST"),
        (LIST.format("sqlite") + "?limit=1001", 400, "ERR_MALFORMED_REQUEST"),
        (LIST.format("sqlite") + "?limit=-1", 400, "ERR_MALFORMED_REQUEST"),
        (LIST.format("sqlite") + "?limit=many", 400, "ERR_MALFORMED_REQUEST"),
        (LIST.format("sqlite") + "?limit=" + "9" * 5000, 400, "ERR_MALFORMED_REQUEST"),
        (LIST.format("sqlite") + "?token=bm8", 400, "ERR_MALFORMED_REQUEST"),
        (LIST.format("sqlite") + "?token=%21", 400, "ERR_MALFORMED_REQUEST"),
        (LIST.format("redis") + "?token=bm8", 400, "ERR_MALFORMED_REQUEST"),
        (LIST.format("postgres1") + "?token=bm8", 400, "ERR_MALFORMED_REQUEST"),
        (LIST.format("sqlite") + "?prefix=" + "p" * 1025, 400, "ERR_MALFORMED_REQUEST"),
        (LIST.format("sqlite") + "?prefix=%ff", 400, "ERR_MALFORMED_REQUEST"),
        (LIST.format("sqlite") + "?prefix=a%00", 400, "ERR_MALFORMED_REQUEST"),
        (LIST.format("sqlite") + "?prefix=" + quote("a||b"), 400, "ERR_MALFORMED_REQUEST"),
        (LIST.format("nowhere"), 400, "ERR_STATE_STORE_NOT_FOUND"),
    ],
)
def test_what_is_wrong_is_said(pair: tuple[SidecarProcess, ...], path: str, status: int, code: str) -> None:
    answer = pair[0].request("GET", path)
    assert (answer.status, answer.json()["errorCode"]) == (status, code), answer


@pytest.mark.parametrize("store", STORES)
def test_over_grpc(pair: tuple[SidecarProcess, ...], store: str) -> None:
    """`pillion.state.v1.State/ListKeys`, with any gRPC client."""
    shop = pair[0]
    names = [f"rpc/{number}" for number in range(5)]
    assert shop.post_json(f"/v1.0/state/{store}", [{"key": name, "value": 1} for name in names]).status == 204
    with grpc.insecure_channel(f"127.0.0.1:{shop.grpc_port}") as channel:
        call: Any = channel.unary_unary(
            "/pillion.state.v1.State/ListKeys",
            request_serializer=m.ListKeysRequest.SerializeToString,
            response_deserializer=m.ListKeysResponse.FromString,
        )
        first = call(m.ListKeysRequest(store_name=store, prefix="rpc/", limit=3), timeout=60)
        rest = call(m.ListKeysRequest(store_name=store, prefix="rpc/", limit=3, token=first.token), timeout=60)
        assert (len(first.keys), rest.token) == (3, "")
        assert sorted([*first.keys, *rest.keys]) == names
        refused = []
        for request in (
            m.ListKeysRequest(store_name=store, limit=1001),
            m.ListKeysRequest(store_name=store, limit=-1),
            m.ListKeysRequest(store_name=store, prefix="a||"),
            m.ListKeysRequest(store_name="nowhere"),
            m.ListKeysRequest(),
        ):
            with pytest.raises(grpc.RpcError) as error:
                call(request, timeout=60)
            refused.append(error.value.code())
        assert set(refused) == {grpc.StatusCode.INVALID_ARGUMENT}
