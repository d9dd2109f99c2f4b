"""Hosts N sidecars in one process and prints how its memory grows: what `pillion run -f` does.

python bench/shared_host.py COUNT RESOURCES
"""

from __future__ import annotations

import asyncio
import gc
import os
import sys

from pillion.sidecar import environment, flags
from pillion.sidecar.host import Sidecar
from pillion.sidecar.lifecycle import run_loop


def rss_kb() -> int:
    with open("/proc/self/status") as file:
        return next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))


async def main(count: int, resources: str) -> int:
    sidecars = []
    sizes = []
    for number in range(count):
        arguments = [
            "--app-id", f"app{number}", "--dapr-http-port", "0", "--dapr-grpc-port", "0", "--resources-path", resources,
            "--dapr-listen-addresses", "127.0.0.1", "--app-port", "1",
        ]  # fmt: skip
        options = flags.parse(arguments, os.environ)
        sidecar = Sidecar(
            options, environment.read(os.environ), names="pillion", data_dir=os.path.join(resources, "..")
        )
        await sidecar.start()
        sidecars.append(sidecar)
        await asyncio.sleep(0.05)
        gc.collect()
        sizes.append(rss_kb())
    print(sizes[0], sizes[-1], flush=True)
    for sidecar in sidecars:
        await sidecar.stop()
    return 0


if __name__ == "__main__":
    sys.exit(run_loop(main(int(sys.argv[1]), sys.argv[2])))
