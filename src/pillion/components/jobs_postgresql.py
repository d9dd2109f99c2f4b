"""Jobs in PostgreSQL, shared by the schedulers of any number of machines (`kinds.jobs.JobStore`).

Leases count the server's clock. What is written into another member's partitions, and every change of members, is
said by NOTIFY in the same transaction; a listener that lost its connection reads everything anew.

The epoch of a partition is looked up in the statement that writes, without a lock: the row's revision alone keeps two
owners from writing over each other, the epoch spares the new one a row that the old one would still have changed.
Knows: the tables. Never knows: when jobs are due.
"""

from __future__ import annotations

import json
import re
import secrets
from functools import partial
from typing import TYPE_CHECKING, Any

from pillion.components.gathered import Gathered
from pillion.components.job_rows import decode_job, encode_job
from pillion.components.postgresql_ear import listen
from pillion.components.postgresql_pool import PostgresPool, PostgresSettings, touched
from pillion.kinds.jobs import PARTITIONS, Change, Member, Share, Stored
from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable, Collection, Sequence

CHANNEL = "pillion_jobs"
LOCK = 0x50494C4A
"""Key of the advisory lock under which tables are made and partitions change hands."""
STALLED_MS = 3000
"""A process that hangs within a transaction holds its locks; after so long the server ends that connection, so that the
others go on (postgresql.org/docs/current/runtime-config-client.html, idle_in_transaction_session_timeout)."""
MOST_SAID = 7500
"""Bytes of one notification (postgresql.org/docs/current/sql-notify.html: below 8000)."""
MOST_NOTES = 16
"""Notifications of one transaction; beyond, it is said that anything may have changed."""
LAYOUT = (
    """CREATE TABLE IF NOT EXISTS pillion_jobs (
      key text COLLATE "C" PRIMARY KEY, part int NOT NULL, revision bigint NOT NULL, anchor float8 NOT NULL,
      expires float8, next float8, tick float8, count bigint NOT NULL, last float8, attempts bigint NOT NULL,
      paused boolean NOT NULL, job text NOT NULL)""",
    """CREATE INDEX IF NOT EXISTS pillion_jobs_due ON pillion_jobs (next, key)
      WHERE next IS NOT NULL AND NOT paused""",
    """CREATE TABLE IF NOT EXISTS pillion_job_members (
      id text COLLATE "C" PRIMARY KEY, incarnation bigint NOT NULL, address text NOT NULL, until float8 NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS pillion_job_leases (
      part int PRIMARY KEY, owner text NOT NULL DEFAULT '', epoch bigint NOT NULL DEFAULT 0,
      leaving boolean NOT NULL DEFAULT false)""",
)
_TYPES = (
    "text[], int[], bigint[], float8[], float8[], float8[], float8[], bigint[], float8[], bigint[], boolean[], text[]"
)
_UNNEST = ", ".join(f"${number}::{kind.strip()}" for number, kind in enumerate(_TYPES.split(","), 1))
_COLUMNS = "revision, anchor, expires, next, tick, count, last, attempts, paused, job"
_INSERT = f"INSERT INTO pillion_jobs SELECT * FROM unnest({_UNNEST}) ON CONFLICT (key) DO "
_REPLACE = "UPDATE SET " + ", ".join(f"{name} = excluded.{name}" for name in ["part", *_COLUMNS.split(", ")])
_OUTDATED = """WITH outdated AS (
  SELECT part FROM unnest($1::int[], $2::bigint[]) AS ours(part, epoch) JOIN pillion_job_leases AS l USING (part)
  WHERE l.epoch <> ours.epoch) """
_UPDATE = (
    _OUTDATED
    + """UPDATE pillion_jobs AS j SET revision = new.revision, expires = new.expires, next = new.next,
  tick = new.tick, count = new.count, last = new.last, attempts = new.attempts, paused = new.paused
FROM unnest($3::text[], $4::bigint[], $5::bigint[], $6::float8[], $7::float8[], $8::float8[], $9::bigint[],
  $10::float8[], $11::bigint[], $12::boolean[])
  AS new(key, was, revision, expires, next, tick, count, last, attempts, paused)
WHERE j.key = new.key AND j.revision = new.was AND j.part NOT IN (SELECT part FROM outdated) RETURNING j.key"""
)
_DELETE = (
    _OUTDATED
    + """DELETE FROM pillion_jobs AS j USING unnest($3::text[], $4::bigint[]) AS old(key, was)
WHERE j.key = old.key AND j.revision = old.was AND j.part NOT IN (SELECT part FROM outdated) RETURNING j.key"""
)
NOW = "extract(epoch FROM clock_timestamp())::float8"

