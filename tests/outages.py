"""What clients see while a store or broker is away: one table, walked by tests and printed in `docs/outages.md`.

`OPERATIONS` says how each block tells a failure, `ROWS` what happens to reads and writes of each store in each outage.
`Trial` is one row with real parts: a server, a sidecar with every component of that server, an application, and two
ledgers that write all the time.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import json
import sqlite3
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Any, Protocol

from apps import HttpApp
from pillion.errors import Code
from pillion.net.exchange import RpcError
from pillion.net.grpc_client import Channel
from pillion.wire.messages import common
from pillion.wire.messages import runtime as m
from servers import PostgresServer, RedisServer
from sidecars import Reply, SidecarProcess, component

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

PATIENCE_S = 120.0
"""How long any one call may take before the test speaks of a hang."""
RECONCILE = "1s"
"""How often a sidecar tries again what could not start (60s by default)."""
LATE_S = 45.0
"""What a busy machine may add to a bound of the table before it is a hang."""
SQL = """
CREATE TABLE config (key VARCHAR NOT NULL, value VARCHAR NOT NULL, version VARCHAR NOT NULL, metadata JSON);
CREATE FUNCTION notify() RETURNS trigger AS $$ BEGIN
    PERFORM pg_notify('changes', json_build_object('table', TG_TABLE_NAME, 'data', row_to_json(NEW))::text);
    RETURN NULL;
