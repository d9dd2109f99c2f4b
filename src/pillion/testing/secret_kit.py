"""The contract of secret stores as a test class. Subclass it, say how to make a store, and let pytest collect it.

    class TestMyStore(SecretKit):
        known = {"password": {"password": "12345"}}

        @contextlib.asynccontextmanager
        async def store(self):
            yield MyStore(MyStore.Settings(...), Context("mine"))      # not yet opened

Needs nothing of pytest but its collecting of classes and functions.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, ClassVar

from pillion.errors import ComponentError
from pillion.kinds.secrets import Feature, SecretStore
from pillion.testing.lifecycle import closes_at_any_time

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager


class SecretKit:
    """What every secret store must do."""

    known: ClassVar[dict[str, dict[str, str]]] = {}
    """Some of the secrets that the store holds."""
    missing_is_empty: ClassVar[bool] = False
    """The store answers an empty value instead of an error for a name it does not know."""

    def store(self) -> AbstractAsyncContextManager[SecretStore]:
        """Return a context manager that gives a store not yet opened; the kit opens and closes it."""
        raise NotImplementedError

    def test_get_returns_what_the_store_holds(self) -> None:
        """Each known secret comes back with all of its keys and nothing else."""

        async def run() -> None:
            async with self.store() as store:
                await store.open()
                for name, values in self.known.items():
                    assert await store.get(name, {}) == values
                await store.close()

        asyncio.run(run())

    def test_a_single_valued_store_answers_its_own_name(self) -> None:
        """Without the feature MULTIPLE_KEY_VALUES_PER_SECRET the only key of a secret is its name."""

        async def run() -> None:
            async with self.store() as store:
                await store.open()
                if Feature.MULTIPLE_KEY_VALUES_PER_SECRET not in store.features:
                    for name, values in (await store.bulk_get({})).items():
                        assert list(values) == [name]
                await store.close()

        asyncio.run(run())

    def test_bulk_get_contains_every_known_secret(self) -> None:
        """A bulk answer agrees with the single ones."""

        async def run() -> None:
            async with self.store() as store:
                await store.open()
                everything = await store.bulk_get({})
                assert {name: everything.get(name) for name in self.known} == self.known
                await store.close()

        asyncio.run(run())

    def test_a_missing_secret(self) -> None:
        """A name nobody knows is a `ComponentError`, or empty where the store says so."""

        async def run() -> None:
            async with self.store() as store:
                await store.open()
                text, values = "", []
                try:
                    values = list((await store.get("no-such-secret-c8f1", {})).values())
                except ComponentError as error:
                    text = str(error)
                if self.missing_is_empty:
                    assert not any(values)
                else:
                    assert "no-such-secret-c8f1" in text, "the error names the secret"
                await store.close()

        asyncio.run(run())

    def test_callers_get_copies(self) -> None:
        """What a caller does with an answer does not change the store."""

        async def run() -> None:
            async with self.store() as store:
                await store.open()
                for name, values in self.known.items():
                    (await store.get(name, {})).clear()
                    (await store.bulk_get({}))[name].clear()
                    assert await store.get(name, {}) == values
                await store.close()

        asyncio.run(run())

    def test_close_works_at_any_time(self) -> None:
        """`close` without `open`, and twice after it; `ping` answers in between."""
        asyncio.run(closes_at_any_time(self.store))
