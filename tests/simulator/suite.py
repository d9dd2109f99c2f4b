"""The stories by name, and how many seeds of each the tests tell.

The numbers are chosen so that all of them together take some four minutes of one core, in files that
`--dist loadfile` spreads over two; `python -m simulator` tells as many as there is time for.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.testing.simulation import tell
from simulator import counting, hearing, limiting, mending, placing, spanning, ticking, working

if TYPE_CHECKING:
    from collections.abc import Callable

STORIES: dict[str, Callable[[int], int]] = {
    "counting": counting.story,
    "working": working.story,
    "ticking": ticking.story,
    "spanning": spanning.story,
    "mending": mending.story,
    "limiting": limiting.story,
    "placing": placing.story,
    "hearing": hearing.story,
}
"""Each runs one seed and returns the number of its events, or raises `AssertionError` with what was wrong."""
SEEDS = {
    "counting": 900,
    "working": 440,
    "ticking": 500,
    "spanning": 200,
    "mending": 200,
    "limiting": 300,
    "placing": 240,
    "hearing": 120,
}


BLOCK = 40


def blocks(name: str, *, part: int = 1, of: int = 1) -> list[range]:
    """The seeds of a story in blocks, those of one part."""
    count = SEEDS[name]
    every = [range(first, min(first + BLOCK, count)) for first in range(0, count, BLOCK)]
    return every[part - 1 :: of]


def run(name: str, seeds: range) -> None:
    """Tell these seeds. Raises `AssertionError` with the story of the first that fails."""
    for seed in seeds:
        tell_seed(STORIES[name], seed)


def tell_seed(story: Callable[[int], int], seed: int) -> int:
    return tell(lambda: story(seed))


def attempt(what: tuple[str, int]) -> tuple[str, int, int, str]:
    """Tell a seed of a story: its name and number, how many events it had, and what was wrong, "" for nothing."""
    name, seed = what
    try:
        return name, seed, tell_seed(STORIES[name], seed), ""
    except AssertionError as error:
        return name, seed, 0, str(error)