END $$ LANGUAGE plpgsql;
CREATE TRIGGER config AFTER INSERT OR UPDATE ON config FOR EACH ROW EXECUTE FUNCTION notify();
INSERT INTO config VALUES ('colour', 'before', '1', NULL);
"""


# -- the table


@dataclass(frozen=True)
class Operation:
    """One thing a client does, over both protocols; `error_code` and `code` tell that the store failed."""

    name: str
    kind: str
    """The name of the component, of most the category too."""
    reads: bool
    error_code: str
    code: Code
    missing: str
    """The error code when the component could not start."""
    missing_code: Code
    method: str
    path: str
    body: Any
    rpc: str
    request: Any


_ENTRY = {"key": "probe", "value": "v"}
_LOCK = {"resourceId": "probe", "lockOwner": "me", "expiryInSeconds": 1}
OPERATIONS = (
    Operation(
        "state get", "state", True, "ERR_STATE_GET", Code.INTERNAL, "ERR_STATE_STORE_NOT_CONFIGURED",
        Code.FAILED_PRECONDITION, "GET", "/v1.0/state/state/before", None,
        "GetState", m.GetStateRequest(store_name="state", key="before"),
    ),
    Operation(
        "state save", "state", False, "ERR_STATE_SAVE", Code.INTERNAL, "ERR_STATE_STORE_NOT_CONFIGURED",
        Code.FAILED_PRECONDITION, "POST", "/v1.0/state/state", [_ENTRY],
        "SaveState", m.SaveStateRequest(store_name="state", states=[common.StateItem(key="probe", value=b"v")]),
    ),
    Operation(
        "state transaction", "state", False, "ERR_STATE_TRANSACTION", Code.INTERNAL,
        "ERR_STATE_STORE_NOT_CONFIGURED", Code.FAILED_PRECONDITION, "POST", "/v1.0/state/state/transaction",
        {"operations": [{"operation": "upsert", "request": _ENTRY}]},
        "ExecuteStateTransaction",
        m.ExecuteStateTransactionRequest(
            storeName="state",
            operations=[
                m.TransactionalStateOperation(
                    operationType="upsert", request=common.StateItem(key="probe", value=b"v")
                )
            ],
        ),
    ),
    Operation(
        "publish", "pubsub", False, "ERR_PUBSUB_PUBLISH_MESSAGE", Code.INTERNAL, "ERR_PUBSUB_NOT_FOUND",
        Code.INVALID_ARGUMENT, "POST", "/v1.0/publish/pubsub/probe", {"n": 0},
        "PublishEvent", m.PublishEventRequest(pubsub_name="pubsub", topic="probe", data=b"0"),
    ),
    Operation(
        "configuration get", "configuration", True, "ERR_CONFIGURATION_GET", Code.INTERNAL,
        "ERR_CONFIGURATION_STORE_NOT_CONFIGURED", Code.FAILED_PRECONDITION,
        "GET", "/v1.0/configuration/configuration?key=colour", None,
        "GetConfiguration", m.GetConfigurationRequest(store_name="configuration", keys=["colour"]),
    ),
    Operation(
        "lock", "lock", False, "ERR_TRY_LOCK", Code.INTERNAL, "ERR_LOCK_STORE_NOT_CONFIGURED",
        Code.FAILED_PRECONDITION, "POST", "/v1.0-alpha1/lock/lock", _LOCK,
        "TryLockAlpha1",
        m.TryLockRequest(store_name="lock", resource_id="probe", lock_owner="me", expiry_in_seconds=1),
    ),
    Operation(
        "binding of Redis", "cache", False, "ERR_INVOKE_OUTPUT_BINDING", Code.INTERNAL, "ERR_INVOKE_OUTPUT_BINDING",
        Code.INTERNAL, "POST", "/v1.0/bindings/cache", {"operation": "get", "metadata": {"key": "cached"}},
        "InvokeBinding", m.InvokeBindingRequest(name="cache", operation="get", metadata={"key": "cached"}),
    ),
    Operation(
        "binding of PostgreSQL", "sql", False, "ERR_INVOKE_OUTPUT_BINDING", Code.INTERNAL, "ERR_INVOKE_OUTPUT_BINDING",
        Code.INTERNAL, "POST", "/v1.0/bindings/sql", {"operation": "query", "metadata": {"sql": "SELECT 1"}},
        "InvokeBinding", m.InvokeBindingRequest(name="sql", operation="query", metadata={"sql": "SELECT 1"}),
    ),
)  # fmt: skip


class Fate(StrEnum):
    """What becomes of a call during the outage."""

    WORKS = "works"
    WAITS = "waits, then works"
    """What was on its way when the outage began may fail with an unknown outcome."""
    FAILS = "fails"


@dataclass(frozen=True)
class Row:
    """One store in one outage. Seconds are those of the default settings."""

    store: str
    outage: str
    """`gone`: killed and started again, `hangs`: stopped by a signal, `locked`: another process writes."""
    outage_s: float
    reads: Fate
    writes: Fate
    answer_s: float
    """No call takes longer."""
    again_s: float
    """After the outage everything works within."""

    def fate(self, operation: Operation) -> Fate:
        return self.reads if operation.reads else self.writes

    def __str__(self) -> str:
        return f"{self.store} {self.outage} for {self.outage_s:g} s"


ROWS = (
    Row("Redis", "gone", 1, Fate.WAITS, Fate.WAITS, 5, 2),
    Row("Redis", "gone", 30, Fate.FAILS, Fate.FAILS, 5, 2),
    Row("Redis", "hangs", 30, Fate.FAILS, Fate.FAILS, 8, 2),
    Row("PostgreSQL", "gone", 1, Fate.FAILS, Fate.FAILS, 2, 2),
    Row("PostgreSQL", "gone", 30, Fate.FAILS, Fate.FAILS, 2, 2),
    Row("PostgreSQL", "hangs", 30, Fate.FAILS, Fate.FAILS, 40, 2),
    Row("SQLite", "locked", 1, Fate.WORKS, Fate.WAITS, 4, 2),
    Row("SQLite", "locked", 30, Fate.WORKS, Fate.FAILS, 4, 2),
)

STARTS = (("Redis", "gone"), ("PostgreSQL", "gone"), ("SQLite", "gone"), ("SQLite", "locked"))
"""Stores that are away while a sidecar starts; of SQLite the folder."""


def page() -> str:
    """Return the tables of `docs/outages.md`."""
    lines = [
        "| operation | while the store is away: HTTP 500 | gRPC | could not start: HTTP | gRPC |",
        "| --- | --- | --- | --- | --- |",
        *(
            f"| {one.name} | `{one.error_code}` | {one.code.name} | `{one.missing}` | {one.missing_code.name} |"
            for one in OPERATIONS
        ),
        "",
        "| store | outage | reads | writes and publishing | every call answers within | works again within |",
        "| --- | --- | --- | --- | --- | --- |",
    ]
    lines += [
        f"| {row.store} | {row.outage} for {row.outage_s:g} s | {row.reads} | {row.writes} | {row.answer_s:g} s |"
        f" {row.again_s:g} s |"
        for row in ROWS
    ]
    return "\n".join(lines) + "\n"


# -- stores as the table knows them


class Store(Protocol):
    """A server, or a file, with an outage that can begin and end."""

    def start(self) -> object: ...
    def away(self, outage: str) -> None:
        """Be away before the first start."""
        ...

    def components(self) -> Mapping[str, str]:
        """Return a document for each kind of component there is."""
        ...

    def begin(self, outage: str) -> None: ...
    def end(self, outage: str) -> None: ...
    def change(self, value: str) -> None:
        """Change the configuration item `colour`, as an operator does."""
        ...

    def close(self) -> None: ...


class _Server:
    server: RedisServer | PostgresServer

    def start(self) -> object:
        """Start the server anew or for the first time."""
        return self.server.start()

    def away(self, outage: str) -> None:
        return

    def begin(self, outage: str) -> None:
        self.server.kill() if outage == "gone" else self.server.pause()

    def end(self, outage: str) -> None:
        self.start() if outage == "gone" else self.server.resume()

    def close(self) -> None:
        self.server.close()


class Redis(_Server):
    def __init__(self, folder: Path) -> None:
        self.server: RedisServer = RedisServer()
        self._version = 0

    def components(self) -> Mapping[str, str]:
        where = {"redisHost": self.server.address}
        return {
            **{kind: component(kind, f"{kind}.redis", **where) for kind in ("state", "configuration", "lock")},
            "cache": component("cache", "bindings.redis", **where),
            "pubsub": component("pubsub", "pubsub.redis", **where, redeliverInterval="500ms", processingTimeout="2s"),
        }

    def change(self, value: str) -> None:
        self._version += 1
        self.server.cli("SET", "colour", f"{value}||{self._version}")


class Postgres(_Server):
    def __init__(self, folder: Path) -> None:
        self.server: PostgresServer = PostgresServer()
        self._version = 1

    def start(self) -> object:
        self.server.start()
        if "config" not in self.server.sql("SELECT tablename FROM pg_tables WHERE tablename = 'config'"):
            self.server.sql(SQL)
        return self

    def components(self) -> Mapping[str, str]:
        where = {"connectionString": self.server.url}
        return {
            "state": component("state", "state.postgresql", **where),
            "sql": component("sql", "bindings.postgresql", **where),
            "configuration": component("configuration", "configuration.postgresql", **where, table="config"),
        }

    def change(self, value: str) -> None:
        self._version += 1
        self.server.sql(f"INSERT INTO config VALUES ('colour', '{value}', '{self._version}', NULL)")


class Sqlite:
    """Files in a folder of their own; the outage is another process that keeps the write lock."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder / "files"
        self._locks: list[sqlite3.Connection] = []
        self._version = 0

    def start(self) -> object:
        self._folder.mkdir(exist_ok=True)
        return self

    def away(self, outage: str) -> None:
        if outage == "locked":
            self.start()
            self.begin(outage)

    def components(self) -> Mapping[str, str]:
        return {
            kind: component(kind, f"{kind}.sqlite", connectionString=str(self._folder / f"{kind}.db"))
            for kind in ("state", "pubsub", "configuration", "lock")
        }

    def begin(self, outage: str) -> None:
        for kind in ("state", "pubsub", "configuration", "lock"):
            file = self._folder / f"{kind}.db"
            held = sqlite3.connect(file, isolation_level=None, check_same_thread=False, timeout=30)
            held.execute("BEGIN IMMEDIATE")
            self._locks.append(held)

    def end(self, outage: str) -> None:
        self.start()
        self.close()

    def change(self, value: str) -> None:
        self._version += 1
        with contextlib.closing(sqlite3.connect(self._folder / "configuration.db", timeout=30)) as connection:
            row = ("colour", value, str(self._version))
            connection.execute("REPLACE INTO configuration (key, value, version) VALUES (?, ?, ?)", row)
            connection.commit()

    def close(self) -> None:
        while self._locks:
            held = self._locks.pop()
            held.rollback()
            held.close()


