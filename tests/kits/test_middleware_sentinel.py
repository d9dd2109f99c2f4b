"""`middleware.http.sentinel`: the rules, with a clock in the test's hand."""

from __future__ import annotations

import asyncio
import contextlib
import json
from typing import TYPE_CHECKING, Any

import pytest

from pillion.components.middleware_sentinel import Sentinel
from pillion.components.sentinel_rules import Rules, State, read
from pillion.errors import ConfigError
from pillion.kinds.component import Context, decode
from pillion.net.exchange import Request, Response
from pillion.testing.middleware_kit import MiddlewareKit

if TYPE_CHECKING:
    from contextlib import AbstractAsyncContextManager


def sentinel(**rules: Any) -> Any:
    metadata = {"appName": "test", **{name: json.dumps(rows) for name, rows in rules.items()}}
    return Sentinel(decode(Sentinel.Settings, metadata, where="test"), Context("test"))


class TestSentinel(MiddlewareKit):
    refusal = 429

    def middleware(self) -> AbstractAsyncContextManager[Any]:
        return contextlib.nullcontext(sentinel(flowRules=[{"resource": "GET:/never", "threshold": 0}]))

    def refused(self) -> Request:
        return Request("GET", b"/never?x=1", [])


def passes(rules: Rules, now: float, *, took_s: float = 0.0, failed: bool = False, resource: str = "r") -> str:
    blocked = rules.enter(resource, now)
    if not blocked:
        rules.leave(resource, now + took_s, took_s, failed)
    return blocked


def state(rules: Rules) -> State:
    return rules.breakers[0].state


def test_flow_counts_requests_of_an_interval() -> None:
    """Two in a second, of this resource alone; the window slides."""
    rules = read('[{"resource": "r", "threshold": 2}]', "", "", "")
    assert [passes(rules, now) for now in (0.0, 0.1, 0.2, 0.95)] == ["", "", "flow", "flow"]
    assert passes(rules, 0.2, resource="other") == ""
    assert passes(rules, 1.05) == ""
    assert passes(rules, 1.06) == "flow"
    assert passes(rules, 1.15) == ""


def test_isolation_counts_requests_inside() -> None:
    rules = read("", "", '[{"resource": "r", "metricType": 0, "threshold": 1}]', "")
    assert rules.enter("r", 0.0) == ""
    assert rules.enter("r", 0.0) == "isolation"
    rules.leave("r", 1.0, 1.0, False)
    assert rules.enter("r", 1.0) == ""
    rules.leave("r", 1.0, 0.0, False)
    assert rules.inside == {}  # nothing stays of paths that were asked for once


@pytest.mark.parametrize(
    ("strategy", "threshold", "bad"),
    [
        (0, 0.5, {"took_s": 0.2}),
        ("SlowRequestRatio", 0.5, {"took_s": 0.2}),
        (1, 0.5, {"failed": True}),
        (2, 2, {"failed": True}),
    ],
)
def test_a_circuit_opens_tries_and_closes(strategy: Any, threshold: float, bad: dict[str, Any]) -> None:
    """Not before there are enough requests; then closed doors until the retry time; one request tries."""
    rule = {
        "resource": "r", "strategy": strategy, "threshold": threshold, "retryTimeoutMs": 3000, "minRequestAmount": 4,
        "statIntervalMs": 10000, "maxAllowedRtMs": 100,
    }  # fmt: skip
    rules = read("", json.dumps([rule]), "", "")
    assert [passes(rules, 0.0, **bad), passes(rules, 0.1), passes(rules, 0.2, **bad)] == ["", "", ""]
    assert state(rules) is State.CLOSED
    assert passes(rules, 0.3) == ""
    assert state(rules) is State.OPEN
    assert passes(rules, 3.0) == "circuit breaker"
    assert rules.enter("r", 3.4) == ""
    assert rules.enter("r", 3.4) == "circuit breaker"  # one tries
    rules.leave("r", 3.6, bad.get("took_s", 0.0), bad.get("failed", False))
    assert passes(rules, 6.5) == "circuit breaker"
    assert passes(rules, 6.7) == ""
    assert state(rules) is State.CLOSED
    assert passes(rules, 6.8, **bad) == ""


def test_system_rules_are_for_all_together() -> None:
    rules = read("", "", "", '[{"metricType": 3, "triggerCount": 2}]')
    assert [passes(rules, 0.0, resource=name) for name in "abc"] == ["", "", "system"]
    rules = read("", "", "", '[{"metricType": 2, "triggerCount": 1}]')
    assert [rules.enter(name, 0.0) for name in "ab"] == ["", "system"]
    rules = read("", "", "", '[{"metricType": 1, "triggerCount": 50}]')
    assert passes(rules, 0.0, took_s=0.1) == ""
    assert rules.enter("r", 0.5) == ""  # nobody is inside
    assert rules.enter("r", 0.5) == "system"
    assert rules.enter("r", 2.0) == ""


def test_failures_count_and_leave() -> None:
    """A status from 500 and an exception are failures; neither stays inside."""
    rule = {"resource": "GET:/path", "strategy": 2, "threshold": 2, "retryTimeoutMs": 60000}

    async def run() -> None:
        middleware = sentinel(circuitBreakerRules=[rule])

        async def failing(request: Request) -> Response:
            return Response(503)

        async def raising(request: Request) -> Response:
            raise ZeroDivisionError

        assert (await middleware(Request("GET", b"/path", []), failing)).status == 503
        with pytest.raises(ZeroDivisionError):
            await middleware(Request("GET", b"/path", []), raising)
        assert (await middleware(Request("GET", b"/path", []), failing)).status == 429

    asyncio.run(run())


@pytest.mark.parametrize(
    "rules",
    [
        {"flowRules": {}},
        {"flowRules": [7]},
        {"flowRules": [{"threshold": 1}]},
        {"flowRules": [{"resource": "r"}]},
        {"flowRules": [{"resource": "r", "threshold": -1}]},
        {"flowRules": [{"resource": "r", "threshold": 1, "controlBehavior": 1}]},
        {"circuitBreakerRules": [{"resource": "r", "threshold": 1, "strategy": 9}]},
        {"systemRules": [{"metricType": 0, "triggerCount": 1}]},
    ],
)
def test_rules_that_cannot_be_kept_are_refused(rules: Any) -> None:
    """Never a rule without effect."""
    with pytest.raises(ConfigError, match="rules"):
        sentinel(**rules)
