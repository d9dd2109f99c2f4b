"""Ordered delivery over real brokers, written down in a ledger: order per key under concurrency and failures."""

from __future__ import annotations

import asyncio
import json
import random
import secrets
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import pytest

from pillion.blocks.active import activate_single
from pillion.blocks.broker import Broker
from pillion.components.redis_streams import RedisPubSub
from pillion.components.sqlite_broker import SqlitePubSub
from pillion.kinds.component import Context, decode
from pillion.kinds.pubsub import Publish
from pillion.kinds.rules import Rule
from pillion.kinds.topics import Event, TopicSubscription, Unprocessed, Verdict

if TYPE_CHECKING:
    from collections.abc import AsyncIterator
    from pathlib import Path

    from servers import RedisServer

MESSAGES = 400
KEYS = 12
SLOTS = 4


@asynccontextmanager
async def opened(
    request: pytest.FixtureRequest, kind: str, tmp_path: Path
) -> AsyncIterator[RedisPubSub | SqlitePubSub]:
    component: RedisPubSub | SqlitePubSub
    if kind == "redis":
        server: RedisServer = request.getfixturevalue("redis_server")
        metadata = {"redisHost": server.address, "processingTimeout": "60s"}
        component = RedisPubSub(decode(RedisPubSub.Settings, metadata, where="test"), Context("ps", app_id="app"))
    else:
        metadata = {"connectionString": str(tmp_path / "messages.db")}
        component = SqlitePubSub(decode(SqlitePubSub.Settings, metadata, where="test"), Context("ps", app_id="app"))
    await component.open()
    try:
        yield component
    finally:
        await component.close()


class Ledger:
    """An application that writes down what it gets, fails now and then, and sees whether two of a key overlap."""

    def __init__(self, seed: int) -> None:
        self.done: dict[str, list[int]] = {}
        self.attempts: dict[str, list[int]] = {}
        self.busy: set[str] = set()
        self.peak = 0
        self.overlaps: list[str] = []
        self.complete = asyncio.Event()
        self._random = random.Random(seed)

    async def deliver(self, event: Event, path: str) -> Verdict:
        said = json.loads(event.body)
        key, number = said["subject"], int(said["data"])
        if key in self.busy:
            self.overlaps.append(key)
        self.busy.add(key)
        self.peak = max(self.peak, len(self.busy))
        self.attempts.setdefault(key, []).append(number)
        try:
            await asyncio.sleep(self._random.random() / 500)
            if self._random.random() < 0.15:
                raise Unprocessed("not now")
        finally:
            self.busy.discard(key)
        self.done.setdefault(key, []).append(number)
        if sum(map(len, self.done.values())) == MESSAGES:
            self.complete.set()
        return Verdict.DONE


@pytest.mark.parametrize("by", ["partitionKey", "event.subject"])
@pytest.mark.parametrize("kind", [pytest.param("redis", marks=pytest.mark.redis), "sqlite"])
def test_order(
    kind: str, by: str, request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Equal keys in the broker's order, never two at a time, failures included; different keys at the same time."""
    monkeypatch.setattr("pillion.blocks.pacing.FIRST_PAUSE_S", 0.005)

    async def run() -> None:
        topic, chance = secrets.token_hex(4), random.Random(7)
        sent: dict[str, list[int]] = {}
        metadata = {"pillion.orderedBy": by, "pillion.concurrency": str(SLOTS)}
        subscription = TopicSubscription("ps", topic, (Rule("", "/"),), metadata)
        ledger = Ledger(11)
        async with opened(request, kind, tmp_path) as component:
            active = activate_single(Broker("ps", component), subscription, ledger.deliver, clock=None, meter=None)
            await active.open()
            for number in range(MESSAGES):
                # One key has a quarter of all messages: it must not stand in the others' way.
                key = "hot" if chance.random() < 0.25 else f"k{chance.randrange(KEYS)}"
                sent.setdefault(key, []).append(number)
                body = json.dumps({"id": str(number), "subject": key, "data": str(number)}).encode()
                await component.publish(Publish(topic, body, metadata={"partitionKey": key}))
            await asyncio.wait_for(ledger.complete.wait(), 120)
            await active.close()
        assert ledger.done == sent
        assert not ledger.overlaps
        assert 1 < ledger.peak <= SLOTS
        for attempts in ledger.attempts.values():
            assert attempts == sorted(attempts)
        assert sum(map(len, ledger.attempts.values())) > MESSAGES

    asyncio.run(run())
