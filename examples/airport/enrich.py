"""The enriching service: what is known of each flight, added from state, and everything counted.

Plain HTTP, no SDK. Flights come in bulks and may come more than once, several bulks at a time. What is counted once
is decided in one transaction: the flight's record and every counter that it changes are written together, and each
counter is guarded by its ETag. The counters are read before the records, so whoever recorded one of these flights in
between has changed a counter as well: the transaction fails, and is tried again with what is true by then.
"""

from __future__ import annotations

import asyncio
import logging
import os
import random
from collections import Counter

import aiohttp
from aiohttp import web

import logbook
from seen import NOTES, Known, Seen, enriched, look, notes
from sidecar import Conflict, Failed, Sidecar

PATIENCE_S = 45.0
"""How long a bulk is tried: less than the time after which the broker hands it to somebody else."""
AT_ONCE = 32
"""Aircraft that are told at the same time, of all bulks together."""
DAY = "day"
SUBSCRIPTION = {
    "pubsubname": "pubsub",
    "topic": "flights",
    "route": "/flights",
    "deadLetterTopic": "lost-flights",
    "bulkSubscribe": {"enabled": True, "maxMessagesCount": 50, "maxAwaitDurationMs": 50},
}
log = logging.getLogger("enrich")


class Enrich:
    """The service. `handled` is how many flights it has dealt with; whoever waits for more is woken by `changed`."""

    def __init__(self, sidecar: Sidecar) -> None:
        self.sidecar = sidecar
        self.key = ""
        self.handled = self.conflicts = self.repeated = 0
        self.changed = asyncio.Condition()
        self.tower = asyncio.Semaphore(AT_ONCE)

    async def start(self, _: web.Application) -> None:
        """Get the key with which the feed signs, before anything is answered."""
        await self.sidecar.ready()
        self.key = await self.sidecar.secret("secretstore", "signing-key")

    async def subscribe(self, _: web.Request) -> web.Response:
        return web.json_response([SUBSCRIPTION])

    async def open(self, request: web.Request) -> web.Response:
        """The feed says which airports and airlines there will be: these are the counters to show."""
        day = await request.json()
        counters = [f"airport:{code}" for code in day["airports"]] + [f"carrier:{code}" for code in day["carriers"]]
        await self.sidecar.save({DAY: [*counters, NOTES]})
        return web.json_response({"counters": len(counters)})

    async def learn(self, request: web.Request) -> web.Response:
        """The feed says what is known of airlines, airports or aircraft."""
        column, kind = {
            "airlines": ("carrier", "airline"), "airports": ("faa", "airport"), "planes": ("tailnum", "plane")
        }[request.match_info["kind"]]  # fmt: skip
        entries = await request.json()
        await self.sidecar.save({f"known-{kind}:{entry[column]}": entry for entry in entries})
        return web.json_response({"learnt": len(entries)})

    async def flights(self, request: web.Request) -> web.Response:
        """A bulk of flights; every one gets an answer of its own. Those that cannot be true are dropped."""
        message = await request.json()
        batch: dict[str, Seen] = {}
        for entry in message["entries"]:
            seen = look(entry["event"]["data"], self.key)
            batch.setdefault(seen.name, seen).entries.append(entry["entryId"])
        failed = await self.persist(batch)
        statuses = [
            {"entryId": each, "status": "RETRY" if seen.name in failed else "DROP" if seen.reason else "SUCCESS"}
            for seen in batch.values()
            for each in seen.entries
        ]
        return web.json_response({"statuses": statuses})

    async def persist(self, batch: dict[str, Seen]) -> set[str]:
        """Record, count, tell and publish a bulk, for as long as it takes. Return the names of flights that failed."""
        left, untold = dict(batch), {name: seen for name, seen in batch.items() if seen.has_aircraft}
        recorded = False
        try:
            async with asyncio.timeout(PATIENCE_S):
                while left:
                    try:
                        known = await (self.look_up(left) if recorded else self.record(left))
                        recorded = True
                        untold = await self.tell(untold)
                        failed = untold.keys() | await self.sidecar.publish(
                            "departures",
                            {name: enriched(seen, known) for name, seen in left.items()
                             if not seen.reason and name not in untold},
                        )  # fmt: skip
                        left = {name: seen for name, seen in left.items() if name in failed}
                        await asyncio.sleep(0.1 if left else 0)
                    except Conflict:
                        self.conflicts += 1
                        await asyncio.sleep(random.uniform(0, 0.02))
                    except (Failed, aiohttp.ClientError) as error:
                        log.warning("tried again: %s", error)
                        await asyncio.sleep(0.5)
        except TimeoutError:
            log.error("%d flights are given back to the broker", len(left))
        return set(left)

    async def tell(self, batch: dict[str, Seen]) -> dict[str, Seen]:
        """Tell aircraft of their flights; return those of which they could not be told."""

        async def one(seen: Seen) -> None:
            async with self.tower:
                await self.sidecar.act("Aircraft", seen.flight["tailnum"], "Follow", logbook.told(seen.flight))

        answers = await asyncio.gather(*map(one, batch.values()), return_exceptions=True)
        failed: dict[str, Seen] = {}
        for (name, seen), answer in zip(batch.items(), answers, strict=True):
            if isinstance(answer, (Conflict, Failed, aiohttp.ClientError)):
                log.warning("%s is told again: %s", seen.flight["tailnum"], answer)
                failed[name] = seen
            elif isinstance(answer, BaseException):
                raise answer
        return failed

    async def look_up(self, batch: dict[str, Seen]) -> Known:
        return await self.sidecar.bulk_get({key for seen in batch.values() for key in seen.asks})

    async def record(self, batch: dict[str, Seen]) -> Known:
        """Record and count the flights of a bulk that were not; return what is known. Raises `Conflict`."""
        counted = await self.count_so_far({key for seen in batch.values() for key in seen.counters})
        keys = {key for seen in batch.values() for key in (seen.record, *seen.asks)}
        known = await self.sidecar.bulk_get(keys)
        fresh = [seen for seen in batch.values() if seen.record not in known]
        if fresh:
            await self.write(fresh, counted, known)
        self.repeated += sum(len(seen.entries) for seen in batch.values()) - len(fresh)
        async with self.changed:
            self.handled += len(batch)
            self.changed.notify_all()
        return known

    async def count_so_far(self, counters: set[str]) -> Known:
        """Return counters with their ETags; those that do not exist are made, so that each has one."""
        counted = await self.sidecar.bulk_get(counters)
        missing = counters - counted.keys()
        for counter in missing:
            try:
                await self.sidecar.create(counter, {})
            except Conflict:
                log.info("another bulk has just made %s", counter)
        return counted | (await self.sidecar.bulk_get(missing) if missing else {})

    async def write(self, fresh: list[Seen], counted: Known, known: Known) -> None:
        """Record flights and count them, all or nothing. Raises `Conflict`."""
        changed: dict[str, Counter[str]] = {}
        for seen in fresh:
            for counter in seen.counters:
                facts = notes(seen, known) if counter == NOTES else ["flights", seen.outcome]
                changed.setdefault(counter, Counter(counted[counter][0])).update(facts)
        records = [(seen.record, {"outcome": seen.outcome, "reason": seen.reason}, "") for seen in fresh]
        await self.sidecar.transact(
            [*records, *((counter, value, counted[counter][1]) for counter, value in changed.items())]
        )

    async def why(self, request: web.Request) -> web.Response:
        """Say why a flight was refused; 404 when it was not."""
        seen = look(await request.json(), self.key)
        found = (await self.sidecar.bulk_get([seen.record])).get(seen.record)
        if found is None or not found[0]["reason"]:
            return web.json_response({"name": seen.name}, status=404)
        answer = {"name": seen.name, "airport": seen.flight.get("origin", ""), "reason": found[0]["reason"]}
        return web.json_response(answer)

    async def wait(self, request: web.Request) -> web.Response:
        """Answer when so many flights are handled, or after some seconds."""
        number = int(request.match_info["number"])
        async with self.changed:
            try:
                async with asyncio.timeout(5):
                    await self.changed.wait_for(lambda: self.handled >= number)
            except TimeoutError:
                log.info("%d of %d flights are handled", self.handled, number)
        return web.json_response({"handled": self.handled})

    async def tally(self, _: web.Request) -> web.Response:
        """All counters, as they stand in the store."""
        day = await self.sidecar.bulk_get([DAY])
        found = await self.sidecar.bulk_get(day[DAY][0]) if day else {}
        counters = {key: value for key, (value, _) in found.items()}
        return web.json_response({"counters": counters, "conflicts": self.conflicts, "repeated": self.repeated})


async def application() -> web.Application:
    enrich = Enrich(Sidecar())
    service = web.Application(client_max_size=16 << 20)
    service.router.add_get("/dapr/subscribe", enrich.subscribe)
    service.router.add_post("/open", enrich.open)
    service.router.add_post("/reference/{kind}", enrich.learn)
    service.router.add_post("/flights", enrich.flights)
    service.router.add_post("/handled/{number}", enrich.wait)
    service.router.add_post("/why", enrich.why)
    service.router.add_get("/tally", enrich.tally)
    service.on_startup.append(enrich.start)
    service.on_cleanup.append(lambda _: enrich.sidecar.close())
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
