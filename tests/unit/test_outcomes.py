"""The table of docs/pubsub.md, "What becomes of a message", played row by row.

Each row is played by every scenario it stands for: with and without an inbound policy, with and without a dead-letter
topic, on a broker that writes down what it hears and delivers again what it may. The page is the expectation.
"""

from __future__ import annotations

import asyncio
import itertools
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from pillion.app.channel import AppChannel
from pillion.app.grpc_topics import GrpcTopics
from pillion.app.topics import HttpTopics
from pillion.blocks.active import Active, activate
from pillion.blocks.broker import Broker
from pillion.errors import Code, ComponentError
from pillion.kinds.fields import Fields
from pillion.kinds.pubsub import Delivery, Feature, Publish, Rejected, Withheld
from pillion.kinds.resources import KINDS
from pillion.kinds.rules import compile_rule
from pillion.kinds.topics import TopicSubscription
from pillion.net.exchange import Request, Response, RpcError, UnaryReply
from pillion.resiliency.policies import Flow, Kind, Policies
from pillion.wire import yamltext
from pillion.wire.messages import runtime as m

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Mapping

PAGE = Path(__file__).parents[2] / "docs" / "pubsub.md"
HEADING = "## What becomes of a message"
EVENT = b'{"id":"1","specversion":"1.0","type":"a","source":"s","data":"x","topic":"t","pubsubname":"ps"}'
EXPIRED = EVENT[:-1] + b',"expiration":"2001-01-01T00:00:00Z"}'
ATTEMPTS = 3
POLICY = """
apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata: {name: r}
spec:
  policies:
    retries: {thrice: {policy: constant, duration: 1ms, maxRetries: 2}}
    timeouts: {short: 20ms, long: 1h}
    circuitBreakers: {fuse: {trip: consecutiveFailures >= 1, timeout: 1h}}
  targets:
    components:
      ps:
        inbound: {%s}
"""


@dataclass
class Row:
    """What the page promises."""

    attempts: int
    buried: str
    heard_when_buried: str
    plain: str
    heard_when_plain: str


def table() -> dict[str, Row]:
    """Read the first table below the heading: its rows by what happened."""
    text = PAGE.read_text(encoding="utf-8").partition(HEADING)[2]
    lines = itertools.dropwhile(lambda line: not line.startswith("|"), text.splitlines())
    rows = [
        [cell.strip().strip("*") for cell in line.strip("|").split("|")]
        for line in itertools.takewhile(lambda line: line.startswith("|"), lines)
    ]
    return {what: Row(int(attempts), *rest) for what, attempts, *rest in rows[2:]}


class RecordingBroker:
    """Keeps one message until it is acknowledged; writes down what it hears, and what is published."""

    features: frozenset[Feature] = frozenset()

    def __init__(self) -> None:
        self.published: list[Publish] = []
        self.refuses: Callable[[], Awaitable[None]] | None = None
        self._handler: Callable[[Delivery], Awaitable[None]] | None = None

    async def open(self) -> None: ...
    async def ping(self) -> None: ...
    async def close(self) -> None: ...
    async def pause(self) -> None: ...

    async def publish(self, message: Publish) -> None:
        if self.refuses is not None:
            await self.refuses()
        self.published.append(message)

    async def subscribe(
        self, topic: str, metadata: Mapping[str, str], handler: Callable[[Delivery], Awaitable[None]]
    ) -> RecordingBroker:
        self._handler = handler
        return self

    async def hand_over(self, delivery: Delivery) -> str:
        """Deliver; return the word for what the broker hears, as in the table."""
        assert self._handler is not None
        try:
            await self._handler(delivery)
        except Rejected:
            return "rejected"
        except Withheld:
            return "nothing"
        return "acknowledged"


