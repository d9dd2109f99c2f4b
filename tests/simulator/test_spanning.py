"""Workflows that span applications, in a world of faults."""

from __future__ import annotations

import pytest

from simulator.suite import blocks, run


@pytest.mark.parametrize("seeds", blocks("spanning"), ids=lambda seeds: f"{seeds[0]}-{seeds[-1]}")
def test_what_spans_applications_ends_everywhere(seeds: range) -> None:
    run("spanning", seeds)
