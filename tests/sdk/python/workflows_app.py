"""A worker of the official Python SDK: workflows as its users write them. Arguments: a file in which activities note
what they do, and the release of the code (1 or 2), which is about versions and patches. Ends with its standard input.
"""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Generator
from datetime import timedelta
from typing import Any

import dapr.ext.workflow as wf

NOTES, RELEASE = sys.argv[1], int(sys.argv[2]) if len(sys.argv) > 2 else 1
Steps = Generator[Any, Any, Any]
runtime = wf.WorkflowRuntime()


def note(text: str) -> int:
    """Write a line, and return how often it is there by now."""
    file = os.open(NOTES, os.O_RDWR | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, f"{text}\n".encode())
        return os.pread(file, 1 << 24, 0).decode().splitlines().count(text)
    finally:
        os.close(file)


@runtime.activity
def double(ctx: wf.WorkflowActivityContext, number: int) -> int:
    note(f"double {ctx.workflow_id} {ctx.task_id} {number}")
    return number * 2


async def say_hello(ctx: wf.WorkflowActivityContext, who: str) -> str:
    """The SDK runs coroutines too."""
    await asyncio.sleep(0)
    return f"Hello, {who}!"


runtime.register_activity(say_hello, name="greet")


@runtime.activity
def fail_until(ctx: wf.WorkflowActivityContext, attempts: int) -> int:
    tries = note(f"tried {ctx.workflow_id}")
    if tries < attempts:
        raise ValueError(f"attempt {tries} of {attempts}")
    return tries


@runtime.activity
def book(ctx: wf.WorkflowActivityContext, what: str) -> str:
    if what == "car":
        raise RuntimeError("no cars left")
    note(f"booked {what} {ctx.workflow_id}")
    return what


@runtime.activity
def cancel(ctx: wf.WorkflowActivityContext, what: str) -> None:
    note(f"cancelled {what} {ctx.workflow_id}")


@runtime.activity
def lineage(ctx: wf.WorkflowActivityContext) -> list[str]:
    """The names of the activities that came before, as the workflow chose to tell."""
    history = ctx.get_propagated_history()
    if history is None:
        return []
    return [found.name for each in history.get_workflows() for found in each.get_activities_by_name("double")]


@runtime.workflow
def chain(ctx: wf.DaprWorkflowContext, number: int) -> Steps:
    for _ in range(3):
        number = yield ctx.call_activity(double, input=number)
    greeting = yield ctx.call_activity("greet", input=str(number))
    return greeting


@runtime.workflow
def fan(ctx: wf.DaprWorkflowContext, width: int) -> Steps:
    parts = yield wf.when_all([ctx.call_activity(double, input=number) for number in range(width)])
    return sum(parts)


@runtime.workflow
def monitor(ctx: wf.DaprWorkflowContext, left: int) -> Steps:
    """Looks at something again and again, with a history that does not grow."""
    yield ctx.call_activity(double, input=left)
    yield ctx.create_timer(timedelta(milliseconds=10))
    if left == 0:
        return ctx.instance_id
    ctx.continue_as_new(left - 1)
    return None


@runtime.workflow
def collector(ctx: wf.DaprWorkflowContext, seen: list[Any]) -> Steps:
    """Events that come while it begins anew are not lost."""
    seen = [*seen, (yield ctx.wait_for_external_event("item"))]
    if len(seen) == 10:
        return seen
    ctx.continue_as_new(seen, save_events=True)
    return None


@runtime.workflow
def approval(ctx: wf.DaprWorkflowContext, seconds: float) -> Steps:
    """A decision of somebody, or none in time."""
    ctx.set_custom_status("waiting for a decision")
    try:
        decision = yield ctx.wait_for_external_event("Decision", timeout=timedelta(seconds=seconds))
    except TimeoutError:
        return "too late"
    return decision


@runtime.workflow
def race(ctx: wf.DaprWorkflowContext) -> Steps:
    event, timer = ctx.wait_for_external_event("go"), ctx.create_timer(timedelta(hours=1))
    winner = yield wf.when_any([event, timer])
    return "event" if winner == event else "timer"


@runtime.workflow
def parent(ctx: wf.DaprWorkflowContext, number: int) -> Steps:
    named: Any = ctx.call_child_workflow(fan, input=number, instance_id=f"{ctx.instance_id}-fan")
    unnamed: Any = ctx.call_child_workflow(chain, input=number)
    results = yield wf.when_all([named, unnamed])
    return results


@runtime.workflow
def family(ctx: wf.DaprWorkflowContext) -> Steps:
    """A child that waits for ever."""
    result = yield ctx.call_child_workflow(race, instance_id=f"{ctx.instance_id}-child")
    return result


@runtime.workflow
def saga(ctx: wf.DaprWorkflowContext, wishes: list[str]) -> Steps:
    done: list[str] = []
    try:
        for what in wishes:
            yield ctx.call_activity(book, input=what)
            done.append(what)
    except wf.TaskFailedError as error:
        for what in reversed(done):
            yield ctx.call_activity(cancel, input=what)
        return f"{error.details.error_type}: {error.details.message}"
    return done


@runtime.workflow
def stubborn(ctx: wf.DaprWorkflowContext, given: list[int]) -> Steps:
    needed, most = given
    often = wf.RetryPolicy(
        first_retry_interval=timedelta(milliseconds=20), max_number_of_attempts=most, backoff_coefficient=2
    )
    tries = yield ctx.call_activity(fail_until, input=needed, retry_policy=often)
    return tries


@runtime.workflow
def patient(ctx: wf.DaprWorkflowContext, given: list[int]) -> Steps:
    """A child that is run again as a whole."""
    often = wf.RetryPolicy(first_retry_interval=timedelta(milliseconds=20), max_number_of_attempts=3)
    tries = yield ctx.call_child_workflow(stubborn, input=given, retry_policy=often)
    return tries


@runtime.workflow
def broken(ctx: wf.DaprWorkflowContext, text: str) -> None:
    raise ArithmeticError(text)


@runtime.workflow
def storyteller(ctx: wf.DaprWorkflowContext) -> Steps:
    """Tells an activity what it has done so far."""
    yield ctx.call_activity(double, input=1)
    told = yield ctx.call_activity(lineage, propagation=wf.PropagationScope.LINEAGE)
    untold = yield ctx.call_activity(lineage)
    return [told, untold]


@runtime.workflow
def patched(ctx: wf.DaprWorkflowContext) -> Steps:
    """Release 2 has another first step, which instances that have begun before do not take."""
    first = yield ctx.call_activity("greet", input="new" if RELEASE == 2 and ctx.is_patched("new greeting") else "old")
    yield ctx.wait_for_external_event("on")
    last = yield ctx.call_activity("greet", input="v2" if RELEASE == 2 and ctx.is_patched("new farewell") else "v1")
    return [first, last]


def version_1(ctx: wf.DaprWorkflowContext) -> Steps:
    yield ctx.wait_for_external_event("on")
    return "v1"


def version_2(ctx: wf.DaprWorkflowContext) -> Steps:
    yield ctx.wait_for_external_event("on")
    return "v2"


runtime.register_versioned_workflow(version_1, name="versioned", version_name="v1", is_latest=RELEASE == 1)
if RELEASE == 2:
    runtime.register_versioned_workflow(version_2, name="versioned", version_name="v2", is_latest=True)


if __name__ == "__main__":
    runtime.start()
    print("ready", flush=True)  # noqa: T201
    sys.stdin.read()
    runtime.shutdown()
