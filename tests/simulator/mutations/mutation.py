"""What a mistake is, and whether the simulator notices it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import pytest

from simulator.suite import STORIES, tell_seed

if TYPE_CHECKING:
    from collections.abc import Callable

Patch = pytest.MonkeyPatch


@dataclass(frozen=True)
class Mutation:
    """One mistake, made by `apply`. `seed` is one of `story` that shows it, and need not be the first."""

    name: str
    story: str
    seed: int
    apply: Callable[[Patch], None]


def caught(mutation: Mutation, seed: int) -> bool:
    """Whether this seed shows the mistake, in whatever way."""
    with pytest.MonkeyPatch.context() as patch:
        mutation.apply(patch)
        try:
            tell_seed(STORIES[mutation.story], seed)
        except Exception:  # a driver that breaks is noticed as well as a judge that speaks
            return True
    return False