@dataclass
class Scenario:
    """One way to make happen what a row says. `answer` is the application's; `http` False: it speaks gRPC."""

    answer: Callable[[], Awaitable[Any]] | None = None
    http: bool = True
    data: bytes = EVENT
    match: str = ""
    healthy: bool = True
    copies: Callable[[], Awaitable[None]] | None = None
    """Runs in the place of a publish to the dead-letter topic."""
    may_copy: bool = True
    policy: str = "retry: thrice"
    always_policy: bool = False
    """There is no such row without a policy."""
    trips: bool = False
    """A message before this one opens the breaker."""
    silent: bool = False
    """What is dropped is dropped by intention: there is nothing to warn of."""
    ends: bool = False
    """The subscription ends after the first attempt."""


def http(status: int, body: bytes = b"") -> Scenario:
    async def answer() -> Response:
        return Response(status, [], body)

    return Scenario(answer)


def grpc(status: int | None = None, error: Code | None = None) -> Scenario:
    async def answer() -> UnaryReply:
        if error is not None:
            raise RpcError(error, "the test says so")
        assert status is not None
        return UnaryReply(m.TopicEventResponse(status=status).SerializeToString())

    return Scenario(answer, http=False)


async def no_answer() -> Any:
    raise ConnectionResetError("the application is gone")


async def never() -> Any:
    await asyncio.Event().wait()


async def fails() -> None:
    raise ComponentError("the broker is full")


async def busy() -> Response:
    return Response(503)


async def well() -> Response:
    return Response(200)


SCENARIOS: dict[str, list[Scenario]] = {
    'HTTP 2xx with an empty body, `{}`, `{"status":"SUCCESS"}` or no JSON; gRPC `SUCCESS`': [
        http(200), http(204), http(200, b"{}"), http(201, b'{"status":"SUCCESS"}'), http(200, b"thanks"), grpc(0),
    ],
    'HTTP 2xx with `{"status":"DROP"}`, HTTP 404; gRPC `DROP`': [http(200, b'{"status":"DROP"}'), http(404), grpc(2)],
    "HTTP 2xx with `RETRY` or any other status; other HTTP statuses; no answer; gRPC `RETRY` or an error": [
        http(200, b'{"status":"RETRY"}'), http(200, b'{"status":"PERHAPS"}'), http(500), http(301), http(400),
        Scenario(no_answer), grpc(1), grpc(error=Code.UNAVAILABLE),
    ],
    "gRPC `UNIMPLEMENTED`": [grpc(error=Code.UNIMPLEMENTED)],
    "an attempt takes longer than the policy's timeout": [
        Scenario(never, policy="retry: thrice, timeout: short", always_policy=True),
    ],
    "the event has expired, or no rule wants it": [
        Scenario(data=EXPIRED, match='event.type == "a"'), Scenario(match='event.type == "b"', silent=True),
    ],
    "not an event, or a rule cannot be decided": [
        Scenario(data=b"no event", match='event.type == "a"'),
        Scenario(data=b'{"id":"1"}', match='event.type == "a"'),
    ],
    "the copy to the dead-letter topic fails, takes over 30 s, or is not allowed by the scopes": [
        Scenario(busy, copies=fails), Scenario(busy, copies=never), Scenario(busy, may_copy=False),
    ],
    "health checks say that the application is unwell": [
        Scenario(well, healthy=False), Scenario(well, healthy=False, http=False),
    ],
    "the policy's circuit breaker lets nothing through": [
        Scenario(busy, policy="circuitBreaker: fuse", always_policy=True, trips=True),
    ],
    "the sidecar, the subscription or the stream is ending, and the application has not processed the message": [
        Scenario(busy, ends=True),
    ],
}  # fmt: skip


