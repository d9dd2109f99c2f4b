"""The contract of name resolvers as a test class. Subclass it, say how to make a resolver, and let pytest collect it.

    class TestMyNames(NamesKit):
        @contextlib.asynccontextmanager
        async def resolver(self):
            yield MyNames(MyNames.Settings(...), Context("names"))      # not yet opened

Resolvers of one test find each other. App ids are new in each test, so a shared server will do.
"""

from __future__ import annotations

import asyncio
import contextlib
import secrets
from typing import TYPE_CHECKING, ClassVar

from pillion.errors import ComponentError
from pillion.kinds.names import Instance, Resolver

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from contextlib import AbstractAsyncContextManager


class NamesKit:
    """What every resolver must do."""

    namespaces: ClassVar[bool] = True
    """Equal app ids of different namespaces are different applications."""
    address: ClassVar[str] = "127.0.0.1"

    def resolver(self) -> AbstractAsyncContextManager[Resolver]:
        """Return a context manager that gives a resolver not yet opened."""
        raise NotImplementedError

    @contextlib.asynccontextmanager
    async def _open(self) -> AsyncIterator[Resolver]:
        async with self.resolver() as resolver:
            await resolver.open()
            try:
                yield resolver
            finally:
                await resolver.close()

    def _instance(self, app_id: str, port: int, namespace: str = "") -> Instance:
        return Instance(app_id, namespace, self.address, port)

    async def _found(self, app_id: str, namespace: str = "") -> list[str]:
        """Ask as a sidecar that has just started."""
        async with self._open() as asking:
            try:
                return sorted(await asking.resolve(app_id, namespace))
            except ComponentError as error:
                text = str(error)
            assert text == f"couldn't find service: {app_id}"
            return []

    def test_one_finds_the_other_and_itself(self) -> None:
        async def run() -> None:
            app = _app()
            async with self._open() as one, self._open() as other:
                await one.register(self._instance(app, 50001))
                assert list(await other.resolve(app, "")) == [f"{self.address}:50001"]
                assert list(await one.resolve(app, "")) == [f"{self.address}:50001"]

        asyncio.run(run())

    def test_nobody_there(self) -> None:
        """The error names the app id, as the reference's does."""

        async def run() -> None:
            assert await self._found(_app()) == []

        asyncio.run(run())

    def test_all_instances_are_returned(self) -> None:
        async def run() -> None:
            app = _app()
            async with self._open() as one, self._open() as other:
                await one.register(self._instance(app, 50001))
                await other.register(self._instance(app, 50002))
                assert await self._found(app) == [f"{self.address}:50001", f"{self.address}:50002"]

        asyncio.run(run())

    def test_close_takes_the_registration_back(self) -> None:
        async def run() -> None:
            app = _app()
            async with self._open() as one:
                await one.register(self._instance(app, 50001))
                async with self._open() as other:
                    await other.register(self._instance(app, 50002))
                assert await self._found(app) == [f"{self.address}:50001"]

        asyncio.run(run())

    def test_namespaces(self) -> None:
        async def run() -> None:
            app = _app()
            async with self._open() as one:
                await one.register(self._instance(app, 50001, "here"))
                assert await self._found(app, "here") == [f"{self.address}:50001"]
                assert await self._found(app, "there") == ([] if self.namespaces else [f"{self.address}:50001"])

        asyncio.run(run())

    def test_an_address_that_failed_is_left_alone(self) -> None:
        """While there is another; if it is the only one, it is all there is."""

        async def run() -> None:
            app = _app()
            async with self._open() as one, self._open() as other, self._open() as asking:
                await one.register(self._instance(app, 50001))
                await other.register(self._instance(app, 50002))
                first, second = f"{self.address}:50001", f"{self.address}:50002"
                assert sorted(await asking.resolve(app, "")) == [first, second]
                asking.failed(app, "", first)
                assert list(await asking.resolve(app, "")) == [second]
                asking.failed(app, "", second)
                left = await asking.resolve(app, "")
                assert left
                assert set(left) <= {first, second}

        asyncio.run(run())

    def test_life(self) -> None:
        """`close` works without `open` and twice; a closed resolver says so."""

        async def run() -> None:
            async with self.resolver() as resolver:
                await resolver.close()
            async with self.resolver() as resolver:
                await resolver.open()
                await resolver.ping()
                await resolver.close()
                await resolver.close()
                failed = False
                try:
                    await resolver.resolve(_app(), "")
                except ComponentError:
                    failed = True
                assert failed

        asyncio.run(run())


def _app() -> str:
    return f"app-{secrets.token_hex(4)}"
