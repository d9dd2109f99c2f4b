"""A store that goes away and comes back: clear errors meanwhile, nothing acknowledged is lost, no restart is needed.

What clients see is the table in `outages.py`, which `docs/outages.md` prints. All of its rows run at once.
"""

from __future__ import annotations

import threading
from pathlib import Path

import pytest

import outages
import pillion
from outages import ROWS, STARTS, Start, Trial

pytestmark = [pytest.mark.redis, pytest.mark.postgresql]


def run_all(trials: list[Trial] | list[Start]) -> None:
    """Run trials in threads of their own; fail with all that was found."""
    threads = [threading.Thread(target=trial.run) for trial in trials]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    faults = [fault for trial in trials for fault in trial.faults]
    assert not faults, "\n".join(faults)


@pytest.mark.usefixtures("redis_server", "postgres_server")
def test_every_row(tmp_path: Path) -> None:
    """Long outages take half a minute; they share it."""
    run_all([Trial(row, tmp_path / str(number)) for number, row in enumerate(ROWS)])


@pytest.mark.usefixtures("redis_server", "postgres_server")
def test_away_at_start(tmp_path: Path) -> None:
    run_all([Start(store, outage, tmp_path / str(number)) for number, (store, outage) in enumerate(STARTS)])


def test_the_page_says_the_same() -> None:
    text = (Path(pillion.__file__).parents[2] / "docs/outages.md").read_text()
    assert outages.page() in text, outages.page()
