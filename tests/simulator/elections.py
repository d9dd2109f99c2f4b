"""The stores that decide who leads, as the real engines of leadership see them: PostgreSQL and etcd, on a host `store`.

The programs in front are the real ones (`components/leadership_*.py`); here are the servers behind them, as far as they
are asked: sessions with an advisory lock that end when they are idle too long, leases that expire, a watch. What both
have in common is durable; sessions and leases of PostgreSQL end with its process, the leases of etcd begin anew.
"""

from __future__ import annotations

import asyncio
import json
from collections import deque
from typing import TYPE_CHECKING, Any

import asyncpg

from pillion.errors import Code
from pillion.net.exchange import BodyIncomplete, Method, Response, RpcError
from pillion.net.http_client import ConnectFailed

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

    from pillion.net.exchange import ClientStream, Metadata, Request, ServerCall
    from pillion.testing.simulated_grpc import Network
    from pillion.testing.simulation import Host, World

STORE = "store:1"
SESSION, WATCH, CALL = "/session", "/watch", "/call"
LATE = b"lock timeout"
FOREVER_S = 7200.0
"""When TCP, left alone, notices that a peer is silent."""


# --- PostgreSQL ----------------------------------------------------------------------------------------------------


class Postgres:
    """The server. `terms` outlives its process."""

    def __init__(self, world: World, network: Network) -> None:
        self.world, self.network = world, network
        network.notices[SESSION] = (FOREVER_S, FOREVER_S)
        self.terms: dict[str, tuple[int, bool]] = {}

    def start(self) -> Host:
        host = self.world.host("store")
        self.network.serve(STORE, host, _PostgresProcess(self, host))
        return host

    def connect(self, source: Host) -> Callable[..., Awaitable[_Connection]]:
        """Return what stands for `asyncpg.connect` on a host."""

        async def connect(dsn: str, *, timeout: float, server_settings: dict[str, str]) -> _Connection:
            connection = _Connection(self.network.channel(source, STORE).stream(SESSION))
            try:
                await connection.execute("hello", timeout=timeout)
            except BaseException:
                connection.terminate()
                raise
            return connection

        return connect


class _Connection:
    """A connection as asyncpg gives it."""

    def __init__(self, stream: ClientStream) -> None:
        self._stream, self._closed = stream, False

    async def execute(self, sql: str, *arguments: Any, timeout: float | None = None) -> Any:
        if self._closed:
            raise OSError("the connection is closed")
        async with asyncio.timeout(timeout):
            try:
                await self._stream.send(json.dumps([sql, arguments]).encode())
                answer = await self._stream.receive()
            except RpcError as error:
                self._closed = True
                raise OSError(error.message) from error
        if answer is None:
            self._closed = True
            raise OSError("the connection was closed in the middle of operation")
        if answer == LATE:
            raise asyncpg.LockNotAvailableError("canceling statement due to lock timeout")
        return json.loads(answer)

    fetchrow = fetchval = execute

    def is_closed(self) -> bool:
        return self._closed

    def terminate(self) -> None:
        self._closed = True
        self._stream.cancel()

    async def close(self, *, timeout: float) -> None:
        self.terminate()


