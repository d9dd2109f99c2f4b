"""A scheduler in a process of its own, which tells on standard output what it fires.

    python job_process.py sqlite|postgres WHERE ID LEASE_S

Lines: `members N` when others come or go, `fired KEY TICK WALL` for each trigger.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

from pillion.components.jobs_postgresql import PostgresJobs
from pillion.components.jobs_sqlite import SqliteJobs
from pillion.jobs.engine import Engine
from pillion.kinds.jobs import Interest, Member, Outcome

if TYPE_CHECKING:
    from pillion.kinds.jobs import Trigger


def say(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


async def main(kind: str, where: str, id: str, lease_s: float) -> None:
    store = SqliteJobs(where) if kind == "sqlite" else PostgresJobs(where)
    engine = Engine(
        store,
        Member(id, os.getpid(), f"{id}:50006"),
        lease_s=lease_s,
        members=lambda members: say(f"members {len(members)}"),
    )

    async def deliver(trigger: Trigger) -> Outcome:
        say(f"fired {trigger.key.name} {trigger.tick:.6f} {time.time():.6f}")
        return Outcome.SUCCESS

    await engine.open()
    engine.watch(Interest("a", "ns"), deliver)
    end = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, end.set)
    await end.wait()
    await engine.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1], sys.argv[2], sys.argv[3], float(sys.argv[4])))
