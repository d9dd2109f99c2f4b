"""TTL and delay of messages, as publishers write them."""

from __future__ import annotations

import pytest

from pillion.errors import ComponentError
from pillion.kinds.message_timing import due_time_of, ttl_of

NOW = 1_767_225_600.0  # 2026-01-01T00:00:00Z


@pytest.mark.parametrize(
    ("metadata", "seconds"),
    [
        ({}, None),
        ({"other": "1"}, None),
        ({"ttl": ""}, None),
        ({"ttlInSeconds": "60"}, 60),
        ({"TTLINSECONDS": "+60"}, 60),
        ({"ttl": "1m30s"}, 90),
        ({"Ttl": "-5s"}, 0),
        ({"ttl": "0"}, 0),
        ({"ttlInSeconds": "1500ms"}, 1.5),
        ({"ttlInSeconds": "999999999999999999"}, 100 * 365.25 * 86_400),
    ],
)
def test_ttl(metadata: dict[str, str], seconds: float | None) -> None:
    """`ttl` or `ttlInSeconds` in any case: a Go duration (a negative one is 0) or a positive number of seconds."""
    assert ttl_of(metadata) == seconds


@pytest.mark.parametrize("text", ["00", "-1", "soon", "1.5", "1e3", "9" * 5000])
def test_bad_ttl(text: str) -> None:
    with pytest.raises(ComponentError, match="ttl"):
        ttl_of({"ttl": text})


@pytest.mark.parametrize(
    ("metadata", "due"),
    [
        ({}, None),
        ({"pillion.delay": "90"}, NOW + 90),
        ({"Pillion.Delay": "1h"}, NOW + 3600),
        ({"pillion.delay": "0s"}, None),
        ({"pillion.delay": "-1s"}, None),
        ({"pillion.deliverAt": "2026-01-01T01:00:00+01:00"}, None),
        ({"pillion.deliverAt": "2026-01-01T00:00:01.5Z"}, NOW + 1.5),
        ({"pillion.deliverat": "2026-01-01T01:00:00+00:30"}, NOW + 1800),
    ],
)
def test_due_time(metadata: dict[str, str], due: float | None) -> None:
    """What is due in the past is due at once."""
    assert due_time_of(metadata, NOW) == due


@pytest.mark.parametrize(
    "metadata",
    [
        {"pillion.delay": "tomorrow"},
        {"pillion.deliverAt": "tomorrow"},
        {"pillion.deliverAt": "2026-01-01T00:00:00"},
        {"pillion.deliverAt": "2026-01-01T01:00:00Z", "pillion.delay": "1s"},
    ],
)
def test_bad_due_time(metadata: dict[str, str]) -> None:
    """A time without an offset is refused: whose midnight would it be?"""
    with pytest.raises(ComponentError, match="pillion"):
        due_time_of(metadata, NOW)
