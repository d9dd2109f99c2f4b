"""Connections to PostgreSQL for components: settings, connection strings, a pool with deadlines and translated errors.

    pool = PostgresPool(settings, where="component statestore")
    await pool.open()
    rows = await pool.fetch("SELECT …", argument)                 # a read: asked once more on a fresh connection
    count = await pool.execute("UPDATE …", argument)              # rows touched
    result = await pool.transaction(work)                         # work(connection); again after a deadlock

A statement whose connection ended before the answer raises `ComponentError`; writes are not repeated then, because
nobody can tell whether they were executed. A restarted server is used again without our restart.

Knows: asyncpg and the metadata shared by all PostgreSQL components (spec `components.md` 1). Never knows: tables.
"""

from __future__ import annotations

import asyncio
import logging
import os
import re
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar
from urllib.parse import parse_qsl, unquote, urlencode, urlsplit

import asyncpg
from asyncpg.pgproto import pgproto

from pillion.errors import ComponentError, ConfigError
from pillion.kinds.component import seconds, setting

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

T = TypeVar("T")
log = logging.getLogger("pillion.components.postgresql")

MODES = ("cache_statement", "cache_describe", "describe_exec", "exec", "simple_protocol")
FAILURES = (
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
    pgproto.BufferError,
    BufferError,
    UnicodeError,
    OSError,
)
"""What a statement can fail with: an answer of the server, a misused connection, one that the server is just ending
(asyncpg has read its last word, but not yet that nothing follows), an answer that is cut short or no text, the
network."""
CONFLICT_TRIES = 4
"""Times that a transaction is tried when the server rolls it back in favour of another one."""


def timeout_seconds(text: str) -> float:
    """A duration of at least one second; empty is 20 s."""
    if not text.strip():
        return 20.0
    value = seconds(text)
    if value < 1:
        raise ValueError("must be 1s or more")
    return value


@dataclass(frozen=True, slots=True)
class PostgresSettings:
    """Metadata shared by all PostgreSQL components."""

    connection_string: str = setting("", aliases=("url",), secret=True, help="libpq key=value pairs, or postgres://…")
    host: str = setting("")
    hostaddr: str = setting("", help="address of the host, saving its look-up")
    port: str = setting("")
    database: str = setting("")
    user: str = setting("")
    password: str = setting("", secret=True)
    ssl_root_cert: str = setting("", help="path of the authority's PEM file")
    max_conns: int = setting(0, help="connections at most; 0: 4 or the number of processors, whichever is more")
    connection_max_idle_time: float = setting(0.0, parse=seconds, help="idle connections are closed after; 0: 5m")
    query_exec_mode: str = setting("cache_statement", parse=lambda text: text or MODES[0], choices=MODES)
    timeout: float = setting(20.0, aliases=("timeoutInSeconds",), parse=timeout_seconds, help="of one statement")
    use_azure_ad: bool = setting(False, key="useAzureAD", help="not supported")
    use_aws_iam: bool = setting(False, key="useAWSIAM", help="not supported")


_PAIR = re.compile(r"\s*([A-Za-z_]\w*)\s*=\s*('(?:[^'\\]|\\.)*'|(?:[^\s'\\]|\\.)*)(?:\s+|$)", re.DOTALL)


def parse_connection_string(text: str) -> dict[str, str]:
    """Return the parameters of a connection string in either form (postgresql.org/docs/current/libpq-connect.html,
    section 32.1.1). Raises ValueError, without quoting the text: it may hold a password.
    """
    text = text.strip()
    if re.match(r"postgres(ql)?://", text):
        return _parse_url(text)
    found: dict[str, str] = {}
    at = 0
    while at < len(text):
        pair = _PAIR.match(text, at)
        if pair is None:
            raise ValueError(f"connection string: character {at + 1} does not begin a key=value pair")
        name, value = pair.groups()
        quoted = value[1:-1] if value.startswith("'") else value
        found[name.lower()] = re.sub(r"\\(.)", r"\1", quoted, flags=re.DOTALL)
        at = pair.end()
    if "dbname" in found:
        found["database"] = found.pop("dbname")
    return found


