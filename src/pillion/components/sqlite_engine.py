"""One SQLite file, shared by all who use it in this process: one writer thread with group commit, readers beside it.

Knows: threads, transactions and the journal. Never knows: tables. The state store, the broker and the name registry of
a sidecar bring their own statements:

    engine = await open_engine(settings.location(), timeout_s=settings.timeout)    # the same file: the same engine
    count = await engine.write(lambda db: db.execute("DELETE FROM t WHERE k = ?", (k,)).rowcount)
    rows = await engine.read(lambda db: db.execute("SELECT v FROM t WHERE k = ?", (k,)).fetchall())
    await engine.close()                                                           # the last one ends the threads

All writes that wait at the same time share one transaction and one fsync. A call returns after the COMMIT that holds
it, so what was answered survives `kill -9` and, as far as the disk keeps its word, loss of power
(`synchronous=FULL`, sqlite.org/pragma.html#pragma_synchronous). Writes take effect in the order of the calls.

A unit of work is a plain function of the connection. It runs on the engine's thread and
- must not begin, commit or roll back (it may use `SAVEPOINT`), and must not keep the connection;
- fails alone: its own changes are undone and the exception reaches its caller, its neighbours commit;
- may be run a second time after its first run was undone, so it has no effects but those on the database.

Hot paths use a `Batch`: a module-level function or bound method that gets every argument waiting at that moment in one
call, so that one statement can serve them all (`json_each(?)` turns N rows into one call into SQLite, that is one
hand-over of the interpreter lock). `engine.write_row(batch, argument)` and `engine.read_row(batch, argument)` return an
`asyncio.Future` to await. Several processes may use one file: waiting for another's transaction ends after
`busy_timeout_s` with an error.
"""

from __future__ import annotations

import asyncio
import random
import sqlite3
import threading
import time
from collections import deque
from contextlib import suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from pillion.components.sqlite_location import Location
from pillion.errors import ComponentError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    Batch = Callable[[sqlite3.Connection, Sequence[Any]], Sequence[Any]]
    """Takes the arguments of consecutive calls, in order; returns one result each. A result that is an exception is
    raised at its caller and must have changed nothing. Raising makes the engine try each argument alone."""

T = TypeVar("T")

MAX_WAITING = 8192
"""Calls that may wait for one lane; further callers are held back until there is room."""
MAX_BATCH = 1024
"""Calls in one transaction: bounds the time that the first of them waits for the last."""

_BUSY = frozenset({sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED})


class _Call(Generic[T]):
    """One waiting call: a batch with an argument, or `work` alone."""

    __slots__ = ("argument", "batch", "future", "loop", "since", "work")

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        work: Callable[[sqlite3.Connection], T] | None,
        batch: Batch | None = None,
        argument: Any = None,
    ) -> None:
        self.loop = loop
        self.future: asyncio.Future[T] = loop.create_future()
        self.work = work
        self.batch = batch
        self.argument = argument
        self.since = time.monotonic()


class _Undone(Exception):
    """A call failed in the shared transaction, which therefore has been rolled back."""


def _settle(outcomes: list[tuple[_Call[Any], Any]]) -> None:
    """Resolve the futures of one loop, in one callback."""
    for call, outcome in outcomes:
        future = call.future
        if future.done():
            continue
        if isinstance(outcome, BaseException):
            future.set_exception(_failure(outcome))
        else:
            future.set_result(outcome)


def _failure(error: BaseException) -> BaseException:
    """Translate what SQLite raised, anew for each call; a unit of work's own exceptions pass as they are."""
    if isinstance(error, sqlite3.Error):
        translated = ComponentError(f"sqlite: {error}")
        translated.__cause__ = error
        return translated
    return error


