"""Plausible mistakes, each a small change of the real code: the simulator has to notice every one of them.

A row says what is done wrong, in which story that shows, and by which seed. The seeds were found by looking; where a
change of the stories moves them, `python -m simulator.mutations` looks again and prints what it finds.
"""

from __future__ import annotations

from simulator.mutations import actors, calls, events, families, findings, jobs, limits, placing, repairs, workflows
from simulator.mutations.mutation import Mutation, caught

AREAS = (actors, calls, events, families, findings, jobs, limits, placing, repairs, workflows)
MUTATIONS = tuple(mutation for area in AREAS for mutation in area.MUTATIONS)

__all__ = ["MUTATIONS", "Mutation", "caught"]
