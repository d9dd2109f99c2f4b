"""A worker that speaks the task hub's messages itself, as a process: `python workflow_app.py LEDGER`.

It reconnects when its sidecar was away, notes in the ledger what its activities do, and ends with its standard input.
"""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from typing import TYPE_CHECKING, Any

from pillion.net.grpc_client import Channel
from pillion.testing.workflow_worker import TIMED_OUT, ActivityFailed, Executor, OverGrpc, Worker

if TYPE_CHECKING:
    from collections.abc import Generator

    from pillion.testing.workflow_worker import Context

    Steps = Generator[Any, Any, Any]

LEDGER = sys.argv[1]
PAUSE_S = 0.05


def note(text: str) -> None:
    file = os.open(LEDGER, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
    try:
        os.write(file, f"{text}\n".encode())
    finally:
        os.close(file)


async def work(given: Any) -> Any:
    """Note what was given, take a moment, give it back."""
    note(f"work {given}")
    await asyncio.sleep(0.002)
    return given


async def slow(seconds: float) -> str:
    note("slow")
    await asyncio.sleep(seconds)
    return "slept"


async def alone(seconds: float) -> str:
    """Note its beginning and its end: no other one is to come between them."""
    note("alone begins")
    await asyncio.sleep(seconds)
    note("alone ends")
    return "slept"


async def poison(antidote: str) -> str:
    """Take the worker down, until there is an antidote."""
    if not os.path.exists(antidote):  # noqa: ASYNC240
        note("poisoned")
        await asyncio.sleep(0.05)
        os.kill(os.getpid(), signal.SIGKILL)
    return "cured"


async def venom(given: list[str]) -> str:
    """As `poison`, and the sidecar with it, whose number is in the file of its port."""
    antidote, numbers = given
    if not os.path.exists(antidote):  # noqa: ASYNC240
        note("poisoned")
        await asyncio.sleep(0.05)
        with open(os.path.join(numbers, os.environ["DAPR_HTTP_PORT"])) as file:  # noqa: ASYNC230
            os.kill(int(file.read()), signal.SIGKILL)
        os.kill(os.getpid(), signal.SIGKILL)
    return "cured"


def big(size: int) -> str:
    return "x" * size


def steps(ctx: Context, count: int) -> Steps:
    done: list[str] = []
    while len(done) < count:
        done += [(yield ctx.call_activity("work", f"{ctx.instance_id}/{len(done)}"))]
    return done


def everything(ctx: Context, _: Any) -> Steps:
    """An activity, a timer, a fan, a child, an event."""
    mine = ctx.instance_id
    first = yield ctx.call_activity("work", f"{mine}/first")
    yield ctx.sleep(0.05)
    fan = yield ctx.all([ctx.call_activity("work", f"{mine}/fan{number}") for number in range(3)])
    child = yield ctx.call_child("steps", 2, instance_id=f"{mine}-child")
    told = yield ctx.wait_for_event("go")
    return [first, fan, child, told]


def waits(ctx: Context, seconds: float | None) -> Steps:
    ctx.custom_status = "waiting"
    told = yield ctx.wait_for_event("go", timeout_s=seconds)
    return "too late" if told is TIMED_OUT else told


def sleeps(ctx: Context, seconds: float) -> Steps:
    yield ctx.sleep(seconds)
    return "awake"


def one(ctx: Context, given: list[Any]) -> Steps:
    """One activity, `[name, input]`, at home or, with a third, elsewhere; its failure is the result."""
    name, value, app_id = [*given, ""][:3]
    try:
        return (yield ctx.call_activity(name, value, app_id=app_id))
    except ActivityFailed as error:
        return f"{error.details.errorType}: {error.details.errorMessage}"


def child(ctx: Context, given: list[str]) -> Steps:
    name, app_id = given
    try:
        return (yield ctx.call_child(name, 2, app_id=app_id, instance_id=f"{ctx.instance_id}-child"))
    except ActivityFailed as error:
        return f"{error.details.errorType}: {error.details.errorMessage}"


def fails(ctx: Context, text: str) -> None:
    raise ValueError(text)


WORKFLOWS = (steps, everything, waits, sleeps, one, child, fails)
ACTIVITIES = (work, slow, alone, poison, venom, big)


async def main() -> None:
    executor = Executor(
        {code.__name__: code for code in WORKFLOWS}, {code.__name__: code for code in ACTIVITIES}, stateful=True
    )
    over = asyncio.Event()
    loop = asyncio.get_running_loop()

    def read() -> None:
        if not os.read(sys.stdin.fileno(), 1 << 16):
            over.set()

    loop.add_reader(sys.stdin.fileno(), read)
    print("ready", flush=True)  # noqa: T201
    ending = loop.create_task(over.wait())
    while not over.is_set():
        channel = Channel(f"127.0.0.1:{os.environ['DAPR_GRPC_PORT']}", max_receive=1 << 26)
        worker = Worker(executor, OverGrpc(channel, stateful=True))
        await asyncio.wait([worker.ended, ending], return_when=asyncio.FIRST_COMPLETED)
        await worker.close()
        await channel.close()
        if not over.is_set():
            await asyncio.wait([ending], timeout=PAUSE_S)
    ending.cancel()


if __name__ == "__main__":
    asyncio.run(main())
