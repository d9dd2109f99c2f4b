"""The official Java SDK against a real sidecar. Maven is needed only when its libraries are not in the cache yet."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from judges import SDK, TIMEOUT_S, built, judged, programs, shop, tool

if TYPE_CHECKING:
    from pathlib import Path

BLOCKS = {
    "health", "state", "etags", "transaction", "publish", "subscribe", "secrets", "invoke", "configuration", "lock",
    "bindings", "crypto", "conversation", "metadata", "errors",
}  # fmt: skip


def compiled(folder: Path) -> None:
    mvn, javac = programs("mvn", "javac", language="Java")
    tool([mvn, "-q", "-B", "dependency:copy-dependencies", "-DoutputDirectory=lib"], folder)
    tool(
        [javac, "--release", "17", "-Xlint:all,-processing,-serial", "-cp", "lib/*", "-d", "classes", "Judge.java"],
        folder,
    )


@pytest.mark.java
@pytest.mark.timeout(TIMEOUT_S)
def test_every_block_the_sdk_has(tmp_path: Path) -> None:
    (java,) = programs("java", language="Java")
    home = built("java", [SDK / "java" / "pom.xml", SDK / "java" / "Judge.java"], compiled)
    classes = os.pathsep.join((str(home / "classes"), str(home / "lib" / "*")))
    with shop(tmp_path) as sidecar:
        # the option suits a program that lives for seconds
        assert judged([java, "-XX:TieredStopAtLevel=1", "-cp", classes, "Judge"], sidecar, tmp_path) == BLOCKS
