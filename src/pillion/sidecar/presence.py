"""Who runs on this machine: one small file for every sidecar, alive as long as its lock.

Knows: the folder of records and their form. Never knows: what a command line or a sidecar does with them.

A record is a JSON file that its process keeps open and locked (`flock`). The kernel drops the lock when the process
ends, however it ends, so a record that can be locked by somebody else is stale: no process number is ever mistaken for
a later process's, and `kill -9` leaves nothing to be cleaned by hand. File names are never used twice.
"""

from __future__ import annotations

import contextlib
import dataclasses
import importlib
import json
import logging
import os
import secrets
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pillion.records import record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pillion.sidecar.flags import Options

fcntl: Any = importlib.import_module("fcntl") if os.name == "posix" else None
"""Elsewhere records are not kept."""

log = logging.getLogger("pillion.sidecar.presence")

MAX_RECORD = 1 << 20
"""Bytes of one record; a longer file is not one of ours."""


def home(environ: Mapping[str, str]) -> Path:
    """Return the data folder of this user: `$PILLION_HOME`, else `~/.pillion`."""
    given = environ.get("PILLION_HOME", "")
    return Path(given).expanduser().absolute() if given else Path.home() / ".pillion"


@record
class Record:
    """One running sidecar. Process numbers are 0 where there is no such process, texts empty where nothing is known."""

    app_id: str
    http_port: int = 0
    grpc_port: int = 0
    internal_port: int = 0
    metrics_port: int = 0
    app_port: int = 0
    host: str = "127.0.0.1"
    """Where the APIs can be reached from this machine; without brackets."""
    socket: str = ""
    """Socket file of the HTTP API when it is not on TCP."""
    pid: int = 0
    """The process the sidecar lives in."""
    cli_pid: int = 0
    app_pid: int = 0
    command: str = ""
    created: float = 0.0
    """Seconds since 1970."""
    metrics_enabled: bool = True
    max_body_size: int = 0
    read_buffer_size: int = 0
    run_file: str = ""
    run_name: str = ""
    app_log: str = ""
    sidecar_log: str = ""


def record_of(
    options: Options, *, http_port: int, grpc_port: int, internal_port: int, created: float, command: str = ""
) -> Record:
    """Return the record of a sidecar in this process; ports are those it listens on."""
    first = (options.dapr_listen_addresses or ("",))[0].strip("[]")
    return Record(
        options.app_id,
        http_port=http_port,
        grpc_port=grpc_port,
        internal_port=internal_port,
        metrics_port=options.metrics_port if options.enable_metrics else 0,
        app_port=options.app_port,
        host={"": "127.0.0.1", "0.0.0.0": "127.0.0.1", "::": "::1"}.get(first, first),
        socket=options.socket_path("http"),
        pid=os.getpid(),
        command=command,
        created=created,
        metrics_enabled=options.enable_metrics,
        max_body_size=options.max_body_size,
        read_buffer_size=options.read_buffer_size,
    )


class Presence:
    """This sidecar's own record. It vanishes with `withdraw` or with the process."""

    def __init__(self, record: Record, path: Path | None) -> None:
        self.record = record
        self._path = path
        self._lock = -1
        if path is not None:
            self._write(record)

    def update(self, **changes: Any) -> None:
        """Change fields of the record; readers see the old or the new one."""
        self.record = replace(self.record, **changes)
        if self._path is not None:
            self._write(self.record)

    def withdraw(self) -> None:
        """Take the record back; may be called again."""
        if self._path is not None:
            with contextlib.suppress(OSError):
                self._path.unlink(missing_ok=True)
            self._path = None
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1

    def _write(self, record: Record) -> None:
        assert self._path is not None
        draft = self._path.with_suffix(".draft")
        text = json.dumps(dataclasses.asdict(record)).encode()
        before = self._lock
        handle = os.open(draft, os.O_CREAT | os.O_TRUNC | os.O_RDWR | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
            os.write(handle, text)
            draft.rename(self._path)  # locked before anybody can see it
        except BaseException:
            os.close(handle)
            raise
        self._lock = handle
        if before >= 0:
            os.close(before)

    def __repr__(self) -> str:
        return f"<Presence of {self.record.app_id} at {self._path}>"


def announce(record: Record, folder: Path) -> Presence:
    """Let others on this machine find the sidecar; `folder` is the data folder (`home`).

    A machine without a place to write to (a read-only container) gets a `Presence` that nobody sees, and a line in the
    log: it is no reason not to run.
    """
    if fcntl is None:
        return Presence(record, None)
    running = folder / "running"
    try:
        running.mkdir(parents=True, exist_ok=True, mode=0o700)
        return Presence(record, running / f"{os.getpid()}-{secrets.token_hex(6)}.json")
    except OSError as error:
        log.info("not listed by `pillion list`: %s cannot be written: %s", running, error.strerror)
        return Presence(record, None)


def running(folder: Path) -> list[Record]:
    """Return the records of all sidecars alive now, oldest first, and remove what dead ones left behind."""
    if fcntl is None:
        return []
    try:
        paths = sorted((folder / "running").iterdir())
    except OSError:
        return []
    found = [record for path in paths if path.suffix in (".json", ".draft") and (record := _read(path)) is not None]
    return sorted(found, key=lambda record: (record.created, record.app_id))


def _read(path: Path) -> Record | None:
    try:
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    except OSError:
        return None  # withdrawn meanwhile
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except OSError:
            return _decode(os.read(handle, MAX_RECORD)) if path.suffix == ".json" else None
        opened = os.fstat(handle)
        # An empty draft may be about to be locked; another file under the name is the owner's newer version.
        if (path.suffix == ".json" or opened.st_size) and path.lstat().st_ino == opened.st_ino:
            path.unlink()
        return None
    except OSError:
        return None
    finally:
        os.close(handle)


def wait_gone(record: Record, folder: Path, timeout_s: float) -> bool:
    """Wait until a sidecar has withdrawn or died; False when it has not after `timeout_s`. Blocks."""
    until = time.monotonic() + timeout_s
    while (path := _path_of(record, folder)) is not None:
        held = threading.Thread(target=_wait_unlocked, args=(path,), daemon=True)
        held.start()
        held.join(max(0.0, until - time.monotonic()))
        if held.is_alive():
            return False
    return True


def _path_of(record: Record, folder: Path) -> Path | None:
    """Return the file of a living sidecar; which it is does not change with what it says of itself."""
    for path in (folder / "running").glob("*.json"):
        read = _read(path)
        if read is not None and (read.app_id, read.pid, read.created) == (record.app_id, record.pid, record.created):
            return path
    return None


def _wait_unlocked(path: Path) -> None:
    """Wait until the owner of a record lets go of it: it has ended, or has written a newer one."""
    with contextlib.suppress(OSError):
        handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        try:
            fcntl.flock(handle, fcntl.LOCK_SH)
        finally:
            os.close(handle)


_FIELDS = {field.name: str(field.type) for field in dataclasses.fields(Record)}
_TYPES: dict[str, tuple[type, ...]] = {"str": (str,), "int": (int,), "float": (int, float), "bool": (bool,)}


def _decode(text: bytes) -> Record | None:
    """Read a record; what another version added is left out, what is no record is none."""
    try:
        values: dict[str, Any] = json.loads(text)
        kept: dict[str, Any] = {k: v for k, v in values.items() if k in _FIELDS and isinstance(v, _TYPES[_FIELDS[k]])}
        return Record(**kept)
    except (ValueError, AttributeError, TypeError):
        return None
