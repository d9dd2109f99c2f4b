"""The query API through a real sidecar: HTTP, and the official Python SDK over gRPC."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any

import pytest
from dapr.clients import DaprClient
from dapr.clients.exceptions import DaprGrpcError
from dapr.clients.grpc._state import StateItem

from sidecars import SidecarProcess, component, sidecars

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path

    from servers import PostgresServer

PATH = "/v1.0-alpha1/state/{}/query"
PEOPLE = [{"name": name, "age": age} for name, age in (("ada", 36), ("bob", 7), ("cy", 36), ("dee", 90))]
QUERY = {"filter": {"GTE": {"age": 36}}, "sort": [{"key": "age", "order": "DESC"}], "page": {"limit": 2}}
STORES = ["memory", "sqlite", pytest.param("postgres", marks=pytest.mark.postgresql)]


@pytest.fixture(scope="module")
def pair(
    tmp_path_factory: pytest.TempPathFactory, postgres_server: PostgresServer
) -> Iterator[tuple[SidecarProcess, ...]]:
    """Two applications that share their stores, all but the one in memory."""
    folder: Path = tmp_path_factory.mktemp("query")
    resources = {
        "memory.yaml": component("memory", "state.in-memory"),
        "sqlite.yaml": component("sqlite", "state.sqlite", connectionString=str(folder / "s.db")),
        "postgres.yaml": component(
            "postgres", "state.postgresql", connectionString=postgres_server.dsn, tableName="api_query",
            metadataTableName="api_query_meta",
        ),
        "cannot.yaml": component(
            "cannot", "state.postgresql", connectionString=postgres_server.dsn, tablePrefix="api_query_",
            metadataTableName="api_query_meta",
        ).replace("version: v1", "version: v2"),
    }  # fmt: skip
    each = [SidecarProcess(folder, name, resources=resources) for name in ("shop", "other")]
    with sidecars(*each):
        for sidecar in each:
            for store in ("memory", "sqlite", "postgres"):
                items = [{"key": person["name"], "value": person} for person in PEOPLE]
                assert sidecar.post_json(f"/v1.0/state/{store}", items).status == 204
        yield tuple(each)


@pytest.mark.parametrize("store", STORES)
def test_over_http(pair: tuple[SidecarProcess, ...], store: str) -> None:
    """Rows of this application alone, sorted, with their etags, in pages; 204 when there are none."""
    answer = pair[0].post_json(PATH.format(store), QUERY)
    assert answer.status == 200
    assert answer.body.endswith(b"}\n")
    found = answer.json()
    assert [(row["key"], row["data"]) for row in found["results"]] == [("dee", PEOPLE[3]), ("ada", PEOPLE[0])]
    assert all(row["etag"] for row in found["results"])
    assert found["token"] == "2"
    rest = pair[0].post_json(PATH.format(store), {**QUERY, "page": {"limit": 2, "token": "2"}}).json()
    assert [row["key"] for row in rest["results"]] == ["cy"]
    assert "token" not in rest
    assert len(pair[1].post_json(PATH.format(store), {}).json()["results"]) == len(PEOPLE)
    assert pair[0].post_json(PATH.format(store), {"filter": {"EQ": {"name": "eve"}}}).status == 204


def test_refusals(pair: tuple[SidecarProcess, ...]) -> None:
    """Every failure is a 500, as specified; the text says whose fault it is."""
    for body, text in ((b"{", "is not JSON"), (b'{"filter":{"LIKE":{"a":1}}}', "unknown operator 'LIKE'")):
        answer = pair[0].request("POST", PATH.format("sqlite"), body)
        assert (answer.status, answer.json()["errorCode"]) == (500, "ERR_STATE_QUERY")
        assert answer.json()["message"].startswith("state store sqlite query failed: ")
        assert text in answer.json()["message"]
        assert answer.json()["details"][-1]["reason"] == "DAPR_STATE_QUERY_FAILED"
    answer = pair[0].post_json(PATH.format("cannot"), {})
    assert (answer.status, answer.json()["errorCode"]) == (500, "ERR_STATE_STORE_NOT_SUPPORTED")
    assert answer.json()["details"][-1]["reason"] == "DAPR_STATE_QUERYING_NOT_SUPPORTED"
    rows = pair[0].request("GET", "/v1.0/metadata").json()["components"]
    assert {row["name"]: "QUERY_API" in row["capabilities"] for row in rows} == {
        "memory": True, "sqlite": True, "postgres": True, "cannot": False,
    }  # fmt: skip


@pytest.mark.filterwarnings("ignore:The State Store Query API is an Alpha version:UserWarning")
@pytest.mark.parametrize("store", STORES)
def test_with_the_python_sdk(pair: tuple[SidecarProcess, ...], store: str, monkeypatch: Any) -> None:
    """Values saved with contentType application/json are documents; without, bytes that have no fields."""
    monkeypatch.setenv("DAPR_HTTP_PORT", str(pair[0].http_port))
    with DaprClient(f"127.0.0.1:{pair[0].grpc_port}") as client:
        document = json.dumps({"sdk": store, "n": 1})
        typed = {"contentType": "application/json"}
        client.save_bulk_state(store, [StateItem("typed", document, metadata=typed), StateItem("bytes", document)])
        found = client.query_state(store, json.dumps({"filter": {"EQ": {"sdk": store}}}))
        assert [(item.key, item.json()) for item in found.results] == [("typed", {"sdk": store, "n": 1})]
        assert found.results[0].etag
        assert client.query_state(store, json.dumps({"filter": {"EQ": {"sdk": "x"}}})).results == []
        page = client.query_state(store, json.dumps(QUERY))
        assert ([item.key for item in page.results], page.token) == (["dee", "ada"], "2")
        with pytest.raises(DaprGrpcError) as refused:
            client.query_state(store, "{")
        assert refused.value.error_code() == "DAPR_STATE_QUERY_FAILED"
