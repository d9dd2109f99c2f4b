"""What a hot reload does with what it reads (spec `runtime.md` 2.8)."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest

from pillion.components import file_watch
from pillion.components.file_watch import FolderWatch
from pillion.kinds.resources import ComponentResource, Item
from pillion.sidecar.reload import Changes, changes, marked, one_actor_store

if TYPE_CHECKING:
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
