"""Workflows that stall, take workers down, or are run again, in a world of faults."""

from __future__ import annotations

import pytest

from simulator.suite import blocks, run


@pytest.mark.parametrize("seeds", blocks("mending"), ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_what_has_to_be_mended_goes_on(seeds: range) -> None:
    run("mending", seeds)
