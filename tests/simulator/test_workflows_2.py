"""Workflows in a world of faults, the other half of the seeds."""

from __future__ import annotations

from simulator.suite import run


def test_what_was_promised_comes_true_once() -> None:
    run("working", part=2, of=2)
