"""The process of `pilliond`: the loop, the signals and the exit code (spec `runtime.md` 1.5)."""

from __future__ import annotations

import asyncio
import gc
import logging
import os
import signal
import sys
import time
from typing import TYPE_CHECKING

from pillion.sidecar import presence
from pillion.sidecar.host import Sidecar
from pillion.sidecar.renewal import RenewableSidecar

if TYPE_CHECKING:
    from collections.abc import Callable, Coroutine
    from typing import Any

    from pillion.sidecar.environment import Environment
    from pillion.sidecar.flags import Options

log = logging.getLogger("pillion.sidecar")
_COLLECTIONS = (50_000, 20, 20)
"""Objects and generations between two collections. Few things here are cycles: with thousands of workflows in memory,
Python's own numbers make it spend a third of its time looking for some."""
FORCED = 1


def run(options: Options, environment: Environment) -> int:
    """Run one sidecar until it ends; return the exit code. A second signal to stop ends the process at once."""
    return run_loop(_serve(options, environment))


def run_loop(work: Coroutine[Any, Any, int]) -> int:
    """Run `work` on the fastest loop there is: uvloop where it is installed, asyncio's own elsewhere."""
    factory: Callable[[], asyncio.AbstractEventLoop] | None = None
    try:
        import uvloop
    except ImportError:
        log.debug("uvloop is not installed: using asyncio's own loop")
    else:
        factory = uvloop.new_event_loop
    gc.set_threshold(*_COLLECTIONS)
    with asyncio.Runner(loop_factory=factory) as runner:
        return runner.run(work)


async def _serve(options: Options, environment: Environment) -> int:
    """SIGHUP starts the sidecar anew in this process: files are read again, ports stay."""
    sidecar = RenewableSidecar(lambda restart, doors: Sidecar(options, environment, restart=restart, doors=doors))
    signals = _Signals()
    await sidecar.start()
    signals.sidecar = sidecar  # it serves: from here on a signal asks for an orderly end
    # What start-up made lives as long as the process: the collector need not look at it again.
    gc.collect()
    gc.freeze()
    record = presence.record_of(
        options,
        http_port=sidecar.http_port,
        grpc_port=sidecar.grpc_port,
        internal_port=sidecar.internal_port,
        created=time.time(),
    )
    announced = await asyncio.to_thread(presence.announce, record, presence.home(environment.variables))
    try:
        return await sidecar.ended
    finally:
        announced.withdraw()


class _Signals:
    """SIGINT and SIGTERM stop in order and, if wished, later; the second one stops at once; SIGHUP restarts."""

    def __init__(self) -> None:
        self.sidecar: RenewableSidecar | None = None
        self._asked = False
        loop = asyncio.get_running_loop()
        if sys.platform == "win32":
            for number in (signal.SIGINT, signal.SIGTERM):
                signal.signal(number, lambda *_: loop.call_soon_threadsafe(self._stop))
            return
        for number in (signal.SIGINT, signal.SIGTERM):
            loop.add_signal_handler(number, self._stop)
        loop.add_signal_handler(signal.SIGHUP, self._hang_up)

    def _stop(self) -> None:
        if self._asked or self.sidecar is None:
            log.critical("stopping at once")
            logging.shutdown()
            os._exit(FORCED)
        self._asked = True
        self.sidecar.request_late_stop()

    def _hang_up(self) -> None:
        if self.sidecar is not None and not self._asked:
            log.info("restarting on SIGHUP")
            self.sidecar.restart()
