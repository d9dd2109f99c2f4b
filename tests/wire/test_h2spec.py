"""Programs in Go as judges: h2spec for the protocol, grpc-go for load. Skipped, saying so, where Go is absent."""

from __future__ import annotations

import asyncio
import importlib.util
import os
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from h2_support import serving
from http1_support import Routes
from pillion.net.h2_server import ServerOptions
from pillion.wire.h2_limits import Limits

pytestmark = [
    pytest.mark.go,
    pytest.mark.skipif(shutil.which("go") is None, reason="the Go toolchain is not installed"),
    pytest.mark.timeout(400),
]

_spec = importlib.util.spec_from_file_location("load_grpc", Path(__file__).with_name("load_grpc.py"))
assert _spec is not None
assert _spec.loader is not None
load_grpc = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(load_grpc)


def unavailable(error: Exception) -> None:
    said = getattr(error, "stderr", b"") or b""
    text = f"cannot be built here: {error} {said[-300:].decode('utf-8', 'replace')}"
    if os.environ.get("PILLION_REQUIRE_SERVERS") == "1":
        pytest.fail(text)
    pytest.skip(text)


def h2spec() -> Path:
    folder: Path = load_grpc.cache()
    program = folder / "h2spec"
    if not program.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(
            ["go", "install", "github.com/summerwind/h2spec/cmd/h2spec@v2.2.1+incompatible"],
            env=os.environ | {"GOBIN": str(folder)}, check=True, capture_output=True, timeout=300,
        )  # fmt: skip
    return program


def test_h2spec() -> None:
    """Every case of h2spec in its strict mode passes.

    The frame size is the default one: a case sends a frame just above 16 KiB and expects it to be refused.
    """
    try:
        program = h2spec()
    except (OSError, subprocess.SubprocessError) as error:
        unavailable(error)

    async def main() -> str:
        options = ServerOptions(limits=Limits(frame_size=16_384))
        async with serving(http=Routes(), options=options) as (address, _):
            host, port = address.split(":")
            process = await asyncio.create_subprocess_exec(
                str(program), "-h", host, "-p", port, "--strict", "-o", "3", stdout=asyncio.subprocess.PIPE
            )
            words, _ = await process.communicate()
            return words.decode("utf-8", "replace")

    words = asyncio.run(main())
    found = re.search(r"(\d+) tests, (\d+) passed, (\d+) skipped, (\d+) failed", words)
    assert found is not None, words
    assert found[1] == found[2] == "146", words[words.find("Failures:") :]


def test_load_by_grpc_go() -> None:
    """Not one error in three seconds of everything at once; `load_grpc.py --seconds 60` for longer."""
    try:
        program = load_grpc.build()
    except (OSError, subprocess.SubprocessError) as error:
        unavailable(error)
    code, words = asyncio.run(load_grpc.load(program, 3.0))
    assert code == 0, words
    assert ", 0 failed" in words
