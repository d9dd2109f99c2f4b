"""`pillion-placement`: says where actors live. Takes the flags of the reference's (spec `control-plane.md` 5.1).

Knows: flags, and which engine they mean. Never knows: what runs (`placement_server.py`).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pillion.clock import SystemClock
from pillion.control.placement_server import PlacementServer
from pillion.control.placement_state import StateApi
from pillion.control.service import Common
from pillion.control.service import main as run_program
from pillion.control.terms import Terms
from pillion.errors import ConfigError, MissingExtra
from pillion.sidecar import presence
from pillion.sidecar.arguments import Kind, option, rows_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pillion.blocks.health import Readiness
    from pillion.kinds.leadership import Leadership
    from pillion.net.exchange import HttpService
    from pillion.observe.metrics import Registry
    from pillion.sidecar.environment import Environment

ENGINES = ("none", "file", "postgresql", "etcd")
GRACE_S = 10.0
"""What is promised when nothing is said, where the engine remembers that there was a leader."""
MOST_GRACE_S = 300.0
_RAFT = "of the reference's election; taken and without effect, see --pillion-leadership"
TARGET = "placement-server"


@dataclass(frozen=True)
class Options(Common):
    """The command line."""

    port: int = option(Kind.PORT, 50005, "port of the service")
    id: str = option(Kind.TEXT, "dapr-placement-0", "name of this server among the candidates")
    replicationFactor: int = option(Kind.INT, 100, "virtual nodes of each host")
    keepalive_time: float = option(Kind.DURATION, 2.0, "a stream silent for so long is pinged; 1s to 10s", shown="2s")
    keepalive_timeout: float = option(Kind.DURATION, 3.0, "wait for the answer of a ping; 1s to 10s", shown="3s")
    disseminate_timeout: float = option(
        Kind.DURATION, 8.0, "wait for the answers of one phase; slower streams are ended", shown="8s"
    )
    disseminate_coalesce_window: float = option(Kind.DURATION, 0.0, "wait for further hosts before a round", shown="0s")
    metadata_enabled: bool = option(
        Kind.BOOL, False, "serve GET /placement/state on the health port", environment="DAPR_PLACEMENT_METADATA_ENABLED"
    )
    pillion_leadership: str = option(
        Kind.TEXT, "none", "what decides which of several servers leads: " + ", ".join(ENGINES)
    )
    pillion_leadership_file: str = option(
        Kind.TEXT, "", "the file that leaders of --pillion-leadership file lock; empty: placement.lock in ~/.pillion"
    )
    pillion_postgresql_connection_string: str = option(
        Kind.TEXT,
        "",
        "database of --pillion-leadership postgresql",
        environment="PILLION_PLACEMENT_POSTGRESQL",
    )
    pillion_etcd_endpoints: tuple[str, ...] = option(
        Kind.LIST, (), "URLs of --pillion-leadership etcd; may be repeated"
    )
    pillion_etcd_key: str = option(Kind.TEXT, "pillion/placement/leader", "the key that the leader holds in etcd")
    pillion_etcd_username: str = option(Kind.TEXT, "", "user of etcd")
    pillion_etcd_password: str = option(
        Kind.TEXT, "", "password of etcd", environment="PILLION_PLACEMENT_ETCD_PASSWORD"
    )
    pillion_etcd_ca_file: str = option(Kind.TEXT, "", "PEM file that verifies etcd; empty: the system's")
    pillion_outage_grace: float = option(
        Kind.DURATION,
        -1.0,
        "how long sidecars may use their last table while no server leads; 0: not at all. A new leader waits 8s longer "
        "than this before its first table",
        shown="10s, with --pillion-leadership none 0s",
    )
    initial_cluster: str = option(Kind.TEXT, "dapr-placement-0=127.0.0.1:8201", _RAFT)
    inmem_store_enabled: bool = option(Kind.BOOL, True, _RAFT, hidden=True)
    raft_logstore_path: str = option(Kind.TEXT, "", _RAFT, hidden=True)
    max_api_level: int = option(Kind.INT, 10, "taken and without effect", hidden=True)
    min_api_level: int = option(Kind.INT, 0, "taken and without effect", hidden=True)


def check(options: Options, given: frozenset[str]) -> list[str]:
    """Return warnings. Raises `ConfigError` for values out of bounds and flags that do not go together."""
    for name in ("keepalive_time", "keepalive_timeout"):
        if not 1 <= getattr(options, name) <= 10:
            raise ConfigError("must be from 1s to 10s", where="--" + name.replace("_", "-"))
    if not 1 <= options.replicationFactor <= 10_000:
        raise ConfigError("must be from 1 to 10000", where="--replicationFactor")
    if not 0 < options.disseminate_timeout <= 3600:
        raise ConfigError("must be more than 0s and at most 1h", where="--disseminate-timeout")
    if not 0 <= options.disseminate_coalesce_window <= 3600:
        raise ConfigError("must be from 0s to 1h", where="--disseminate-coalesce-window")
    if options.pillion_outage_grace > MOST_GRACE_S:
        raise ConfigError(f"must be at most {MOST_GRACE_S:g}s", where="--pillion-outage-grace")
    if not options.id:
        raise ConfigError("a server needs a name", where="--id")
    return [*_cluster(options, given), *_engine(options, given)]


def _cluster(options: Options, given: frozenset[str]) -> list[str]:
    """Judge the reference's flags of election as it does itself, so that a mistake shows in both."""
    names = []
    for peer in options.initial_cluster.split(","):
        name, equals, where = peer.strip().partition("=")
        if not equals or not name or ":" not in where:
            raise ConfigError(f"{peer!r} is not id=host:port", where="--initial-cluster")
        names.append(name)
    if "initial-cluster" in given and options.id not in names:
        raise ConfigError(f"does not name this server, {options.id}", where="--initial-cluster")
    if len(names) > 1 and options.pillion_leadership == "none":
        raise ConfigError(
            "several servers need an engine that decides who leads", where="--initial-cluster",
            mend="add --pillion-leadership postgresql or etcd",
        )  # fmt: skip
    return [f"--{flag.name} has no effect" for flag in rows_of(Options) if flag.help == _RAFT and flag.name in given]


