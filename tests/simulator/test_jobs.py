"""Schedulers in a world of faults."""

from __future__ import annotations

from simulator.suite import run


def test_every_tick_is_fired_in_its_time_by_whom_it_belongs_to() -> None:
    run("ticking")
