"""The rows of an instance in the state store: keys, values, one transaction for each step (spec 3.1).

The layout is the reference's, so that either can go on with the other's instances. What is added is skipped by others:
the metadata row carries, in unknown fields, a token of its writer, the marks of events that former generations took,
and what was lost over the instance's work (`losses.py`); what is still to be told to others stands in a row of its own,
`outbox`. The token tells a write that arrived from one that did not when the answer was lost, makes the new ETag
trustworthy where a store does not tell it, and names the process that wrote: its first half.

Never knows: turns, workers.
"""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from google.protobuf.unknown_fields import UnknownFieldSet

from pillion.errors import ComponentError, EtagMismatch
from pillion.kinds.actors import LostPlace, NoStateStore
from pillion.kinds.state import BulkGetStore, Delete, Feature, Get, KeysStore, Set, VersionedStore
from pillion.wire.messages import backend
from pillion.workflow.faults import StoreUnfit
from pillion.workflow.history import varint
from pillion.workflow.instance import Instance, Mail
from pillion.workflow.losses import Losses

if TYPE_CHECKING:
    import random
    from collections.abc import Callable, Mapping, Sequence

    from pillion.kinds.state import Found, Operation, TransactionalStore
    from pillion.workflow.question import Pair

LONGEST = 1_000_000
"""More rows than this are a sign of tampering (3.1)."""
NO_METADATA: Mapping[str, str] = {}
_RELOADS = 5
_RELOAD_S = 0.015
_LOSSES, _HEARD, _TOKEN = 1996, 1997, 1998
_LOSSES_TAG, _HEARD_TAG, _TOKEN_TAG = (varint(number << 3 | 2) for number in (_LOSSES, _HEARD, _TOKEN))
_LENGTH_DELIMITED = 2
_HALF = 8
"""Bytes of either half of a token: the process, and the write."""
_AT_ONCE = 64
"""Reads at the same time, of a store that has no bulk read."""


class BrokenRows(ComponentError):
    """Rows that the metadata row promises are not there: nothing is concluded from what is left."""


@dataclass(slots=True)
class Step:
    """One change of an instance, written whole or not at all. `inbox` is the whole inbox afterwards.

    `events` follow the history, or replace it when `reset`. `custom_status` and `outbox` are left alone unless
    `writes_status` and `writes_outbox` are set.
    """

    inbox: list[Mail]
    generation: int
    events: list[Pair] = field(default_factory=list)
    reset: bool = False
    writes_status: bool = False
    custom_status: bytes | None = None
    writes_outbox: bool = False
    outbox: bytes = b""
    propagated: bytes | None = None
    """Set where an instance is created with propagated history; None leaves it."""
    drops_propagated: bool = False
    heard: bytes | None = None
    """What `Instance.heard` is from now on; None leaves it."""
    losses: bytes | None = None
    """What `Instance.losses` is from now on; None leaves it."""


@dataclass(frozen=True, slots=True)
class Prepared:
    """The transaction of a step: the metadata row is the last operation, `head` its value."""

    operations: list[Operation]
    head: bytes


