"""The state of actors: keys, reads, transactions, each behind the fence of its activation (spec 1.9).

Knows: how keys are made, when the fence is taken and moved (`fence.py` says why). Never knows: the API, which store.
"""

from __future__ import annotations

import random as system_random
from dataclasses import replace
from typing import TYPE_CHECKING

from pillion.actors import fence
from pillion.actors.fence import Fence, Mark
from pillion.errors import ComponentError, EtagMismatch
from pillion.kinds.actors import LostPlace, NoStateStore, NotActive
from pillion.kinds.state import Get, Set, VersionedStore

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pillion.actors.host import ActorHost
    from pillion.actors.instances import Instance
    from pillion.kinds.state import Delete, Found, TransactionalStore

SEPARATOR = "||"
TRIES = 3
"""How often the fence is taken, or moved, when what was read of it had changed: after a failure whose outcome is
unknown, or because two hosts take it at once.
"""
TOO_MANY = "the transaction contains {} operations, which is more than what the state store supports: {}"


class ActorState:
    """The state of the actors of `app_id`. `store` returns the actor state store, None while there is none; it may be
    another one at any time. `address` names this host in the fence.
    """

    def __init__(
        self,
        app_id: str,
        host: ActorHost,
        store: Callable[[], TransactionalStore | None],
        *,
        address: str = "",
        random: system_random.Random | None = None,
    ) -> None:
        self._app_id = app_id
        self._host = host
        self._store = store
        self._address = address
        self._random = random or system_random.Random()
        self._asked: TransactionalStore | None = None
        self._telling: VersionedStore | None = None

    async def get(self, actor_type: str, actor_id: str, key: str) -> Found:
        """Read one key. An actor that is active here takes its fence first: what it reads is final. Raises
        `NoStateStore`, `LostPlace`, `ComponentError`.
        """
        store = self._there()
        prefix = self._prefix(actor_type, actor_id)
        instance = self._host.instance(actor_type, actor_id)
        if instance is not None and (instance.closing is None or instance.running):
            held = self._fence(instance, store)
            if not held.etag:
                try:
                    async with held.lock:
                        await self._take(store, prefix, held)
                except LostPlace as error:
                    self._host.lost(actor_type, instance, error)
                    raise
        found = await store.get(Get(prefix + SEPARATOR + key, metadata={"partitionKey": prefix}))
        return replace(found, key=key)

    async def transact(self, actor_type: str, actor_id: str, operations: Sequence[Set | Delete]) -> None:
        """Apply all `operations`, whose keys are the actor's own, or none. Raises `NoStateStore`, `NotActive`,
        `LostPlace`, `EtagMismatch`, `ComponentError`.
        """
        store = self._there()
        instance = self._host.instance(actor_type, actor_id)
        if instance is None or (instance.closing is not None and not instance.running):
            raise NotActive("actor instance is missing")
        if not operations:
            return
        if 0 < store.max_operations < len(operations) + 1:
            raise ComponentError(TOO_MANY.format(len(operations), store.max_operations - 1))
        prefix = self._prefix(actor_type, actor_id)
        metadata = {"partitionKey": prefix}
        keyed = [
            replace(one, key=prefix + SEPARATOR + one.key, metadata={**one.metadata, **metadata})
            for one in operations
        ]  # fmt: skip
        held = self._fence(instance, store)
        try:
            async with held.lock:
                await self._apply(store, prefix, held, keyed)
        except LostPlace as error:
            self._host.lost(actor_type, instance, error)
            raise

    async def _apply(self, store: TransactionalStore, prefix: str, held: Fence, keyed: list[Set | Delete]) -> None:
        """Apply the operations and move the fence in one transaction."""
        for _ in range(TRIES):
            if not held.etag:
                await self._take(store, prefix, held)
            before = held.etag
            try:
                await self._move(store, prefix, held, before, keyed)
                return
            except EtagMismatch:
                # Nothing was applied. Either the fence is not as it was left, or an ETag of the caller's is wrong.
                there = await self._look(store, prefix, held)
                if there is not None and there.token != held.mark.token:
                    raise LostPlace(f"the actor was taken over by {there.host}") from None
                if held.etag == before:
                    raise
        raise ComponentError("the state of the actor changes faster than it can be written")

    async def _take(self, store: TransactionalStore, prefix: str, held: Fence) -> None:
        """Take the fence. Raises `LostPlace` when a later owner has it."""
        for _ in range(TRIES):
            if held.etag:
                return
            row = await store.get(Get(prefix + SEPARATOR + fence.KEY, "strong", {"partitionKey": prefix}))
            if row.value is not None:
                there = fence.read(row.value)
                if there.token == held.mark.token:
                    held.etag = row.etag or ""
                    return
                fence.admit(held.mark, there)
            try:
                await self._move(store, prefix, held, row.etag or "", [])
            except EtagMismatch:
                continue
            return
        raise LostPlace("other hosts take the actor over")

    async def _move(
        self, store: TransactionalStore, prefix: str, held: Fence, etag: str, keyed: list[Set | Delete]
    ) -> None:
        """Write the fence's row on condition of `etag`, "" for none there, and `keyed` with it."""
        metadata = {"partitionKey": prefix}
        row = Set(
            prefix + SEPARATOR + fence.KEY, held.mark.write(), etag or None, "first-write", metadata=metadata,
            is_json=True,
        )  # fmt: skip
        versioned = self._versioned(store)
        if versioned is not None:
            versions = await versioned.transact_versions([row, *keyed], metadata)
            if versions[0]:
                held.etag = versions[0]
                return
        else:
            await store.transact([row, *keyed], metadata)
        # What is written is written; should another host have the fence by now, the next touch finds out.
        await self._look(store, prefix, held)

    async def _look(self, store: TransactionalStore, prefix: str, held: Fence) -> Mark | None:
        """Read how the fence stands, None for not at all. Where it is ours, an outcome that nobody heard of is found
        out by that: the row has another ETag than it was left with.
        """
        row = await store.get(Get(prefix + SEPARATOR + fence.KEY, "strong", {"partitionKey": prefix}))
        there = None if row.value is None else fence.read(row.value)
        ours = there is not None and there.token == held.mark.token
        held.etag = row.etag or "" if ours else ""
        return there

    def _fence(self, instance: Instance, store: TransactionalStore) -> Fence:
        held = instance.fence
        if held is None or held.store is not store:
            token = f"{self._random.getrandbits(96):024x}"
            held = instance.fence = Fence(Mark(instance.epoch, self._address, token), store)
        return held

    def _versioned(self, store: TransactionalStore) -> VersionedStore | None:
        """The store, if it tells the ETags it makes. Asked once: a protocol's members are looked up one by one."""
        if store is not self._asked:
            self._asked, self._telling = store, store if isinstance(store, VersionedStore) else None
        return self._telling

    def _there(self) -> TransactionalStore:
        store = self._store()
        if store is None:
            raise NoStateStore("state store is not configured to use the actor runtime")
        return store

    def _prefix(self, actor_type: str, actor_id: str) -> str:
        return SEPARATOR.join((self._app_id, actor_type, actor_id))
