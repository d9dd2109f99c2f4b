"""The secret stores of the house against the contract, and what is particular to each."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
from typing import TYPE_CHECKING, ClassVar
from unittest import mock

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillion.components.local_secrets import EnvironmentSecrets, FileSecrets, secrets_of
from pillion.errors import ConfigError
from pillion.kinds.component import Context, decode
from pillion.testing.secret_kit import SecretKit

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from pillion.kinds.secrets import SecretStore

DOCUMENT = '{"plain": "one", "db": {"user": "u", "hosts": ["a", "b"], "port": 1.50, "tls": true, "none": null}, "n": 7}'


class TestFile(SecretKit):
    known: ClassVar = {
        "plain": {"plain": "one"},
        "db:user": {"db:user": "u"},
        "db:hosts:1": {"db:hosts:1": "b"},
        "db:port": {"db:port": "1.50"},
        "db:tls": {"db:tls": "true"},
        "db:none": {"db:none": ""},
        "n": {"n": "7"},
    }
    options: ClassVar[dict[str, str]] = {}

    @pytest.fixture(autouse=True)
    def _file(self, tmp_path: Path) -> None:
        self.path = tmp_path / "secrets.json"
        self.path.write_text(DOCUMENT)

    @contextlib.asynccontextmanager
    async def store(self) -> AsyncIterator[SecretStore]:
        settings = decode(FileSecrets.Settings, {"secretsFile": str(self.path), **self.options}, where="test")
        yield FileSecrets(settings, Context("secrets"))


class TestMultiValuedFile(TestFile):
    """`multiValued`: strings kept, objects flattened inside, the number at the top left out."""

    known: ClassVar = {
        "plain": {"plain": "one"},
        "db": {"user": "u", "hosts.0": "a", "hosts.1": "b", "port": "1.50", "tls": "true", "none": ""},
    }
    options: ClassVar = {"multiValued": "yes", "nestedSeparator": "."}

    def test_other_kinds_are_left_out(self) -> None:
        assert "n" not in secrets_of(DOCUMENT.encode(), separator=":", multi_valued=True, where="f")


class TestEnvironment(SecretKit):
    known: ClassVar = {"A": {"A": "1"}, "B": {"B": "2"}}
    missing_is_empty: ClassVar = True

    @contextlib.asynccontextmanager
    async def store(self) -> AsyncIterator[SecretStore]:
        values = {"T_A": "1", "T_B": "2", "DAPR_API_TOKEN": "secret", "dapr_x": "secret", "App_Api_Token": "secret"}
        with mock.patch.dict(os.environ, values):
            yield EnvironmentSecrets(EnvironmentSecrets.Settings(prefix="T_"), Context("env"))


def test_the_runtimes_own_variables_are_never_given_out() -> None:
    """`APP_API_TOKEN` and `DAPR_*` in any case, also when prefix and name are joined to them (spec 5)."""

    async def run() -> None:
        bare = EnvironmentSecrets(EnvironmentSecrets.Settings(), Context("env"))
        assert await bare.get("dapr_api_token", {}) == {"dapr_api_token": ""}
        assert await bare.get("App_Api_Token", {}) == {"App_Api_Token": ""}
        assert set(await bare.bulk_get({})) == {"PLAIN"}
        joined = EnvironmentSecrets(EnvironmentSecrets.Settings(prefix="DA"), Context("env"))
        assert await joined.get("PR_API_TOKEN", {}) == {"PR_API_TOKEN": ""}
        assert await joined.bulk_get({}) == {}

    values = {"PLAIN": "1", "DAPR_API_TOKEN": "secret", "dapr_api_token": "secret", "App_Api_Token": "secret"}
    with mock.patch.dict(os.environ, values, clear=True):
        asyncio.run(run())


@pytest.mark.parametrize(
    ("text", "says"),
    [
        (b'{"a": 1,\n "b": }', "f.json, line 2 column 7: not JSON: Expecting value"),
        (b'{"a": "x",\n\n "b": "\xff"}', "f.json, line 3: not UTF-8 text"),
        (b'["a"]', "f.json, line 1: the document is not a JSON object"),
        (b'{"a": NaN}', "f.json: not JSON: NaN is not a JSON value"),
        (b'{"a:b": "1", "a": {"b": "2"}}', "f.json: two values are called 'a:b'"),
        (b'{"a": ' + b"[" * 200_000 + b"]" * 200_000 + b"}", "f.json: nested too deeply"),
    ],
)
def test_a_bad_file_is_named_with_its_line(text: bytes, says: str) -> None:
    with pytest.raises(ConfigError) as error:
        secrets_of(text, separator=":", multi_valued=False, where="f.json")
    assert str(error.value).startswith(says)


def test_a_missing_file_is_named() -> None:
    store = FileSecrets(FileSecrets.Settings(secrets_file="/nowhere/at-all.json"), Context("secrets"))
    with pytest.raises(ConfigError, match=r"/nowhere/at-all\.json: the secrets file cannot be read: No such file"):
        asyncio.run(store.open())


_NAMES = st.text(st.characters(codec="utf-8", exclude_characters=":"), min_size=1, max_size=5)
_TREES = st.recursive(
    st.text(st.characters(codec="utf-8"), max_size=5), lambda t: st.dictionaries(_NAMES, t, max_size=4)
)


@given(st.dictionaries(_NAMES, _TREES, max_size=5))
def test_every_text_leaf_is_a_secret_named_by_its_path(document: dict[str, object]) -> None:
    """Flattening loses no leaf and invents none when the separator occurs in no name."""
    expected: dict[str, dict[str, str]] = {}

    def walk(value: object, path: str) -> None:
        if isinstance(value, dict):
            for name, inner in value.items():
                walk(inner, f"{path}:{name}" if path else name)
        else:
            expected[path] = {path: str(value)}

    walk(document, "")
    assert secrets_of(json.dumps(document).encode(), separator=":", multi_valued=False, where="f") == expected
