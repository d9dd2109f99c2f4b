"""What a hot reload does with what it reads (spec `runtime.md` 2.8)."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any, cast

import pytest

from pillion import tasks
from pillion.blocks.health import Readiness
from pillion.components import file_watch
from pillion.components.file_watch import FolderWatch
from pillion.kinds.config import Configuration
from pillion.kinds.resources import ComponentResource, HTTPEndpointResource, Item
from pillion.sidecar.load import Resources
from pillion.sidecar.reload import Changes, Reload, Running, changes, marked, one_actor_store
from pillion.sidecar.renewal import FAILED, RenewableSidecar

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path


def store(name: str, *, actors: bool = False, word: str = "") -> ComponentResource:
    items = (Item("word", word), *((Item("ActorStateStore", "false"),) if actors else ()))
    return ComponentResource(name=name, type="state.in-memory", version="v1", metadata=items)


def by_name(*resources: ComponentResource) -> dict[str, ComponentResource]:
    return {resource.name: resource for resource in resources}


def test_removals_then_changes_then_what_is_new() -> None:
    loaded = by_name(store("same"), store("changed"), store("gone"))
    wanted = by_name(store("new"), store("changed", word="x"), store("same"))
    assert changes(loaded, wanted) == Changes(("gone",), (store("changed", word="x"),), (store("new"),))


def test_where_a_resource_is_written_is_no_change() -> None:
    here, there = (
        ComponentResource(name="x", type="state.in-memory", version="v1", where=where) for where in ("a:1", "b:9")
    )
    assert changes(by_name(here), by_name(there)) == Changes()


def test_a_second_store_for_actors_is_put_off() -> None:
    """The key is enough, whatever its value; a component that becomes the second one keeps what it was."""
    assert marked(store("a", actors=True))
    assert not marked(store("a"))
    first, second = store("z", actors=True), store("a", actors=True)
    assert one_actor_store(by_name(first), by_name(second, first)) == (by_name(first), ["a"])
    plain = store("a")
    assert one_actor_store(by_name(first, plain), by_name(first, second)) == (by_name(first, plain), ["a"])


def test_the_second_one_is_taken_when_the_first_has_gone() -> None:
    first, second, third = store("a", actors=True), store("b", actors=True), store("c", actors=True)
    assert one_actor_store(by_name(first), by_name(second, third)) == (by_name(second), ["c"])
    unmarked = store("a")
    assert one_actor_store(by_name(first), by_name(unmarked, second)) == (by_name(unmarked, second), [])


def test_stores_that_are_both_loaded_are_left_alone() -> None:
    """Without actors two of them start; a comparison is no reason to remove one."""
    both = by_name(store("a", actors=True), store("b", actors=True))
    assert one_actor_store(both, both) == (both, [])


@pytest.mark.parametrize("kernel", [True, False])
def test_a_folder_that_is_written_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: bool) -> None:
    """A file that comes, changes, moves and goes is heard of each time."""
    monkeypatch.setattr(file_watch, "LOOK_S", 0.01)
    if kernel and not os.path.exists("/proc/sys/fs/inotify"):
        pytest.skip("no inotify here")
    one, other = tmp_path / "a.yaml", tmp_path / "b.yaml"

    async def run() -> None:
        heard = asyncio.Event()
        watch = FolderWatch(str(tmp_path), heard.set, kernel=kernel)
        watch.open()
        try:
            for act in (
                lambda: one.write_text("1"), lambda: one.write_text("22"), lambda: one.rename(other), other.unlink
            ):  # fmt: skip
                heard.clear()
                act()
                async with asyncio.timeout(90):
                    await heard.wait()
        finally:
            await watch.close()

    asyncio.run(run())


def test_a_pass_that_fails_in_an_unexpected_way_is_made_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """With everything that it has not acted on, and without waiting for another word of the files."""
    monkeypatch.setattr(tasks, "FIRST_PAUSE_S", 0.001)
    added: list[str] = []
    endpoints = 0

    class Registry:
        def denied(self, resource: ComponentResource) -> bool:
            return False

        def resources(self) -> dict[str, ComponentResource]:
            return {name: store(name) for name in added}

        async def add(self, resource: ComponentResource) -> None:
            added.append(resource.name)

    async def main() -> None:
        done = asyncio.Event()
        before, after = (
            Resources(),
            Resources((store("a"), store("b")), http_endpoints=(HTTPEndpointResource(name="e"),)),
        )

        async def replace(resources: Sequence[HTTPEndpointResource]) -> None:
            nonlocal endpoints
            endpoints += 1
            if endpoints < 3:
                raise RuntimeError("nobody expects this")
            done.set()

        ignore: Any = lambda *_, **__: None  # noqa: E731
        running = Running(cast("Any", Registry()), ignore, replace, ignore, ignore, ignore, None, ignore)
        reload = Reload([], [], read=lambda: after, configure=Configuration, every_s=3600)
        reload.follow(before, Configuration(), running, Readiness())
        reload._stir()
        async with asyncio.timeout(90):
            await done.wait()
        await reload.close()

    asyncio.run(main())
    assert (added, endpoints) == (["a", "b"], 3)


def test_a_successor_that_cannot_even_be_made_is_the_end() -> None:
    """Whoever waits for the end of the sidecars hears of it."""

    class Sidecar:
        app_id = "a"
        running = True

        def __init__(self) -> None:
            self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

        async def start(self) -> None:
            pass

        def request_stop(self, *, gently: bool) -> None:
            self.ended.set_result(0)

    async def main() -> None:
        made: list[Sidecar] = []

        def make(restart: Callable[[], None], doors: object) -> Sidecar:
            if made:
                raise RuntimeError("nobody expects this")
            made.append(Sidecar())
            return made[0]

        sidecar = RenewableSidecar(cast("Any", make))
        await sidecar.start()
        sidecar.restart()
        async with asyncio.timeout(90):
            assert await sidecar.ended == FAILED

    asyncio.run(main())
