"""Three sidecars of one application under load, with workers that note what they do: killed, paused for longer than any
lease, and restarted one after the other. Every workflow ends once, with the right result."""

from __future__ import annotations

import http.client
import json
import signal
import threading
import time
from collections import Counter
from contextlib import ExitStack
from typing import TYPE_CHECKING

import pytest

import workflow_processes as processes
from sidecars import SidecarProcess, eventually
from workflow_client import API, history, noted, state

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence
    from pathlib import Path

    from servers import RedisServer

REPLICAS = 3
PAUSED_S = 14.0
"""Longer than placement waits for a sidecar that is silent, and than a scheduler waits for an answer."""


class Cluster:
    """Replicas with their workers, and callers that start workflows and raise their events until they are told not to.

    `begun` are the instances that a sidecar has accepted; a caller asks again, and elsewhere, until one does.
    """

    def __init__(self, folder: Path, flags: Sequence[str], store: str, stack: ExitStack, app_id: str) -> None:
        self.ledger = folder / "ledger"
        self.replicas: list[SidecarProcess] = []
        for number in range(REPLICAS):
            own = folder / str(number)
            own.mkdir()
            one = stack.enter_context(processes.sidecar(own, flags, app_id, store=store))
            stack.enter_context(processes.worker(one, self.ledger))
            self.replicas.append(one)
        self.begun: list[str] = []
        self._over = threading.Event()
        self._threads = [threading.Thread(target=self._call, args=(number,)) for number in range(4)]

    def _call(self, caller: int) -> None:
        number = 0
        while not self._over.is_set():
            instance_id = f"c{caller}-{number}"
            number += 1
            if self._ask(caller + number, f"everything/start?instanceID={instance_id}", "already exists"):
                self.begun.append(instance_id)
                self._ask(caller + number + 1, f"{instance_id}/raiseEvent/go", "")
            time.sleep(0.02)

    def _ask(self, turn: int, tail: str, enough: str) -> bool:
        """Ask one replica after the other until one has accepted, or did so before its answer was lost."""
        deadline = time.monotonic() + 120
        while time.monotonic() < deadline:
            turn += 1
            try:
                reply = self.replicas[turn % REPLICAS].post_json(f"{API}/{tail}", instance_input(tail))
            except (OSError, http.client.HTTPException):
                time.sleep(0.05)
                continue
            if reply.status == 202 or (enough and enough in reply.body.decode()):
                return True
            time.sleep(0.05)
        raise AssertionError(tail)

    def __enter__(self) -> Cluster:
        for thread in self._threads:
            thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        for thread in self._threads:
            thread.join()

    def check(self) -> None:
        """Everything that was accepted ended once, well, and with every step in its history once."""
        assert len(self.begun) > 20
        ran = Counter(line.removeprefix("work ") for line in noted(self.ledger))
        for number, each in enumerate(self.begun):
            one = self.replicas[number % REPLICAS]
            eventually(lambda one=one, each=each: state(one, each)["runtimeStatus"] == "COMPLETED", 120)  # type: ignore[misc]
            fan, child = [f"{each}/fan{part}" for part in range(3)], [f"{each}-child/{step}" for step in range(2)]
            found = json.loads(state(one, each)["properties"]["dapr.workflow.output"])
            assert found == [f"{each}/first", fan, child, f"for {each}"]
        ran = Counter(line.removeprefix("work ") for line in noted(self.ledger))
        for number, each in enumerate(self.begun):
            for name in (f"{each}/first", f"{each}/fan0", f"{each}-child/1"):
                assert ran[name] >= 1, name
            if number % 4 == 0:
                kinds = Counter(event["type"] for event in history(self.replicas[0], each))
                steps = ("taskScheduled", "taskCompleted", "timerFired", "childWorkflowInstanceCompleted")
                assert [kinds[kind] for kind in steps] == [4, 4, 1, 1], kinds
                assert kinds["executionCompleted"] == 1


def instance_input(tail: str) -> object:
    return f"for {tail.split('/')[0]}" if "/raiseEvent/" in tail else None


@pytest.fixture(scope="module")
def flags(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sequence[str]]:
    with processes.plane(tmp_path_factory.mktemp("planes")) as found:
        yield found


def test_kill_9(tmp_path: Path, flags: Sequence[str]) -> None:
    """One after the other, and two at once."""
    with ExitStack() as stack, Cluster(tmp_path, flags, processes.sqlite(tmp_path), stack, "killed") as cluster:
        for victims in ((0,), (1,), (0, 2)):
            several = len(cluster.begun) + 15
            eventually(lambda several=several: len(cluster.begun) >= several, 120)  # type: ignore[misc]
            for number in victims:
                cluster.replicas[number].kill()
            for number in victims:
                killed = cluster.replicas[number]
                assert killed.process is not None
                killed.process.wait()
                killed.start()
        cluster.__exit__()
        cluster.check()


@pytest.mark.redis
def test_a_pause_longer_than_every_lease(tmp_path: Path, flags: Sequence[str], redis_server: RedisServer) -> None:
    """The others take over what the paused one held; what it does when it wakes counts for nothing."""
    store = processes.redis(redis_server.address)
    with ExitStack() as stack, Cluster(tmp_path, flags, store, stack, "paused") as cluster:
        eventually(lambda: len(cluster.begun) >= 15)
        cluster.replicas[1].kill(signal.SIGSTOP)
        time.sleep(PAUSED_S)  # leases run out by the clock alone
        cluster.replicas[1].kill(signal.SIGCONT)
        several = len(cluster.begun) + 15
        eventually(lambda: len(cluster.begun) >= several, 120)
        cluster.__exit__()
        cluster.check()


def test_a_rolling_restart(tmp_path: Path, flags: Sequence[str]) -> None:
    """Every replica is stopped and started again, by SIGTERM, while work goes on."""
    with ExitStack() as stack, Cluster(tmp_path, flags, processes.sqlite(tmp_path), stack, "rolled") as cluster:
        for one in cluster.replicas:
            several = len(cluster.begun) + 10
            eventually(lambda several=several: len(cluster.begun) >= several, 120)  # type: ignore[misc]
            one.stop()
            one.start()
        cluster.__exit__()
        cluster.check()
