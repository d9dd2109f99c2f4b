"""Where a sidecar's scheduler is: in this process, elsewhere, or nowhere.

Knows: `--scheduler-host-address`. Never knows: jobs.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from pillion.clock import SystemClock
from pillion.errors import ConfigError
from pillion.jobs.absent import AbsentScheduler
from pillion.net.grpc_client import Channel
from pillion.net.h2_driver import Keepalive
from pillion.net.h2_pool import PoolOptions, split_address

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pillion.blocks.health import Readiness
    from pillion.jobs.remote import RemoteScheduler
    from pillion.kinds.jobs import Scheduler
    from pillion.sidecar.flags import Options
    from pillion.tasks import Tasks

TARGET = "scheduler-watch-hosts"
"""The health target that says that the scheduler has been found."""
POOL = PoolOptions(connect_timeout_s=5.0, keepalive=Keepalive(ping_after_s=10.0, idle_s=None, always=True))
"""A scheduler pings every three seconds; one that is silent for longer is asked."""


class Schedulers:
    """`scheduler` is what jobs and reminders are given to, `connected` tells the addresses behind it.

    Looking for one that is far begins here, in `tasks`; `readiness` hears when it is found. `near` is one in this
    process, its owner's to close. Raises `ConfigError`.
    """

    def __init__(self, options: Options, near: Scheduler | None, tasks: Tasks, readiness: Readiness) -> None:
        addresses = tuple(filter(None, (each.strip() for each in options.scheduler_host_address)))
        self._far: RemoteScheduler | None = None
        self.scheduler: Scheduler
        self.connected: Callable[[], Sequence[str]] = lambda: addresses
        if near is not None:
            self.scheduler = near
        elif addresses:
            self._far = far = self.scheduler = _far(addresses, options.scheduler_job_streams)
            self.connected = lambda: far.connected
            readiness.expect(TARGET)
            far.open()
            tasks.start(_found(far, readiness), "looking for schedulers")
        else:
            self.scheduler = AbsentScheduler()

    async def close(self) -> None:
        """Hang up."""
        if self._far is not None:
            await self._far.close()


def _far(addresses: tuple[str, ...], streams: int) -> RemoteScheduler:
    from pillion.jobs.remote import RemoteScheduler  # whoever has no scheduler starts without it

    for each in addresses:
        try:
            split_address(each)
        except ValueError as error:
            raise ConfigError(str(error), where="--scheduler-host-address", mend="write localhost:50006") from error

    def dial(address: str) -> Channel:
        return Channel(address, max_receive=2**31 - 1, options=POOL)

    return RemoteScheduler(addresses, dial, SystemClock(), random.Random(), streams=streams)


async def _found(far: RemoteScheduler, readiness: Readiness) -> None:
    await far.found.wait()
    readiness.ready(TARGET)
