"""Pipelines follow the components (spec `runtime.md` 5), and a replacement never opens a door."""

from __future__ import annotations

import asyncio
import sys
import types
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar

from pillion.components.catalog import Entry
from pillion.errors import ComponentError
from pillion.kinds.component import Context, setting
from pillion.kinds.config import Configuration, Handler
from pillion.kinds.resources import ComponentResource, Item
from pillion.net.exchange import Request, Response
from pillion.sidecar.catalogue import Catalogue
from pillion.sidecar.components import Components
from pillion.sidecar.environment import read
from pillion.sidecar.loading import Loaded
from pillion.sidecar.pipelines import Pipelines

if TYPE_CHECKING:
    import pytest

    from pillion.net.middleware import Next


class Door:
    """Stamps answers. Opens only when no other is open, and waits for the gate then, so that a test can look
    at the time between.
    """

    @dataclass(frozen=True)
    class Settings:
        word: str = setting("")

    gate: ClassVar[asyncio.Event]
    opening: ClassVar[asyncio.Event]
    taken: ClassVar[bool] = False

    def __init__(self, settings: Settings, context: Context) -> None:
        self.word = settings.word.encode()
        self.mine = False

    async def open(self) -> None:
        if Door.taken:
            raise ComponentError("there is a door already")
        Door.taken = self.mine = True
        self.opening.set()
        await self.gate.wait()

    async def ping(self) -> None: ...

    async def close(self) -> None:
        if self.mine:
            Door.taken = self.mine = False

    async def __call__(self, request: Request, next: Next) -> Response:
        response = await next(request)
        response.headers.append((b"door", self.word))
        return response


def resource(word: str) -> ComponentResource:
    return ComponentResource(name="door", type="middleware.http.door", version="v1", metadata=(Item("word", word),))


def test_members_come_go_and_are_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not loaded: left out. Loaded: there. While it is replaced by one that cannot open beside it, requests wait
    for the new one. Removed: left out.
    """
    module = types.ModuleType("doors")
    module.Door = Door  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "doors", module)

    async def run() -> None:
        Door.gate, Door.opening = asyncio.Event(), asyncio.Event()
        Door.gate.set()
        pipelines = Pipelines(Configuration(http_pipeline=(Handler("door", "Middleware.http.Door"),)))
        catalogue = Catalogue([Entry("middleware.http.door", "v1", "doors:Door")])
        components = Components(
            app_id="app", environment=read({}), catalogue=catalogue, changed=pipelines.component_changed
        )
        pipelines.replacing = components.replacing.__contains__
        assert pipelines.http is not None
        assert pipelines.app is None

        async def destination(request: Request) -> Response:
            return Response(200)

        enter = pipelines.http.over(destination)

        async def door() -> list[bytes]:
            return [value for name, value in (await enter(Request("GET", b"/", []))).headers if name == b"door"]

        assert await door() == []
        await components.add(resource("old"))
        assert await door() == [b"old"]
        Door.gate.clear()
        Door.opening.clear()
        update = asyncio.create_task(components.update(resource("new")))
        await Door.opening.wait()
        between = asyncio.create_task(door())
        await asyncio.sleep(0)
        assert not between.done()
        Door.gate.set()
        await update
        assert await between == [b"new"]
        assert await door() == [b"new"]
        await components.remove("door")
        assert await door() == []

    asyncio.run(run())


def test_another_version_or_type_is_another_component() -> None:
    """All three must be the same (spec `runtime.md` 5)."""
    pipelines = Pipelines(
        Configuration(
            http_pipeline=(
                Handler("door", "middleware.http.door", "v2"), Handler("door", "middleware.http.gate"),
                Handler("gate", "middleware.http.door"),
            )
        )
    )  # fmt: skip
    assert pipelines.http is not None
    pipelines.component_changed(Loaded(resource("x"), Door(Door.Settings(), Context("door")), {}), True)
    assert pipelines.http.members == ()