def _parse_url(text: str) -> dict[str, str]:
    url = urlsplit(text)
    found = {key.lower(): value for key, value in parse_qsl(url.query, keep_blank_values=True)}
    if "dbname" in found:
        found["database"] = found.pop("dbname")
    account, _, hosts = url.netloc.rpartition("@")
    user, _, password = account.partition(":")
    names, ports = [], []
    for place in hosts.split(",") if hosts else ():
        match = re.fullmatch(r"(\[[^\]]*\]|[^:]*)(?::(\d*))?", place)
        if match is None:
            raise ValueError("connection string: the host of the URL is malformed")
        names.append(unquote(match[1]).removeprefix("[").removesuffix("]"))
        ports.append(match[2] or "5432")
    given = {
        "user": unquote(user),
        "password": unquote(password),
        "host": ",".join(names),
        "port": ",".join(ports),
        "database": unquote(url.path.removeprefix("/")),
    }
    return {**{key: value for key, value in given.items() if value}, **found}


@dataclass(frozen=True, slots=True)
class _Target:
    dsn: str
    maximum: int
    idle_s: float
    statement_cache: int
    connect_s: float


def _target(settings: PostgresSettings, where: str) -> _Target:
    if settings.use_azure_ad or settings.use_aws_iam:
        raise ConfigError("useAzureAD and useAWSIAM are not supported", where=where, mend="give user and password")
    try:
        given = parse_connection_string(settings.connection_string)
    except ValueError as error:
        raise ConfigError(str(error), where=where) from None
    for name in ("host", "hostaddr", "port", "database", "user", "password"):
        if value := getattr(settings, name):
            given[name] = value
    if settings.ssl_root_cert:
        given["sslrootcert"] = settings.ssl_root_cert
    if not given:
        raise ConfigError("connectionString is missing", where=where, mend="or give host, user and database")
    if address := given.pop("hostaddr", ""):
        given["host"] = address
    mode = given.pop("default_query_exec_mode", settings.query_exec_mode)
    if mode not in MODES:
        raise ConfigError(
            f"default_query_exec_mode {mode!r} is unknown", where=where, mend=f"one of {', '.join(MODES)}"
        )
    if mode == "simple_protocol":
        log.info("%s: queryExecMode simple_protocol is served by unprepared statements of the extended protocol", where)
    try:
        maximum = settings.max_conns or int(given.pop("pool_max_conns", "0")) or max(4, os.cpu_count() or 1)
        connect_s = float(given.pop("connect_timeout", "0")) or settings.timeout
    except ValueError as error:
        raise ConfigError(f"connection string: {error}", where=where) from error
    for name in [name for name in given if name.startswith("pool_")]:
        log.info("%s: %s of the connection string has no effect", where, name)
        del given[name]
    return _Target(
        f"postgresql://?{urlencode(given)}",
        max(maximum, 2),  # preparing tables takes two: one holds the lock
        settings.connection_max_idle_time if settings.connection_max_idle_time > 0 else 300.0,
        100 if mode == "cache_statement" else 0,
        connect_s,
    )