class _PostgresProcess:
    """The locks and sessions of one process of the server."""

    def __init__(self, durable: Postgres, host: Host) -> None:
        self._durable, self._host = durable, host
        self._holders: dict[int, asyncio.Task[None]] = {}
        self._waiting: deque[asyncio.Future[None]] = deque()

    def find(self, method: str, metadata: Metadata) -> Method | None:
        return Method(streaming=self._session)

    async def _session(self, call: ServerCall) -> None:
        """A session is a process of its own: it does not see that its client has gone while a statement runs."""
        asked: asyncio.Queue[bytes | None] = asyncio.Queue()
        work = self._host.loop.create_task(self._serve(call, asked))
        reading = self._host.loop.create_task(_read(call, asked))
        try:
            await asyncio.wait((work,))
        finally:
            reading.cancel()
            asked.put_nowait(None)
        raise RpcError(Code.UNAVAILABLE, "terminating connection due to idle-session timeout")

    async def _serve(self, call: ServerCall, asked: asyncio.Queue[bytes | None]) -> None:
        idle_s: float | None = None
        turn_s: float | None = None
        held: list[int] = []
        try:
            while True:
                async with asyncio.timeout(idle_s):
                    question = await asked.get()
                if question is None:
                    return
                sql, arguments = json.loads(question)
                answer: Any = None
                if sql.startswith("SET idle_session_timeout"):
                    idle_s = int(sql.rpartition(" ")[2]) / 1000
                elif sql.startswith("SET lock_timeout"):
                    turn_s = int(sql.rpartition(" ")[2]) / 1000
                elif "pg_advisory_lock" in sql:
                    if await self._lock(arguments[0], turn_s):
                        held.append(arguments[0])
                    else:
                        answer = LATE
                elif "pg_sleep" in sql:
                    await asyncio.sleep(arguments[0])
                else:
                    answer = self._table(sql, arguments)
                try:
                    await call.send(answer if answer is LATE else json.dumps(answer).encode())
                except RpcError:
                    return
        except TimeoutError:
            return
        finally:
            for key in held:
                self._unlock(key)

    async def _lock(self, key: int, turn_s: float | None) -> bool:
        """Wait for the lock; False when its turn has not come in time."""
        me = asyncio.current_task()
        assert me is not None
        turn: asyncio.Future[None] = self._host.loop.create_future()
        if key in self._holders:
            self._waiting.append(turn)
            await asyncio.wait((turn,), timeout=turn_s)
            if not turn.done():
                self._waiting.remove(turn)
                return False
        self._holders[key] = me
        return True

    def _unlock(self, key: int) -> None:
        """Give the lock to whoever waits the longest; there is but one lock here."""
        if self._waiting:
            self._waiting.popleft().set_result(None)
        else:
            del self._holders[key]

    def _table(self, sql: str, arguments: list[Any]) -> Any:
        terms = self._durable.terms
        if sql.startswith("SELECT resigned"):
            found = terms.get(arguments[0])
            return None if found is None else {"resigned": found[1]}
        if sql.startswith("INSERT"):
            name, now_ms, apart = arguments
            term = max(terms[name][0] + apart, now_ms) if name in terms else now_ms
            terms[name] = (term, False)
            return term
        if sql.startswith("UPDATE"):
            terms[arguments[0]] = (terms[arguments[0]][0], True)
        elif not sql.startswith(("hello", "CREATE", "SELECT 1")):
            raise AssertionError(f"this server does not know {sql}")
        return None


async def _read(call: ServerCall, asked: asyncio.Queue[bytes | None]) -> None:
    try:
        while (message := await call.receive()) is not None:
            asked.put_nowait(message)
    except RpcError:
        pass  # the client is gone
    asked.put_nowait(None)


# --- etcd ----------------------------------------------------------------------------------------------------------


class Etcd:
    """The server, and what outlives its process: keys, and the lengths of leases."""

    def __init__(self, world: World, network: Network) -> None:
        self.world, self.network = world, network
        network.notices[WATCH] = (FOREVER_S, FOREVER_S)
        self.revision = 1
        self.rows: dict[str, tuple[str, int, str]] = {}
        """Key to value, revision and lease."""
        self.leases: dict[str, int] = {}

    def start(self) -> Host:
        host = self.world.host("store")
        self.network.serve(STORE, host, _EtcdProcess(self, host))
        return host

    def client(self, source: Host) -> Callable[..., _Client]:
        """Return what makes clients on a host."""
        return lambda *_, **__: _Client(self.network, source)


class _Client:
    """The part of an `HttpClient` that is asked for."""

    def __init__(self, network: Network, source: Host) -> None:
        self._channel = network.channel(source, STORE)

    async def request(self, request: Request, *, timeout_s: float | None = None) -> Response:
        path, body = request.target.decode().removeprefix("/v3/"), request.body
        assert isinstance(body, bytes)
        try:
            if path == "watch":
                stream = self._channel.stream(WATCH)
                await stream.send_last(body)
                async with asyncio.timeout(timeout_s):
                    await stream.initial_metadata()
                return Response(200, [], _pieces(stream))
            async with asyncio.timeout(timeout_s):
                answer = await self._channel.unary(CALL, json.dumps([path, json.loads(body)]).encode())
        except RpcError as error:
            raise ConnectFailed(STORE, OSError(error.message)) from error
        return Response(200, [], answer.message)

    async def close(self) -> None:
        await self._channel.close()


