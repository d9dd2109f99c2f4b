"""Workflows in a world of faults: every other block of seeds."""

from __future__ import annotations

import pytest

from simulator.suite import blocks, run


@pytest.mark.parametrize("seeds", blocks("working", part=1, of=2), ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_what_was_promised_comes_true_once(seeds: range) -> None:
    run("working", seeds)
