"""Encryption at rest (spec `runtime.md` 7.2, `crypto-conversation-mcp.md` 3): bytes, keys, and what a store gets."""

from __future__ import annotations

import asyncio
import base64
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillion.components.memory import MemoryState
from pillion.errors import ComponentError, ConfigError, EtagMismatch
from pillion.kinds.component import Context
from pillion.kinds.resources import ComponentResource, Item, SecretRef
from pillion.kinds.state import BulkGetStore, Delete, Feature, Get, KeysStore, QueryStore, Set, TransactionalStore
from pillion.security.sealed_state import SealedState
from pillion.security.sealing import Key, SealError, Sealing
from pillion.sidecar.sealing import sealing_of

HEX = bytes(range(16)).hex()
NONCE = bytes(range(0xB0, 0xBC))
OLD = Sealing(Key.from_hex("old", "11" * 32))
ROTATED = Sealing(Key.from_hex("new", "22" * 24), Key.from_hex("old", "11" * 32))


@pytest.mark.parametrize(
    ("value", "stored"),
    [
        (b'{"a":1}', b"sLGys7S1tre4ubq7JevRv/2mVnX8e5JcBSieCwtq2WSnE/8=||mysecret"),
        (b"", b"sLGys7S1tre4ubq7vJj+yDZQYfOheZQkMU0yeA==||mysecret"),
    ],
)
def test_vectors(value: bytes, stored: bytes) -> None:
    """The vectors of the specification, both ways."""
    sealing = Sealing(Key.from_hex("mysecret", HEX))
    assert sealing.seal(value, NONCE) == stored
    assert sealing.open(stored) == value


@given(st.binary(max_size=300), st.binary(min_size=12, max_size=12))
def test_what_is_sealed_is_opened(value: bytes, nonce: bytes) -> None:
    assert OLD.open(OLD.seal(value, nonce)) == value


@given(st.binary(max_size=120))
def test_foreign_bytes_are_an_error(stored: bytes) -> None:
    """Never a crash, whatever another program wrote; nothing at all is an empty value."""
    if not stored:
        assert OLD.open(stored) == b""
        return
    with pytest.raises(SealError):
        OLD.open(stored)
    with pytest.raises(SealError):
        OLD.open(stored + b"||old")


def test_every_changed_bit_is_noticed() -> None:
    stored = OLD.seal(b"value", NONCE)
    data = bytearray(base64.b64decode(stored.removesuffix(b"||old")))
    for at in range(len(data)):
        changed = bytes(data[:at]) + bytes([data[at] ^ 1]) + bytes(data[at + 1 :])
        with pytest.raises(SealError):
            OLD.open(base64.b64encode(changed) + b"||old")


def test_rotation() -> None:
    """The key before, as secondary, opens what it sealed; new values carry the new key's name."""
    before, after = OLD.seal(b"v", NONCE), ROTATED.seal(b"v", NONCE)
    assert (ROTATED.open(before), ROTATED.open(after)) == (b"v", b"v")
    assert after.endswith(b"||new")
    with pytest.raises(SealError, match="'new', which is neither"):
        OLD.open(after)
    with pytest.raises(SealError, match="name not found on record"):
        OLD.open(b"plain")


@pytest.mark.parametrize("text", ["zz" * 16, "0", "00" * 15, "00" * 33, "", "00 " * 16, "٠" * 32])
def test_bad_keys(text: str) -> None:
    with pytest.raises(ValueError, match=r"hex|not 16, 24 or 32"):
        Key.from_hex("name", text)


def test_a_key_is_not_shown() -> None:
    assert "2222" not in repr(ROTATED) + repr(Key.from_hex("new", "22" * 24))


def resource(*items: Item) -> ComponentResource:
    return ComponentResource(name="s", type="state.sqlite", version="v1", where="s.yaml:1", metadata=items)


def item(name: str, secret: str = "", value: str | None = None) -> Item:
    return Item(name, value, SecretRef(secret, "k") if secret else None)


PRIMARY, SECONDARY = "primaryEncryptionKey", "secondaryEncryptionKey"


