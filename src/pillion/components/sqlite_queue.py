"""The tables of `pubsub.sqlite` and all statements on them, as plain functions of a connection and the time.

Knows: the log of messages, consumer groups, leases. Never knows: sockets, tasks, threads, clocks.

A topic is a log of messages in the order of their commits. A group has a *cursor*: every message up to it has been
handed to a member of the group. What was handed out and not yet acknowledged is a *lease*: held by an owner (a running
process) or, after a rejection or its owner's death, held by nobody and *waiting* for its time. A message is deleted
when the cursors of all groups of its topic have passed it and no lease is left. An owner shows that it lives by the
date in its row; leases of a dead one become waiting. Delayed messages lie aside until they are due and join the log
then.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from pillion.errors import ComponentError

if TYPE_CHECKING:
    import sqlite3
    from collections.abc import Mapping, Sequence

LAYOUT = 1
"""The version of the tables, in `broker_about`."""
MAX_DELETED = 10_000
"""Messages that one transaction deletes: nobody shall wait long for it."""
MAX_CLAIM_BYTES = 16 * 1024 * 1024
"""Payload bytes after which a claim takes no further message."""

_LOG = """(
  id INTEGER PRIMARY KEY AUTOINCREMENT,  -- never used twice: a cursor must not pass a message that comes later
  topic TEXT NOT NULL,
  published REAL NOT NULL,               -- times are seconds since 1970
  expires REAL,                          -- NULL: never
  content_type TEXT,
  metadata TEXT,                         -- JSON object; NULL: none
  data BLOB NOT NULL"""

SCHEMA = (
    "CREATE TABLE IF NOT EXISTS broker_about (layout INTEGER NOT NULL)",
    f"INSERT INTO broker_about SELECT {LAYOUT} WHERE NOT EXISTS (SELECT 1 FROM broker_about)",
    f"CREATE TABLE IF NOT EXISTS broker_messages {_LOG})",
    "CREATE INDEX IF NOT EXISTS broker_messages_topic ON broker_messages (topic)",
    f"CREATE TABLE IF NOT EXISTS broker_delayed {_LOG}, due REAL NOT NULL)",
    "CREATE INDEX IF NOT EXISTS broker_delayed_due ON broker_delayed (topic, due)",
    """CREATE TABLE IF NOT EXISTS broker_groups (
  id INTEGER PRIMARY KEY AUTOINCREMENT, topic TEXT NOT NULL, name TEXT NOT NULL,
  cursor INTEGER NOT NULL, seen REAL NOT NULL, UNIQUE (topic, name))""",
    """CREATE TABLE IF NOT EXISTS broker_leases (
  group_id INTEGER NOT NULL, message_id INTEGER NOT NULL,
  owner TEXT,                            -- NULL: waiting until `due`
  due REAL NOT NULL, failures INTEGER NOT NULL, PRIMARY KEY (group_id, message_id)) WITHOUT ROWID""",
    "CREATE INDEX IF NOT EXISTS broker_leases_waiting ON broker_leases (group_id, due) WHERE owner IS NULL",
    "CREATE TABLE IF NOT EXISTS broker_owners (name TEXT PRIMARY KEY, until REAL NOT NULL) WITHOUT ROWID",
)

Row = tuple[str, float, float | None, str | None, str | None, bytes]
"""A message to be published: topic, published, expires, content type, metadata, data."""


def create(db: sqlite3.Connection) -> None:
    """Make the tables; raises `ComponentError` when a newer release has made them."""
    for statement in SCHEMA:
        db.execute(statement)
    [layout] = db.execute("SELECT layout FROM broker_about").fetchone()
    if layout != LAYOUT:
        raise ComponentError(f"the broker's tables have layout {layout}, this release knows {LAYOUT}")


_INSERT = "INSERT INTO broker_messages (topic, published, expires, content_type, metadata, data) VALUES "
_SIZES = (256, 64, 16, 4, 1)
_INSERTS = {size: _INSERT + ",".join(["(?,?,?,?,?,?)"] * size) for size in _SIZES}


def publish(db: sqlite3.Connection, rows: Sequence[Row]) -> Sequence[None]:
    """Append rows; a `Batch` of the engine. Many rows to a statement: each is one hand-over between threads."""
    start, count = 0, len(rows)
    while start < count:
        size = next(size for size in _SIZES if size <= count - start)
        values: list[Any] = []
        for row in rows[start : start + size]:
            values += row
        db.execute(_INSERTS[size], values)
        start += size
    return [None] * count


def publish_all(db: sqlite3.Connection, rows: Sequence[Row], delayed: Sequence[tuple[Row, float]]) -> None:
    """Append rows and put others aside until they are due."""
    publish(db, rows)
    for row, due in delayed:
        db.execute(
            "INSERT INTO broker_delayed (topic, published, expires, content_type, metadata, data, due)"
            " VALUES (?,?,?,?,?,?,?)",
            (*row, due),
        )


def join(db: sqlite3.Connection, topic: str, name: str, now: float) -> int:
    """Return the id of a group; a new one starts at the oldest message kept."""
    found = db.execute(
        "UPDATE broker_groups SET seen=? WHERE topic=? AND name=? RETURNING id", (now, topic, name)
    ).fetchall()
    if not found:
        tidy(db, topic)  # what all the others have handled is gone for this one as well, whenever it was handled
        found = db.execute(
            "INSERT INTO broker_groups (topic, name, cursor, seen) VALUES (?,?,0,?) RETURNING id", (topic, name, now)
        ).fetchall()
    return int(found[0][0])


Leased = tuple[int, int, str | None, str | None, bytes]
"""A message handed out: id, failures so far, content type, metadata, data."""


@dataclass(slots=True)
class Turn:
    """What a member of a group tells the broker, and asks of it, in one go."""

    topic: str
    group: int
    owner: str
    lease_s: float
    """How long the owner may be silent before it counts as dead."""
    now: float
    want: int = 0
    done: list[int] = field(default_factory=list)
    failed: list[tuple[int, float]] = field(default_factory=list)
    """Messages to be delivered again, and when."""
    returned: list[int] = field(default_factory=list)
    """Messages that nobody looked at."""
    max_deliveries: int = 0
    """How often a message may fail; 0: for ever."""
    dead_letter_topic: str = ""
    tidy: bool = False


@dataclass(slots=True)
class Given:
    """The answer to a `Turn`."""

    rows: list[Leased]
    more: bool
    """There may be further messages right now."""
    next_due: float | None
    """When the next message that waits is due."""
    buried: list[int]
    """Messages that have failed too often and are not delivered again."""
    lost: bool
    """The owner had been taken for dead: what it held before this turn is handed to others."""
    group_known: bool = True


def exchange(db: sqlite3.Connection, turn: Turn) -> Given:
    """Settle what a member has handled and lease it new messages, those that waited first."""
    group = turn.group
    buried: list[int] = []
    if turn.done:
        _each(db, "DELETE FROM broker_leases WHERE group_id=? AND message_id", (group,), turn.done)
    for message, due in turn.failed:
        _fail(db, turn, message, due, buried)
    if turn.returned:
        _each(
            db,
            "UPDATE broker_leases SET owner=NULL, due=? WHERE group_id=? AND owner=? AND message_id",
            (turn.now, group, turn.owner),
            turn.returned,
        )
    if turn.tidy:
        tidy(db, turn.topic)
    rows: list[Leased] = []
    lost, more, known = False, False, True
    if turn.want > 0:
        lost = renew(db, turn.owner, turn.now, turn.lease_s)
        _release_due(db, turn.topic, turn.now)
        rows, size = _claim_waiting(db, turn)
        more, known = _claim_new(db, turn, rows, size)
    return Given(rows, more, _next_due(db, turn), buried, lost, known)


def _each(db: sqlite3.Connection, statement: str, values: tuple[Any, ...], ids: list[int]) -> None:
    db.execute(f"{statement} IN (SELECT value FROM json_each(?))", (*values, f"[{','.join(map(str, ids))}]"))


def _fail(db: sqlite3.Connection, turn: Turn, message: int, due: float, buried: list[int]) -> None:
    key = (turn.group, message)
    found = db.execute(
        "UPDATE broker_leases SET owner=NULL, due=?, failures=failures+1 WHERE group_id=? AND message_id=?"
        " AND owner=? RETURNING failures",
        (due, *key, turn.owner),
    ).fetchall()
    if found and turn.max_deliveries and found[0][0] >= turn.max_deliveries:
        if turn.dead_letter_topic:
            db.execute(
                "INSERT INTO broker_messages (topic, published, content_type, metadata, data)"
                " SELECT ?, ?, content_type, metadata, data FROM broker_messages WHERE id=?",
                (turn.dead_letter_topic, turn.now, message),
            )
        db.execute("DELETE FROM broker_leases WHERE group_id=? AND message_id=?", key)
        buried.append(message)


def renew(db: sqlite3.Connection, owner: str, now: float, lease_s: float) -> bool:
    """Say that the owner lives; return True when others had given it up (or it is new). Written four times a lease."""
    found = db.execute("SELECT until FROM broker_owners WHERE name=?", (owner,)).fetchone()
    if found is not None and found[0] > now + lease_s * 3 / 4:
        return False
    db.execute("REPLACE INTO broker_owners (name, until) VALUES (?,?)", (owner, now + lease_s))
    return found is None


_ASIDE = "topic, published, expires, content_type, metadata, data"


def _release_due(db: sqlite3.Connection, topic: str, now: float) -> None:
    """Move delayed messages that are due into the log."""
    if db.execute("SELECT 1 FROM broker_delayed WHERE topic=? AND due<=? LIMIT 1", (topic, now)).fetchone():
        db.execute(
            f"INSERT INTO broker_messages ({_ASIDE}) SELECT {_ASIDE} FROM broker_delayed"
            " WHERE topic=? AND due<=? ORDER BY due, id",
            (topic, now),
        )
        db.execute("DELETE FROM broker_delayed WHERE topic=? AND due<=?", (topic, now))


def _claim_waiting(db: sqlite3.Connection, turn: Turn) -> tuple[list[Leased], int]:
    """Lease messages whose time to be delivered again has come; return them and their size."""
    rows: list[Leased] = []
    gone: list[int] = []
    size = 0
    waiting = db.execute(
        "SELECT l.message_id, l.failures, m.content_type, m.metadata, m.data, m.expires FROM broker_leases AS l"
        " LEFT JOIN broker_messages AS m ON m.id=l.message_id"
        " WHERE l.group_id=? AND l.owner IS NULL AND l.due<=? ORDER BY l.due, l.message_id LIMIT ?",
        (turn.group, turn.now, turn.want),
    )
    for message, failures, content_type, metadata, data, expires in waiting:
        if data is None or (expires is not None and expires <= turn.now):
            gone.append(message)
            continue
        rows.append((message, failures, content_type, metadata, data))
        size += len(data)
        if size >= MAX_CLAIM_BYTES:
            break
    if gone:
        _each(db, "DELETE FROM broker_leases WHERE group_id=? AND message_id", (turn.group,), gone)
    if rows:
        taken = [row[0] for row in rows]
        _each(db, "UPDATE broker_leases SET owner=? WHERE group_id=? AND message_id", (turn.owner, turn.group), taken)
    return rows, size


def _claim_new(db: sqlite3.Connection, turn: Turn, rows: list[Leased], size: int) -> tuple[bool, bool]:
    """Lease messages behind the cursor; return whether there may be more, and whether the group still exists."""
    found = db.execute("SELECT cursor FROM broker_groups WHERE id=?", (turn.group,)).fetchone()
    if found is None:
        return False, False
    want = turn.want - len(rows)
    if want <= 0 or size >= MAX_CLAIM_BYTES:
        return True, True
    [cursor] = found
    last, seen = cursor, 0
    log = db.execute(
        "SELECT id, content_type, metadata, data, expires FROM broker_messages"
        " WHERE topic=? AND id>? ORDER BY id LIMIT ?",
        (turn.topic, cursor, want),
    )
    for last, content_type, metadata, data, expires in log:
        seen += 1
        if expires is None or expires > turn.now:
            rows.append((last, 0, content_type, metadata, data))
            size += len(data)
            if size >= MAX_CLAIM_BYTES:
                break
    if last == cursor:
        return False, True
    db.execute(
        "INSERT INTO broker_leases (group_id, message_id, owner, due, failures) SELECT ?, id, ?, 0, 0"
        " FROM broker_messages WHERE topic=? AND id>? AND id<=? AND (expires IS NULL OR expires>?)",
        (turn.group, turn.owner, turn.topic, cursor, last, turn.now),
    )
    db.execute("UPDATE broker_groups SET cursor=? WHERE id=?", (last, turn.group))
    return seen == want or size >= MAX_CLAIM_BYTES, True


def _next_due(db: sqlite3.Connection, turn: Turn) -> float | None:
    waiting = db.execute("SELECT min(due) FROM broker_leases WHERE group_id=? AND owner IS NULL", (turn.group,))
    delayed = db.execute("SELECT min(due) FROM broker_delayed WHERE topic=?", (turn.topic,))
    times = [time for cursor in (waiting, delayed) for [time] in cursor if time is not None]
    return min(times, default=None)


def tidy(db: sqlite3.Connection, topic: str) -> bool:
    """Delete messages of a topic that every one of its groups has handled; True when there may be more of them."""
    [passed] = db.execute("SELECT min(cursor) FROM broker_groups WHERE topic=?", (topic,)).fetchone()
    if not passed:
        return False
    return _delete(
        db,
        "topic=?1 AND id<=?2 AND NOT EXISTS (SELECT 1 FROM broker_leases AS l"
        " WHERE l.message_id=broker_messages.id AND l.group_id IN (SELECT id FROM broker_groups WHERE topic=?1))",
        (topic, passed),
    )


def _delete(db: sqlite3.Connection, condition: str, values: tuple[Any, ...]) -> bool:
    """Delete messages, at most `MAX_DELETED`; True when the bound was reached."""
    chosen = f"SELECT id FROM broker_messages WHERE {condition} LIMIT {MAX_DELETED}"
    return db.execute(f"DELETE FROM broker_messages WHERE id IN ({chosen})", values).rowcount >= MAX_DELETED


def stirring(db: sqlite3.Connection, groups: Mapping[int, str], now: float) -> set[int]:
    """Return those of `groups` (id to topic) for which there is something to hand out."""
    found = set()
    for group, topic in groups.items():
        values = {"group": group, "topic": topic, "now": now}
        if any(db.execute(f"SELECT EXISTS ({one})", values).fetchone()[0] for one in _SIGNS):
            found.add(group)
    return found


_SIGNS = (
    "SELECT 1 FROM broker_messages WHERE topic=:topic AND id>(SELECT cursor FROM broker_groups WHERE id=:group)",
    "SELECT 1 FROM broker_leases WHERE group_id=:group AND owner IS NULL AND due<=:now",
    "SELECT 1 FROM broker_delayed WHERE topic=:topic AND due<=:now",
)


def owners(db: sqlite3.Connection) -> list[tuple[str, float]]:
    """Return every owner and when it is to be taken for dead."""
    return db.execute("SELECT name, until FROM broker_owners").fetchall()


def bury_owner(db: sqlite3.Connection, owner: str, now: float, *, only_if_silent: bool) -> list[str]:
    """Make all leases of an owner waiting, due now, and forget it; return the topics concerned.

    `only_if_silent` spares an owner that has shown itself in the meantime.
    """
    if only_if_silent:
        gone = db.execute("DELETE FROM broker_owners WHERE name=? AND until<=?", (owner, now)).rowcount
        if not gone:
            return []
    else:
        db.execute("DELETE FROM broker_owners WHERE name=?", (owner,))
    held = db.execute(
        "SELECT DISTINCT g.topic FROM broker_leases AS l JOIN broker_groups AS g ON g.id=l.group_id WHERE l.owner=?",
        (owner,),
    ).fetchall()
    if held:
        db.execute("UPDATE broker_leases SET owner=NULL, due=? WHERE owner=?", (now, owner))
    return [topic for [topic] in held]


_ALL = 1 << 62

_TOPICS = """WITH RECURSIVE t(topic) AS (
  SELECT min(topic) FROM broker_messages
  UNION ALL SELECT (SELECT min(topic) FROM broker_messages WHERE topic > t.topic) FROM t WHERE t.topic IS NOT NULL)
SELECT topic FROM t WHERE topic IS NOT NULL"""


def keep_house(
    db: sqlite3.Connection, present: Sequence[int], now: float, *, retention_s: float, group_retention_s: float
) -> tuple[list[tuple[str, str]], bool]:
    """Note the groups that are present, forget those absent for `group_retention_s` (0: never), and delete messages of
    topics without groups after `retention_s`. Return topic and name of the groups that were forgotten, and whether
    there is more to delete.
    """
    if present:
        _each(db, "UPDATE broker_groups SET seen=? WHERE id", (now,), list(present))
    forgotten: list[tuple[int, str, str]] = []
    if group_retention_s:
        forgotten = db.execute(
            "DELETE FROM broker_groups WHERE seen<? RETURNING id, topic, name", (now - group_retention_s,)
        ).fetchall()
        for group, *_ in forgotten:
            db.execute("DELETE FROM broker_leases WHERE group_id=?", (group,))
    db.execute(
        "DELETE FROM broker_delayed WHERE due<? AND topic NOT IN (SELECT topic FROM broker_groups)",
        (now - retention_s,),
    )
    with_groups = {topic for [topic] in db.execute("SELECT DISTINCT topic FROM broker_groups")}
    more = False
    for [topic] in db.execute(_TOPICS).fetchall():
        if topic in with_groups:
            more |= tidy(db, topic)
            continue
        kept = db.execute(
            "SELECT id FROM broker_messages WHERE topic=? AND published>=? ORDER BY id LIMIT 1",
            (topic, now - retention_s),
        ).fetchone()
        more |= _delete(db, "topic=? AND id<?", (topic, _ALL if kept is None else kept[0]))
    return [(topic, name) for _, topic, name in forgotten], more
