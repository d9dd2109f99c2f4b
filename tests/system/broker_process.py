"""A process with one `pubsub.sqlite`, driven by a test through its standard streams.

`publish FILE TOPIC`        publishes 0, 1, 2 … for ever and writes each number when its publish has returned
`consume FILE TOPIC GROUP`  writes `ready`, then each body when its handler ends
`hold FILE TOPIC GROUP`     as `consume`, but no handler ever ends; writes each body when its handler begins
"""

from __future__ import annotations

import asyncio
import os
import sys

from pillion.components.sqlite_broker import SqlitePubSub
from pillion.kinds.component import Context
from pillion.kinds.pubsub import Delivery, Publish


def say(text: str) -> None:
    os.write(1, text.encode() + b"\n")


async def publish(broker: SqlitePubSub, topic: str) -> None:
    numbers = iter(range(10**9))

    async def one_by_one() -> None:
        for number in numbers:
            await broker.publish(Publish(topic, str(number).encode()))
            say(str(number))

    await asyncio.gather(*(one_by_one() for _ in range(8)))


async def consume(broker: SqlitePubSub, topic: str, *, hold: bool) -> None:
    async def handler(delivery: Delivery) -> None:
        if hold:
            say(delivery.data.decode())
            await asyncio.Event().wait()
        await asyncio.sleep(0)
        say(delivery.data.decode())

    await broker.subscribe(topic, {}, handler)
    say("ready")
    await asyncio.Event().wait()


async def main(what: str, path: str, topic: str, group: str = "") -> None:
    broker = SqlitePubSub(SqlitePubSub.Settings(connection_string=path, consumer_id=group), Context("broker"))
    await broker.open()
    if what == "publish":
        await publish(broker, topic)
    else:
        await consume(broker, topic, hold=what == "hold")


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
