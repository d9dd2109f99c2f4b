"""The official Go SDK against a real sidecar."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from judges import SDK, TIMEOUT_S, built, judged, programs, shop, tool

if TYPE_CHECKING:
    from pathlib import Path

BLOCKS = {
    "health", "state", "etags", "transaction", "publish", "subscribe", "secrets", "invoke", "configuration", "lock",
    "bindings", "crypto", "metadata", "errors",
}  # fmt: skip
SOURCES = [SDK / "go" / name for name in ("go.mod", "go.sum", "main.go")]


def compiled(folder: Path) -> None:
    (go,) = programs("go", language="Go")
    tool([go, "build", "-mod=readonly", "-o", "judge", "."], folder)


@pytest.mark.go
@pytest.mark.timeout(TIMEOUT_S)
def test_every_block_the_sdk_has(tmp_path: Path) -> None:
    judge = built("go", SOURCES, compiled) / "judge"
    with shop(tmp_path) as sidecar:
        assert judged([str(judge)], sidecar, tmp_path) == BLOCKS
