"""Actors in a world of faults."""

from __future__ import annotations

from simulator.suite import run


def test_actors_take_turns_and_lose_nothing() -> None:
    run("counting")
