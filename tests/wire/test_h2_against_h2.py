"""Our machine and the `h2` library, each in both roles, with random scripts: the second opinion.

Whatever the script does - bodies, trailers, resets, pings, changed settings, closed windows, padding - and wherever the
bytes are cut, both sides end with the same exchanges, and neither accuses the other of a broken rule.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import h2.config
import h2.connection
import h2.events
import h2.settings
from hypothesis import given, settings
from hypothesis import strategies as st

from h2_support import Recorder
from pillion.wire import h2_frames as f
from pillion.wire.h2_headers import encode
from pillion.wire.h2_limits import Limits

if TYPE_CHECKING:
    from collections.abc import Iterator

Fields = list[tuple[bytes, bytes]]
Codes = h2.settings.SettingCodes

extra = st.lists(
    st.tuples(st.sampled_from([b"x-a", b"x-b", b"grpc-timeout"]), st.sampled_from([b"", b"1", b"two", b"v" * 3000])),
    max_size=3,
)
bodies = st.lists(st.integers(0, 90_000), max_size=3)
exchange = st.fixed_dictionaries({
    "request": bodies, "reply": bodies, "headers": extra, "trailers": st.none() | extra.filter(bool),
    "reply_trailers": st.none() | extra.filter(bool), "cancel": st.integers(0, 9).map(lambda n: n == 0),
    "pad": st.none() | st.integers(0, 200),
})  # fmt: skip
change = st.fixed_dictionaries({
    Codes.INITIAL_WINDOW_SIZE: st.sampled_from([0, 300, 1000, 65_535, 1 << 20]),
    Codes.MAX_FRAME_SIZE: st.sampled_from([16_384, 20_000, 1 << 20]),
    Codes.HEADER_TABLE_SIZE: st.sampled_from([0, 100, 4096, 8192]),
})  # fmt: skip
script = st.lists(exchange | change | st.just("ping"), min_size=1, max_size=6)
cuts = st.lists(st.integers(1, 3000), min_size=1, max_size=5)

HEAD = [(b":method", b"POST"), (b":scheme", b"http"), (b":authority", b"a"), (b":path", b"/s/m")]
OPEN_WINDOW: dict[Codes | int, int] = {Codes.INITIAL_WINDOW_SIZE: 1 << 20}


class Opinion:
    """The `h2` library as the peer; what it saw, by stream."""

    def __init__(self, *, client: bool) -> None:
        config = h2.config.H2Configuration(client_side=client, header_encoding=None)
        self.h2 = h2.connection.H2Connection(config)
        self.h2.initiate_connection()
        self.h2.increment_flow_control_window(1 << 24)
        self.heads: dict[int, Fields] = {}
        self.bodies: dict[int, bytes] = {}
        self.trailers: dict[int, Fields] = {}
        self.ended: set[int] = set()
        self.pongs = 0
        self.unsent: dict[int, list[Any]] = {}

    def feed(self, data: bytes) -> None:
        for event in self.h2.receive_data(data):
            if isinstance(event, h2.events.RequestReceived | h2.events.ResponseReceived):
                assert event.stream_id is not None
                self.heads[event.stream_id] = [(bytes(n), bytes(v)) for n, v in event.headers or ()]
                self.bodies.setdefault(event.stream_id, b"")
            elif isinstance(event, h2.events.DataReceived):
                assert event.stream_id is not None
                self.bodies[event.stream_id] += event.data or b""
                self.h2.acknowledge_received_data(event.flow_controlled_length or 0, event.stream_id)
            elif isinstance(event, h2.events.TrailersReceived):
                assert event.stream_id is not None
                self.trailers[event.stream_id] = [(bytes(n), bytes(v)) for n, v in event.headers or ()]
            elif isinstance(event, h2.events.StreamEnded):
                assert event.stream_id is not None
                self.ended.add(event.stream_id)
            elif isinstance(event, h2.events.PingAckReceived):
                self.pongs += 1
            assert not isinstance(event, h2.events.ConnectionTerminated), event

    def say(self, stream_id: int, body: list[int], trailers: Fields | None, pad: int | None) -> None:
        """Send a body as far as the windows allow; `push` sends on."""
        self.unsent[stream_id] = [b"".join(filled(size) for size in body), trailers, pad]
        self.push()

    def push(self) -> None:
        for stream_id, item in list(self.unsent.items()):
            rest, trailers, pad = item
            overhead = 0 if pad is None else pad + 1
            while rest:
                room = min(self.h2.local_flow_control_window(stream_id), self.h2.max_outbound_frame_size) - overhead
                if room <= 0:
                    break
                self.h2.send_data(stream_id, rest[:room], pad_length=pad)
                rest = rest[room:]
            item[0] = rest
            if not rest:
                del self.unsent[stream_id]
                if trailers:
                    self.h2.send_headers(stream_id, trailers, end_stream=True)
                else:
                    self.h2.end_stream(stream_id)


def filled(size: int) -> bytes:
    return (b"%d " % size * (size // 2 + 1))[:size]


def pieces(data: bytes, sizes: Iterator[int]) -> Iterator[bytes]:
    while data:
        size = next(sizes)
        yield data[:size]
        data = data[size:]


def whole_frames(data: bytes) -> Iterator[bytes]:
    """Cut between frames: `h2` takes a new MAX_FRAME_SIZE only after the call that brought its acknowledgement."""
    if data.startswith(f.PREFACE):
        yield f.PREFACE
        data = data[len(f.PREFACE) :]
    while data:
        size = 9 + int.from_bytes(data[:3], "big")
        yield data[:size]
        data = data[size:]


def talk(ours: Recorder, theirs: Opinion, sizes: Iterator[int]) -> None:
    """Carry bytes between the two until both are silent."""
    while True:
        theirs.push()
        out, back = ours.h2.take(), theirs.h2.data_to_send()
        if not out and not back:
            return
        for part in whole_frames(out):
            theirs.feed(part)
        for piece in pieces(back, sizes):
            ours.h2.receive(piece, 0.0)
        assert ours.error is None


def endless(sizes: list[int]) -> Iterator[int]:
    while True:
        yield from sizes
        yield 1 << 16


@settings(max_examples=60, deadline=None)
@given(script, cuts)
def test_our_server_and_their_client(steps: list[Any], sizes: list[int]) -> None:
    ours, theirs, sizes_of = Recorder(limits=Limits(window=50_000)), Opinion(client=True), endless(sizes)
    wanted = {}
    pings = 0
    for step in steps:
        if step == "ping":
            theirs.h2.ping(b"12345678")
            pings += 1
        elif Codes.INITIAL_WINDOW_SIZE in step:
            theirs.h2.update_settings(step)
        else:
            stream_id = theirs.h2.get_next_available_stream_id()
            theirs.h2.send_headers(stream_id, [*HEAD, *step["headers"]])
            theirs.say(stream_id, step["request"], step["trailers"], step["pad"])
            if step["cancel"]:
                theirs.unsent.pop(stream_id, None)
                theirs.h2.reset_stream(stream_id, 8)
            else:
                wanted[stream_id] = step
            ours.h2.receive(theirs.h2.data_to_send(), 0.0)
            stream = ours.streams[stream_id]
            assert stream.closed is step["cancel"]
            ours.h2.send_head(stream, encode([(b":status", b"200"), *step["headers"]]))
            for size in step["reply"]:
                ours.h2.send_data(stream, filled(size))
            if step["reply_trailers"]:
                ours.h2.send_head(stream, encode(step["reply_trailers"]), end=True)
            else:
                ours.h2.send_data(stream, b"", end=True)
        talk(ours, theirs, sizes_of)
    theirs.h2.update_settings(OPEN_WINDOW)
    talk(ours, theirs, sizes_of)
    for stream_id, step in wanted.items():
        stream = ours.streams[stream_id]
        assert sorted(stream.head.all_headers()[1:]) == sorted(step["headers"])
        assert stream.body == b"".join(map(filled, step["request"]))
        assert stream.trailers == step["trailers"]
        assert theirs.heads[stream_id] == [(b":status", b"200"), *step["headers"]]
        assert theirs.bodies[stream_id] == b"".join(map(filled, step["reply"]))
        assert theirs.trailers.get(stream_id) == step["reply_trailers"]
        assert stream_id in theirs.ended
        assert stream.closed
    assert theirs.pongs == pings
    assert not ours.h2.streams


@settings(max_examples=60, deadline=None)
@given(script, cuts)
def test_our_client_and_their_server(steps: list[Any], sizes: list[int]) -> None:
    ours, theirs = Recorder(client=True, limits=Limits(window=50_000)), Opinion(client=False)
    sizes_of = endless(sizes)
    wanted = {}
    talk(ours, theirs, sizes_of)
    for step in steps:
        if step == "ping":
            ours.h2.ping(b"12345678")
        elif Codes.INITIAL_WINDOW_SIZE in step:
            theirs.h2.update_settings(step)
        else:
            stream = ours.open([*HEAD, *step["headers"]])
            for size in step["request"]:
                ours.h2.send_data(stream, filled(size))
            if step["trailers"]:
                ours.h2.send_head(stream, encode(step["trailers"]), end=True)
            else:
                ours.h2.send_data(stream, b"", end=True)
            if step["cancel"]:
                ours.h2.reset(stream)
                talk(ours, theirs, sizes_of)
                continue
            theirs.feed(ours.h2.take())
            wanted[stream.id] = step
            theirs.h2.send_headers(stream.id, [(b":status", b"200"), *step["headers"]])
            theirs.say(stream.id, step["reply"], step["reply_trailers"], step["pad"])
        talk(ours, theirs, sizes_of)
    theirs.h2.update_settings(OPEN_WINDOW)
    talk(ours, theirs, sizes_of)
    for stream_id, step in wanted.items():
        stream = ours.streams[stream_id]
        assert stream.head.headers == step["headers"]
        assert stream.body == b"".join(map(filled, step["reply"]))
        assert stream.trailers == step["reply_trailers"]
        assert theirs.heads[stream_id] == [*HEAD, *step["headers"]]
        assert theirs.bodies[stream_id] == b"".join(map(filled, step["request"]))
        assert theirs.trailers.get(stream_id) == step["trailers"]
        assert stream.closed
    assert len(ours.pings) == steps.count("ping")
    assert not ours.h2.streams
