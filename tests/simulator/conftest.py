"""What a story does to the logs of this process ends with its test."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator


@pytest.fixture(autouse=True)
def logs_as_before() -> Iterator[None]:
    log = logging.getLogger("pillion")
    before = (log.handlers[:], log.level, log.propagate)
    yield
    log.handlers[:], level, log.propagate = before
    log.setLevel(level)
