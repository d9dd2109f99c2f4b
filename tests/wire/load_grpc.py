"""A load of grpc-go on our gRPC server for as long as it is told, without one error.

    python tests/wire/load_grpc.py --seconds 60

Unary calls with deadlines, streams, megabyte messages and calls that run into their deadline, all at once. Needs Go;
the client is built into a folder for the user's caches.
"""

from __future__ import annotations

import argparse
import asyncio
import os
import shutil
import subprocess
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from h2_support import Calls, serving

SOURCE = Path(__file__).with_name("load_grpc")
GRPC_GO = "v1.75.0"


def cache() -> Path:
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pillion-tests"


def build() -> Path:
    """Return the client, built once for each state of its source. Raises `OSError` or `CalledProcessError`."""
    folder = cache() / "load-grpc"
    program = folder / "load"
    source = SOURCE / "main.go"
    copy = folder / "main.go"
    if program.exists() and copy.read_bytes() == source.read_bytes():
        return program
    folder.mkdir(parents=True, exist_ok=True)
    for name in ("main.go", "go.mod"):
        shutil.copyfile(SOURCE / name, folder / name)
    for command in (["go", "get", f"google.golang.org/grpc@{GRPC_GO}"], ["go", "mod", "tidy"],
                    ["go", "build", "-o", "load", "."]):  # fmt: skip
        subprocess.run(command, cwd=folder, check=True, capture_output=True, timeout=300)
    return program


async def load(program: Path, seconds: float) -> tuple[int, str]:
    """Run the client against a server of ours; return its exit code and words."""
    async with serving(grpc=Calls()) as (address, _):
        process = await asyncio.create_subprocess_exec(
            str(program), "-address", address, "-seconds", str(seconds),
            stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        words, _ = await process.communicate()
        return process.returncode or 0, words.decode()


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    code, words = asyncio.run(load(build(), parser.parse_args().seconds))
    sys.stdout.write(words)
    sys.exit(code)
