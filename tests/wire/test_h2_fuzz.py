"""The deterministic part of the fuzzer; `fuzz_h2.py` runs on for as long as it is told."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest

_spec = importlib.util.spec_from_file_location("fuzz_h2", Path(__file__).with_name("fuzz_h2.py"))
assert _spec is not None
assert _spec.loader is not None
fuzz_h2 = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(fuzz_h2)


@pytest.mark.parametrize("start", range(0, 2000, 500))
def test_five_hundred_connections(start: int) -> None:
    """No input makes the machine raise, hang or outgrow its bounds."""
    for seed in range(start, start + 500):
        fuzz_h2.one_run(seed)
