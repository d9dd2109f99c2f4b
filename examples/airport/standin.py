"""The departures board where Node.js is missing: does what `board/board.js` does, with the same names in state.

Plain HTTP, no SDK. What is said there about groups and transactions holds here.
"""

from __future__ import annotations

import asyncio
import logging
import os
from typing import Any

import aiohttp
from aiohttp import web

import flights
from sidecar import Conflict, Failed, Sidecar

TALLY = "tally"
LARGEST_GROUP = 100
PATIENCE_S = 45.0
RULES = {
    "rules": [
        {"match": "event.data.cancelled == true", "path": "/cancelled"},
        {"match": f"event.data.arrival_delay >= {flights.LATE_MIN}", "path": "/late"},
    ],
    "default": "/on_time",
}
log = logging.getLogger("board")
Waiting = tuple[str, str, str, "asyncio.Future[None]"]
"""Name, origin, outcome, and who waits for it to be counted."""


class Board:
    """The service."""

    def __init__(self, sidecar: Sidecar) -> None:
        self.sidecar = sidecar
        self.waiting: list[Waiting] = []
        self.writer: asyncio.Task[None] | None = None

    async def subscribe(self, _: web.Request) -> web.Response:
        return web.json_response([{"pubsubname": "pubsub", "topic": "departures", "routes": RULES}])

    async def flight(self, request: web.Request) -> web.Response:
        """One flight; the path says what became of it."""
        flight = (await request.json())["data"]
        counted: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self.waiting.append((flight["name"], flight["origin"], request.path.strip("/"), counted))
        if self.writer is None or self.writer.done():
            self.writer = asyncio.create_task(self.write())
        try:
            await counted
        except (Failed, aiohttp.ClientError, TimeoutError) as error:
            log.warning("given back: %s", error)
            return web.json_response({"status": "RETRY"})
        return web.json_response({"status": "SUCCESS"})

    async def write(self) -> None:
        while self.waiting:
            group, self.waiting = self.waiting[:LARGEST_GROUP], self.waiting[LARGEST_GROUP:]
            failure: Exception | None = None
            try:
                async with asyncio.timeout(PATIENCE_S):
                    while not await self.write_group(group):
                        log.info("once more")
            except (Failed, aiohttp.ClientError, TimeoutError) as error:
                failure = error
            for *_, counted in group:
                if failure is not None and not counted.done():
                    counted.set_exception(failure)
                elif not counted.done():
                    counted.set_result(None)

    async def write_group(self, group: list[Waiting]) -> bool:
        """Count what was not counted yet; False when the tally changed meanwhile."""
        before = await self.sidecar.bulk_get([TALLY])
        if TALLY not in before:
            try:
                await self.sidecar.create(TALLY, {"flights": 0, "repeated": 0, "airports": {}, "imprint": "0"})
            except Conflict:
                log.info("somebody else has made the tally")
            return False
        tally: dict[str, Any] = before[TALLY][0]
        known = set(await self.sidecar.bulk_get({f"seen:{name}" for name, *_ in group}))
        marks: dict[str, str] = {}
        for name, origin, outcome, _ in group:
            mark = f"seen:{name}"
            if mark in known or mark in marks:
                tally["repeated"] += 1
                continue
            marks[mark] = outcome
            airport = tally["airports"].setdefault(origin, {})
            airport[outcome] = airport.get(outcome, 0) + 1
            tally["flights"] += 1
            tally["imprint"] = flights.imprint([name], tally["imprint"])
        values = [(mark, outcome, "") for mark, outcome in marks.items()]
        try:
            await self.sidecar.transact([*values, (TALLY, tally, before[TALLY][1])])
        except Conflict:
            return False
        return True

    async def tally(self, _: web.Request) -> web.Response:
        found = await self.sidecar.bulk_get([TALLY])
        return web.json_response(found[TALLY][0] if found else {"flights": 0})


async def application() -> web.Application:
    board = Board(Sidecar())
    service = web.Application()
    service.router.add_get("/dapr/subscribe", board.subscribe)
    for outcome in ("cancelled", "late", "on_time"):
        service.router.add_post(f"/{outcome}", board.flight)
    service.router.add_get("/tally", board.tally)
    service.on_cleanup.append(lambda _: board.sidecar.close())
    return service


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    web.run_app(
        application(),
        host="127.0.0.1",
        port=int(os.environ["APP_PORT"]),
        access_log=None,
        print=None,
        shutdown_timeout=2,
    )
