"""The pure parts of the Redis client, with redis-py as second opinion."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from pillion.components.redis_client import Script, slot_of, spelled_out
from pillion.components.redis_link import pack


@given(st.binary(max_size=40) | st.text("ab{}", max_size=12).map(str.encode))
def test_slots_agree_with_redis_py(key: bytes) -> None:
    """CRC16 of the key, or of what stands between the first `{` and the next `}` when that is not empty."""
    assert slot_of(key) == key_slot(key)


@given(st.lists(st.binary(max_size=20), max_size=4))
def test_a_forgotten_script_is_spelled_out(arguments: list[bytes]) -> None:
    """EVALSHA becomes the EVAL of the same script with the same arguments; everything else stays alone."""
    script = Script("return 1 -- test")
    packed = pack((b"EVALSHA", script.sha, 1, "key", *arguments))
    assert spelled_out(packed) == pack((b"EVAL", script.text, 1, "key", *arguments))
    assert spelled_out(pack((b"EVALSHA", b"0" * 40, 1, "key"))) is None
    assert spelled_out(pack((b"GET", b"EVALSHA"))) is None