_Put = tuple[int, Stored, bool]


class PostgresJobs:
    """Satisfies `JobStore`."""

    def __init__(self, connection_string: str, where: str = "scheduler") -> None:
        """Raises `ConfigError` when the text is no connection string."""
        self._pool = PostgresPool(PostgresSettings(connection_string=_impatient(connection_string)), where)
        self._name = secrets.token_hex(8)
        self._mine: frozenset[int] = frozenset()
        self._tell: Callable[[Sequence[str]], None] | None = None
        self._tasks: Tasks | None = None
        self._puts: Gathered[_Put, bool] = Gathered(where, self._put_many, most=512)
        self._gets: Gathered[str, Stored | None] = Gathered(where, self._get_many, most=512)
        self._removals: Gathered[Sequence[str], int] = Gathered(where, self._remove_many, most=512)

    async def open(self) -> None:
        await self._pool.open()
        try:
            await self._pool.transaction(_create)
        except BaseException:
            await self._pool.close()
            raise
        self._tasks = Tasks(f"listening to {CHANNEL}")
        self._tasks.keep(partial(listen, self._pool, CHANNEL, self._heard, lambda: self._changed(())), "ear")

    async def close(self) -> None:
        for gathered in (self._puts, self._gets, self._removals):
            await gathered.close()
        tasks, self._tasks = self._tasks, None
        if tasks is not None:
            await tasks.close()
        await self._pool.close()

    async def put(self, partition: int, stored: Stored, *, overwrite: bool) -> bool:
        ours = partition in self._mine
        put = await self._puts.get((partition, stored, overwrite))
        if put and ours and partition not in self._mine:  # it has changed hands meanwhile: its owner was not told
            await self._pool.execute("SELECT pg_notify($1, $2)", CHANNEL, _notes(self._name, [stored.key.text])[0])
        return put

    async def get(self, key: str) -> Stored | None:
        return await self._gets.get(key)

    async def remove(self, keys: Sequence[str]) -> int:
        return await self._removals.get(keys)

    async def remove_prefix(self, prefix: str) -> int:
        async def remove(connection: Any) -> int:
            rows = await connection.fetch(
                "DELETE FROM pillion_jobs WHERE key >= $1 AND starts_with(key, $1) RETURNING key, part", prefix
            )
            await self._say(connection, rows)
            return len(rows)

        return await self._pool.transaction(remove)

    async def page(self, prefix: str, *, after: str = "", limit: int = 1000) -> list[Stored]:
        rows = await self._pool.fetch(
            f"SELECT {_COLUMNS} FROM pillion_jobs WHERE key >= $1 AND key > $2 AND starts_with(key, $1) "
            "ORDER BY key LIMIT $3",
            prefix,
            after,
            limit,
        )
        return [_stored(row) for row in rows]

    async def due(
        self, partitions: Collection[int], until: float, limit: int, *, after: tuple[float, str] | None = None
    ) -> list[Stored]:
        at, key = after or (float("-inf"), "")
        every = len(set(partitions)) == PARTITIONS
        rows = await self._pool.fetch(
            f"SELECT {_COLUMNS} FROM pillion_jobs WHERE next IS NOT NULL AND NOT paused AND next <= $1 "
            f"AND (next, key) > ($2, $3) {'' if every else 'AND part = ANY($5::int[])'} ORDER BY next, key LIMIT $4",
            until,
            at,
            key,
            limit,
            *([] if every else [sorted(partitions)]),
        )
        return [_stored(row) for row in rows]

    async def apply(self, changes: Sequence[Change], epochs: dict[int, int]) -> list[bool]:
        kept = [(change, change.stored) for change in changes if change.stored is not None]
        ended = [change for change in changes if change.stored is None]
        guard = (list(epochs), list(epochs.values()))

        async def write(connection: Any) -> set[str]:
            done: set[str] = set()
            if ended:
                keys, revisions = [one.key for one in ended], [one.revision for one in ended]
                done.update(row[0] for row in await connection.fetch(_DELETE, *guard, keys, revisions))
            if kept:
                columns = zip(*(_change(change, row) for change, row in kept), strict=True)
                done.update(row[0] for row in await connection.fetch(_UPDATE, *guard, *map(list, columns)))
            if not epochs:
                await self._say(connection, [(key, -1) for key in sorted(done)])
            return done

        done = await self._pool.transaction(write)
        return [change.key in done for change in changes]

    async def lease(self, member: Member, seconds: float) -> Share:
        async def take(connection: Any) -> Share:
            share, stirred = await _lease(connection, member, seconds)
            if stirred:
                await self._say_all(connection)
            return share

        share = await self._pool.transaction(take)
        self._mine = share.partitions
        return share

    async def leave(self, member: Member) -> None:
        self._mine = frozenset()

        async def go(connection: Any) -> None:
            await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
            await connection.execute(
                "DELETE FROM pillion_job_members WHERE id = $1 AND incarnation = $2", member.id, member.incarnation
            )
            await connection.execute(
                "UPDATE pillion_job_leases SET owner = '', leaving = false WHERE owner = $1", _owner(member)
            )
            await self._say_all(connection)

        await self._pool.transaction(go)

    def changed(self, tell: Callable[[Sequence[str]], None]) -> None:
        self._tell = tell

    # -- many calls, one transaction

    async def _put_many(self, puts: list[_Put]) -> list[bool]:
        async def write(connection: Any) -> list[bool]:
            results = [False] * len(puts)
            left = list(range(len(puts)))
            while left:  # a statement must not touch a row twice: who comes later in a call's list comes later here
                now: dict[str, int] = {}
                later = []
                for number in left:
                    key = puts[number][1].key.text
                    if key in now:
                        later.append(number)
                    else:
                        now[key] = number
                for overwrite, action in ((True, _REPLACE), (False, "NOTHING")):
                    some = sorted((key, number) for key, number in now.items() if puts[number][2] is overwrite)
                    if some:
                        columns = zip(*(_row(puts[number]) for _, number in some), strict=True)
                        written = await connection.fetch(f"{_INSERT}{action} RETURNING key", *map(list, columns))
                        for [key] in written:
                            results[now[key]] = True
                left = later
            await self._say(
                connection,
                [(one[1].key.text, one[0]) for one, taken in zip(puts, results, strict=True) if taken],
            )
            return results

        return await self._pool.transaction(write)

    async def _get_many(self, keys: list[str]) -> list[Stored | None]:
        rows = await self._pool.fetch(f"SELECT key, {_COLUMNS} FROM pillion_jobs WHERE key = ANY($1::text[])", keys)
        found = {row[0]: _stored(row[1:]) for row in rows}
        return [found.get(key) for key in keys]

    async def _remove_many(self, calls: list[Sequence[str]]) -> list[int]:
        async def write(connection: Any) -> list[int]:
            wanted = sorted({key for keys in calls for key in keys})
            rows = await connection.fetch(
                "DELETE FROM pillion_jobs WHERE key = ANY($1::text[]) RETURNING key, part", wanted
            )
            await self._say(connection, rows)
            there = {row[0] for row in rows}
            counts = []
            for keys in calls:
                mine = there.intersection(keys)
                there -= mine
                counts.append(len(mine))
            return counts

        return await self._pool.transaction(write)

    # -- what the others are told

    async def _say(self, connection: Any, rows: Sequence[Any]) -> None:
        """Tell of the keys, given with their partitions, that are not our own."""
        keys = [key for key, part in rows if part not in self._mine]
        notes = _notes(self._name, keys)
        if len(notes) > MOST_NOTES:
            await self._say_all(connection)
        elif notes:
            await connection.execute("SELECT pg_notify($1, note) FROM unnest($2::text[]) AS note", CHANNEL, notes)

    async def _say_all(self, connection: Any) -> None:
        await connection.execute("SELECT pg_notify($1, $2)", CHANNEL, json.dumps({"from": self._name, "keys": []}))

    def _heard(self, note: str) -> None:
        try:
            said = json.loads(note)
            sender, keys = said["from"], [str(key) for key in said["keys"]]
        except (ValueError, TypeError, KeyError):
            sender, keys = "", []  # not one of ours; to look at everything is never wrong
        if sender != self._name:
            self._changed(keys)

    def _changed(self, keys: Sequence[str]) -> None:
        if self._tell is not None:
            self._tell(keys)

    def __repr__(self) -> str:
        return f"<PostgresJobs {self._pool!r}, {len(self._mine)} partitions>"


