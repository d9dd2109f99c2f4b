"""The pure parts of the Redis client, with redis-py as second opinion."""

from __future__ import annotations

import asyncio
import contextlib
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from redis.crc import key_slot

from pillion import tasks
from pillion.components.redis_client import RedisClient, Script, slot_of, spelled_out
from pillion.components.redis_ear import CHANNEL, Ear
from pillion.components.redis_link import pack
from pillion.components.redis_settings import RedisSettings, dialing
from pillion.kinds.component import decode


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


@pytest.mark.parametrize(
    "answer",
    [
        7,
        [7],
        [[0, 16383]],
        [[0, 16383, 7]],
        [[0, 16383, []]],
        [[0, 16383, [b"h"]]],
        [[0, 10**12, [b"h", 1]]],
        [[-1, 16383, [b"h", 1]]],
        [[5, 3, [b"h", 1]]],
        [[0, 16383, [b"h", 99999]]],
        [[0, 16383, [b"h", b"port"]]],
        [[0, 16383, [b"\xff", 1]]],
        [[0, 16383, [{}, 1]]],
        [[b"0", b"16383", [b"h", 1]]],
        [[0, 16382, [b"h", 1]]],
    ],
)
def test_a_map_of_a_cluster_that_is_none_is_not_believed(answer: object) -> None:
    settings = decode(RedisSettings, {"redisHost": "h:1", "redisType": "cluster"}, where="test")
    client = RedisClient(settings, "test")
    assert not client._take_map(answer, "h")
    assert not client._links
    assert client._take_map([[0, 16383, [b"", 7, b"id"], [b"replica", 8]]], "asked")
    assert list(client._links) == [("asked", 7)]


def test_an_ear_outlives_a_server_that_talks_nonsense(monkeypatch: pytest.MonkeyPatch) -> None:
    """Answers of shapes that no manual has end a connection, not the listening; nor does a failure of ours."""
    monkeypatch.setattr(tasks, "FIRST_PAUSE_S", 0.001)
    role = b"*1\r\n$6\r\nmaster\r\n"
    subscribed = b"*3\r\n$9\r\nsubscribe\r\n$1\r\nc\r\n:1\r\n"
    talks = [
        b":5\r\n",
        b"*0\r\n",
        b"*1\r\n*0\r\n",
        role + b"%1\r\n*1\r\n+a\r\n+b\r\n",
        role + b"*3\r\n$9\r\nsubscribe\r\n*0\r\n:1\r\n*3\r\n$7\r\nmessage\r\n:1\r\n:2\r\n",
        role + subscribed,
        role + subscribed + b"*3\r\n$7\r\nmessage\r\n$1\r\nc\r\n$2\r\nhi\r\n",
    ]
    resumptions = 0

    async def main() -> None:
        served = 0
        done = asyncio.Event()
        serving: set[asyncio.Task[None]] = set()
        heard: asyncio.Queue[tuple[bytes, bytes]] = asyncio.Queue()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal served
            task = asyncio.current_task()
            assert task is not None
            serving.add(task)
            number, served = served, served + 1
            writer.write(talks[min(number, len(talks) - 1)])
            if number < len(talks) - 2:
                writer.write_eof()
            await done.wait()
            writer.close()
            with contextlib.suppress(OSError):
                await writer.wait_closed()

        async def resumed() -> None:
            nonlocal resumptions
            resumptions += 1
            if resumptions == 1:
                raise RuntimeError("nobody expects this")

        server = await asyncio.start_server(serve, "127.0.0.1", 0)
        address = server.sockets[0].getsockname()[:2]

        async def locate() -> tuple[str, int]:
            return address[0], address[1]

        settings = decode(RedisSettings, {"redisHost": "h:1"}, where="test")
        dialled = replace(dialing(settings, "test"), dial_s=90.0, first_pause_s=0.001, longest_pause_s=0.001)
        ear = Ear(
            locate, dialled, heard=lambda channel, data: heard.put_nowait((channel, data)), resumed=resumed,
            must_be_master=True,
        )  # fmt: skip
        async with asyncio.timeout(90):
            await ear.listen((CHANNEL, b"c"))
            assert await heard.get() == (b"c", b"hi")
        assert served == len(talks)
        await ear.close()
        done.set()
        server.close()
        await asyncio.wait(serving)

    asyncio.run(main())
    assert resumptions == 2