@pytest.mark.parametrize(
    ("items", "values", "refers", "text"),
    [
        ([item(PRIMARY, "s1")], {PRIMARY: ""}, False, "must come from a secret store"),
        ([item(PRIMARY, "s1")], {PRIMARY: ""}, True, "the secret 's1' has no 'k'"),
        ([item(PRIMARY, value=HEX)], {PRIMARY: HEX}, True, "must come from a secret store"),
        ([item(PRIMARY, value=HEX)], {PRIMARY: HEX}, False, "must come from a secret store"),
        ([item(PRIMARY, "s1"), item(SECONDARY, "s1")], {PRIMARY: HEX, SECONDARY: HEX}, True, "both in the secret"),
        ([item(PRIMARY, "s1"), item(SECONDARY, "s2")], {PRIMARY: HEX, SECONDARY: ""}, True, "secret 's2' has no"),
        ([item(PRIMARY, "s1")], {PRIMARY: "nothex"}, True, "non-hexadecimal"),
        ([item(PRIMARY, "s1")], {PRIMARY: "00" * 8}, True, "failed to extract encryption key: .* 8 bytes"),
        ([item(PRIMARY, "s||1")], {PRIMARY: HEX}, True, "cannot be kept with values"),
        ([item("primaryencryptionkey", "s1")], {"primaryencryptionkey": HEX}, True, "write primaryEncryptionKey"),
    ],
)
def test_what_keeps_us_from_a_key_is_an_error(
    items: list[Item], values: dict[str, str], refers: bool, text: str
) -> None:
    """Never a store without the encryption that was asked for."""
    with pytest.raises(ConfigError, match=text):
        sealing_of(resource(*items), dict(values), refers=refers)


def test_keys_are_kept_from_components(caplog: pytest.LogCaptureFixture) -> None:
    metadata = {PRIMARY: HEX, SECONDARY: "11" * 32, "x": "1"}
    made = sealing_of(resource(item(PRIMARY, "s1"), item(SECONDARY, "s2")), metadata, refers=True)
    assert metadata == {"x": "1"}
    assert made is not None
    assert made.open(Sealing(Key.from_hex("s2", "11" * 32)).seal(b"v", NONCE)) == b"v"
    assert sealing_of(resource(item("x")), {"x": ""}, refers=True) is None
    assert sealing_of(resource(item(SECONDARY, "s2")), {SECONDARY: HEX}, refers=True) is None
    assert "NOT encrypted" in caplog.text


def test_a_sealed_store_keeps_the_interface() -> None:
    """Everything the store behind can do, values excepted: conditions, transactions, listing; no queries."""

    async def use() -> None:
        inner: Any = MemoryState(MemoryState.Settings(), Context("s"))
        store: Any = SealedState("s", inner, ROTATED)
        assert isinstance(store, TransactionalStore)
        assert isinstance(store, BulkGetStore)
        assert isinstance(store, KeysStore)
        assert not isinstance(store, QueryStore)
        assert Feature.QUERY_API not in store.features
        typed = {"contentType": "application/json", "ttlInSeconds": "100"}
        await store.set(Set("a", b'{"x":"<"}', metadata=typed, content_type="application/json", is_json=True))
        await store.transact([Set("b", b"\xff\0"), Set("c", b""), Delete("missing")], typed)
        await inner.set(Set("foreign", b"plain"))
        raw = {found.key: found.value for found in await inner.bulk_get([Get(key) for key in ("a", "b", "c")])}
        assert all(value is not None and value.endswith(b"||new") for value in raw.values())
        found = await store.get(Get("a"))
        assert found.value == b'{"x":"\\u003c"}'
        assert "ttlExpireTime" in found.metadata
        with pytest.raises(EtagMismatch):
            await store.set(Set("a", b"1", etag="no"))
        await store.set(Set("a", b"2", etag=found.etag))
        rows = await store.bulk_get([Get(key) for key in ("a", "b", "c", "none", "foreign")])
        assert [row.value for row in rows] == [b"2", b"\xff\0", b"", None, None]
        assert "could not decrypt data for state store s" in rows[4].error
        with pytest.raises(ComponentError, match="could not decrypt data for state store s: encryption key name"):
            await store.get(Get("foreign"))
        assert (await store.get(Get("none"))).value is None
        assert (await store.keys_like("%"))[0] == ["a", "b", "c", "foreign"]
        await store.delete(Delete("a"))
        assert (await inner.get(Get("a"))).value is None

    asyncio.run(use())