class PostgresPool:
    """A pool of connections to one database."""

    def __init__(self, settings: PostgresSettings, where: str) -> None:
        self.timeout_s = settings.timeout
        self._target = _target(settings, where)
        self._pool: Any = None

    async def open(self) -> None:
        """Connect once, to see that it can be done.

        The pool holds no minimum of connections of its own: asyncpg from 0.32 on would restore it in the background
        during an outage, with a stack trace in the log at every failure.
        """
        target = self._target
        with translated():
            pool = await asyncpg.create_pool(
                target.dsn,
                min_size=0,
                max_size=target.maximum,
                max_inactive_connection_lifetime=target.idle_s,
                statement_cache_size=target.statement_cache,
                command_timeout=self.timeout_s,
                timeout=target.connect_s,
                reset=_keep,
            )
            try:
                async with pool.acquire(timeout=self.timeout_s):
                    self._pool = pool
            finally:
                if self._pool is None:
                    pool.terminate()

    async def close(self) -> None:
        """Close in an orderly way for a second, then cut off."""
        pool, self._pool = self._pool, None
        if pool is None:
            return
        try:
            async with asyncio.timeout(1.0):
                await pool.close()
        except FAILURES:
            pool.terminate()

    @asynccontextmanager
    async def connection(self) -> AsyncIterator[Any]:
        """Borrow a connection; a broken or unresponsive one is thrown away. Raises `ComponentError`."""
        if self._pool is None:
            raise ComponentError("postgresql: the pool is not open")
        with translated():
            connection = await self._pool.acquire(timeout=self.timeout_s)
        healthy = False
        try:
            with translated():
                yield connection
            healthy = True
        except ComponentError as error:
            # An answer of the server leaves the connection usable; silence does not, and to ask the server to cancel
            # would only wait for the same silence again.
            healthy = isinstance(error.__cause__, asyncpg.PostgresError) or error.__cause__ is None
            raise
        finally:
            if not healthy:
                connection.terminate()
            await self._pool.release(connection)

    async def fetch(self, statement: str, *arguments: Any) -> list[Any]:
        """Return the rows of a query that may be asked twice."""

        async def ask(connection: Any) -> list[Any]:
            rows: list[Any] = await connection.fetch(statement, *arguments)
            return rows

        return await self._twice(ask, also_when_lost=True)

    async def execute(self, statement: str, *arguments: Any) -> int:
        """Execute one statement in a transaction of its own; return how many rows it touched."""

        async def run(connection: Any) -> int:
            return touched(await connection.execute(statement, *arguments))

        return await self._twice(run, also_when_lost=False)

    async def transaction(self, work: Callable[[Any], Awaitable[T]]) -> T:
        """Run `work` in a transaction, committed when it returns. It runs again when the server chose it as the victim
        of a deadlock, so it has no effects but those on the database.
        """

        async def run(connection: Any) -> T:
            async with connection.transaction():
                return await work(connection)

        for tries in range(CONFLICT_TRIES):
            try:
                return await self._twice(run, also_when_lost=False)
            except ComponentError as error:
                conflict = isinstance(error.__cause__, asyncpg.DeadlockDetectedError | asyncpg.SerializationError)
                if not conflict or tries == CONFLICT_TRIES - 1:
                    raise
        raise AssertionError("unreachable")

    async def _twice(self, run: Callable[[Any], Awaitable[T]], *, also_when_lost: bool) -> T:
        """Run; once more when a prepared statement was outdated by a change of the schema (then nothing was executed),
        and for reads also when the connection was lost. All of it, the wait for a connection included, ends in time.
        """
        with translated():
            async with asyncio.timeout(self.timeout_s) as limit:
                try:
                    return await self._once(run, limit)
                except ComponentError as error:
                    cause = error.__cause__
                    lost = isinstance(
                        cause, asyncpg.PostgresConnectionError | asyncpg.InternalClientError | ConnectionError
                    )
                    outdated = isinstance(cause, asyncpg.InvalidCachedStatementError | asyncpg.OutdatedSchemaCacheError)
                    if not outdated and not (lost and also_when_lost):
                        raise
                return await self._once(run, limit)

    async def _once(self, run: Callable[[Any], Awaitable[T]], limit: asyncio.Timeout) -> T:
        async with self.connection() as connection:
            if limit.expired():  # `wait_for` of Python 3.11, inside of the pool, loses a cancellation that comes late
                raise TimeoutError
            return await run(connection)

    def __repr__(self) -> str:
        if self._pool is None:
            return "<PostgresPool, closed>"
        return f"<PostgresPool, {self._pool.get_size()} of {self._target.maximum} connections>"


class translated:
    """Turn the exceptions of asyncpg and of the network into `ComponentError`, cause attached."""

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        if isinstance(error, TimeoutError):
            raise ComponentError("postgresql: no answer in time") from error
        if isinstance(error, FAILURES):
            raise ComponentError(f"postgresql: {error or type(error).__name__}") from error


async def _keep(connection: Any) -> None:
    """No reset when a connection comes back: our statements leave nothing behind, and a round trip is saved."""


def touched(status: str) -> int:
    """Return the number of rows in a command tag: `UPDATE 3`, `INSERT 0 1`; 0 for `CREATE TABLE` and the like."""
    count = status.rpartition(" ")[2]
    return int(count) if count.isdigit() else 0


def identifier(text: str, what: str, *, where: str) -> str:
    """Return a name that may stand in a statement unquoted; raises `ConfigError`."""
    if re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]{0,48}(\.[A-Za-z_][A-Za-z0-9_]{0,48})?", text):
        return text
    raise ConfigError(f"{what} {text!r} is not an identifier", where=where, mend="use letters, digits and _")
