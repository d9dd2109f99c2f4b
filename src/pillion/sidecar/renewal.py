"""A sidecar that can be started anew: for a Configuration that changed, and on SIGHUP (spec `runtime.md` 2.2, 2.8).

The one that runs ends in order and another begins in its place, with the same ports: what it listened on stays open
meanwhile, so that clients who connect wait instead of being refused. `restart` returns at once.
Knows: the order of the two. Never knows: what a sidecar is made of.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from pillion.net.listen import Doors
from pillion.observe import logs
from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.sidecar.host import Sidecar

log = logging.getLogger("pillion.sidecar")
FAILED = 1


class RenewableSidecar:
    """Stands for one sidecar after the other. `make` makes one, given what to call for a restart and its listeners.

    `ended` resolves with an exit code when one has ended and none follows.
    """

    def __init__(self, make: Callable[[Callable[[], None], Doors], Sidecar]) -> None:
        self._make = make
        self._doors = Doors()
        self._again = self._starting = False
        self._tasks = Tasks("a sidecar and its successors")
        self._following: asyncio.Task[None] | None = None
        self.current = make(self.restart, self._doors)
        self.ended: asyncio.Future[int] = asyncio.get_running_loop().create_future()

    @property
    def http_port(self) -> int:
        return self.current.http_port

    @property
    def grpc_port(self) -> int:
        return self.current.grpc_port

    @property
    def internal_port(self) -> int:
        return self.current.internal_port

    async def start(self) -> None:
        """Start the first one. Raises as `Sidecar.start` does."""
        await self.current.start()
        self._following = self._tasks.start(self._follow(), "following the sidecar")

    def restart(self) -> None:
        """End in order and begin anew; of no effect while it ends anyway."""
        if not self._again and self.current.running:
            self._again = True
            self._doors.keep_open()
            self.current.request_stop(gently=True)

    async def end_messages(self) -> None:
        """Deliver no further messages, for good: the application is about to end."""
        self._again = False
        if not self._starting:
            with logs.of_app(self.current.app_id):
                await self.current.end_messages()

    async def release(self) -> None:
        """Let the actors of the application come to their end."""
        if not self._starting:
            with logs.of_app(self.current.app_id):
                await self.current.release()

    async def stop(self) -> None:
        """Stop in order, for good. May be called again."""
        self._again = False
        if not self._starting:  # else whoever starts it stops it
            await self.current.stop()
        if self._following is not None:
            await asyncio.wait((self._following,))
        self._doors.close()

    def request_late_stop(self) -> None:
        """Begin to stop for good, as a signal asks."""
        self._again = False
        if not self._starting:
            self.current.request_late_stop()

    def _is_over(self) -> bool:
        return not self._again

    async def _follow(self) -> None:
        """See to one after the other. Whatever goes wrong, `ended` says that it has."""
        code = FAILED
        try:
            code = await self._succession()
        except Exception as error:
            log.critical("Fatal error from runtime: %s", error, exc_info=error)
        finally:
            self._doors.close()
            if not self.ended.done():
                self.ended.set_result(code)

    async def _succession(self) -> int:
        while True:
            code = await asyncio.shield(self.current.ended)
            if self._is_over():
                return code
            with logs.of_app(self.current.app_id):
                log.info("starting anew")
            self._starting = True
            try:
                self.current = self._make(self.restart, self._doors)
                await self.current.start()
            except Exception as error:
                log.critical("Fatal error from runtime: %s", error)
                return FAILED
            finally:
                self._starting = False
            if self._is_over():  # somebody wanted it to stop meanwhile
                await self.current.stop()
                return code
            self._again = False

    def __repr__(self) -> str:
        return f"<RenewableSidecar, now {self.current!r}>"
