"""The simulator notices mistakes: each that somebody might make is made, and told by a seed that shows it.

A change of the code that is told may move what a seed shows: then the first of them are looked through.
"""

from __future__ import annotations

import pytest

from simulator.mutations import MUTATIONS, Mutation, caught

FIRST = 80


@pytest.mark.parametrize("mutation", MUTATIONS, ids=[mutation.name.replace(" ", "-") for mutation in MUTATIONS])
def test_a_mistake_is_noticed(mutation: Mutation) -> None:
    assert caught(mutation, mutation.seed) or any(caught(mutation, seed) for seed in range(FIRST))
