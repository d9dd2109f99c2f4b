"""Several placement servers in a world of faults."""

from __future__ import annotations

import pytest

from simulator.suite import blocks, run


@pytest.mark.parametrize("seeds", blocks("placing"), ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_one_places_whoever_believes_to(seeds: range) -> None:
    run("placing", seeds)
