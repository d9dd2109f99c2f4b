"""The simulator notices mistakes: each that somebody might make is made, and told by a seed that shows it."""

from __future__ import annotations

import pytest

from simulator.mutations import MUTATIONS, Mutation, caught


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name.replace(" ", "-") for mutation in MUTATIONS])
def test_a_mistake_is_noticed(mutation: Mutation) -> None:
    assert caught(mutation, mutation.seed)
