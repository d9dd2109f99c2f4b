"""Watchers of a configuration store: what is told to whom, and reading again until it succeeds."""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillion import tasks
from pillion.components import file_watch, watching
from pillion.components.configuration_rows import newest
from pillion.components.file_watch import FileWatch
from pillion.components.watching import Channels, Seen, Watching
from pillion.errors import ComponentError
from pillion.kinds.configuration import Item
from pillion.testing.configuration_kit import Recorder

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence
    from pathlib import Path

ONE, TWO = Item("1", "1"), Item("2", "2")


def test_differences_go_to_those_who_asked() -> None:
    seen = Seen()
    named, everything = Recorder(), Recorder()
    seen.note({"a": ONE})
    seen.add(["a"], named)
    seen.add([], everything)
    told = seen.differences({"a": TWO, "b": ONE}, [])
    assert {id(watcher): items for watcher, items in told} == {
        id(named): {"a": TWO}, id(everything): {"a": TWO, "b": ONE},
    }  # fmt: skip
    assert seen.differences({"a": TWO, "b": ONE}, []) == []
    [(watcher, items)] = seen.differences({}, ["b"])
    assert (watcher, items) == (everything, {"b": Item()})


def test_what_nobody_watches_is_forgotten() -> None:
    seen, watcher = Seen(), Recorder()
    assert seen.keys is None, "nothing"
    seen.note({"a": ONE, "b": ONE})
    seen.add(["a"], watcher)
    seen.add([], watcher)
    assert _state(seen, ["c"]) == ([], None)
    assert seen.watchers == [watcher]
    seen.remove([], watcher)
    assert _state(seen, ["a", "c"]) == (["a"], ["c"])
    assert seen.unseen([]) == []
    seen.remove(["a"], watcher)
    assert _state(seen, []) == (None, [])
    assert seen.watchers == []
    assert seen.differences({"a": TWO}, ["a"]) == []


def _state(seen: Seen, keys: Sequence[str]) -> tuple[object, object]:
    return seen.keys, seen.unseen(keys)


@given(st.lists(st.tuples(st.sampled_from("abc"), st.integers(0, 3), st.booleans()), max_size=30))
def test_a_watcher_ends_with_the_truth(steps: list[tuple[str, int, bool]]) -> None:
    """Whatever is read when: the last thing told of each key is what is there, and nothing is told twice in a row."""
    seen, recorder = Seen(), Recorder()
    truth: dict[str, Item] = {}
    seen.add([], recorder)
    for key, value, read_all in steps:
        if value:
            truth[key] = Item(str(value))
        else:
            truth.pop(key, None)
        found = truth if read_all else {key: truth[key]} if key in truth else {}
        for _, items in seen.differences(found, [] if read_all else [key]):
            for name, item in items.items():
                assert recorder.last.get(name, Item()) != item or name not in recorder.last
            recorder.changed(items)
    for _, items in seen.differences(truth, []):
        recorder.changed(items)
    assert {key: item for key, item in recorder.last.items() if item.value} == truth


def test_a_failing_store_is_read_again(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(watching, "FIRST_PAUSE_S", 0.001)
    stored = {"a": ONE}
    failures = 3

    async def read(keys: Sequence[str]) -> dict[str, Item]:
        nonlocal failures
        if stored["a"] == TWO and failures:
            failures -= 1
            raise ComponentError("away")
        return dict(stored)

    async def run() -> None:
        recorder = Recorder()
        watching = Watching("here", read)
        await watching.add(["a"], recorder)
        stored["a"] = TWO
        watching.heard("a")
        watching.heard("unknown")
        await recorder.hears("a", "2")
        assert recorder.told == [{"a": TWO}]
        await watching.close()
        assert recorder.is_lost

    asyncio.run(run())
    assert failures == 0


def test_channels_are_left_by_the_last() -> None:
    begun: list[str] = []
    ended: list[str] = []

    async def begin(name: str) -> None:
        begun.append(name)
        if name == "bad":
            raise ComponentError("no")

    async def run() -> None:
        channels = Channels(begin, ended.append)
        async with channels.entering(["a", "b"]):
            pass
        with pytest.raises(ComponentError):
            async with channels.entering(["a", "bad"]):
                pass
        assert ended == ["bad"]
        channels.leave(["a", "b"])
        assert sorted(ended) == ["a", "b", "bad"]

    asyncio.run(run())
    assert begun == ["a", "b", "a", "bad"]


@pytest.mark.parametrize("kernel", [True, False])
def test_a_file_that_is_written(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kernel: bool) -> None:
    """It and its companions are heard of, its neighbours are not; without the kernel's word the times are looked at."""
    monkeypatch.setattr(file_watch, "LOOK_S", 0.01)
    path = tmp_path / "c.sqlite"
    path.write_text("")

    async def run() -> None:
        heard = asyncio.Event()
        watch = FileWatch(str(path), heard.set, suffixes=("-wal",), kernel=kernel)
        watch.open()
        try:
            for name in ("c.sqlite", "c.sqlite-wal"):
                heard.clear()
                (tmp_path / name).write_text("changed " + name)
                async with asyncio.timeout(90):
                    await heard.wait()
        finally:
            await watch.close()
        await watch.close()

    if kernel and not os.path.exists("/proc/sys/fs/inotify"):
        pytest.skip("no inotify here")
    asyncio.run(run())


def test_a_kernel_without_watches_to_spare(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async def run() -> None:
        watch = FileWatch(str(tmp_path / "missing" / "c.sqlite"), lambda: None, kernel=True)
        watch.open()
        await watch.close()

    asyncio.run(run())
    assert "no watch over" in caplog.text


def test_rows() -> None:
    """The highest number counts, however it is spelled; odd metadata are left out."""
    rows = [
        ("a", "old", "9", None), ("a", "new", "10", '{"n": 1, "t": "x"}'), ("a", "word", "latest", None),
        ("b", None, None, "[1]"), ("c", "x", "v2", "no json"), ("d", "1", "1" * 40, "null"),
    ]  # fmt: skip
    assert newest(rows) == {
        "a": Item("new", "10", {"n": "1", "t": "x"}),
        "b": Item(),
        "c": Item("x", "v2"),
        "d": Item("1", "1" * 40),
    }


def test_what_fails_in_an_unexpected_way_is_read_again_and_one_watcher_is_not_another(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(tasks, "FIRST_PAUSE_S", 0.001)
    surprises = 0

    async def run() -> None:
        nonlocal surprises
        stored = {"a": ONE}

        async def read(keys: Sequence[str]) -> dict[str, Item]:
            nonlocal surprises
            if surprises:
                surprises -= 1
                raise RuntimeError("nobody expects this")
            return dict(stored)

        class Broken(Recorder):
            def changed(self, items: Mapping[str, Item]) -> None:
                raise RuntimeError("nor this")

        watching, recorder = Watching("test", read), Recorder()
        await watching.add(["a"], Broken())
        await watching.add(["a"], recorder)
        stored["a"] = TWO
        surprises = 2
        watching.heard("a")
        await recorder.hears("a", "2")
        stored["a"] = ONE
        watching.heard("a")
        await recorder.hears("a", "1")
        await watching.close()

    asyncio.run(run())
    assert surprises == 0
