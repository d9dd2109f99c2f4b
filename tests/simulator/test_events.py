"""Events from outside, in a world where calls break all the time."""

from __future__ import annotations

import pytest

from simulator.suite import blocks, run


@pytest.mark.parametrize("seeds", blocks("hearing"), ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_events_are_heard_once_and_in_order(seeds: range) -> None:
    run("hearing", seeds)
