"""Time that tests can turn, and the check of changed code against recorded histories."""

from __future__ import annotations

import json
import warnings
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

import pytest

from pillion.blocks.workflow_admin import event_document
from pillion.testing.workflow_replay import Departed, replay
from pillion.testing.workflow_test import NoSuchWorkflow, WorkflowTest
from pillion.testing.workflow_worker import Executor
from pillion.workflow.faults import InstanceMissing

if TYPE_CHECKING:
    from collections.abc import Generator

    from pillion.testing.workflow_worker import Context


def subscription(ctx: Context, months: int) -> Generator[Any, Any, Any]:
    paid = []
    for month in range(months):
        paid.append((yield ctx.call_activity("charge", month)))
        yield ctx.sleep(30 * 86400)
    bye = yield ctx.wait_for_event("bye")
    return [*paid, bye]


ACTIVITIES = {"charge": lambda month: f"month {month}"}


def test_months_of_timers_pass_in_no_time() -> None:
    with WorkflowTest({"subscription": subscription}, ACTIVITIES, now=datetime(2030, 1, 1, tzinfo=UTC)) as test:
        one = test.start("subscription", 3)
        assert test.status(one) == "RUNNING"
        (wait,) = test.waiting(one)
        assert wait.kind == "timer"
        assert wait.until == pytest.approx(datetime(2030, 1, 31, tzinfo=UTC).timestamp(), abs=1)
        test.advance(days=59)
        assert [wait.kind for wait in test.waiting(one)] == ["timer"]
        test.advance(days=32)
        with pytest.raises(AssertionError, match="is RUNNING, and waits for"):
            test.result(one)
        test.raise_event(one, "bye", "so long")
        assert test.result(one) == ["month 0", "month 1", "month 2", "so long"]
        assert test.now > datetime(2030, 4, 1, tzinfo=UTC)


def test_what_clients_do() -> None:
    with WorkflowTest({"subscription": subscription}, ACTIVITIES) as test:
        one = test.start("subscription", 1, instance_id="mine")
        test.suspend(one)
        assert test.status(one) == "SUSPENDED"
        test.resume(one)
        test.terminate(one, "enough")
        assert (test.status(one), test.snapshot(one).output) == ("TERMINATED", '"enough"')
        test.purge(one)
        with pytest.raises(NoSuchWorkflow):
            test.status(one)
        with pytest.raises(InstanceMissing):
            test.raise_event(one, "bye")


def recorded() -> list[bytes]:
    with WorkflowTest({"subscription": subscription}, ACTIVITIES) as test:
        one = test.start("subscription", 2)
        test.advance(days=61)
        test.raise_event(one, "bye")
        return test.history(one)


def test_the_code_of_a_history_follows_it() -> None:
    history = recorded()
    code = Executor({"subscription": subscription}, ACTIVITIES)
    assert replay(history, code) > 4
    document = json.loads(json.dumps({"instanceID": "x", "events": [event_document(one) for one in history]}))
    assert replay(document, code) == replay(history, code)


def test_changed_code_is_told_where_it_departs() -> None:
    def reminded(ctx: Context, months: int) -> Generator[Any, Any, Any]:
        for month in range(months):
            yield ctx.call_activity("charge", month)
            yield ctx.call_activity("remind", month)
            yield ctx.sleep(30 * 86400)

    with pytest.raises(
        Departed, match=r"the history has createTimer \(1\), the code scheduleTask 'remind' \(1\)"
    ) as told:
        replay(recorded(), Executor({"subscription": reminded}))
    assert told.value.turn == 2


def test_workflows_of_the_python_sdk() -> None:
    """The official SDK's own code runs in the test's time, and is checked against a history."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        workflow = pytest.importorskip("dapr.ext.workflow")
    from datetime import timedelta

    from pillion.testing.workflow_sdk import SdkCode

    runtime = workflow.WorkflowRuntime()

    @runtime.workflow(name="order")  # type: ignore[untyped-decorator]
    def order(ctx: Any, item: int) -> Any:
        price = yield ctx.call_activity(price_of, input=item)
        yield ctx.create_timer(timedelta(days=14))
        return price

    @runtime.activity(name="price_of")  # type: ignore[untyped-decorator]
    def price_of(ctx: Any, item: int) -> int:
        return item * 10

    code = SdkCode(runtime)
    with WorkflowTest(code=code) as test:
        one = test.start("order", 7)
        test.advance(days=13)
        assert test.status(one) == "RUNNING"
        test.advance(days=2)
        assert test.result(one) == 70
        assert replay(test.history(one), code) == 3