def _notes(name: str, keys: Sequence[str]) -> list[str]:
    """Return the keys as notifications, each within its bound."""
    notes: list[str] = []
    some: list[str] = []
    size = 0
    for key in keys:
        length = len(json.dumps(key)) + 2
        if some and size + length > MOST_SAID:
            notes.append(json.dumps({"from": name, "keys": some}))
            some, size = [], 0
        some.append(key)
        size += length
    if some:
        notes.append(json.dumps({"from": name, "keys": some}))
    return notes


def _impatient(text: str) -> str:
    """Return a connection string in whose sessions transactions do not stay idle."""
    setting = f"idle_in_transaction_session_timeout={STALLED_MS}"
    if re.match(r"\s*postgres(ql)?://", text):
        return f"{text.strip()}{'&' if '?' in text else '?'}{setting}"
    return f"{text} {setting}" if text.strip() else text


def _owner(member: Member) -> str:
    return f"{member.id}/{member.incarnation}"


def _row(put: _Put) -> tuple[Any, ...]:
    partition, row, _ = put
    return (
        row.key.text, partition, row.revision, row.anchor, row.expires, row.next, row.tick, row.count, row.last,
        row.attempts, row.paused, encode_job(row.key, row.job),
    )  # fmt: skip


def _change(change: Change, row: Stored) -> tuple[Any, ...]:
    return (
        change.key, change.revision, row.revision, row.expires, row.next, row.tick, row.count, row.last, row.attempts,
        row.paused,
    )  # fmt: skip


