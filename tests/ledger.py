"""An application that hosts actors whose turns can be told apart: ledgers, each a number that only goes up by one.

A turn reads the number through its sidecar, waits a little and writes it back, without an ETag: two turns at once would
give the same number twice, and a host that lost its place would take back what another one wrote.
"""

from __future__ import annotations

import http.client
import json
import threading
import time
from typing import TYPE_CHECKING, Any

from apps import Call, HttpApp
from sidecars import SidecarProcess, component

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence
    from pathlib import Path

TYPE = "Ledger"
PAUSE_S = 0.005


class Ledgers(HttpApp):
    """The application beside one sidecar, which is set when its port is known. `fired` are the reminders that came."""

    def __init__(self, fired: list[str] | None = None) -> None:
        super().__init__(answer=self._turn)
        self.sidecar: SidecarProcess | None = None
        self.fired: list[str] = [] if fired is None else fired
        self.held = threading.Event()
        self.release = threading.Event()
        self.late: list[int] = []

    def reply(self, call: Call) -> tuple[int, Mapping[str, str], bytes]:
        if call.path == "/dapr/config":
            return 200, {"Content-Type": "application/json"}, json.dumps({"entities": [TYPE]}).encode()
        return super().reply(call)

    def _turn(self, call: Call) -> tuple[int, Mapping[str, str], bytes]:
        if call.method == "DELETE":
            return 200, {}, b""
        _, _, _, actor, _, method, *name = call.path.split("/")
        if method == "remind":
            self.fired.append(f"{actor}/{name[0]}")
            return 200, {}, b""
        sidecar = self.sidecar
        assert sidecar is not None
        path = f"/v1.0/actors/{TYPE}/{actor}/state"
        found = sidecar.request("GET", f"{path}/number")
        if found.status not in (200, 204):
            return 500, {}, found.body
        if method == "hold":
            self.held.set()
            assert self.release.wait(60)
        else:
            time.sleep(PAUSE_S)
        number = (found.json() if found.status == 200 else 0) + 1
        written = sidecar.post_json(path, [{"operation": "upsert", "request": {"key": "number", "value": number}}])
        if method == "hold":
            self.late.append(written.status)
        if written.status != 204:
            return 500, {}, written.body
        return 200, {}, str(number).encode()


def host(folder: Path, app: Ledgers, flags: Sequence[str], *more: str) -> SidecarProcess:
    """The sidecar of an application; all of them share one store."""
    store = component("store", "state.sqlite", connectionString=str(folder / "ledgers.db"), actorStateStore="true")
    app.sidecar = SidecarProcess(
        folder, "ledger", app_port=app.port, resources={"store.yaml": store}, arguments=[*flags, *more],
        env={"PILLION_HOME": str(folder / "home")},
    )  # fmt: skip
    return app.sidecar


class Load:
    """Callers of `count` ledgers, through the sidecars that `ways` returns, until the end of the block.

    `numbers` are the answers by ledger, `failures` what was refused.
    """

    def __init__(self, ways: Callable[[], Sequence[SidecarProcess]], count: int = 8) -> None:
        self._ways = ways
        self.numbers: dict[str, list[int]] = {f"l{number}": [] for number in range(count)}
        self.failures: list[Any] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(name,)) for name in self.numbers for _ in range(2)]

    def _call(self, name: str) -> None:
        turn = 0
        while not self._over.is_set():
            ways = self._ways()
            turn += 1
            try:
                reply = ways[turn % len(ways)].request("PUT", f"/v1.0/actors/{TYPE}/{name}/method/add")
            except (OSError, http.client.HTTPException) as error:
                self.failures.append(error)
                time.sleep(0.05)
                continue
            if reply.status == 200:
                self.numbers[name].append(int(reply.body))
            else:
                self.failures.append(reply)
                time.sleep(0.05)

    def __enter__(self) -> Load:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    @property
    def total(self) -> int:
        return sum(map(len, self.numbers.values()))

    def check(self, sidecar: SidecarProcess) -> None:
        """No number was given twice, and none was taken back."""
        for name, numbers in self.numbers.items():
            assert len(set(numbers)) == len(numbers), f"{name}: turns at the same time: {sorted(numbers)}"
            last = sidecar.request("GET", f"/v1.0/actors/{TYPE}/{name}/state/number").json()
            assert last >= max(numbers), f"{name}: {last} was {max(numbers)}"