class _Lane:
    """One thread with one connection and its queue. Calls come in from any loop; a batch leaves in one go."""

    def __init__(self, engine: Engine, name: str, *, writes: bool) -> None:
        self._engine = engine
        self._writes = writes
        self._waiting: deque[_Call[Any]] = deque()
        self._held_back: deque[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]]] = deque()
        self._wake: SimpleQueue[None] = SimpleQueue()
        self._idle = False
        self._waking: asyncio.AbstractEventLoop | None = None
        self._ending = False
        self._db: sqlite3.Connection
        self._opened = threading.Event()
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._live, name=f"sqlite {name}", daemon=True)

    # --- on a thread that may wait ---

    def start(self) -> None:
        """Open the connection on the lane's own thread; raises `ComponentError`."""
        self._thread.start()
        self._opened.wait()
        if self._error is not None:
            raise self._error

    def stop(self) -> None:
        """Do what is waiting, then end the thread."""
        self._ending = True
        self._wake.put(None)
        self._thread.join()

    # --- on an event loop ---

    def submit(self, call: _Call[T]) -> asyncio.Future[T]:
        if self._ending:
            raise ComponentError("sqlite: the database is closed")
        self._waiting.append(call)
        # A missed wake-up cannot happen: the thread sets `_idle` before its last look at the queue. It is woken when
        # the turn of the loop is over, so that all calls of the turn share a transaction.
        if self._idle and self._waking is not call.loop:
            self._waking = call.loop
            call.loop.call_soon(self._rouse)
        return call.future

    def _rouse(self) -> None:
        self._waking = None
        if self._idle:
            self._idle = False
            self._wake.put(None)

    @property
    def full(self) -> bool:
        return len(self._waiting) >= MAX_WAITING

    async def room(self) -> None:
        """Wait until the queue has room, first come first served; bounded by the engine's timeout."""
        loop = asyncio.get_running_loop()
        try:
            async with asyncio.timeout(self._engine.timeout_s):
                while self.full:
                    gate: asyncio.Future[None] = loop.create_future()
                    self._held_back.append((loop, gate))
                    await gate
        except TimeoutError:
            raise ComponentError("sqlite: too many requests are waiting for the database") from None

    # --- on the lane's thread ---

    def _live(self) -> None:
        try:
            self._db = self._engine.connect(writes=self._writes)
        except BaseException as error:
            self._error = error
            self._opened.set()
            return
        self._opened.set()
        try:
            while batch := self._next():
                self._deliver(self._perform(batch))
        finally:
            self._db.close()

    def _next(self) -> list[_Call[Any]]:
        """Return the waiting calls, oldest first, when there are any; an empty list means the end."""
        waiting = self._waiting
        while not waiting:
            self._idle = True
            if waiting:
                break
            if self._ending:
                return []
            self._wake.get()
        self._idle = False
        batch: list[_Call[Any]] = []
        with suppress(IndexError):
            while len(batch) < MAX_BATCH:
                batch.append(waiting.popleft())
        # As many may come in as went out. Nobody is forgotten: while callers are held back, the queue is not empty.
        for _ in range(min(len(batch), len(self._held_back))):
            loop, gate = self._held_back.popleft()
            _post(loop, _open_gate, gate)
        return batch

    def _perform(self, batch: list[_Call[Any]]) -> list[tuple[_Call[Any], Any]]:
        overdue = time.monotonic() - self._engine.timeout_s
        outcomes: list[tuple[_Call[Any], Any]] = [
            (call, ComponentError("sqlite: the request waited too long for the database"))
            for call in batch
            if call.since < overdue
        ]
        calls = [call for call in batch if call.since >= overdue and not call.future.done()]
        if not calls:
            return outcomes
        try:
            try:
                return outcomes + self._together(calls)
            except _Undone:
                return outcomes + self._one_by_one(calls)
        except sqlite3.Error as error:
            self._undo()
            return outcomes + [(call, error) for call in calls]

    def _begin(self) -> None:
        if self._writes:
            patiently(self._db, "BEGIN IMMEDIATE", self._engine.busy_timeout_s)
        else:
            self._db.execute("BEGIN")

    def _undo(self) -> None:
        if self._db.in_transaction:
            self._db.execute("ROLLBACK")

    def _together(self, calls: list[_Call[Any]]) -> list[tuple[_Call[Any], Any]]:
        """Run all calls in one transaction; raises `_Undone` when one of them raises."""
        db = self._db
        outcomes: list[tuple[_Call[Any], Any]] = []
        self._begin()
        first, count = 0, len(calls)
        try:
            while first < count:
                call = calls[first]
                if call.work is not None:
                    outcomes.append((call, call.work(db)))
                    first += 1
                    continue
                batch, last = call.batch, first + 1
                assert batch is not None
                while last < count and calls[last].batch == batch:
                    last += 1
                run = calls[first:last]
                outcomes.extend(zip(run, batch(db, [one.argument for one in run]), strict=True))
                first = last
        except Exception as error:
            self._undo()
            raise _Undone from error
        patiently(db, "COMMIT", self._engine.busy_timeout_s)
        return outcomes

    def _one_by_one(self, calls: list[_Call[Any]]) -> list[tuple[_Call[Any], Any]]:
        """Run each call behind a savepoint of its own, still in one transaction."""
        db = self._db
        outcomes: list[tuple[_Call[Any], Any]] = []
        self._begin()
        for call in calls:
            db.execute("SAVEPOINT one_call")
            try:
                if call.work is not None:
                    outcome = call.work(db)
                else:
                    assert call.batch is not None
                    [outcome] = call.batch(db, [call.argument])
            except Exception as error:
                if not db.in_transaction:
                    raise  # SQLite itself gave the transaction up (disk full, I/O error): nothing of it is left
                db.execute("ROLLBACK TO one_call")
                outcome = error
            db.execute("RELEASE one_call")
            outcomes.append((call, outcome))
        patiently(db, "COMMIT", self._engine.busy_timeout_s)
        return outcomes

    def _deliver(self, outcomes: list[tuple[_Call[Any], Any]]) -> None:
        by_loop: dict[asyncio.AbstractEventLoop, list[tuple[_Call[Any], Any]]] = {}
        for outcome in outcomes:
            by_loop.setdefault(outcome[0].loop, []).append(outcome)
        for loop, share in by_loop.items():
            _post(loop, _settle, share)


