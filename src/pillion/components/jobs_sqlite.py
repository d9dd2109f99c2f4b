"""Jobs in a SQLite file, shared by the schedulers of one machine (`kinds.jobs.JobStore`).

Times are whole microseconds. Hot statements take and give all their rows as one JSON text (see `sqlite_engine`: one
hand-over of the interpreter lock). Leases count the machine's monotonic clock, which all its processes share and nobody
sets; after a restart of the machine, told by its boot id, none of them holds. A process that has ended is known by its
doorbell, so that its jobs need not wait for the end of its lease.

What a process writes into another's partitions it notes in `job_changes`, and rings. Knows: the tables. Never knows:
when jobs are due, partitions by name.
"""

from __future__ import annotations

import asyncio
import logging
import secrets
import time
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import orjson

from pillion.components.doorbell import Doorbell, hung
from pillion.components.job_rows import decode_job, encode_job
from pillion.components.sqlite_engine import Engine, Location, open_engine
from pillion.errors import ComponentError
from pillion.kinds.jobs import PARTITIONS, Change, Member, Share, Stored
from pillion.tasks import Tasks

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Callable, Collection, Sequence

log = logging.getLogger("pillion.components.jobs")

LAYOUT = (
    """CREATE TABLE IF NOT EXISTS jobs (
      key TEXT PRIMARY KEY, part INTEGER NOT NULL, revision INTEGER NOT NULL, anchor INTEGER NOT NULL,
      expires INTEGER, next INTEGER, tick INTEGER, count INTEGER NOT NULL, last INTEGER, attempts INTEGER NOT NULL,
      paused INTEGER NOT NULL, job TEXT NOT NULL) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS jobs_due ON jobs (next, key) WHERE next IS NOT NULL AND paused = 0",
    "CREATE TABLE IF NOT EXISTS job_changes (seq INTEGER PRIMARY KEY AUTOINCREMENT, key TEXT NOT NULL)",
    """CREATE TABLE IF NOT EXISTS job_members (
      id TEXT PRIMARY KEY, incarnation INTEGER NOT NULL, address TEXT NOT NULL, bell TEXT NOT NULL,
      until REAL NOT NULL, boot TEXT NOT NULL)""",
    """CREATE TABLE IF NOT EXISTS job_leases (
      part INTEGER PRIMARY KEY, owner TEXT NOT NULL DEFAULT '', epoch INTEGER NOT NULL DEFAULT 0,
      leaving INTEGER NOT NULL DEFAULT 0)""",
)
_ROW = "json_array(key, revision, anchor, expires, next, tick, count, last, attempts, paused, job)"
_LAST = "\U0010ffff"
KEPT_CHANGES = 50_000
"""Notes of changes that are kept; who is further behind reads everything anew."""


@dataclass(frozen=True, slots=True)
class _Put:
    """One waiting `put`."""

    key: str
    partition: int
    row: str
    overwrite: bool
    owner: str


class SqliteJobs:
    """Satisfies `JobStore`."""

    def __init__(self, connection_string: str) -> None:
        """Raises `ConfigError` when the text names no database."""
        self._location = Location.parse(connection_string)
        self._path = self._location.path
        self._bell_name = secrets.token_hex(8)
        self._engine: Engine | None = None
        self._doorbell: Doorbell | None = None
        self._tell: Callable[[Sequence[str]], None] | None = None
        self._tasks: Tasks | None = None
        self._rung = asyncio.Event()
        self._seen = 0
        self._me = "-"
        self._dead: set[str] = set()

    async def open(self) -> None:
        self._location.make_folder()
        engine = await open_engine(self._location)
        try:
            self._seen = await engine.write(_create)
            if not self._location.memory:
                self._doorbell = await hung(self._path, self._bell_name, self._heard)
        except BaseException:
            await engine.close()
            raise
        self._engine = engine
        self._tasks = Tasks("changes of jobs")
        self._tasks.keep(self._hearing, "ear")

    async def close(self) -> None:
        tasks, self._tasks = self._tasks, None
        if tasks is not None:
            await tasks.close()
        doorbell, self._doorbell = self._doorbell, None
        if doorbell is not None:
            doorbell.close()
        engine, self._engine = self._engine, None
        if engine is not None:
            await engine.close()

    async def put(self, partition: int, stored: Stored, *, overwrite: bool) -> bool:
        key = stored.key.text
        row = orjson.dumps([key, partition, *_numbers(stored), encode_job(stored.key, stored.job)]).decode()
        put: bool
        put, noted = await self._opened().write_row(_put, _Put(key, partition, row, overwrite, self._me))
        if noted:
            self._ring(b"c")
        return put

    async def get(self, key: str) -> Stored | None:
        text: str | None = await self._opened().read_row(_get, key)
        return None if text is None else _stored(text)

    async def remove(self, keys: Sequence[str]) -> int:
        removed: int
        removed, noted = await self._opened().write_row(_remove, (keys, self._me))
        if noted:
            self._ring(b"c")
        return removed

    async def remove_prefix(self, prefix: str) -> int:
        def remove(db: sqlite3.Connection) -> list[str]:
            [found] = db.execute(
                "SELECT json_group_array(key) FROM jobs WHERE key >= ? AND key < ?", (prefix, prefix + _LAST)
            ).fetchone()
            keys: list[str] = orjson.loads(found)
            _remove(db, [(keys, "")])
            return keys

        removed = await self._opened().write(remove)
        self._ring(b"c")
        return len(removed)

    async def page(self, prefix: str, *, after: str = "", limit: int = 1000) -> list[Stored]:
        return await self._read(
            f"SELECT json_group_array({_ROW}) FROM (SELECT * FROM jobs WHERE key >= ? AND key < ? AND key > ? "
            "ORDER BY key LIMIT ?)",
            (prefix, prefix + _LAST, after, limit),
        )

    async def due(
        self, partitions: Collection[int], until: float, limit: int, *, after: tuple[float, str] | None = None
    ) -> list[Stored]:
        wanted, arguments = "", [_micros(until)]
        parameters: list[Any] = list(arguments)
        if after is not None and after[0] > float("-inf"):
            wanted += " AND (next, key) > (?, ?)"
            parameters += [_micros(after[0]), after[1]]
        if len(set(partitions)) < PARTITIONS:
            wanted += " AND part IN (SELECT value FROM json_each(?))"
            parameters.append(orjson.dumps(sorted(partitions)).decode())
        return await self._read(
            f"SELECT json_group_array({_ROW}) FROM (SELECT * FROM jobs WHERE next IS NOT NULL AND paused = 0 "
            f"AND next <= ?{wanted} ORDER BY next, key LIMIT ?)",
            (*parameters, limit),
        )

    async def apply(self, changes: Sequence[Change], epochs: dict[int, int]) -> list[bool]:
        rows = [None if change.stored is None else [change.key, *_numbers(change.stored)] for change in changes]
        done = await self._opened().write(lambda db: _apply(db, changes, rows, epochs))
        if not epochs:
            self._ring(b"c")
        return done

    async def lease(self, member: Member, seconds: float) -> Share:
        if self._doorbell is not None:
            for bell in await self._opened().read(_bells):
                if self._doorbell.alive(bell) is False:
                    self._dead.add(bell)
        boot, dead, bell = _boot(), sorted(self._dead), self._bell_name
        share, stirred = await self._opened().write(lambda db: _lease(db, member, seconds, bell, boot, dead))
        self._me = f"{member.id}/{member.incarnation}"
        self._rung.set()  # a ring may have been lost
        if stirred:
            self._ring(b"m")
        return share

    async def leave(self, member: Member) -> None:
        await self._opened().write(lambda db: _leave(db, member))
        self._ring(b"m")

    def changed(self, tell: Callable[[Sequence[str]], None]) -> None:
        self._tell = tell

    # -- hearing of others

    def _ring(self, what: bytes) -> None:
        if self._doorbell is not None:
            self._dead.update(self._doorbell.ring(what))

    def _heard(self, what: bytes) -> None:
        if what == b"m":
            if self._tell is not None:
                self._tell(())
        else:
            self._rung.set()

    async def _hearing(self) -> None:
        """Read the notes of others' changes whenever there may be some, and whenever this begins."""
        self._rung.set()
        while True:
            await self._rung.wait()
            self._rung.clear()
            try:
                first, last, keys = await self._opened().read(lambda db: _changes(db, self._seen))
            except ComponentError as error:
                log.warning("changes of jobs by other processes are noticed later: %s", error)
                continue
            missed = first > self._seen + 1
            if self._tell is not None and (keys or missed):
                self._tell(() if missed else keys)
            self._seen = max(self._seen, last)

    async def _read(self, statement: str, parameters: Sequence[Any]) -> list[Stored]:
        [text] = await self._opened().read(lambda db: db.execute(statement, parameters).fetchone())
        return [_stored(row) for row in orjson.loads(text)]

    def _opened(self) -> Engine:
        if self._engine is None:
            raise ComponentError(f"the jobs in {self._path} are not open")
        return self._engine

    def __repr__(self) -> str:
        return f"<SqliteJobs {self._path}, member {self._me}>"


# -- rows


def _micros(instant: float) -> int:
    return round(instant * 1e6)


def _numbers(row: Stored) -> list[Any]:
    """Return the columns from `revision` to `paused`."""
    expires, next, tick, last = row.expires, row.next, row.tick, row.last
    return [
        row.revision,
        round(row.anchor * 1e6),
        None if expires is None else round(expires * 1e6),
        None if next is None else round(next * 1e6),
        None if tick is None else round(tick * 1e6),
        row.count,
        None if last is None else round(last * 1e6),
        row.attempts,
        int(row.paused),
    ]


def _stored(row: Any) -> Stored:
    if isinstance(row, str):
        row = orjson.loads(row)
    _, revision, anchor, expires, next, tick, count, last, attempts, paused, text = row
    key, job = decode_job(text)
    return Stored(
        key,
        job,
        revision,
        anchor / 1e6,
        None if expires is None else expires / 1e6,
        None if next is None else next / 1e6,
        None if tick is None else tick / 1e6,
        count,
        None if last is None else last / 1e6,
        attempts,
        bool(paused),
    )


# -- on the engine's threads


def _create(db: sqlite3.Connection) -> int:
    for statement in LAYOUT:
        db.execute(statement)
    db.executemany("INSERT OR IGNORE INTO job_leases (part) VALUES (?)", [(part,) for part in range(PARTITIONS)])
    [last] = db.execute("SELECT coalesce(max(seq), 0) FROM job_changes").fetchone()
    return int(last)


def _there(db: sqlite3.Connection, keys: Sequence[str], what: str) -> list[Any]:
    """Return `what` of each of these rows that exists."""
    [text] = db.execute(
        f"SELECT json_group_array({what}) FROM jobs WHERE key IN (SELECT value FROM json_each(?))",
        (orjson.dumps(keys).decode(),),
    ).fetchone()
    found: list[Any] = orjson.loads(text)
    return found


def _put(db: sqlite3.Connection, puts: Sequence[_Put]) -> list[tuple[bool, bool]]:
    """Return for each whether it was put, and whether others are to be told: somebody else has its partition now."""
    mine = {owner: _partitions(db, owner) for owner in {one.owner for one in puts}}
    careful = [one.key for one in puts if not one.overwrite]
    there = set(_there(db, careful, "key")) if careful else set()
    results: list[tuple[bool, bool]] = []
    noted: list[str] = []
    rows: dict[str, str] = {}
    for one in puts:
        taken = one.overwrite or one.key not in there
        foreign = taken and one.partition not in mine[one.owner]
        results.append((taken, foreign))
        if taken:
            there.add(one.key)
            rows[one.key] = one.row
        if foreign:
            noted.append(one.key)
    if rows:
        columns = ", ".join(f"value->>{number}" for number in range(12))
        db.execute(f"INSERT OR REPLACE INTO jobs SELECT {columns} FROM json_each(?)", (f"[{','.join(rows.values())}]",))
    _note(db, noted)
    return results


def _get(db: sqlite3.Connection, keys: Sequence[str]) -> list[str | None]:
    found: dict[str, str] = dict(_there(db, keys, f"json_array(key, {_ROW})"))
    return [found.get(key) for key in keys]


def _remove(db: sqlite3.Connection, calls: Sequence[tuple[Sequence[str], str]]) -> list[tuple[int, bool]]:
    """Take keys and the owner that asks; return for each how many there were, and whether others are to be told."""
    owners = {owner for _, owner in calls}
    alone = len(owners) == 1 and len(_partitions(db, min(owners))) == PARTITIONS
    wanted = [key for keys, _ in calls for key in keys]
    there = set(_there(db, wanted, "key"))
    counts = []
    for keys, _ in calls:
        mine = there.intersection(keys)
        there -= mine
        counts.append(len(mine))
    if removed := any(counts):
        db.execute("DELETE FROM jobs WHERE key IN (SELECT value FROM json_each(?))", (orjson.dumps(wanted).decode(),))
        _note(db, [] if alone else wanted)
    return [(count, removed and not alone) for count in counts]


def _apply(
    db: sqlite3.Connection, changes: Sequence[Change], rows: Sequence[list[Any] | None], epochs: dict[int, int]
) -> list[bool]:
    now = {}
    if epochs:
        now = dict(db.execute("SELECT part, epoch FROM job_leases").fetchall())
    there = {key: (part, revision) for key, part, revision in _there(
        db, [change.key for change in changes], "json_array(key, part, revision)"
    )}  # fmt: skip
    done: list[bool] = []
    ended: list[str] = []
    kept: list[list[Any]] = []
    for change, row in zip(changes, rows, strict=True):
        part, revision = there.get(change.key, (0, None))
        mine = part not in epochs or now.get(part) == epochs[part]
        done.append(mine and revision == change.revision)
        if not done[-1]:
            continue
        if row is None:
            ended.append(change.key)
            del there[change.key]
        else:
            kept.append(row)
            there[change.key] = (part, row[1])
    if ended:
        db.execute("DELETE FROM jobs WHERE key IN (SELECT value FROM json_each(?))", (orjson.dumps(ended).decode(),))
    if kept:
        db.execute(
            "UPDATE jobs SET revision = new.value->>1, expires = new.value->>3, next = new.value->>4, "
            "tick = new.value->>5, count = new.value->>6, last = new.value->>7, attempts = new.value->>8, "
            "paused = new.value->>9 FROM json_each(?) AS new WHERE jobs.key = new.value->>0",
            (orjson.dumps(kept).decode(),),
        )
    if not epochs:
        _note(db, [change.key for change in changes])
    return done


def _partitions(db: sqlite3.Connection, owner: str) -> frozenset[int]:
    """Return what this member has at the moment of this transaction."""
    [text] = db.execute(
        "SELECT json_group_array(part) FROM job_leases WHERE owner = ? AND leaving = 0", (owner,)
    ).fetchone()
    return frozenset(orjson.loads(text))


def _note(db: sqlite3.Connection, keys: Sequence[str]) -> None:
    if keys:
        db.execute("INSERT INTO job_changes (key) SELECT value FROM json_each(?)", (orjson.dumps(keys).decode(),))


def _changes(db: sqlite3.Connection, seen: int) -> tuple[int, int, list[str]]:
    """Return the first and the last note there is, and the keys of those after `seen`."""
    first, last = db.execute("SELECT coalesce(min(seq), 0), coalesce(max(seq), 0) FROM job_changes").fetchone()
    [text] = db.execute(
        "SELECT json_group_array(key) FROM (SELECT DISTINCT key FROM job_changes WHERE seq > ?)", (seen,)
    ).fetchone()
    return first, last, orjson.loads(text)


# -- leases


def _boot() -> str:
    """Return what names the time since the machine was started; empty where the system does not tell."""
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _bells(db: sqlite3.Connection) -> list[str]:
    return [bell for (bell,) in db.execute("SELECT bell FROM job_members ORDER BY id")]


def _lease(
    db: sqlite3.Connection, member: Member, seconds: float, bell: str, boot: str, dead: Sequence[str]
) -> tuple[Share, bool]:
    """Return the share, and whether others should look at theirs."""
    now, me = time.monotonic(), f"{member.id}/{member.incarnation}"
    # A lease from before a restart of the machine looks as if it would last long, where no boot id tells.
    gone = db.execute(
        "DELETE FROM job_members WHERE until <= ? OR until > ? OR boot <> ? "
        "OR bell IN (SELECT value FROM json_each(?)) RETURNING id",
        (now, now + 10 * max(seconds, 60.0), boot, orjson.dumps(dead).decode()),
    ).fetchall()
    other = db.execute("SELECT incarnation FROM job_members WHERE id = ?", (member.id,)).fetchone()
    if other is not None and other[0] != member.incarnation:
        return Share(members=_members(db)), False
    db.execute(
        "INSERT OR REPLACE INTO job_members VALUES (?, ?, ?, ?, ?, ?)",
        (member.id, member.incarnation, member.address, bell, now + seconds, boot),
    )
    freed = db.execute(
        "UPDATE job_leases SET owner = '', leaving = 0 WHERE owner = ? AND leaving = 1 "
        "OR owner <> '' AND owner NOT IN (SELECT id || '/' || incarnation FROM job_members)",
        (me,),
    ).rowcount
    members = _members(db)
    place = next(at for at, one in enumerate(members) if one.id == member.id)
    fair = PARTITIONS // len(members) + (place < PARTITIONS % len(members))
    mine = [part for (part,) in db.execute("SELECT part FROM job_leases WHERE owner = ? ORDER BY part", (me,))]
    if len(mine) > fair:
        db.executemany("UPDATE job_leases SET leaving = 1 WHERE part = ?", [(part,) for part in mine[fair:]])
    elif len(mine) < fair:
        db.execute(
            "UPDATE job_leases SET owner = ?, epoch = epoch + 1 WHERE part IN "
            "(SELECT part FROM job_leases WHERE owner = '' ORDER BY part LIMIT ?)",
            (me, fair - len(mine)),
        )
    epochs = dict(db.execute("SELECT part, epoch FROM job_leases WHERE owner = ? AND leaving = 0", (me,)).fetchall())
    db.execute(
        "DELETE FROM job_changes WHERE seq <= (SELECT coalesce(max(seq), 0) FROM job_changes) - ?", (KEPT_CHANGES,)
    )
    return Share(frozenset(epochs), epochs, members, now + seconds), bool(gone or freed or other is None)


def _members(db: sqlite3.Connection) -> tuple[Member, ...]:
    return tuple(Member(*row) for row in db.execute("SELECT id, incarnation, address FROM job_members ORDER BY id"))


def _leave(db: sqlite3.Connection, member: Member) -> None:
    me = f"{member.id}/{member.incarnation}"
    db.execute("DELETE FROM job_members WHERE id = ? AND incarnation = ?", (member.id, member.incarnation))
    db.execute("UPDATE job_leases SET owner = '', leaving = 0 WHERE owner = ?", (me,))
