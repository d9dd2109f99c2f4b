"""The guard: a small process that starts applications, tells how they end, and outlives whoever asked for them.

Run as a program of its own with one argument, a socket. It reads one JSON object a line and answers the same way
(`processes.py` is the other side):

    {"do": "start", "app", "argv", "folder", "environment", "output": handle or null}
    {"do": "signal", "app", "number"}

    {"event": "started", "app", "pid"}     {"event": "failed", "app", "error"}
    {"event": "ended", "app", "status"}    its first process: exit status, or minus the number of a signal
    {"event": "gone", "app"}               nothing it ever started is left

When the socket closes - the other side has ended, also by `kill -9` - everything still running gets SIGTERM, and
SIGKILL after `GRACE_S`. Every application is a session of its own, so that wrappers (`npm run`, `go run`, a shell) and
their children end together. On Linux the guard is also a child subreaper: what an application left behind with a
session of its own becomes the guard's child and is ended too; and the kernel kills applications whose guard was killed.
Elsewhere the process group is what can be ended.

Knows: processes. Never knows: anything of this package; standard library only, so that it starts in milliseconds.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import time
from typing import Any

GRACE_S = 5.0
_LINUX = sys.platform == "linux"
_LOOK_S = 0.1
"""Without /proc nobody tells when the last process of a group ends: how often to look while one is ending."""
_READINGS = 20
_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36
"""Options of prctl(2)."""
_prctl: Any = None


class Guard:
    """Applications by name. `numbers` are those of their first processes, which name the sessions."""

    def __init__(self, control: socket.socket) -> None:
        self.control = control
        self.numbers: dict[str, int] = {}
        self.ended: set[str] = set()
        self.buffer = b""
        self.children: list[subprocess.Popen[bytes]] = []

    def run(self) -> None:
        """Serve until the socket closes, then end what is left."""
        wake, woken = socket.socketpair()
        for side in (wake, woken):
            side.setblocking(False)
        signal.set_wakeup_fd(wake.fileno(), warn_on_full_buffer=False)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, lambda *_: None)  # ends with the socket alone
        with selectors.DefaultSelector() as waiting:
            waiting.register(woken, selectors.EVENT_READ)
            waiting.register(self.control, selectors.EVENT_READ)
            while self.listen(waiting, woken, None if _LINUX or not self.ended else _LOOK_S):
                pass
            waiting.unregister(self.control)
            self.finish(waiting, woken)

    def listen(self, waiting: selectors.BaseSelector, woken: socket.socket, timeout_s: float | None) -> bool:
        """Wait for one event and deal with it; False when the other side is gone."""
        ready = [key.fileobj for key, _ in waiting.select(timeout_s)]
        if woken in ready:
            with contextlib.suppress(BlockingIOError):
                woken.recv(4096)
        self.reap()
        if self.control not in ready:
            return True
        try:
            received = self.control.recv(1 << 16)
        except ConnectionError:
            return False
        *lines, self.buffer = (self.buffer + received).split(b"\n")
        for line in lines:
            self.obey(json.loads(line))
        return bool(received)

    def obey(self, order: dict[str, Any]) -> None:
        """Do what one line asks for."""
        app = order["app"]
        if order["do"] == "start":
            self.start(app, order)
        else:
            self.signal(app, order["number"])
            self.reap()

    def start(self, app: str, order: dict[str, Any]) -> None:
        """Start an application; a handle given for its output is closed here afterwards."""
        output = order["output"]
        try:
            child = subprocess.Popen(
                order["argv"],
                cwd=order["folder"],
                env={**os.environ, **order["environment"]},
                stdin=None if output is None else subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                preexec_fn=_die_with_parent if _LINUX else None,
            )
        except (OSError, ValueError, subprocess.SubprocessError) as error:
            self.tell(event="failed", app=app, error=_reason(error, order))
        else:
            self.children.append(child)
            self.numbers[app] = child.pid
            self.tell(event="started", app=app, pid=child.pid)
        finally:
            if output is not None:
                os.close(output)

    def signal(self, app: str, number: int) -> None:
        """Send a signal to all processes of an application, SIGKILL also to those that they start meanwhile.

        The process group gets it in one piece, so that a wrapper cannot start a child that is overlooked.
        """
        group = self.numbers.get(app, 0)
        living = self.members(app)
        if not _LINUX or any(_group(pid) == group for pid in living):
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.killpg(group, number)
        for _ in range(8):
            for pid in living:
                if number == signal.SIGKILL or _group(pid) != group:
                    with contextlib.suppress(ProcessLookupError, PermissionError):
                        os.kill(pid, number)
            living = self.members(app) if number == signal.SIGKILL else []

    def members(self, app: str) -> list[int]:
        """Return the living processes of an application; on Linux only, elsewhere nothing."""
        return [pid for pid, owner in self.census().items() if owner == app]

    def census(self) -> dict[int, str]:
        """Return the application of every living process that descends from this one; "" where it is not known.

        The table is read entry by entry while processes come and go, and is read again when that may have hidden one:
        when a child of ours ended meanwhile (it may have left a child that was not there when the reading began), or
        when the parent of one is missing (it is being handed to another parent, us perhaps). Parents that stay missing
        belong to others (`hidepid`).
        """
        lost: set[int] = set()
        for _ in range(_READINGS):
            table = _processes()
            before, lost = lost, {pid for pid, (parent, *_) in table.items() if parent > 1 and parent not in table}
            if not self.collect() and (not lost or lost == before):
                break
        apps = {number: app for app, number in self.numbers.items()}
        only = next(iter(self.numbers)) if len(self.numbers) == 1 else ""
        me = os.getpid()
        found: dict[int, str] = {}
        for pid, (parent, session, living) in table.items():
            if not living or pid == me:
                continue
            if session in apps:
                found[pid] = apps[session]
                continue
            top = pid
            for _ in range(len(table)):
                if parent == me or parent not in table:
                    break
                top, parent = parent, table[parent][0]
            if parent == me:
                mark = apps.get(table[top][1]) or _marked(pid)
                found[pid] = mark if mark in self.numbers else only
        return found

    def reap(self) -> None:
        """Collect the dead, and tell of which application nothing is left."""
        self.collect()
        if not self.ended:
            return
        living = set(self.census().values()) if _LINUX else {app for app in self.ended if self.group_lives(app)}
        for app in sorted(self.ended - living):
            self.ended.discard(app)
            del self.numbers[app]
            self.tell(event="gone", app=app)

    def collect(self) -> bool:
        """Collect dead children, own and inherited ones; tell whether there were any."""
        any_dead = False
        with contextlib.suppress(ChildProcessError):
            while (dead := os.waitpid(-1, os.WNOHANG))[0]:
                self.bury(*dead)
                any_dead = True
        return any_dead

    def bury(self, pid: int, status: int) -> None:
        """Note the end of one process."""
        for child in [child for child in self.children if child.pid == pid]:
            child.returncode = os.waitstatus_to_exitcode(status)
            self.children.remove(child)
            app = next(app for app, number in self.numbers.items() if number == pid)
            self.ended.add(app)
            self.tell(event="ended", app=app, status=child.returncode)

    def group_lives(self, app: str) -> bool:
        """Tell whether the process group still has members."""
        try:
            os.killpg(self.numbers[app], 0)
        except ProcessLookupError:
            return False
        except PermissionError:
            return True
        return True

    def tell(self, **event: Any) -> None:
        """Send one line; nobody may be listening any more."""
        with contextlib.suppress(OSError):
            self.control.sendall(json.dumps(event).encode() + b"\n")

    def finish(self, waiting: selectors.BaseSelector, woken: socket.socket) -> None:
        """End everything: politely, and after `GRACE_S` not."""
        for number, patience_s in ((signal.SIGTERM, GRACE_S), (signal.SIGKILL, 1.0)):
            self.reap()
            if not self.anything_left():
                return
            self.signal_all(number)
            until = time.monotonic() + patience_s
            while self.anything_left() and (left_s := until - time.monotonic()) > 0:
                waiting.select(left_s if _LINUX else min(left_s, _LOOK_S))
                with contextlib.suppress(BlockingIOError):
                    woken.recv(4096)
                self.reap()

    def anything_left(self) -> bool:
        """Tell whether a process of any application lives."""
        return bool(self.census()) if _LINUX else bool(self.numbers)

    def signal_all(self, number: int) -> None:
        """Send a signal to every process of every application, and to those of unknown origin."""
        for app in self.numbers:
            self.signal(app, number)
        for pid in [pid for pid, app in self.census().items() if app not in self.numbers]:
            with contextlib.suppress(ProcessLookupError, PermissionError):
                os.kill(pid, number)


def _processes() -> dict[int, tuple[int, int, bool]]:
    """Return parent and session of every process, and whether it lives or only waits to be collected (proc(5))."""
    table: dict[int, tuple[int, int, bool]] = {}
    if not _LINUX:
        return table
    for name in os.listdir("/proc"):
        if not name.isdigit():
            continue
        try:
            with open(f"/proc/{name}/stat", "rb") as stat:
                # The name in brackets may contain anything: what follows its last bracket is numbers.
                state, parent, _, session = stat.read().rpartition(b")")[2].split()[:4]
        except (OSError, ValueError):
            continue
        table[int(name)] = (int(parent), int(session), state not in (b"Z", b"X"))
    return table


def _group(pid: int) -> int:
    try:
        return os.getpgid(pid)
    except ProcessLookupError:
        return -1


def _marked(pid: int) -> str:
    """Return the application that a process without other ties comes from, by the APP_ID it was started with."""
    try:
        with open(f"/proc/{pid}/environ", "rb") as environ:
            variables = environ.read().split(b"\0")
    except OSError:
        return ""
    return next((os.fsdecode(item[7:]) for item in variables if item.startswith(b"APP_ID=")), "")


def _die_with_parent() -> None:
    _prctl(_SET_PDEATHSIG, signal.SIGKILL, 0, 0, 0)


def _reason(error: Exception, order: dict[str, Any]) -> str:
    command = order["argv"][0]
    match error:
        case FileNotFoundError() if not os.path.isdir(order["folder"]):
            return f"the folder {order['folder']} does not exist"
        case FileNotFoundError() if os.path.exists(os.path.join(order["folder"], command)):
            what = "the program its first line (#!) names is missing" if "/" in command else f"write ./{command}"
            return f"command not found: {command} ({what})"
        case FileNotFoundError():
            return f"command not found: {command}"
        case PermissionError():
            return f"not permitted to run {command} (is it executable?)"
        case OSError():
            return f"cannot run {command}: {error.strerror}"
        case _:
            return f"cannot run {command}: {error}"


def main() -> None:
    """Serve the socket whose number is the only argument."""
    global _prctl
    if _LINUX:
        import ctypes

        _prctl = ctypes.CDLL(None).prctl
        _prctl(_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    with socket.socket(fileno=int(sys.argv[1])) as control:
        control.set_inheritable(False)
        Guard(control).run()


if __name__ == "__main__":
    main()
