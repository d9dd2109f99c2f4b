"""Actors in a world of faults."""

from __future__ import annotations

import pytest

from simulator.suite import blocks, run


@pytest.mark.parametrize("seeds", blocks("counting"), ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_actors_take_turns_and_lose_nothing(seeds: range) -> None:
    run("counting", seeds)