STORES: Mapping[str, Callable[[Path], Store]] = {"Redis": Redis, "PostgreSQL": Postgres, "SQLite": Sqlite}


# -- asking


@dataclass(frozen=True)
class Told:
    """How one call ended, over either protocol; `error` is empty when it went well."""

    operation: Operation
    protocol: str
    error: str
    seconds: float

    @property
    def expected(self) -> str:
        return self.operation.error_code if self.protocol == "HTTP" else self.operation.code.name


def ask_http(sidecar: SidecarProcess, method: str, path: str, body: Any = None) -> Reply:
    """Ask with more patience than a bound of the table, so that a hang is told from a slow answer."""
    connection = http.client.HTTPConnection("127.0.0.1", sidecar.http_port, timeout=PATIENCE_S)
    try:
        data = None if body is None else json.dumps(body)
        connection.request(method, path, data, {"Content-Type": "application/json"})
        answer = connection.getresponse()
        return Reply(answer.status, {}, answer.read())
    finally:
        connection.close()


def over_http(sidecar: SidecarProcess, operation: Operation) -> Told:
    began = time.monotonic()
    reply = ask_http(sidecar, operation.method, operation.path, operation.body)
    error = ""
    if reply.status >= 300:
        told = reply.json()
        error = told["errorCode"] if told["message"] else repr(reply)
    return Told(operation, "HTTP", error, time.monotonic() - began)