@dataclass
class Stage:
    """The application, its side of the sidecar, and one subscription."""

    scenario: Scenario
    dead_letter: bool
    policy: bool
    broker: RecordingBroker = field(default_factory=RecordingBroker)
    attempts: int = 0

    def __post_init__(self) -> None:
        inbound = None
        if self.policy:
            version, kind = "dapr.io/v1alpha1", "Resiliency"
            policies = Policies.of([KINDS[version, kind](Fields(yamltext.parse(POLICY % self.scenario.policy)))])  # type: ignore[list-item]
            assert not policies.notes
            inbound = policies.component("ps", Kind.PUBSUB, Flow.INBOUND)
            assert inbound is not None
        self.broker.refuses = self.scenario.copies
        self._loaded = Broker("ps", self.broker, scopes=self, inbound=inbound)
        self.active = self._activate()

    def may_publish(self, topic: str) -> bool:
        return self.scenario.may_copy

    def may_subscribe(self, topic: str) -> bool:
        return True

    def _activate(self) -> Active:
        application: Any = self
        speaks = "http" if self.scenario.http else "grpc"
        channel = AppChannel(speaks, **{speaks: application})
        channel.healthy = self.scenario.healthy
        topics = HttpTopics(channel, "app") if self.scenario.http else GrpcTopics(channel)
        rule = compile_rule(self.scenario.match, "/h")
        dead = "dead" if self.dead_letter else ""
        return activate(self._loaded, TopicSubscription("ps", "t", (rule,), dead_letter=dead), topics)

    async def request(self, request: Request) -> Response:
        response: Response = await self._answer()
        return response

    async def unary(self, *arguments: Any, **options: Any) -> UnaryReply:
        reply: UnaryReply = await self._answer()
        return reply

    async def _answer(self) -> Any:
        self.attempts += 1
        if self.scenario.ends:
            self.active.carrier.begin_close()
        assert self.scenario.answer is not None
        return await self.scenario.answer()

    async def close(self) -> None:
        """What a gRPC channel has."""

    async def deliver(self, attempt: int = 1) -> str:
        return await self.broker.hand_over(Delivery("t", self.scenario.data, {"k": "v"}, attempt=attempt))


def played() -> list[Any]:
    cases = []
    for what, scenarios in SCENARIOS.items():
        for number, scenario in enumerate(scenarios):
            for dead_letter, policy in itertools.product((True, False), (True, False)):
                if policy or not scenario.always_policy:
                    name = f"{what[:30]}-{number}{'-dead' * dead_letter}{'-policy' * policy}"
                    cases.append(pytest.param(what, scenario, dead_letter, policy, id=name))
    return cases


def test_every_row_has_its_scenarios() -> None:
    assert list(table()) == list(SCENARIOS)


@pytest.mark.parametrize(("what", "scenario", "dead_letter", "policy"), played())
def test_row(
    what: str,
    scenario: Scenario,
    dead_letter: bool,
    policy: bool,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    row = table()[what]
    fate, hears = (row.buried, row.heard_when_buried) if dead_letter else (row.plain, row.heard_when_plain)
    if fate == "-":
        return
    monkeypatch.setattr("pillion.blocks.delivery.DEAD_LETTER_BUDGET_S", 0.02)
    attempts = row.attempts if policy else min(row.attempts, 1)

    async def play() -> None:
        stage = Stage(scenario, dead_letter, policy)
        await stage.active.open()
        if scenario.trips:
            await stage.deliver()
            stage.broker.published.clear()
            stage.attempts = 0
        caplog.clear()
        assert await stage.deliver() == hears
        assert stage.attempts == attempts
        copies = [("dead", scenario.data, {"k": "v"})] if fate == "copied" else []
        assert [(one.topic, one.data, one.metadata) for one in stage.broker.published] == copies
        warned = any(record.levelname == "WARNING" for record in caplog.records)
        assert fate != "dropped" or warned is not scenario.silent
        assert (hears == "acknowledged") is (fate in ("done", "dropped", "copied"))
        if hears == "rejected":  # the broker delivers again: the same happens again, in full
            assert await stage.deliver(2) == hears
            assert stage.attempts == 2 * attempts
        elif hears == "nothing":  # another subscription gets the message, as if for the first time
            again = Stage(Scenario(well), dead_letter, policy)
            await again.active.open()
            assert await again.deliver(2) == "acknowledged"
            assert again.attempts == 1

    asyncio.run(play())


def test_the_words_of_the_table() -> None:
    """The words of the table are few, so that a reader and this test mean the same."""
    for row in table().values():
        assert row.attempts in (0, 1, ATTEMPTS)
        assert {row.buried, row.plain} <= {"done", "copied", "dropped", "kept", "-"}
        assert {row.heard_when_buried, row.heard_when_plain} <= {"acknowledged", "rejected", "nothing", "-"}
