"""Limits on what runs at once and on how long ended workflows are kept, in a world of faults."""

from __future__ import annotations

import pytest

from simulator.suite import blocks, run


@pytest.mark.parametrize("seeds", blocks("limiting"), ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_limits_hold_and_nothing_goes_too_early(seeds: range) -> None:
    run("limiting", seeds)