def over_grpc(sidecar: SidecarProcess, operation: Operation) -> Told:
    async def ask() -> str:
        channel = Channel(f"127.0.0.1:{sidecar.grpc_port}")
        try:
            async with asyncio.timeout(PATIENCE_S):
                path = f"/dapr.proto.runtime.v1.Dapr/{operation.rpc}"
                await channel.unary(path, operation.request.SerializeToString())
                return ""
        except RpcError as error:
            return Code(error.code).name if str(error) else "no text"
        finally:
            await channel.close()

    began = time.monotonic()
    error = asyncio.run(ask())
    return Told(operation, "gRPC", error, time.monotonic() - began)


def everything(sidecar: SidecarProcess, operations: Sequence[Operation]) -> list[Told]:
    """Ask everything over both protocols at once, as different clients do."""
    with ThreadPoolExecutor(2 * len(operations)) as threads:
        asked = [threads.submit(ask, sidecar, one) for one in operations for ask in (over_http, over_grpc)]
    return [future.result() for future in asked]


class Ledger:
    """Writes numbers all the time, one after the other, and keeps those that were acknowledged."""

    def __init__(self, write: Callable[[int], Reply]) -> None:
        self.kept: set[int] = set()
        self.failed: list[Reply] = []
        self._write = write
        self._over = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def _run(self) -> None:
        number = 0
        while not self._over.is_set():
            number += 1
            reply = self._write(number)
            if reply.status < 300:
                self.kept.add(number)
            else:
                self.failed.append(reply)
            self._over.wait(0.01)  # a client at work, not a load test: many of these share the machine

    def __enter__(self) -> Ledger:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()


