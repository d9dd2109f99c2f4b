"""A short deterministic run of `fuzz_http1.py`."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest


@pytest.mark.parametrize("seed", range(4))
def test_no_bytes_break_a_connection(seed: int) -> None:
    fuzz = runpy.run_path(str(Path(__file__).with_name("fuzz_http1.py")))
    fuzz["run"](seed, 250)
