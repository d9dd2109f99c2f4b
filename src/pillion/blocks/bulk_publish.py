"""Many messages to one topic, on brokers that take them together and on those that do not.

Knows: partial failure and what a retry sends again. Never knows: envelopes, or how the caller is answered.
"""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pillion.blocks.broker import described
from pillion.errors import ComponentError
from pillion.kinds.pubsub import BulkPubSub, Feature

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pillion.blocks.broker import Broker
    from pillion.kinds.pubsub import BulkEntry, SubmittingPubSub

PARALLEL = 100
"""Single publishes in flight for one bulk, where the broker has no bulk of its own."""
Failures = list[tuple[str, str]]


async def publish_all(
    broker: Broker, topic: str, entries: Sequence[BulkEntry], metadata: Mapping[str, str]
) -> tuple[Failures, bool]:
    """Publish every entry; return (entry id, error) of those that failed.

    The second value tells whether the broker itself reported the failures one by one, rather than failing.
    """
    if not entries:
        return [], False
    component = broker.component
    if Feature.BULK_PUBLISH in component.features and isinstance(component, BulkPubSub):
        return await _together(broker, component, topic, entries, metadata)
    return await _singly(broker, topic, entries), False


async def _together(
    broker: Broker, component: BulkPubSub, topic: str, entries: Sequence[BulkEntry], metadata: Mapping[str, str]
) -> tuple[Failures, bool]:
    left = list(entries)
    failed: Failures = []

    async def attempt() -> None:
        nonlocal left, failed
        failed = []
        failed = await component.bulk_publish(broker.prefix + topic, left, metadata)
        if failed:
            broken = {entry_id for entry_id, _ in failed}
            left = [entry for entry in left if entry.entry_id in broken]
            raise _Partial(failed[0][1])

    try:
        await (attempt() if broker.outbound is None else broker.outbound(attempt))
    except _Partial:
        return failed, True
    except (ComponentError, TimeoutError) as error:
        return [(entry.entry_id, described(error)) for entry in left], False
    return [], False


class _Partial(ComponentError):
    """Some entries failed: the policy may try those again."""


async def _singly(broker: Broker, topic: str, entries: Sequence[BulkEntry]) -> Failures:
    if broker.outbound is None and broker.submitting is not None:
        return await _in_a_row(broker, broker.submitting, topic, entries)
    errors: dict[str, str] = {}
    waiting = iter(entries)

    async def worker() -> None:
        for entry in waiting:
            try:
                await broker.publish(topic, entry.data, entry.content_type, entry.metadata)
            except (ComponentError, TimeoutError) as error:
                errors[entry.entry_id] = described(error)

    async with asyncio.TaskGroup() as group:
        for _ in range(min(PARALLEL, len(entries))):
            group.create_task(worker())
    return [(entry.entry_id, errors[entry.entry_id]) for entry in entries if entry.entry_id in errors]


async def _in_a_row(broker: Broker, component: SubmittingPubSub, topic: str, entries: Sequence[BulkEntry]) -> Failures:
    """Submit messages together, then wait for all of them."""
    errors: dict[str, str] = {}
    full = broker.prefix + topic
    for first in range(0, len(entries), PARALLEL):
        some = entries[first : first + PARALLEL]
        try:
            futures = component.submit(full, some)
        except ComponentError as error:
            errors.update((entry.entry_id, described(error)) for entry in some)
            continue
        try:
            for entry, future in zip(some, futures, strict=True):
                try:
                    await future
                except (ComponentError, TimeoutError) as error:
                    errors[entry.entry_id] = described(error)
        except asyncio.CancelledError:
            for future in futures:
                future.cancel()  # those that are done do not mind
            raise
    if not errors:
        return []
    return [(entry.entry_id, errors[entry.entry_id]) for entry in entries if entry.entry_id in errors]