async def _pieces(stream: ClientStream) -> AsyncIterator[bytes]:
    try:
        while (piece := await stream.receive()) is not None:
            yield piece
    except RpcError as error:
        raise BodyIncomplete from error
    finally:
        stream.cancel()


class _EtcdProcess:
    def __init__(self, durable: Etcd, host: Host) -> None:
        self._etcd, self._host = durable, host
        self._until: dict[str, float] = {}
        self._watches: dict[asyncio.Event, str] = {}
        for lease in durable.leases:
            self._renew(lease)  # a new leader of etcd begins them anew

    def find(self, method: str, metadata: Metadata) -> Method | None:
        return Method(streaming=self._watch) if method == WATCH else Method(unary=self._call)

    async def _watch(self, call: ServerCall) -> None:
        body = json.loads(await call.receive() or b"")["create_request"]
        await call.send_headers()
        gone = asyncio.Event()
        self._watches[gone] = body["key"]
        try:
            if body["key"] not in self._etcd.rows:  # it was deleted since the revision that is asked for
                gone.set()
            await gone.wait()
            await call.send(b'{"result":{"events":[{"type":"DELETE"}]}}')
        finally:
            del self._watches[gone]

    async def _call(self, call: ServerCall, request: bytes) -> bytes:
        path, body = json.loads(request)
        answer: dict[str, Any] = getattr(self, "_" + path.replace("/", "_"))(body)
        return json.dumps({"header": {"revision": str(self._etcd.revision)}, **answer}).encode()

    # -- leases

    def _renew(self, lease: str) -> None:
        ttl_s = self._etcd.leases[lease]
        self._until[lease] = self._host.loop.time() + ttl_s
        self._host.loop.call_later(ttl_s + 0.01, self._expire, lease)

    def _expire(self, lease: str) -> None:
        if lease in self._until and self._host.loop.time() >= self._until[lease]:
            self._lease_revoke({"ID": lease})

    def _lease_grant(self, body: dict[str, Any]) -> dict[str, Any]:
        self._etcd.revision += 1
        lease = str(self._etcd.revision)
        self._etcd.leases[lease] = body["TTL"]
        self._renew(lease)
        return {"ID": lease, "TTL": str(body["TTL"])}

    def _lease_keepalive(self, body: dict[str, Any]) -> dict[str, Any]:
        if body["ID"] not in self._until:
            return {"result": {"ID": body["ID"]}}
        self._renew(body["ID"])
        return {"result": {"ID": body["ID"], "TTL": str(self._etcd.leases[body["ID"]])}}

    def _lease_revoke(self, body: dict[str, Any]) -> dict[str, Any]:
        etcd, lease = self._etcd, body["ID"]
        self._until.pop(lease, None)
        etcd.leases.pop(lease, None)
        for key in [key for key, row in etcd.rows.items() if row[2] == lease]:
            del etcd.rows[key]
            etcd.revision += 1
            for gone in [gone for gone, name in self._watches.items() if name == key]:
                gone.set()
        return {}

    # -- keys

    def _kv_range(self, body: dict[str, Any]) -> dict[str, Any]:
        row = self._etcd.rows.get(body["key"])
        return {} if row is None else {"kvs": [{"value": row[0], "mod_revision": str(row[1])}]}

    def _kv_txn(self, body: dict[str, Any]) -> dict[str, Any]:
        etcd = self._etcd
        for compare in body["compare"]:
            row = etcd.rows.get(compare["key"])
            asked = compare["createRevision"] if compare["target"] == "CREATE" else compare["modRevision"]
            if (0 if row is None else row[1]) != int(asked):
                return {}
        puts = [one["requestPut"] for one in body["success"]]
        if any(put.get("lease", "") not in ("", *self._until) for put in puts):
            raise RpcError(Code.NOT_FOUND, "etcdserver: requested lease not found")
        etcd.revision += 1
        for put in puts:
            etcd.rows[put["key"]] = (put["value"], etcd.revision, put.get("lease", ""))
        return {"succeeded": True}