def _engine(options: Options, given: frozenset[str]) -> list[str]:
    engine = options.pillion_leadership
    if engine not in ENGINES:
        raise ConfigError(
            f"unknown engine {engine!r}", where="--pillion-leadership", mend="one of " + ", ".join(ENGINES)
        )
    if engine == "postgresql" and not options.pillion_postgresql_connection_string:
        raise ConfigError(
            "is needed for --pillion-leadership postgresql", where="--pillion-postgresql-connection-string"
        )
    if engine == "etcd" and not options.pillion_etcd_endpoints:
        raise ConfigError("is needed for --pillion-leadership etcd", where="--pillion-etcd-endpoints")
    if engine == "none" and options.pillion_outage_grace > 0:
        raise ConfigError(
            "nobody remembers what was promised with --pillion-leadership none", where="--pillion-outage-grace",
            mend="use --pillion-leadership file",
        )  # fmt: skip
    return []


def leadership_of(options: Options, environment: Environment) -> Leadership:
    """Return the engine, closed. Raises `ConfigError`, and `MissingExtra` where a library is not installed."""
    clock = SystemClock()
    if options.pillion_leadership == "postgresql":
        try:
            from pillion.components.leadership_postgresql import PostgresLock
        except ModuleNotFoundError as error:
            raise MissingExtra("--pillion-leadership postgresql", "postgresql") from error
        return PostgresLock(options.pillion_postgresql_connection_string, clock)
    if options.pillion_leadership == "etcd":
        from pillion.components.leadership_etcd import EtcdLease

        return EtcdLease(
            options.pillion_etcd_endpoints,
            clock,
            key=options.pillion_etcd_key,
            identity=options.id,
            username=options.pillion_etcd_username,
            password=options.pillion_etcd_password,
            ca_file=options.pillion_etcd_ca_file,
        )
    if options.pillion_leadership == "file":
        from pillion.components.leadership_file import FileLock

        given = options.pillion_leadership_file
        return FileLock(Path(given) if given else presence.home(environment.variables) / "placement.lock", clock)
    from pillion.components.leadership_alone import Alone

    return Alone(clock)


def terms_of(options: Options) -> Terms:
    """Return the times."""
    grace_s = options.pillion_outage_grace
    if grace_s < 0:
        grace_s = 0.0 if options.pillion_leadership == "none" else GRACE_S
    return Terms(
        replicas=options.replicationFactor,
        timeout_s=options.disseminate_timeout,
        coalesce_s=options.disseminate_coalesce_window,
        grace_s=grace_s,
        ping_s=options.keepalive_time,
        ping_timeout_s=options.keepalive_timeout,
    )


class Meter:
    """The metrics of one server."""

    def __init__(self, registry: Registry) -> None:
        self._all = registry.number("placement_runtimes_total")
        self._hosting = registry.number("placement_actor_runtimes_total")
        self._leads = [registry.number(f"placement_{name}") for name in ("leader_status", "raft_leader_status")]
        self.led(False)

    def runtimes(self, namespace: str, all_of_them: int, of_actors: int) -> None:
        self._all.child(namespace).value = all_of_them
        self._hosting.child(namespace).value = of_actors

    def led(self, leads: bool) -> None:
        for number in self._leads:
            number.child().value = int(leads)


class Program:
    """The server, and the health target that says that it serves: whoever does not lead is as well as who does."""

    def __init__(self, options: Options, environment: Environment, readiness: Readiness, registry: Registry) -> None:
        self._readiness = readiness
        readiness.expect(TARGET)
        meter = Meter(registry)
        self.shows_state = options.metadata_enabled
        self.server = PlacementServer(
            leadership_of(options, environment),
            clock=SystemClock(),
            terms=terms_of(options),
            node=options.id,
            addresses=(options.listen_address,),
            port=options.port,
            meter=meter,
            led=meter.led,
        )

    async def open(self) -> None:
        await self.server.open()
        self._readiness.ready(TARGET)

    async def close(self) -> None:
        self._readiness.unready(TARGET)
        await self.server.close()


def front(program: Program, health: HttpService) -> HttpService:
    """Return what serves on the health port."""
    return StateApi(program.server.service, health) if program.shows_state else health


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run the program; return its exit status."""
    return run_program("pillion-placement", Options, Program, check, argv, environ, front=front)


if __name__ == "__main__":
    sys.exit(main())
