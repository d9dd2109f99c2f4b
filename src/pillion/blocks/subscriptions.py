"""Which topics this sidecar listens to, and when (spec `http-api.md` 5.3, `runtime.md` 1.4 step 5 and 2.4).

Three sources are merged: Subscription resources, what the application asks for once it is well, and streams. Each
subscription lives by itself: one that cannot start is tried again for ever without disturbing the others, one that ends
waits for its own messages only. Knows: sources, precedence, health, retries. Never knows: messages.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pillion.blocks.active import GRACE_S, Active, activate
from pillion.errors import ComponentError, ConfigError
from pillion.kinds.rules import compile_rule
from pillion.kinds.topics import Origin, TopicSubscription, bulk_of
from pillion.tasks import Tasks
from pillion.wire.messages import runtime as m

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Mapping

    from pillion.blocks.broker import Broker, Meter
    from pillion.clock import Clock
    from pillion.kinds.resources import SubscriptionResource
    from pillion.kinds.topics import TopicsOfApp

log = logging.getLogger("pillion.blocks.subscriptions")
FIRST_PAUSE_S = 0.5
PAUSE_GROWTH = 1.5
LONGEST_PAUSE_S = 60.0
_Key = tuple[str, str]


def declared(resources: Iterable[SubscriptionResource]) -> list[TopicSubscription]:
    """Compile Subscription resources. Raises `ConfigError` naming file, line and expression of a rule at fault."""
    found = []
    for resource in resources:
        try:
            rules = tuple(compile_rule(rule.match, rule.path) for rule in resource.rules)
        except ConfigError as error:
            raise ConfigError(error.what, where=error.where or resource.where, mend=error.mend) from error
        subscription = TopicSubscription(
            pubsub=resource.pubsub,
            topic=resource.topic,
            rules=rules,
            metadata=dict(resource.metadata),
            dead_letter=resource.dead_letter_topic,
            bulk=bulk_of(resource.bulk.enabled, resource.bulk.max_messages, resource.bulk.max_wait_ms),
            origin=Origin.DECLARATIVE,
        )
        if rules:
            found.append(subscription)
        else:
            log.warning("%s: %s has no route and is left out", resource.where or resource.name, subscription)
    return found


def merge(
    declarative: Iterable[TopicSubscription], programmatic: Iterable[TopicSubscription]
) -> list[TopicSubscription]:
    """Return one subscription for each pubsub and topic: the application's last word, else the first resource."""
    chosen: dict[_Key, TopicSubscription] = {}
    for subscription in declarative:
        chosen.setdefault((subscription.pubsub, subscription.topic), subscription)
    for subscription in programmatic:
        chosen[subscription.pubsub, subscription.topic] = subscription
    return list(chosen.values())


