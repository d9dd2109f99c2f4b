"""`pillion-scheduler`: keeps jobs and fires them. Takes the flags of the reference's (spec `control-plane.md` 5.2).

Knows: flags, and which database they mean. Never knows: what runs (`scheduler_server.py`).
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from pillion.clock import SystemClock
from pillion.control.scheduler_server import SchedulerServer
from pillion.control.service import Common
from pillion.control.service import main as run_program
from pillion.errors import ConfigError, MissingExtra
from pillion.observe.job_meters import SchedulerMeter
from pillion.sidecar import address
from pillion.sidecar.arguments import Kind, option, rows_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pillion.blocks.health import Readiness
    from pillion.kinds.jobs import JobStore
    from pillion.observe.metrics import Registry
    from pillion.sidecar.environment import Environment

STORES = ("sqlite", "postgresql")
DATABASE = "pillion-scheduler.db"
"""The file in `--etcd-data-dir`."""
LOCAL = ("localhost", "127.0.0.1", "[::1]", "::1")
_USE = "use --pillion-store postgresql with --pillion-postgresql-connection-string for a database of your own"
_UNUSED = "of the reference's database; taken and without effect"
TARGET = "scheduler-server"


@dataclass(frozen=True)
class Options(Common):
    """The command line."""

    port: int = option(Kind.PORT, 50006, "port of the service")
    id: str = option(Kind.TEXT, "dapr-scheduler-server-0", "name of this scheduler among those that share a database")
    override_broadcast_host_port: str = option(Kind.TEXT, "", "address that sidecars are told, as host:port")
    workers: int = option(Kind.UINT, 2048, "triggers that one stream of a sidecar may leave unanswered")
    pillion_store: str = option(Kind.TEXT, "sqlite", "where jobs are kept: " + ", ".join(STORES))
    pillion_postgresql_connection_string: str = option(
        Kind.TEXT,
        "",
        "database of --pillion-store postgresql; several schedulers may share it",
        environment="PILLION_SCHEDULER_POSTGRESQL",
    )
    identity_directory_write: str = option(Kind.TEXT, "", "directory of the identity under mutual TLS", hidden=True)
    kubeconfig: str = option(Kind.TEXT, "", "of Kubernetes mode", hidden=True)
    etcd_data_dir: str = option(Kind.TEXT, "./data", f"directory of {DATABASE}, where --pillion-store is sqlite")
    etcd_embed: bool = option(Kind.BOOL, True, "must be true: there is no etcd, " + _USE)
    etcd_client_endpoints: tuple[str, ...] = option(Kind.LIST, (), "not taken: there is no etcd", hidden=True)
    etcd_client_username: str = option(Kind.TEXT, "", "not taken: there is no etcd", hidden=True)
    etcd_client_password: str = option(Kind.TEXT, "", "not taken: there is no etcd", hidden=True)
    etcd_initial_cluster: tuple[str, ...] = option(
        Kind.LIST, (), "of the reference's database; several schedulers need --pillion-store postgresql", hidden=True
    )
    etcd_client_port: str = option(Kind.TEXT, "2379", _UNUSED, hidden=True)
    etcd_client_listen_address: str = option(Kind.TEXT, "localhost", _UNUSED, hidden=True)
    etcd_space_quota: str = option(Kind.TEXT, "9.2E", _UNUSED, hidden=True)
    etcd_compaction_mode: str = option(Kind.TEXT, "revision", _UNUSED, hidden=True)
    etcd_compaction_retention: str = option(Kind.TEXT, "1000000", _UNUSED, hidden=True)
    etcd_snapshot_count: int = option(Kind.UINT, 100_000, _UNUSED, hidden=True)
    etcd_max_snapshots: int = option(Kind.UINT, 10, _UNUSED, hidden=True)
    etcd_max_wals: int = option(Kind.UINT, 10, _UNUSED, hidden=True)
    etcd_backend_batch_limit: int = option(Kind.INT, 10_000, _UNUSED, hidden=True)
    etcd_backend_batch_interval: str = option(Kind.TEXT, "100ms", _UNUSED, hidden=True)
    etcd_max_txn_ops: int = option(Kind.UINT, 10_000, _UNUSED, hidden=True)
    etcd_experimental_bootstrap_defrag_threshold_megabytes: int = option(Kind.UINT, 100, _UNUSED, hidden=True)
    etcd_initial_election_tick_advance: bool = option(Kind.BOOL, False, _UNUSED, hidden=True)
    etcd_metrics: str = option(Kind.TEXT, "basic", _UNUSED, hidden=True)


def check(options: Options, given: frozenset[str]) -> list[str]:
    """Return warnings. Raises `ConfigError` for flags that do not go together, or that nothing here can follow."""
    if not options.etcd_embed:
        raise ConfigError("there is no external etcd", where="--etcd-embed", mend=_USE)
    for name in ("endpoints", "username", "password"):
        if getattr(options, f"etcd_client_{name}"):
            raise ConfigError("there is no external etcd", where=f"--etcd-client-{name}", mend=_USE)
    if options.kubeconfig:
        raise ConfigError("means something in Kubernetes mode alone", where="--kubeconfig", mend="leave it out")
    if not options.id:
        raise ConfigError("a scheduler needs a name", where="--id")
    if not 1 <= options.workers <= 1_000_000:
        raise ConfigError("must be from 1 to 1000000", where="--workers")
    if options.pillion_store not in STORES:
        raise ConfigError(
            f"unknown store {options.pillion_store!r}", where="--pillion-store", mend="one of " + ", ".join(STORES)
        )
    if options.pillion_store == "postgresql" and not options.pillion_postgresql_connection_string:
        raise ConfigError("is needed for --pillion-store postgresql", where="--pillion-postgresql-connection-string")
    if options.pillion_store == "sqlite" and options.pillion_postgresql_connection_string:
        raise ConfigError(
            "means nothing with --pillion-store sqlite", where="--pillion-postgresql-connection-string",
            mend="add --pillion-store postgresql",
        )  # fmt: skip
    _check_addresses(options)
    unused = [flag.name for flag in rows_of(Options) if flag.help == _UNUSED and flag.name in given]
    return [f"--{name} has no effect: there is no etcd" for name in unused]


def _check_addresses(options: Options) -> None:
    """Judge the members as the reference does, so that a mistake shows in both; each with jobs of its own is one, too:
    sidecars would put jobs into one database and look for them in another.
    """
    told = options.override_broadcast_host_port
    if told and not all(told.rpartition(":")[::2]):
        raise ConfigError(f"{told!r} is not host:port", where="--override-broadcast-host-port")
    names = []
    for peer in options.etcd_initial_cluster:
        name, equals, url = peer.strip().partition("=")
        if not equals or not name or "://" not in url:
            raise ConfigError(f"{peer!r} is not id=http://host:port", where="--etcd-initial-cluster")
        names.append(name)
    if names and options.id not in names:
        raise ConfigError(f"does not name this scheduler, {options.id}", where="--etcd-initial-cluster")
    if len(names) > 1 and options.pillion_store == "sqlite":
        raise ConfigError(
            "several schedulers need a database that they share", where="--etcd-initial-cluster",
            mend=f"{_USE}; on one machine leave it out and give all of them the same --etcd-data-dir",
        )  # fmt: skip


def store_of(options: Options) -> JobStore:
    """Return the database, closed. Raises `ConfigError`."""
    if options.pillion_store == "postgresql":
        try:
            from pillion.components.jobs_postgresql import PostgresJobs
        except ModuleNotFoundError as error:
            raise MissingExtra("--pillion-store postgresql", "postgresql") from error
        return PostgresJobs(options.pillion_postgresql_connection_string)
    from pillion.components.jobs_sqlite import SqliteJobs

    folder = Path(options.etcd_data_dir)
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConfigError(f"cannot be made: {error.strerror}", where=f"--etcd-data-dir {folder}") from error
    return SqliteJobs(str(folder / DATABASE))


class Program:
    """The scheduler, and the health target that says that it serves."""

    def __init__(self, options: Options, environment: Environment, readiness: Readiness, registry: Registry) -> None:
        self._readiness = readiness
        readiness.expect(TARGET)

        def advertise(port: int) -> str:
            return options.override_broadcast_host_port or f"{_host(options, environment)}:{port}"

        self._server = SchedulerServer(
            store_of(options),
            clock=SystemClock(),
            member_id=options.id,
            addresses=(options.listen_address,),
            port=options.port,
            advertise=advertise,
            window=options.workers,
            meter=SchedulerMeter(registry),
        )

    async def open(self) -> None:
        await self._server.open()
        self._readiness.ready(TARGET)

    async def close(self) -> None:
        self._readiness.unready(TARGET)
        await self._server.close()


def _host(options: Options, environment: Environment) -> str:
    """Return what sidecars can reach this host by."""
    local = options.listen_address in LOCAL
    found = options.listen_address if local else address.host_address(environment)
    return f"[{found}]" if ":" in found and not found.startswith("[") else found


def main(argv: Sequence[str] | None = None, environ: Mapping[str, str] | None = None) -> int:
    """Run the program; return its exit status."""
    return run_program("pillion-scheduler", Options, Program, check, argv, environ)


if __name__ == "__main__":
    sys.exit(main())