@dataclass
class Trial:
    """One row, run by `run` in a thread of its own; `faults` tells what was not as the table says."""

    row: Row
    folder: Path
    faults: list[str] = field(default_factory=list)
    told: list[Told] = field(default_factory=list)
    recovery_s: float = 0.0

    def run(self) -> None:
        self.folder.mkdir()
        store = STORES[self.row.store](self.folder)
        try:
            store.start()
            self._run(store)
        except Exception as error:
            self.faults.append(f"{self.row}: {error!r}")
        finally:
            store.close()

    def _run(self, store: Store) -> None:
        components = store.components()
        operations = [operation for operation in OPERATIONS if operation.kind in components]
        resources = {f"{kind}.yaml": text for kind, text in components.items()}
        topics = [{"pubsubname": "pubsub", "topic": "ledger", "route": "/ledger"}] if "pubsub" in components else []
        with contextlib.ExitStack() as stack:
            app = stack.enter_context(HttpApp(topics))
            sidecar = stack.enter_context(SidecarProcess(self.folder, app_port=app.port, resources=resources))
            sidecar.wait("/v1.0/healthz")
            store.change("before")
            ask_http(sidecar, "POST", "/v1.0/state/state", [{"key": "before", "value": "v"}])
            watch = "/v1.0/configuration/configuration/subscribe?key=colour&metadata.pgNotifyChannel=changes"
            if (watching := ask_http(sidecar, "GET", watch)).status != 200:
                self.faults.append(f"{self.row}: {watching}")
            for one in everything(sidecar, operations):
                if one.error:
                    self.faults.append(f"{self.row}: before it, {one.operation.name}: {one.error}")

            def save(number: int) -> Reply:
                return ask_http(sidecar, "POST", "/v1.0/state/state", [{"key": f"k{number}", "value": number}])

            def publish(number: int) -> Reply:
                return ask_http(sidecar, "POST", "/v1.0/publish/pubsub/ledger", {"n": number})

            def kept(number: int) -> bytes:
                return ask_http(sidecar, "GET", f"/v1.0/state/state/k{number}").body

            with contextlib.ExitStack() as writing:
                saved = writing.enter_context(Ledger(save))
                published = writing.enter_context(Ledger(publish)) if topics else None
                self._outage(store, sidecar, operations)
                self._recovery(sidecar, operations)
            store.change("after")
            app.wait(lambda calls: any(_colour(call) == "after" for call in calls))
            if published is not None:
                app.wait(lambda calls: published.kept <= {n for call in calls if (n := _number(call)) is not None})
            lost = [number for number in saved.kept if kept(number) != b"%d" % number]
            if lost or not saved.kept:
                self.faults.append(f"{self.row}: of {len(saved.kept)} saved values these are lost: {lost}")
            if "Traceback" in sidecar.log():
                self.faults.append(f"{self.row}: {sidecar.log()}")
            if (code := sidecar.stop()) != 0:
                self.faults.append(f"{self.row}: stopped with {code}")

    def _note(self, told: list[Told], *, away: bool) -> None:
        """Compare answers with the table; not `away`: the outage ended before the answers came."""
        self.told += told
        for one in told:
            fate = self.row.fate(one.operation)
            if not away and fate is Fate.FAILS:
                fate = Fate.WAITS
            wanted = {Fate.WORKS: {""}, Fate.WAITS: {"", one.expected}, Fate.FAILS: {one.expected}}[fate]
            if one.error not in wanted or one.seconds > self.row.answer_s + LATE_S:
                self.faults.append(
                    f"{self.row}: {one.operation.name} over {one.protocol}, {fate}: "
                    f"{one.error or 'no error'} after {one.seconds:.1f} s"
                )

    def _outage(self, store: Store, sidecar: SidecarProcess, operations: list[Operation]) -> None:
        row = self.row
        over = time.monotonic() + row.outage_s
        ended = threading.Event()

        def end() -> None:
            store.end(row.outage)
            ended.set()

        store.begin(row.outage)
        timer = threading.Timer(row.outage_s, end)
        timer.start()
        try:
            while time.monotonic() < over:
                told = everything(sidecar, operations)
                self._note(told, away=time.monotonic() < over)
                time.sleep(0.2)  # a client's pause
        finally:
            timer.join()
        assert ended.is_set()

    def _recovery(self, sidecar: SidecarProcess, operations: list[Operation]) -> None:
        began = time.monotonic()
        while True:
            told = everything(sidecar, operations)
            self.recovery_s = time.monotonic() - began
            if not any(one.error for one in told):
                break
            if self.recovery_s > self.row.again_s + LATE_S:
                errors = [f"{one.operation.name} over {one.protocol}: {one.error}" for one in told if one.error]
                self.faults.append(f"{self.row}: {self.recovery_s:.1f} s after it: {errors}")
                break