class Subscriptions:
    """The subscriptions of one sidecar, streams excepted (`streams` lists those for metadata).

    `brokers` is the live registry. `app` is None for a sidecar without an application: nothing is delivered then.
    `ask` False: `--disable-init-endpoints=subscribe`.
    """

    def __init__(
        self,
        brokers: Mapping[str, Broker],
        app: TopicsOfApp | None,
        *,
        ask: bool = True,
        clock: Clock | None = None,
        meter: Meter | None = None,
        pause: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        self._brokers = brokers
        self._app = app
        self._ask = ask
        self._clock = clock
        self._meter = meter
        self._pause = pause
        self._declarative: list[TopicSubscription] = []
        self._programmatic: list[TopicSubscription] = []
        self._asked = not ask or app is None
        self._healthy = False
        self._closed = False
        self._turn = asyncio.Lock()
        self._asking: asyncio.Future[list[TopicSubscription]] | None = None
        self._running: dict[_Key, _Kept] = {}
        self._ending: set[_Kept] = set()
        self.streams: dict[int, TopicSubscription] = {}

    # -- what the sidecar calls

    async def declare(self, resources: Iterable[SubscriptionResource]) -> None:
        """Take the Subscription resources there are now; what changed is restarted. Raises `ConfigError`."""
        subscriptions = declared(resources)
        async with self._turn:
            self._declarative = subscriptions
            await self._reconcile()

    async def app_healthy(self) -> None:
        """The application is well: ask it for its subscriptions if it never answered, and start them all.

        An answer that cannot be used starts nothing, resources included, as in the reference; the reason is logged,
        and the question is asked again when the application next becomes healthy.
        """
        async with self._turn:
            if self._closed:
                return
            self._healthy = await self._know_what_the_app_wants()
            await self._reconcile()

    async def app_unhealthy(self) -> None:
        """The application is unwell: end every subscription; messages on their way may still arrive."""
        async with self._turn:
            self._healthy = False
            await self._reconcile()

    async def broker_leaving(self, name: str) -> None:
        """A pub/sub component is about to be closed, to be removed or replaced: end what depends on it."""
        async with self._turn:
            await self._stop([key for key in self._running if key[0] == name], GRACE_S)

    async def broker_changed(self, name: str) -> None:
        """The registry has another component of this name, or none: start what depends on it."""
        async with self._turn:
            log.info("pubsub %r has changed", name)
            if self._healthy and not self._asked:  # there was no pubsub when the application became healthy
                self._healthy = await self._know_what_the_app_wants()
            await self._reconcile()

    async def close(self, grace_s: float = GRACE_S) -> None:
        """End every subscription for good, all at the same time, within about `grace_s` seconds."""
        self._closed = True
        self._healthy = False
        if self._asking is not None:
            self._asking.cancel()
        loop = asyncio.get_running_loop()
        deadline = loop.time() + grace_s
        hurry = loop.call_at(deadline, self._abandon)
        try:
            async with self._turn:
                await self._stop(list(self._running), max(0.0, deadline - loop.time()))
        finally:
            hurry.cancel()

    def rows(self) -> list[m.PubsubSubscription]:
        """What `GetMetadata` tells: everything that was asked for, whether or not it could be started."""
        asked = [*merge(self._declarative, self._programmatic), *self.streams.values()]
        return [_row(subscription) for subscription in asked]

    async def started(self) -> None:
        """Wait until every subscription that can be started is running on its broker."""
        await asyncio.gather(*(kept.ready.wait() for kept in self._running.values()))

    # -- inside

    async def _know_what_the_app_wants(self) -> bool:
        """Ask the application, once and only where there is a pubsub; False when its answer is unusable."""
        if self._asked or self._app is None or not self._brokers:
            return True
        self._asking = asyncio.ensure_future(self._app.subscriptions())
        try:
            self._programmatic = await self._asking
        except (ConfigError, ComponentError) as error:
            log.error("NO subscription is started, because the application's own are unusable: %s", error)
            return False
        except asyncio.CancelledError:
            if self._closed:
                return False
            raise
        self._asked = True
        return True

    async def _reconcile(self) -> None:
        """Make what runs equal to what should run."""
        wanted: dict[_Key, TopicSubscription] = {}
        if self._healthy and not self._closed and self._app is not None:
            for subscription in merge(self._declarative, self._programmatic):
                if self._may_start(subscription):
                    wanted[subscription.pubsub, subscription.topic] = subscription
        ending = [
            key
            for key, kept in self._running.items()
            if kept.subscription != wanted.get(key) or kept.broker is not self._brokers.get(key[0])
        ]
        await self._stop(ending, GRACE_S)
        for key, subscription in wanted.items():
            if key not in self._running:
                self._start(key, subscription)

    def _may_start(self, subscription: TopicSubscription) -> bool:
        broker = self._brokers.get(subscription.pubsub)
        if broker is None:
            log.warning("%s is not started: there is no pubsub of that name", subscription)
            return False
        if not broker.may_subscribe(subscription.topic):
            log.warning("%s is not started: the scopes of the component do not allow it", subscription)
            return False
        try:
            subscription.raw  # noqa: B018
        except ValueError as error:
            log.error("%s is not started: its metadata rawPayload is %s", subscription, error)
            return False
        try:
            subscription.pacing  # noqa: B018
        except ValueError as error:
            log.error("%s is not started: %s", subscription, error)
            return False
        return True

    def _start(self, key: _Key, subscription: TopicSubscription) -> None:
        assert self._app is not None
        broker = self._brokers[subscription.pubsub]

        def make() -> Active:
            assert self._app is not None
            return activate(broker, subscription, self._app, clock=self._clock, meter=self._meter)

        self._running[key] = _Kept(broker, subscription, make, self._pause)

    async def _stop(self, keys: Iterable[_Key], grace_s: float) -> None:
        ending = [kept for key in keys if (kept := self._running.pop(key, None)) is not None]
        self._ending.update(ending)
        try:
            await asyncio.gather(*(kept.close(grace_s) for kept in ending))
        finally:
            self._ending.difference_update(ending)

    def _abandon(self) -> None:
        """Cut short what is still ending, perhaps with more patience than the sidecar has left."""
        for kept in self._ending:
            kept.abandon()

    def __repr__(self) -> str:
        return f"<Subscriptions: {len(self._running)} running, {len(self.streams)} streams>"


class _Kept:
    """One subscription that shall run: opens it, as often as it takes, in a task of its own."""

    def __init__(
        self,
        broker: Broker,
        subscription: TopicSubscription,
        make: Callable[[], Active],
        pause: Callable[[float], Awaitable[None]],
    ) -> None:
        self.broker = broker
        self.subscription = subscription
        self.ready = asyncio.Event()
        self._make = make
        self._pause = pause
        self._active: Active | None = None
        self._tasks = Tasks(str(subscription))
        self._tasks.keep(self._open, "start")

    async def _open(self) -> None:
        wait_s = FIRST_PAUSE_S
        while True:
            active = self._make()
            try:
                await active.open()
            except ComponentError as error:
                log.error("%s could not be started, trying again in %g s: %s", self.subscription, wait_s, error)
                await self._pause(wait_s)
                wait_s = min(wait_s * PAUSE_GROWTH, LONGEST_PAUSE_S)
                continue
            self._active = active
            self.ready.set()
            log.info("%s is started", self.subscription)
            return

    def abandon(self) -> None:
        """Leave to the broker what is still with the application."""
        if self._active is not None:
            self._active.carrier.abandon()

    async def close(self, grace_s: float) -> None:
        """End the subscription, or the attempts to start it."""
        await self._tasks.close()
        if self._active is not None:
            await self._active.close(grace_s)


def _row(subscription: TopicSubscription) -> m.PubsubSubscription:
    rules = m.PubsubSubscriptionRules(
        rules=[m.PubsubSubscriptionRule(match=rule.match, path=rule.path) for rule in subscription.rules]
    )
    return m.PubsubSubscription(
        pubsub_name=subscription.pubsub,
        topic=subscription.topic,
        metadata=dict(subscription.metadata),
        rules=rules,
        dead_letter_topic=subscription.dead_letter,
        type=int(subscription.origin),
    )
