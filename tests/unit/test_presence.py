"""Records of running sidecars: seen while their process lives, gone when it does not."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import TYPE_CHECKING

from pillion.sidecar.presence import Record, announce, home, running

if TYPE_CHECKING:
    from pathlib import Path


def test_a_record_lives_as_long_as_it_is_held(tmp_path: Path) -> None:
    """Announced, changed, withdrawn: readers see each step, and the folder is empty in the end."""
    presence = announce(Record("orders", http_port=3500, created=1.5), tmp_path)
    assert running(tmp_path) == [Record("orders", http_port=3500, created=1.5)]
    presence.update(app_pid=42)
    assert [(record.app_id, record.app_pid) for record in running(tmp_path)] == [("orders", 42)]
    presence.withdraw()
    presence.withdraw()
    assert running(tmp_path) == []
    assert list((tmp_path / "running").iterdir()) == []


def test_oldest_first(tmp_path: Path) -> None:
    """The order is that of starting, not that of names."""
    held = [announce(Record(name, created=created), tmp_path) for name, created in (("a", 2.0), ("b", 1.0))]
    assert [record.app_id for record in running(tmp_path)] == ["b", "a"]
    assert len(held) == 2


def test_a_killed_process_leaves_nothing(tmp_path: Path) -> None:
    """`kill -9` of the owner makes its record stale at once; the next reader removes the file."""
    program = (
        "import pathlib, sys; from pillion.sidecar.presence import Record, announce;"
        "p = announce(Record('orders', created=1.0), pathlib.Path(sys.argv[1])); print('here', flush=True);"
        "sys.stdin.read()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", program, str(tmp_path)], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    ) as owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == b"here\n"
        assert [record.app_id for record in running(tmp_path)] == ["orders"]
        owner.kill()
        owner.wait()
        assert len(list((tmp_path / "running").iterdir())) == 1
        assert running(tmp_path) == []
        assert list((tmp_path / "running").iterdir()) == []


def test_strange_files_are_no_records(tmp_path: Path) -> None:
    """Files of other origin and fields of other versions do not disturb the list."""
    announce(Record("orders"), tmp_path).withdraw()
    (tmp_path / "running" / "notes.txt").write_text("hello")
    (tmp_path / "running" / "1-x.json").write_text("[]")
    assert running(tmp_path) == []
    assert sorted(path.name for path in (tmp_path / "running").iterdir()) == ["notes.txt"]


def test_nowhere_to_write(tmp_path: Path) -> None:
    """A data folder that cannot be made is no reason not to run."""
    (tmp_path / "file").write_text("")
    presence = announce(Record("orders"), tmp_path / "file")
    presence.update(app_pid=1)
    presence.withdraw()
    assert running(tmp_path / "file") == []


def test_home() -> None:
    """`PILLION_HOME` moves the data folder."""
    assert str(home({"PILLION_HOME": "/somewhere"})) == "/somewhere"
    assert home({}).name == ".pillion"
    assert os.path.isabs(home({"PILLION_HOME": "here"}))