def _stored(row: Any) -> Stored:
    revision, anchor, expires, next, tick, count, last, attempts, paused, text = row
    key, job = decode_job(text)
    return Stored(key, job, revision, anchor, expires, next, tick, count, last, attempts, paused)


async def _create(connection: Any) -> None:
    await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
    for statement in LAYOUT:
        await connection.execute(statement)
    await connection.execute(
        "INSERT INTO pillion_job_leases (part) SELECT generate_series(0, $1) ON CONFLICT DO NOTHING", PARTITIONS - 1
    )


async def _lease(connection: Any, member: Member, seconds: float) -> tuple[Share, bool]:
    """Return the share, and whether others should look at theirs."""
    await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
    gone = await connection.execute(f"DELETE FROM pillion_job_members WHERE until <= {NOW}")
    other = await connection.fetchval("SELECT incarnation FROM pillion_job_members WHERE id = $1", member.id)
    if other is not None and other != member.incarnation:
        return Share(members=await _members(connection)), False
    await connection.execute(
        f"INSERT INTO pillion_job_members VALUES ($1, $2, $3, {NOW} + $4) "
        "ON CONFLICT (id) DO UPDATE SET address = excluded.address, until = excluded.until",
        member.id,
        member.incarnation,
        member.address,
        seconds,
    )
    me = _owner(member)
    freed = await connection.execute(
        "UPDATE pillion_job_leases SET owner = '', leaving = false WHERE owner = $1 AND leaving "
        "OR owner <> '' AND owner NOT IN (SELECT id || '/' || incarnation FROM pillion_job_members)",
        me,
    )
    members = await _members(connection)
    place = next(at for at, one in enumerate(members) if one.id == member.id)
    fair = PARTITIONS // len(members) + (place < PARTITIONS % len(members))
    mine = [
        row[0]
        for row in await connection.fetch("SELECT part FROM pillion_job_leases WHERE owner = $1 ORDER BY part", me)
    ]
    if len(mine) > fair:
        await connection.execute("UPDATE pillion_job_leases SET leaving = true WHERE part = ANY($1)", mine[fair:])
    elif len(mine) < fair:
        await connection.execute(
            "UPDATE pillion_job_leases SET owner = $1, epoch = epoch + 1 WHERE part IN "
            "(SELECT part FROM pillion_job_leases WHERE owner = '' ORDER BY part LIMIT $2)",
            me,
            fair - len(mine),
        )
    rows = await connection.fetch("SELECT part, epoch FROM pillion_job_leases WHERE owner = $1 AND NOT leaving", me)
    epochs = dict(rows)
    return Share(frozenset(epochs), epochs, members), bool(touched(gone) or touched(freed) or other is None)


async def _members(connection: Any) -> tuple[Member, ...]:
    rows = await connection.fetch("SELECT id, incarnation, address FROM pillion_job_members ORDER BY id")
    return tuple(Member(*row) for row in rows)
