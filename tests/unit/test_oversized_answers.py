"""What is read of a worker's answer that is too large to be taken: whose it is, or nothing."""

from __future__ import annotations

import pytest

from pillion.blocks.taskhub import _addressed
from pillion.wire import grpc as g
from pillion.wire.messages import taskhub as m


@pytest.mark.parametrize("task_id", [0, 1, 300, 2**31 - 1])
@pytest.mark.parametrize("framed", [g.framed, g.framed_gzip])
def test_the_beginning_tells(task_id: int, framed: object) -> None:
    answer = m.ActivityResponse(instanceId="ü" * 100, taskId=task_id)
    answer.result.value = "x" * 10_000
    assert callable(framed)
    beginning = g.beginning(framed(answer.SerializeToString())[:9000])
    assert len(beginning) <= 2048
    assert _addressed(beginning, activity=True) == ("ü" * 100, task_id)
    assert _addressed(beginning, activity=False) == ("ü" * 100, -1)


@pytest.mark.parametrize(
    "beginning", [b"", b"\x0a", b"\x12\x01a", b"\x0a\x02\xff\xff\x10\x01", b"\x0a" + b"\xff" * 12, b"\x0a\x01a\x10\xff"]
)
def test_nothing_is_read_of_what_is_no_answer(beginning: bytes) -> None:
    assert _addressed(beginning, activity=True) is None


def test_a_beginning_that_cannot_be_unpacked_is_empty() -> None:
    assert g.beginning(b"\x01\x00\x00\x10\x00 no gzip") == b""