@dataclass
class Start:
    """A store that is away while sidecars start: one ends and says why, one works without it (`ignoreErrors`) and then
    with it.
    """

    store: str
    outage: str
    folder: Path
    faults: list[str] = field(default_factory=list)

    def run(self) -> None:
        self.folder.mkdir()
        store = STORES[self.store](self.folder)
        try:
            store.away(self.outage)
            resources = {f"{kind}.yaml": text for kind, text in store.components().items()}
            if self.store == "Redis":  # it tries as long as it may: five seconds for each of five components
                resources = {
                    name: text.replace("spec:", "spec:\n  initTimeout: 1s", 1) for name, text in resources.items()
                }
            self._refused(resources)
            patient = {
                name: text.replace("spec:", "spec:\n  ignoreErrors: true", 1) for name, text in resources.items()
            }
            self._ignored(store, patient)
        except Exception as error:
            self.faults.append(f"{self}: {error!r}")
        finally:
            store.close()

    def _refused(self, resources: Mapping[str, str]) -> None:
        sidecar = SidecarProcess(self.folder, "strict", resources=resources).start(ready=False)
        try:
            assert sidecar.process is not None
            code, log = sidecar.process.wait(PATIENCE_S), sidecar.log()
        finally:
            sidecar.__exit__()
        causes = ("cannot connect", "refused", "cannot open", "locked")
        if code != 1 or "[INIT_COMPONENT_FAILURE]" not in log or not any(cause in log for cause in causes):
            self.faults.append(f"{self}: ended with {code}:\n{log}")

    def _ignored(self, store: Store, resources: Mapping[str, str]) -> None:
        operations = [operation for operation in OPERATIONS if f"{operation.kind}.yaml" in resources]
        topics = [{"pubsubname": "pubsub", "topic": "probe", "route": "/probe"}]
        arguments = ("--hot-reload-reconcile-interval", RECONCILE)
        with (
            HttpApp(topics) as app,
            SidecarProcess(
                self.folder, "patient", app_port=app.port, resources=resources, arguments=arguments
            ) as sidecar,
        ):
            for one in everything(sidecar, operations):
                wanted = one.operation.missing if one.protocol == "HTTP" else one.operation.missing_code.name
                if one.error != wanted:
                    self.faults.append(f"{self}: {one.operation.name} over {one.protocol}: {one.error}")
            store.end(self.outage)
            deadline = time.monotonic() + PATIENCE_S
            while errors := [one for one in everything(sidecar, operations) if one.error]:
                if time.monotonic() > deadline:
                    self.faults.append(f"{self}: does not recover: {errors}")
                    return
                time.sleep(0.2)  # a client's pause
            if "pubsub.yaml" in resources:
                app.wait(lambda calls: any(call.path == "/probe" for call in calls))
            if "Traceback" in sidecar.log() or sidecar.stop() != 0:
                self.faults.append(f"{self}: {sidecar.log()}")

    def __str__(self) -> str:
        return f"{self.store} {self.outage} at start"


def _number(call: Any) -> int | None:
    return int(call.json()["data"]["n"]) if call.path == "/ledger" else None


def _colour(call: Any) -> str:
    found = call.json()["items"] if call.path == "/configuration/configuration/colour" else {}
    return str(found.get("colour", {}).get("value", ""))