class Rows:
    """The rows of all instances of one application. `store` gives the actor state store of the moment."""

    def __init__(
        self, app_id: str, actor_type: str, store: Callable[[], TransactionalStore | None], random: random.Random
    ) -> None:
        self._app_id = app_id
        self._type = actor_type
        self._store = store
        self._random = random
        self.mark = random.getrandbits(8 * _HALF).to_bytes(_HALF, "big")
        """What tells this process from others, and from the one that was here before a restart."""
        self._asked: TransactionalStore | None = None
        self._tells = self._reads_many = False
        self._partitions = False

    def prefix(self, instance_id: str) -> str:
        return f"{self._app_id}||{self._type}||{instance_id}||"

    def _found_store(self) -> TransactionalStore:
        store = self._store()
        if store is None:
            raise NoStateStore("the state store is not configured to use the actor runtime")
        return store

    def _tells_versions(self, store: TransactionalStore) -> bool:
        """Whether the store is a `VersionedStore`; asked once for each store, the question is not cheap."""
        if store is not self._asked:
            self._ask(store)
        return self._tells

    def _ask(self, store: TransactionalStore | None) -> None:
        self._asked = store
        self._tells, self._reads_many = isinstance(store, VersionedStore), isinstance(store, BulkGetStore)
        self._partitions = store is not None and Feature.PARTITION_KEY in store.features

    def _metadata(self, instance_id: str) -> Mapping[str, str]:
        """Metadata of a request; the others do without a partition key faster."""
        store = self._store()
        if store is not self._asked:
            self._ask(store)
        return {"partitionKey": self.prefix(instance_id)[:-2]} if self._partitions else NO_METADATA

    @property
    def most_mail(self) -> int:
        """So many events fit into one step, whatever else is in it."""
        store = self._store()
        limit = 0 if store is None else store.max_operations
        return 1000 if limit <= 0 else max(1, (limit - 6) // 4)

    # --- reading ---

    async def load(self, instance_id: str) -> Instance | None:
        """Read an instance; None when there is none. Raises `BrokenRows` and `ComponentError`.

        Rows and metadata are read one after the other, so another host's step may come in between: that is read anew.
        """
        store = self._found_store()
        prefix = self.prefix(instance_id)
        metadata = self._metadata(instance_id)
        etag: str | None = None
        missing = ""
        for _ in range(_RELOADS):
            head = await store.get(Get(f"{prefix}metadata", metadata=metadata))
            if not head.value:
                return None
            lengths = backend.BackendWorkflowStateMetadata.FromString(head.value)
            if max(lengths.inboxLength, lengths.historyLength) > LONGEST:
                raise BrokenRows(f"workflow '{instance_id}': the metadata promises more than {LONGEST} rows")
            if missing and head.etag == etag:
                break
            etag = head.etag
            names = ["customStatus", "propagated-history", "outbox"]
            names += [f"history-{n:06d}" for n in range(lengths.historyLength)]
            names += [f"inbox-{n:06d}" for n in range(lengths.inboxLength)]
            rows = await self._read(store, [Get(prefix + name, metadata=metadata) for name in names])
            missing = next((name for name in names[3:] if rows.get(prefix + name) is None), "")
            if not missing:
                return _assemble(instance_id, prefix, lengths, rows, head)
            await asyncio.sleep(_RELOAD_S)
        raise BrokenRows(f"workflow '{instance_id}': row {missing} is missing")

    async def list_ids(self, token: str, page_size: int) -> tuple[list[str], str]:
        """A page of the ids of instances that have a metadata row."""
        store = self._found_store()
        if not isinstance(store, KeysStore):
            raise ComponentError("the actor state store cannot list keys")
        head = f"{self._app_id}||{self._type}||"
        keys, following = await store.keys_like(f"{_escaped(head)}%||metadata", token=token, limit=page_size)
        return [key[len(head) : -len("||metadata")] for key in keys], following

    async def _read(self, store: TransactionalStore, requests: Sequence[Get]) -> dict[str, bytes | None]:
        """Read rows, in whatever way the store offers. Raises the first error that a row has."""
        found: list[Found]
        if self._reads_many:
            found = await store.bulk_get(requests)  # type: ignore[attr-defined]
        else:
            found = []
            for at in range(0, len(requests), _AT_ONCE):
                found += await asyncio.gather(*(store.get(one) for one in requests[at : at + _AT_ONCE]))
        for one in found:
            if one.error:
                raise ComponentError(one.error)
        return {one.key: one.value for one in found}

    # --- writing ---

    async def save(self, instance: Instance, step: Step) -> None:
        """`prepare` and `write` in one."""
        await self.write(instance, step, self.prepare(instance, step))

    def prepare(self, instance: Instance, step: Step) -> Prepared:
        """Make the transaction of a step. Raises `StoreUnfit` for one that is too large for the store."""
        store = self._found_store()
        prepared = self._operations(instance, step)
        if 0 < store.max_operations < len(prepared.operations):
            raise StoreUnfit(
                f"a step of {len(prepared.operations)} rows does not fit into a transaction of the state store, which"
                f" takes {store.max_operations}"
            )
        return prepared

    async def write(self, instance: Instance, step: Step, prepared: Prepared) -> None:
        """Write a step, and apply it to `instance` when it is there. Raises `LostPlace` when another host has written
        meanwhile. Raises `ComponentError` when it may or may not have been written: then call again with the same
        `prepared`, which finds out.
        """
        store = self._found_store()
        instance_id = instance.instance_id
        metadata = self._metadata(instance_id)
        etag: str | None = None
        try:
            if self._tells_versions(store):
                etag = (await store.transact_versions(prepared.operations, metadata))[-1]  # type: ignore[attr-defined]
            else:
                await store.transact(prepared.operations, metadata)
        except EtagMismatch:
            # Our own write, whose answer was lost, looks the same from here: `_own_etag` tells.
            pass
        except ComponentError:
            # Stores have no common error for a row that should not have been there; and this may be our own again.
            if instance.etag is not None or not (await store.get(self._head_row(instance_id))).value:
                raise
        if etag is None:
            etag = await self._own_etag(store, instance_id, prepared.head)
        _apply(instance, step, etag)
        instance.writer = self.mark

    async def _own_etag(self, store: TransactionalStore, instance_id: str, head: bytes) -> str:
        """Return the ETag of the metadata row if it is the one that we have just written."""
        found = await store.get(self._head_row(instance_id))
        if found.value != head or not found.etag:
            raise LostPlace(f"workflow '{instance_id}' was written by another host")
        return found.etag

    def _head_row(self, instance_id: str) -> Get:
        return Get(f"{self.prefix(instance_id)}metadata", metadata=self._metadata(instance_id))

    def _operations(self, instance: Instance, step: Step) -> Prepared:
        prefix = self.prefix(instance.instance_id)
        metadata = self._metadata(instance.instance_id)
        operations: list[Operation] = []
        old_length = instance.facts.length
        first = 0 if step.reset else old_length
        for number, (_, raw) in enumerate(step.events, first):
            operations.append(Set(f"{prefix}history-{number:06d}", raw, metadata=metadata))
        if step.reset:
            surplus = range(len(step.events), old_length)
            operations += [Delete(f"{prefix}history-{number:06d}", metadata=metadata) for number in surplus]
        old_inbox = instance.inbox
        for number, mail in enumerate(step.inbox):
            if number >= len(old_inbox) or old_inbox[number] is not mail:
                operations.append(Set(f"{prefix}inbox-{number:06d}", mail.raw, metadata=metadata))
        surplus = range(len(step.inbox), len(old_inbox))
        operations += [Delete(f"{prefix}inbox-{number:06d}", metadata=metadata) for number in surplus]
        if step.writes_status and (step.custom_status != instance.custom_status or not old_length or step.reset):
            operations.append(Set(f"{prefix}customStatus", step.custom_status or b"", metadata=metadata))
        if step.propagated is not None:
            operations.append(Set(f"{prefix}propagated-history", step.propagated, metadata=metadata))
        if step.drops_propagated and instance.propagated is not None:
            operations.append(Delete(f"{prefix}propagated-history", metadata=metadata))
        if step.writes_outbox and step.outbox != instance.outbox:
            key = f"{prefix}outbox"
            operations.append(
                Set(key, step.outbox, metadata=metadata) if step.outbox else Delete(key, metadata=metadata)
            )
        head = self._head(
            (len(step.inbox), first + len(step.events), step.generation, *instance.signatures),
            instance.heard if step.heard is None else step.heard,
            instance.losses if step.losses is None else step.losses,
        )
        operations.append(
            Set(
                f"{prefix}metadata", head, etag=instance.etag, concurrency="first-write", metadata=metadata
            )
        )  # fmt: skip
        return Prepared(operations, head)

    def _head(self, lengths: tuple[int, ...], heard: bytes, losses: bytes) -> bytes:
        parts = bytearray()
        for number, value in enumerate(lengths, 1):
            if value:
                parts.append(number << 3)
                parts += varint(value)
        if losses:
            parts += _LOSSES_TAG + varint(len(losses)) + losses
        if heard:
            parts += _HEARD_TAG + varint(len(heard)) + heard
        parts += _TOKEN_TAG
        parts.append(2 * _HALF)
        parts += self.mark
        parts += self._random.getrandbits(8 * _HALF).to_bytes(_HALF, "big")
        return bytes(parts)

    async def delete(self, instance: Instance) -> None:
        """Delete every row of an instance. A limited store loses the metadata first: what is left is never read."""
        store = self._found_store()
        prefix = self.prefix(instance.instance_id)
        metadata = self._metadata(instance.instance_id)
        names = ["customStatus", "propagated-history", "outbox"]
        names += [f"history-{n:06d}" for n in range(instance.facts.length)]
        names += [f"inbox-{n:06d}" for n in range(len(instance.inbox))]
        signatures, certificates, foreign = instance.signatures
        names += [f"signature-{n:06d}" for n in range(signatures)]
        names += [f"sigcert-{n:06d}" for n in range(certificates)]
        names += [f"ext-sigcert-{n:06d}" for n in range(foreign)]
        operations: list[Operation] = [Delete(f"{prefix}metadata", etag=instance.etag, metadata=metadata)]
        operations += [Delete(prefix + name, metadata=metadata) for name in names]
        size = store.max_operations if store.max_operations > 0 else len(operations)
        try:
            for at in range(0, len(operations), size):
                await store.transact(operations[at : at + size], metadata)
        except EtagMismatch:
            raise LostPlace(f"workflow '{instance.instance_id}' was written by another host") from None


def _apply(instance: Instance, step: Step, etag: str | None) -> None:
    """Make the instance what was written."""
    if step.reset:
        instance.forget()
    instance.generation = step.generation
    if step.events:
        instance.extend(step.events)
    for mail in step.inbox:
        mail.stored = True
    instance.inbox = step.inbox
    if step.writes_status:
        instance.custom_status = step.custom_status
    if step.writes_outbox:
        instance.outbox = step.outbox
    if step.propagated is not None or step.drops_propagated:
        instance.propagated = step.propagated
    if step.heard is not None:
        instance.heard = step.heard
    if step.losses is not None:
        instance.losses = step.losses
    instance.etag = etag


def _assemble(
    instance_id: str,
    prefix: str,
    lengths: backend.BackendWorkflowStateMetadata,
    rows: dict[str, bytes | None],
    head: Found,
) -> Instance:
    instance = Instance(instance_id, generation=lengths.generation, etag=head.etag)
    instance.signatures = (
        lengths.signatureLength,
        lengths.signingCertificateLength,
        lengths.externalSigningCertificateLength,
    )
    instance.custom_status = rows.get(f"{prefix}customStatus") or None
    instance.propagated = rows.get(f"{prefix}propagated-history") or None
    instance.outbox = rows.get(f"{prefix}outbox") or b""
    unknown = UnknownFieldSet(lengths)
    fields = [unknown[at] for at in range(len(unknown))]
    ours = {one.field_number: one.data for one in fields if one.wire_type == _LENGTH_DELIMITED}
    instance.heard = ours.get(_HEARD, b"")
    instance.losses = ours.get(_LOSSES, b"")
    try:
        Losses.unpack(instance.losses)
    except ValueError as error:
        raise BrokenRows(f"workflow '{instance_id}': the metadata cannot be understood: {error}") from error
    token = ours.get(_TOKEN, b"")
    instance.writer = token[:_HALF] if len(token) == 2 * _HALF else b""
    instance.load([rows[f"{prefix}history-{n:06d}"] or b"" for n in range(lengths.historyLength)])
    instance.inbox = [Mail.loaded(rows[f"{prefix}inbox-{n:06d}"] or b"") for n in range(lengths.inboxLength)]
    return instance


def _escaped(text: str) -> str:
    for special in "\\%_":
        text = text.replace(special, f"\\{special}")
    return text
