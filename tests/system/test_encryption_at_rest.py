"""Encryption at rest through real sidecars: what clients see, what is in the store, rotation, refusals."""

from __future__ import annotations

import json
import sqlite3
from typing import TYPE_CHECKING, Any

import pytest
from dapr.clients import DaprClient
from dapr.clients.grpc._request import TransactionalStateOperation, TransactionOperationType

from sidecars import SidecarProcess, component

if TYPE_CHECKING:
    from pathlib import Path

KEYS = {"key-1": "11" * 16, "key-2": "22" * 32, "short": "00"}


def store(path: Path, primary: str, secondary: str = "", vault: str = "vault") -> str:
    """A state store with its keys from a secret store."""
    text = component("store", "state.sqlite", connectionString=str(path))
    for name, secret in (("primaryEncryptionKey", primary), ("secondaryEncryptionKey", secondary)):
        if secret:
            text += f"    - name: {name}\n      secretKeyRef:\n        name: {secret}\n"
    return text + (f"auth:\n  secretStore: {vault}\n" if vault else "")


def sidecar(folder: Path, state: str) -> SidecarProcess:
    (folder / "secrets.json").write_text(json.dumps(KEYS))
    vault = component("vault", "secretstores.local.file", secretsFile=str(folder / "secrets.json"))
    return SidecarProcess(folder, "shop", resources={"vault.yaml": vault, "store.yaml": state})


def stored(path: Path) -> dict[str, bytes]:
    import base64

    with sqlite3.connect(path) as db:
        rows = {key: base64.b64decode(value) for key, value in db.execute("SELECT key, value FROM state")}
    db.close()
    return rows


def test_values_are_json_to_clients_and_ciphertext_to_the_store(tmp_path: Path, monkeypatch: Any) -> None:
    """Over HTTP a value comes back as the JSON it was, over gRPC as its bytes; transactions and bulk reads too."""
    path = tmp_path / "s.db"
    with sidecar(tmp_path, store(path, "key-1")) as running:
        items = [{"key": "text", "value": "plain"}, {"key": "map", "value": {"b": 1, "a": "<"}}]
        assert running.post_json("/v1.0/state/store", items).status == 204
        operations = [{"operation": "upsert", "request": {"key": "list", "value": [1, 2]}}]
        assert running.post_json("/v1.0/state/store/transaction", {"operations": operations}).status == 204
        assert running.request("GET", "/v1.0/state/store/text").body == b'"plain"'
        assert running.request("GET", "/v1.0/state/store/map").body == b'{"a":"\\u003c","b":1}'
        rows = running.post_json("/v1.0/state/store/bulk", {"keys": ["text", "list", "none"]}).json()
        assert [(row["key"], row.get("data")) for row in rows] == [("text", "plain"), ("list", [1, 2]), ("none", None)]
        assert sorted(running.request("GET", "/v1.0-pillion/state/store/keys").json()["keys"]) == [
            "list",
            "map",
            "text",
        ]

        monkeypatch.setenv("DAPR_HTTP_PORT", str(running.http_port))
        with DaprClient(f"127.0.0.1:{running.grpc_port}") as client:
            client.save_state("store", "bytes", b"\x00\xff")
            upsert = TransactionOperationType.upsert
            client.execute_state_transaction(
                "store", [TransactionalStateOperation(operation_type=upsert, key="tx", data=b"\x01")]
            )
            assert client.get_state("store", "bytes").data == b"\x00\xff"
            assert client.get_state("store", "tx").data == b"\x01"

        answer = running.post_json("/v1.0-alpha1/state/store/query", {"filter": {}})
        assert (answer.status, answer.json()["errorCode"]) == (500, "ERR_STATE_QUERY"), answer
        assert "encrypted" in answer.json()["message"]
    rows = stored(path)
    assert len(rows) == 5
    assert all(value.endswith(b"||key-1") and b"plain" not in value for value in rows.values())


def test_keys_are_rotated(tmp_path: Path) -> None:
    """The old key as secondary: everything stays readable, and moves to the new key with its next save."""
    path = tmp_path / "s.db"
    with sidecar(tmp_path, store(path, "key-1")) as running:
        assert running.post_json("/v1.0/state/store", [{"key": k, "value": k} for k in ("a", "b")]).status == 204
        assert running.stop() == 0
    with sidecar(tmp_path, store(path, "key-2", "key-1")) as running:
        assert running.request("GET", "/v1.0/state/store/a").json() == "a"
        assert running.post_json("/v1.0/state/store", [{"key": "a", "value": "new"}]).status == 204
        assert running.stop() == 0
    assert {key[6:]: value.rpartition(b"||")[2] for key, value in stored(path).items()} == {
        "a": b"key-2",
        "b": b"key-1",
    }
    with sidecar(tmp_path, store(path, "key-2")) as running:
        assert running.request("GET", "/v1.0/state/store/a").json() == "new"
        lost = running.request("GET", "/v1.0/state/store/b")
        assert (lost.status, lost.json()["errorCode"]) == (500, "ERR_STATE_GET")
        assert "could not decrypt data for state store store" in lost.json()["message"]
        rows = running.post_json("/v1.0/state/store/bulk", {"keys": ["a", "b"]}).json()
        assert {row["key"]: "error" in row for row in rows} == {"a": False, "b": True}


@pytest.mark.parametrize(
    ("primary", "secondary", "vault", "text"),
    [
        ("key-1", "", "", "must come from a secret store"),
        ("missing", "", "vault", "has no 'missing'"),
        ("short", "", "vault", "1 bytes, not 16, 24 or 32"),
        ("key-1", "key-1", "vault", "both in the secret"),
    ],
)
def test_a_sidecar_without_its_key_does_not_start(
    tmp_path: Path, primary: str, secondary: str, vault: str, text: str
) -> None:
    """What would have been stored in plain text is an error of initialisation."""
    running = sidecar(tmp_path, store(tmp_path / "s.db", primary, secondary, vault)).start(ready=False)
    assert running.process is not None
    try:
        assert running.process.wait(60) == 1
    finally:
        running.process.kill()
    assert "INIT_COMPONENT_FAILURE" in running.log()
    assert text in running.log()