def _post(loop: asyncio.AbstractEventLoop, callback: Callable[..., None], *arguments: Any) -> None:
    """Call back on a loop that may have ended: then nobody waits for the answer any more."""
    with suppress(RuntimeError):
        loop.call_soon_threadsafe(callback, *arguments)


def _open_gate(gate: asyncio.Future[None]) -> None:
    if not gate.done():
        gate.set_result(None)


def patiently(db: sqlite3.Connection, statement: str, patience_s: float) -> None:
    """Execute a statement that another process may delay, for at most `patience_s` seconds.

    SQLite's own busy handler sleeps up to 100 ms between two looks and would starve beside a process that commits
    back to back; its file locks offer no event to wait for. Short random pauses find the gap between two commits.
    """
    deadline = time.monotonic() + patience_s
    while True:
        try:
            db.execute(statement)
            return
        except sqlite3.OperationalError as error:
            if error.sqlite_errorcode & 0xFF not in _BUSY or time.monotonic() >= deadline:
                raise
        time.sleep(random.uniform(0.0003, 0.002))


class Engine:
    """A database file and its threads. Made by `open_engine`."""

    def __init__(self, location: Location, *, timeout_s: float, busy_timeout_s: float) -> None:
        self.location = location
        self.timeout_s = timeout_s
        self.busy_timeout_s = busy_timeout_s
        self._users = 0
        self._starting = threading.Lock()
        self._lanes: tuple[_Lane, ...] = ()
        self._writer: _Lane
        self._reader: _Lane
        self._scanner: _Lane

    def connect(self, *, writes: bool) -> sqlite3.Connection:
        """Open one connection as the location says; called on the thread that will use it."""
        where = self.location
        try:
            db = sqlite3.connect(where.uri, uri=True, isolation_level=None, cached_statements=256)
        except sqlite3.Error as error:
            raise ComponentError(f"sqlite: cannot open {where.uri}: {error}") from error
        try:
            # The writer waits in `patiently`; a reader is delayed for moments only (recovery, a checkpoint's end).
            db.execute(f"PRAGMA busy_timeout={0 if writes else int(self.busy_timeout_s * 1000)}")
            if writes and not where.read_only:
                journal = "MEMORY" if where.memory else "WAL" if where.wal else "DELETE"
                patiently(db, f"PRAGMA journal_mode={journal}", self.busy_timeout_s)
            db.execute("PRAGMA synchronous=FULL")
            db.execute("PRAGMA fullfsync=ON")
            db.execute("PRAGMA foreign_keys=ON")
            for pragma in where.pragmas:
                db.execute(pragma)
            if not writes:
                db.execute("PRAGMA query_only=ON")
        except sqlite3.Error as error:
            db.close()
            raise ComponentError(f"sqlite: cannot open {where.uri}: {error}") from error
        return db

    def start(self) -> None:
        """Start the threads, once; blocks until the file is open. `open_engine` calls it beside the loop."""
        with self._starting:
            if self._lanes:
                return
            writer = reader = scanner = _Lane(self, "writer", writes=True)
            lanes = [writer]
            if not self.location.memory:
                reader, scanner = _Lane(self, "reader", writes=False), _Lane(self, "scanner", writes=False)
                lanes += [reader, scanner]
            started = []
            try:
                for lane in lanes:
                    lane.start()
                    started.append(lane)
            except BaseException:
                for lane in started:
                    lane.stop()
                raise
            self._writer, self._reader, self._scanner = writer, reader, scanner
            self._lanes = tuple(lanes)

    def stop(self) -> None:
        """Do what is waiting and end the threads; blocks."""
        with self._starting:
            for lane in reversed(self._lanes):
                lane.stop()
            self._lanes = ()

    async def write(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` in the next transaction and return its result after the COMMIT."""
        if self._writer.full:
            await self._writer.room()
        return await self._writer.submit(_Call(asyncio.get_running_loop(), work))

    async def read(self, work: Callable[[sqlite3.Connection], T]) -> T:
        """Run `work` on one snapshot that holds every write acknowledged before this call."""
        if self._scanner.full:
            await self._scanner.room()
        return await self._scanner.submit(_Call(asyncio.get_running_loop(), work))

    def write_row(self, batch: Batch, argument: Any) -> Awaitable[Any]:
        """Give `argument` to the next call of `batch` and return its result after the COMMIT."""
        return _row(self._writer, batch, argument)

    def read_row(self, batch: Batch, argument: Any) -> Awaitable[Any]:
        """As `write_row`, for a query; on a thread of its own, so that long reads do not delay short ones."""
        return _row(self._reader, batch, argument)

    async def close(self) -> None:
        """Give back one `open_engine`. The last one waits for what is waiting and ends the threads."""
        with _engines_lock:
            self._users -= 1
            if self._users > 0:
                return
            if _engines.get(self._key) is self:
                del _engines[self._key]
        await asyncio.to_thread(self.stop)

    @property
    def _key(self) -> tuple[Location, float, float]:
        return (self.location, self.timeout_s, self.busy_timeout_s)

    def __repr__(self) -> str:
        return f"<Engine {self.location.uri}, {self._users} users, {len(self._lanes)} threads>"


def _row(lane: _Lane, batch: Batch, argument: Any) -> Awaitable[Any]:
    call: _Call[Any] = _Call(asyncio.get_running_loop(), None, batch, argument)
    return _in_turn(lane, call) if lane.full else lane.submit(call)


async def _in_turn(lane: _Lane, call: _Call[Any]) -> Any:
    await lane.room()
    return await lane.submit(call)


_engines: dict[tuple[Location, float, float], Engine] = {}
_engines_lock = threading.Lock()


async def open_engine(location: Location, *, timeout_s: float = 20.0, busy_timeout_s: float = 2.0) -> Engine:
    """Return the engine of a file, opening it when nobody has it open yet. Every caller calls `close` once.

    `timeout_s` bounds the time that a request waits for its turn, `busy_timeout_s` the wait for other processes.
    Raises `ComponentError` when the file cannot be opened.
    """
    key = (location, timeout_s, busy_timeout_s)
    with _engines_lock:
        engine = _engines.get(key)
        if engine is None:
            engine = _engines[key] = Engine(location, timeout_s=timeout_s, busy_timeout_s=busy_timeout_s)
        engine._users += 1
    try:
        await asyncio.to_thread(engine.start)
    except BaseException:
        await engine.close()
        raise
    return engine


__all__ = ["Engine", "Location", "open_engine", "patiently"]
