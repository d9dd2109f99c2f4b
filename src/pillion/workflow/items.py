"""Pieces of work on their way to a worker and back: turns and activities (spec `actors-workflows-jobs.md` 3.3).

Knows: what a worker is given, who has it. Never knows: queues, streams' messages.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable
    from typing import TypeAlias

    from pillion.wire.messages import taskhub
    from pillion.workflow.gates import Gate
    from pillion.workflow.question import Turn
    from pillion.workflow.streams import Stream

    Answer: TypeAlias = "taskhub.WorkflowResponse | taskhub.ActivityResponse | Oversized"

INTERNAL = "dapr.internal."
"""Workflows and activities whose names begin so are the sidecar's own: no worker is ever given one."""


class Oversized(Exception):
    """A worker's answer to a turn was larger than a message may be; the text says how large."""


class Item:
    """One piece of work. `turn` for a workflow's turn, `payload` (a serialised `ActivityRequest`) for an activity.

    `done` is called once with the worker's answer, or `lost` when the worker is lost that holds it; neither, if the
    item is withdrawn before.
    """

    __slots__ = (
        "done", "gates", "gone", "holder", "instance_id", "lost", "mark", "name", "offered", "payload", "since",
        "task_id", "token", "turn",
    )  # fmt: skip

    def __init__(
        self, instance_id: str, name: str, done: Callable[[Answer], None],
        lost: Callable[[], None], *, turn: Turn | None = None, mark: tuple[int, int] = (0, 0), task_id: int = -1,
        payload: bytes = b"",
    ) -> None:  # fmt: skip
        self.instance_id = instance_id
        self.name = name
        self.done = done
        self.lost = lost
        self.turn = turn
        self.mark = mark
        """Events and bytes that were the past in the turn before: what its worker keeps."""
        self.task_id = task_id
        self.payload = payload
        self.gates: list[Gate] = []
        self.gone = False
        self.holder: Stream | None = None
        self.offered = 0.0
        self.since = 0.0
        """When the present worker took it, seconds since 1970."""
        self.token = ""

    def __repr__(self) -> str:
        what = f"turn of {self.instance_id!r}" if self.turn is not None else f"{self.instance_id!r}/{self.task_id}"
        return f"<Item {what}{' held' if self.holder else ''}>"
