"""Two processes that find each other: `ask` starts another that announces itself, and writes what it resolves."""

from __future__ import annotations

import asyncio
import subprocess
import sys

from pillion.components.mdns import MdnsNames
from pillion.kinds.component import Context
from pillion.kinds.names import Instance


async def be(names: MdnsNames) -> None:
    await names.register(Instance("lonely", "", "127.0.0.1", 50001))
    sys.stdout.write("ready\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)


async def ask(names: MdnsNames) -> None:
    with subprocess.Popen([sys.executable, __file__, "be"], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:  # noqa: ASYNC220
        assert other.stdout is not None
        await asyncio.to_thread(other.stdout.readline)
        sys.stdout.write(" ".join(await names.resolve("lonely", "")) + "\n")


async def main(what: str) -> None:
    names = MdnsNames(MdnsNames.Settings(), Context("names"))
    await names.open()
    await (be if what == "be" else ask)(names)
    await names.close()


if __name__ == "__main__":
    asyncio.run(main(sys.argv[1]))
