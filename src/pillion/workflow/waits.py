"""What an instance waits for, as operators are told (`snapshot.Wait`). Pure: looks at a runner, changes nothing."""

from __future__ import annotations

from dataclasses import replace
from typing import TYPE_CHECKING

from pillion.wire.messages import taskhub as m
from pillion.workflow.history import nanoseconds
from pillion.workflow.losses import TURN
from pillion.workflow.snapshot import Wait

if TYPE_CHECKING:
    from pillion.workflow.history import Event
    from pillion.workflow.items import Item
    from pillion.workflow.runner import Runner


def waiting(runner: Runner) -> tuple[Wait, ...]:
    """What the instance waits for; never empty while it is not finished."""
    facts = runner.instance.facts
    found: list[Wait] = []
    if runner.trouble is not None:
        one = runner.trouble
        found.append(Wait(one.kind, attempts=one.attempts, error=one.error, since=one.since))
    if runner.item is not None:
        found.append(_turn(runner, runner.item))
    elif runner.losses.aside(TURN) and facts.completed is None:
        start = runner.instance.start_event
        name = "" if start is None else start.executionStarted.name
        found.append(_aside(runner, TURN, name, runner.turn_since or None))
    if facts.stalled is not None:
        found.append(Wait("stalled", m.StalledReason.Name(facts.stalled.reason), error=facts.stalled.description))
    if facts.completed is not None:
        found += [delivery.wait() for delivery in runner.deliveries.values()]
        return tuple(found)
    if facts.started is None and (at_ns := runner.start_ns) is not None:
        found.append(Wait("start", until=at_ns / 1e9))
    if facts.suspended is not None:
        found.append(Wait("suspended", since=nanoseconds(facts.suspended.timestamp) / 1e9))
    for task_id, event in facts.tasks.items():
        found.append(_activity(runner, task_id, event))
    for timer_id, timer in facts.timers.items():
        kind = "event" if timer.event_name else "timer"
        until = None if timer.endless else timer.fire_ns / 1e9
        found.append(Wait(kind, timer.event_name, timer_id, until=until))
    for task_id, event in facts.children.items():
        delivery = runner.deliveries.get(f"child-{task_id}")
        found.append(
            Wait(
                "child", event.childWorkflowInstanceCreated.instanceId, task_id,
                attempts=0 if delivery is None else delivery.attempts,
                error="" if delivery is None else delivery.error,
                since=nanoseconds(event.timestamp) / 1e9,
            )
        )  # fmt: skip
    found += [one.wait() for key, one in runner.deliveries.items() if not key.startswith("child-")]
    if not found:
        # Nothing that the history knows: its first turn, one for what has come, or an event without a timer.
        found.append(Wait("start" if facts.started is None else "turn" if runner.mail else "event"))
    return tuple(found)


def _activity(runner: Runner, task_id: int, event: Event) -> Wait:
    name, since = event.taskScheduled.name, nanoseconds(event.timestamp) / 1e9
    if runner.losses.aside(task_id):
        return _aside(runner, task_id, name, since)
    run = runner.activities.get(task_id)
    wait = Wait("activity", name, task_id, since=since) if run is None else run.wait(runner.engine, since)
    tally = runner.losses.of(task_id)
    if not tally.count:
        return wait
    return replace(wait, attempts=max(wait.attempts, tally.count), error=wait.error or tally.why)


def _turn(runner: Runner, item: Item) -> Wait:
    """Why a turn is not over."""
    if runner.losses.aside(TURN):
        return _aside(runner, TURN, item.name, runner.turn_since)
    tally = runner.losses.of(TURN)
    held = item.holder is not None
    kind = "turn" if held or not runner.engine.workers.lacks(item) else "worker"
    since = item.since if held else runner.turn_since
    return Wait(kind, item.name, attempts=tally.count, error=tally.why, since=since)


def _aside(runner: Runner, task_id: int, name: str, since: float | None) -> Wait:
    """What waits for people."""
    tally = runner.losses.of(task_id)
    task = None if task_id == TURN else task_id
    return Wait("quarantine", name, task, attempts=tally.count, error=tally.why, since=since)
