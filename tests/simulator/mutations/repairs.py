"""Mistakes about what is mended: runs from an event, what stalled, what takes workers down."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pillion.wire.messages import taskhub as m
from pillion.workflow import actor, facts, rerun
from pillion.workflow.losses import Losses
from pillion.workflow.runner import Runner
from simulator.mutations.mutation import Mutation

if TYPE_CHECKING:
    from simulator.mutations.mutation import Patch


def a_rerun_copies_what_came_after(patch: Patch) -> None:
    real = rerun.fork

    def fork(source: Any, order: Any, new_id: str) -> Any:
        made = real(source, order, new_id)
        rest = [m.HistoryEvent.FromString(raw) for raw in source.rows()][len(made.history) + len(made.inbox) :]
        made.history.extend(event for event in rest if event.HasField("taskCompleted"))
        return made

    patch.setattr(actor, "fork", fork)


def a_rerun_forgets_what_was_open(patch: Patch) -> None:
    real = rerun.fork

    def fork(source: Any, order: Any, new_id: str) -> Any:
        made = real(source, order, new_id)
        del made.inbox[:-1]
        return made

    patch.setattr(actor, "fork", fork)


def a_stall_is_forgotten(patch: Patch) -> None:
    patch.delitem(facts._FOLD, "executionStalled")


def what_stalled_stays_so(patch: Patch) -> None:
    real = Runner.kick

    def kick(self: Runner) -> None:
        if self.instance.facts.stalled is None:
            real(self)

    patch.setattr(Runner, "kick", kick)


def poison_is_given_out_for_ever(patch: Patch) -> None:
    patch.setattr(Losses, "aside", lambda self, task_id: False)


def a_retry_forgets_no_losses(patch: Patch) -> None:
    patch.setattr(Losses, "forget", lambda self, task_id: None)


MUTATIONS = (
    Mutation("a rerun copies what came after its event", "mending", 1, a_rerun_copies_what_came_after),
    Mutation("a rerun forgets what was open", "mending", 1, a_rerun_forgets_what_was_open),
    Mutation("a stall is forgotten", "mending", 0, a_stall_is_forgotten),
    Mutation("what stalled stays so", "mending", 0, what_stalled_stays_so),
    Mutation("poison is given out for ever", "mending", 0, poison_is_given_out_for_ever),
    Mutation("a retry forgets no losses", "mending", 0, a_retry_forgets_no_losses),
)  # fmt: skip
