"""Schedulers in a world of faults."""

from __future__ import annotations

import pytest

from simulator.suite import blocks, run


@pytest.mark.parametrize("seeds", blocks("ticking"), ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_every_tick_is_fired_in_its_time_by_whom_it_belongs_to(seeds: range) -> None:
    run("ticking", seeds)
