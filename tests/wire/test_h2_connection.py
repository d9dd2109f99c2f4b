"""The connection machine: every rule of RFC 9113 that it enforces, flow control, shutdown, and the bounds on floods."""

from __future__ import annotations

import struct

import pytest

from h2_support import GET, POST, Recorded, Recorder, client, data, frames, headers, server
from pillion.wire import h2_frames as f
from pillion.wire.h2_frames import ErrorCode, frame
from pillion.wire.h2_headers import encode
from pillion.wire.h2_limits import Limits


def setting(name: int, value: int) -> bytes:
    return f.settings_frame({name: value})


def code_of_goaway(sent: list[tuple[int, int, int, bytes]]) -> int | None:
    return next((int.from_bytes(payload[4:8], "big") for kind, _, _, payload in sent if kind == f.GOAWAY), None)


def resets(sent: list[tuple[int, int, int, bytes]]) -> list[tuple[int, int]]:
    return [(stream, int.from_bytes(payload, "big")) for kind, _, stream, payload in sent if kind == f.RST_STREAM]


BLOCK = encode(GET)
P, FS, FC, SC, C, CALM = (
    ErrorCode.PROTOCOL_ERROR, ErrorCode.FRAME_SIZE_ERROR, ErrorCode.FLOW_CONTROL_ERROR, ErrorCode.STREAM_CLOSED,
    ErrorCode.COMPRESSION_ERROR, ErrorCode.ENHANCE_YOUR_CALM,
)  # fmt: skip

CONNECTION_ERRORS = {
    "4.2 frame larger than allowed": (FS, struct.pack(">HBBBL", 0x0100, 1, f.DATA, 0, 1)),
    "4.3 bad header block": (C, frame(f.HEADERS, f.END_HEADERS, 1, b"\x80")),
    "5.1 DATA on an idle stream": (P, data(1, b"x")),
    "5.1 RST_STREAM on an idle stream": (P, f.reset_frame(1, 0)),
    "5.1 WINDOW_UPDATE on an idle stream": (P, f.window_frame(1, 1)),
    "5.1 CONTINUATION on an idle stream": (P, frame(f.CONTINUATION, f.END_HEADERS, 1, BLOCK)),
    "5.1.1 even stream from a client": (P, headers(2, GET)),
    "5.1.1 stream ids go down": (SC, headers(5, GET, end=False) + headers(3, GET)),
    "6.1 DATA on stream 0": (P, data(0, b"x")),
    "6.1 padding as long as the frame": (P, headers(1, POST, end=False) + frame(f.DATA, f.PADDED, 1, b"\x04abc")),
    "6.1 padded without a length": (FS, headers(1, POST, end=False) + frame(f.DATA, f.PADDED, 1)),
    "6.2 HEADERS on stream 0": (P, headers(0, GET)),
    "6.2 padding longer than the block": (P, frame(f.HEADERS, f.PADDED | f.END_HEADERS, 1, b"\xff" + BLOCK)),
    "6.2 too short for its priority": (FS, frame(f.HEADERS, f.HAS_PRIORITY | f.END_HEADERS, 1, b"\0\0")),
    "6.2 other frame within a block": (P, frame(f.HEADERS, 0, 1, BLOCK) + f.ping_frame(bytes(8))),
    "6.2 unknown frame within a block": (P, frame(f.HEADERS, 0, 1, BLOCK) + frame(0x77, 0, 0)),
    "6.2 block of another stream": (P, frame(f.HEADERS, 0, 1, BLOCK) + frame(f.CONTINUATION, f.END_HEADERS, 3)),
    "6.3 PRIORITY on stream 0": (P, frame(f.PRIORITY, 0, 0, bytes(5))),
    "6.4 RST_STREAM on stream 0": (P, f.reset_frame(0, 0)),
    "6.4 RST_STREAM of 3 bytes": (FS, headers(1, GET, end=False) + frame(f.RST_STREAM, 0, 1, bytes(3))),
    "6.5 SETTINGS on a stream": (P, frame(f.SETTINGS, 0, 1)),
    "6.5 SETTINGS of 5 bytes": (FS, frame(f.SETTINGS, 0, 0, bytes(5))),
    "6.5 acknowledgement with a payload": (FS, frame(f.SETTINGS, f.ACK, 0, bytes(6))),
    "6.5.2 ENABLE_PUSH of 2": (P, setting(f.ENABLE_PUSH, 2)),
    "6.5.2 INITIAL_WINDOW_SIZE too large": (FC, setting(f.INITIAL_WINDOW_SIZE, 2**31)),
    "6.5.2 MAX_FRAME_SIZE too small": (P, setting(f.MAX_FRAME_SIZE, 16383)),
    "6.5.2 MAX_FRAME_SIZE too large": (P, setting(f.MAX_FRAME_SIZE, 2**24)),
    "6.6 PUSH_PROMISE from a client": (P, frame(f.PUSH_PROMISE, f.END_HEADERS, 1, bytes(4))),
    "6.7 PING on a stream": (P, frame(f.PING, 0, 1, bytes(8))),
    "6.7 PING of 7 bytes": (FS, frame(f.PING, 0, 0, bytes(7))),
    "6.8 GOAWAY on a stream": (P, frame(f.GOAWAY, 0, 1, bytes(8))),
    "6.8 GOAWAY too short": (FS, frame(f.GOAWAY, 0, 0, bytes(7))),
    "6.9 increment of 0 on the connection": (P, f.window_frame(0, 0)),
    "6.9 WINDOW_UPDATE of 3 bytes": (FS, frame(f.WINDOW_UPDATE, 0, 0, bytes(3))),
    "6.9.1 connection window overflows": (FC, f.window_frame(0, 2**31 - 1)),
    "6.9.2 settings make a window overflow":
        (FC, headers(1, GET, end=False) + f.window_frame(1, 2**31 - 1 - 65535) + setting(f.INITIAL_WINDOW_SIZE, 65536)),
    "6.10 CONTINUATION after the end": (P, headers(1, GET, end=False) + frame(f.CONTINUATION, f.END_HEADERS, 1)),
}  # fmt: skip


@pytest.mark.parametrize(("code", "sent"), CONNECTION_ERRORS.values(), ids=CONNECTION_ERRORS)
def test_connection_errors(code: ErrorCode, sent: bytes) -> None:
    """RFC 9113 5.4.1: GOAWAY with the code, open streams are told, later bytes are ignored."""
    peer = server()
    replies = peer.feed(sent)
    assert code_of_goaway(replies) == code
    assert peer.error is not None
    assert peer.error.code is code
    assert peer.h2.closed
    assert all(stream.closed for stream in peer.streams.values())
    assert peer.feed(headers(99, GET)) == []


OPEN = headers(1, POST, end=False)
DONE = headers(1, POST)
LENGTH = [*POST, (b"content-length", b"5")]

STREAM_ERRORS = {
    "5.1 DATA after the end": (SC, DONE + data(1, b"x")),
    "5.1 HEADERS after the end": (SC, DONE + headers(1, POST)),
    "5.1.2 too many streams": (ErrorCode.REFUSED_STREAM, headers(3, GET) + headers(5, GET) + headers(7, GET)),
    "6.3 PRIORITY of 4 bytes": (FS, frame(f.PRIORITY, 0, 1, bytes(4))),
    "6.9 increment of 0 on a stream": (P, OPEN + f.window_frame(1, 0)),
    "6.9.1 stream window overflows": (FC, OPEN + f.window_frame(1, 2**31 - 1)),
    "6.9.1 more data than the window": (FC, OPEN + data(1, bytes(16000)) + data(1, bytes(8000))),
    "8.1 second head": (P, OPEN + headers(1, [(b"x", b"1")], end=False)),
    "8.1 pseudo-header in trailers": (P, OPEN + headers(1, GET)),
    "8.1.1 shorter than content-length": (P, headers(1, LENGTH, end=False) + data(1, b"abc", end=True)),
    "8.1.1 longer than content-length": (P, headers(1, LENGTH, end=False) + data(1, b"abcdef")),
    "8.1.1 no body despite content-length": (P, headers(1, LENGTH)),
    "8.1.1 trailers before content-length":
        (P, headers(1, LENGTH, end=False) + data(1, b"abc") + headers(1, [(b"x", b"1")])),
    "8.2 upper case": (P, headers(1, [*GET, (b"X", b"1")])),
    "8.2.2 connection-specific header": (P, headers(1, [*GET, (b"connection", b"x")])),
    "8.3.1 no path": (P, headers(1, GET[:2])),
}  # fmt: skip


@pytest.mark.parametrize(("code", "sent"), STREAM_ERRORS.values(), ids=STREAM_ERRORS)
def test_stream_errors(code: ErrorCode, sent: bytes) -> None:
    """RFC 9113 5.4.2: RST_STREAM with the code; the connection serves on."""
    peer = server(Limits(streams=2, window=20000), consuming=False)
    replies = peer.feed(sent)
    assert [found for _, found in resets(replies)] == [code]
    assert not peer.h2.closed
    assert (f.PING, f.ACK, 0, bytes(8)) in peer.feed(f.ping_frame(bytes(8)))


CLIENT_ERRORS = {
    "6.6 PUSH_PROMISE though pushing is off": (P, frame(f.PUSH_PROMISE, f.END_HEADERS, 1, bytes(4) + BLOCK)),
    "6.5.2 ENABLE_PUSH from a server": (P, setting(f.ENABLE_PUSH, 1)),
    "5.1 HEADERS on an idle stream": (P, headers(5, [(b":status", b"200")])),
    "5.1.1 stream from a server": (P, headers(2, GET)),
}
CLIENT_STREAM_ERRORS = {
    "8.1 DATA before the head": (P, data(1, b"x")),
    "8.1 interim response ends": (P, headers(1, [(b":status", b"100")])),
    "8.3.2 no status": (P, headers(1, [(b"x", b"1")])),
    "8.1.1 shorter than content-length":
        (P, headers(1, [(b":status", b"200"), (b"content-length", b"3")], end=False) + data(1, b"x", end=True)),
}  # fmt: skip


@pytest.mark.parametrize(("code", "sent"), CLIENT_ERRORS.values(), ids=CLIENT_ERRORS)
def test_connection_errors_of_a_server(code: ErrorCode, sent: bytes) -> None:
    peer = client()
    stream = peer.open(GET, end=True)
    peer.h2.take()
    assert code_of_goaway(peer.feed(sent)) == code
    assert stream.closed


@pytest.mark.parametrize(("code", "sent"), CLIENT_STREAM_ERRORS.values(), ids=CLIENT_STREAM_ERRORS)
def test_stream_errors_of_a_server(code: ErrorCode, sent: bytes) -> None:
    peer = client()
    stream = peer.open(GET, end=True)
    peer.h2.take()
    assert resets(peer.feed(sent)) == [(1, code)]
    assert stream.reset_code == code


def test_preface_must_be_whole_and_settings_first() -> None:
    """RFC 9113 3.4."""
    assert code_of_goaway(Recorder().feed(b"GET / HTTP/1.1\r\n\r\n")) == P
    assert code_of_goaway(Recorder().feed(f.PREFACE + f.ping_frame(bytes(8)))) == P
    assert code_of_goaway(Recorder(client=True).feed(f.SETTINGS_ACK)) == P
    slow = Recorder()
    for byte in f.PREFACE + f.settings_frame({}):
        slow.h2.receive(bytes((byte,)), 0)
    assert frames(slow.h2.take())[-1] == (f.SETTINGS, f.ACK, 0, b"")


def test_frames_on_streams_that_we_reset_are_ignored() -> None:
    """RFC 9113 5.4.2: what was under way is not the peer's fault, and its data still counts for the connection."""
    peer = server()
    peer.feed(OPEN)
    peer.h2.reset(peer.streams[1])
    peer.h2.take()
    assert peer.feed(data(1, b"x" * 100), headers(1, [(b"x", b"1")]), f.window_frame(1, 5), f.reset_frame(1, 8)) == []
    assert not peer.h2.closed


def test_padding_and_continuation_are_taken_off() -> None:
    peer = server()
    block = encode([*POST, (b"x-long", b"y" * 300)])
    parts = [block[:10], block[10:10], block[10:200], block[200:]]
    peer.feed(
        frame(f.HEADERS, f.PADDED | f.HAS_PRIORITY, 1, b"\x04" + bytes(5) + parts[0] + bytes(4)),
        *(frame(f.CONTINUATION, 0, 1, part) for part in parts[1:3]),
        frame(f.CONTINUATION, f.END_HEADERS, 1, parts[3]),
        frame(f.DATA, f.PADDED, 1, b"\x05hello" + bytes(5)),
        headers(1, [(b"x-sum", b"1")]),
    )
    stream = peer.streams[1]
    assert stream.head.headers[-1] == (b"x-long", b"y" * 300)
    assert stream.body == b"hello"
    assert stream.trailers == [(b"x-sum", b"1")]


def test_sending_waits_for_both_windows() -> None:
    """RFC 9113 6.9: nothing beyond the stream's or the connection's window; the rest follows its update."""
    peer = server()
    peer.feed(setting(f.INITIAL_WINDOW_SIZE, 10), DONE)
    stream = peer.streams[1]
    peer.h2.send_head(stream, encode([(b":status", b"200")]))
    assert peer.h2.send_data(stream, b"0123456789abcdef", end=False) is False
    peer.h2.send_head(stream, encode([(b"x", b"1")]), end=True)
    assert [entry[3] for entry in frames(peer.h2.take())[1:]] == [b"0123456789"]
    assert peer.feed(f.window_frame(1, 4)) == [(f.DATA, 0, 1, b"abcd")]
    rest = peer.feed(f.window_frame(1, 4))
    assert [(kind, flags) for kind, flags, _, _ in rest] == [(f.DATA, 0), (f.HEADERS, f.END_STREAM | f.END_HEADERS)]
    assert stream.times_drained == 1
    assert stream.closed


def test_initial_window_moves_open_streams_below_zero() -> None:
    """RFC 9113 6.9.2."""
    peer = server()
    peer.feed(setting(f.INITIAL_WINDOW_SIZE, 10), DONE)
    stream = peer.streams[1]
    peer.h2.send_data(stream, b"x" * 10)
    peer.feed(setting(f.INITIAL_WINDOW_SIZE, 3))
    assert stream.send_window == -7
    peer.h2.send_data(stream, b"y" * 4, end=True)
    assert peer.feed(f.window_frame(1, 7)) == []
    acknowledged, sent = peer.feed(setting(f.INITIAL_WINDOW_SIZE, 5))
    assert acknowledged == (f.SETTINGS, f.ACK, 0, b"")
    assert sent == (f.DATA, 0, 1, b"yy")


def test_streams_take_turns_when_the_connection_window_opens() -> None:
    peer = server()
    peer.feed(setting(f.INITIAL_WINDOW_SIZE, 1 << 20), headers(1, GET), headers(3, GET))
    for stream_id in (1, 3):
        peer.h2.send_data(peer.streams[stream_id], bytes(200_000), end=True)
    peer.h2.take()
    sent = peer.feed(f.window_frame(0, 150_000))
    assert {stream for _, _, stream, _ in sent} == {1, 3}
    assert sum(len(payload) for _, _, _, payload in sent) == 150_000
    sent = peer.feed(f.window_frame(0, 1 << 20))
    assert sum(len(payload) for _, _, _, payload in sent) == 400_000 - 150_000 - 65_535
    assert not peer.h2.streams


def test_frames_follow_the_size_the_peer_takes() -> None:
    """RFC 9113 6.5.2, for bodies and for header blocks."""
    peer = server()
    peer.feed(setting(f.INITIAL_WINDOW_SIZE, 1 << 20), f.window_frame(0, 1 << 20), DONE)
    stream = peer.streams[1]
    peer.h2.send_head(stream, encode([(b":status", b"200"), (b"x", b"y" * 40_000)]))
    peer.h2.send_data(stream, bytes(40_000), end=True)
    sent = frames(peer.h2.take())
    assert [kind for kind, _, _, _ in sent] == [f.HEADERS, f.CONTINUATION, f.CONTINUATION, f.DATA, f.DATA, f.DATA]
    assert max(len(payload) for _, _, _, payload in sent) == 16384


def test_consumption_opens_the_window() -> None:
    """The peer may send on only when what it sent was consumed."""
    limits = Limits(window=1000, connection_window=100_000)
    peer = server(limits, consuming=False)
    peer.feed(OPEN)
    stream = peer.streams[1]
    assert peer.feed(data(1, bytes(900))) == []
    peer.h2.consume(stream, 400)
    assert frames(peer.h2.take()) == []
    peer.h2.consume(stream, 200)
    assert frames(peer.h2.take()) == [(f.WINDOW_UPDATE, 0, 1, (600).to_bytes(4, "big"))]
    assert resets(peer.feed(data(1, bytes(800)))) == [(1, FC)]


def test_a_reset_stream_gives_its_unread_data_back_to_the_connection() -> None:
    limits = Limits(window=60_000, connection_window=100_000)
    peer = server(limits, consuming=False)
    peer.feed(headers(1, POST, end=False), *(data(1, bytes(15_000)) for _ in range(4)))
    sent = peer.feed(f.reset_frame(1, ErrorCode.CANCEL))
    assert sent == [(f.WINDOW_UPDATE, 0, 0, (60_000).to_bytes(4, "big"))]


def test_paused_transport_holds_streams_but_not_control() -> None:
    peer = server()
    peer.feed(DONE)
    peer.h2.pause()
    peer.h2.send_head(peer.streams[1], encode([(b":status", b"200")]))
    assert peer.h2.send_data(peer.streams[1], b"x", end=True) is False
    assert [kind for kind, *_ in peer.feed(f.ping_frame(bytes(8)))] == [f.PING]
    peer.h2.resume()
    assert [kind for kind, *_ in frames(peer.h2.take())] == [f.HEADERS, f.DATA]


def test_output_wakes_the_driver_once() -> None:
    peer = server()
    peer.feed(headers(1, GET), headers(3, GET))
    before = peer.woken
    for stream in peer.streams.values():
        peer.h2.send_whole(stream, encode([(b":status", b"200")]), b"12", b"345", encode([(b"x", b"1")]))
    assert peer.woken == before + 1
    sent = frames(peer.h2.take())
    assert [payload for kind, _, _, payload in sent if kind == f.DATA] == [b"12345", b"12345"]
    assert len(sent) == 6
    assert not peer.h2.streams


def test_table_size_change_is_confirmed_in_the_next_block() -> None:
    """RFC 7541 4.2: a decoder may insist on it."""
    peer = server()
    peer.feed(setting(f.HEADER_TABLE_SIZE, 0), DONE)
    peer.h2.send_whole(peer.streams[1], encode([(b":status", b"200")]), b"", b"x", encode([(b"x", b"1")]))
    first, _, last = frames(peer.h2.take())
    assert first[3][0] == 0x20
    assert last[3][0] != 0x20


def test_graceful_end_takes_two_steps() -> None:
    """RFC 9113 6.8: streams opened in the round trip are still served, later ones are refused."""
    peer = server()
    peer.feed(headers(1, GET))
    peer.h2.drain()
    first, ping = frames(peer.h2.take())
    assert int.from_bytes(first[3][:4], "big") == 2**31 - 1
    assert resets(peer.feed(headers(3, GET))) == []
    last = peer.feed(f.ping_frame(ping[3], ack=True))
    assert [int.from_bytes(payload[:4], "big") for kind, _, _, payload in last if kind == f.GOAWAY] == [3]
    assert resets(peer.feed(headers(5, GET))) == [(5, ErrorCode.REFUSED_STREAM)]
    assert set(peer.h2.streams) == {1, 3}


def test_goaway_refuses_what_the_server_will_not_serve() -> None:
    """RFC 9113 6.8: streams above the last id may be sent again elsewhere, the others go on."""
    peer = client()
    first, second = peer.open(GET, end=True), peer.open(GET, end=True)
    peer.feed(f.goaway_frame(1, 0, b"bye"))
    assert peer.goaway == (1, 0, b"bye")
    assert second.reset_code == ErrorCode.REFUSED_STREAM
    assert not peer.h2.can_open
    peer.feed(headers(1, [(b":status", b"204")]))
    assert first.done


def test_oversized_head_is_answered_431() -> None:
    """RFC 6585 5; the connection lives on."""
    peer = server(Limits(header_list=400))
    sent = peer.feed(headers(1, [*GET, (b"x", b"y" * 500)]))
    assert sent[0][:3] == (f.HEADERS, f.END_STREAM | f.END_HEADERS, 1)
    assert b"431" in sent[0][3]
    assert not peer.h2.closed
    peer.feed(headers(3, GET))
    assert 3 in peer.streams


FLOODS = {
    "PING (CVE-2019-9512)": f.ping_frame(bytes(8)),
    "SETTINGS (CVE-2019-9515)": f.settings_frame({}),
    "stray SETTINGS acknowledgements": f.SETTINGS_ACK,
    "empty DATA (CVE-2019-9518)": data(1, b""),
    "WINDOW_UPDATE": f.window_frame(1, 1),
    "PRIORITY": frame(f.PRIORITY, 0, 1, bytes(5)),
    "unknown frames": frame(0x77, 0, 0, b"x"),
    "RST_STREAM on closed streams": f.reset_frame(1, 0),
    "GOAWAY": f.goaway_frame(0, 0),
}


@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_floods_meet_a_bound(flood: bytes) -> None:
    peer = server()
    peer.feed(OPEN)
    assert code_of_goaway(peer.feed(flood * 25_000)) == CALM


def test_rapid_reset_meets_a_bound() -> None:
    """CVE-2023-44487: opening and resetting streams that never get an answer."""
    peer = server()
    sent = peer.feed(*(headers(i, GET) + f.reset_frame(i, 8) for i in range(1, 4001, 2)))
    assert code_of_goaway(sent) == CALM
    assert len(peer.streams) <= 1002


def test_provoked_resets_meet_a_bound() -> None:
    """CVE-2025-8671: making the server reset the streams itself."""
    peer = server()
    sent = peer.feed(*(headers(i, GET) + f.window_frame(i, 0) for i in range(1, 4001, 2)))
    assert code_of_goaway(sent) == CALM


def test_continuation_flood_meets_a_bound() -> None:
    """CVE-2024-27316: neither many small nor much in few."""
    small = frame(f.HEADERS, 0, 1, BLOCK) + frame(f.CONTINUATION, 0, 1, b"") * 200
    assert code_of_goaway(server().feed(small)) == CALM
    large = frame(f.HEADERS, 0, 1, BLOCK) + frame(f.CONTINUATION, 0, 1, literal_padding(16000)) * 20
    assert code_of_goaway(server().feed(large)) == CALM


def literal_padding(size: int) -> bytes:
    return bytes(size)


def test_unread_replies_meet_a_bound() -> None:
    peer = server(Limits(control_backlog=1000))
    peer.h2.pause()
    assert code_of_goaway(peer.feed(f.ping_frame(bytes(8)) * 100)) == CALM


def test_time_and_work_pay_for_control_frames() -> None:
    """A busy peer that cancels half of its calls and pings all the time is served for ever."""
    peer = server()
    for number in range(20_000):
        stream_id = 4 * number + 1
        peer.feed(headers(stream_id, GET), headers(stream_id + 2, GET), f.reset_frame(stream_id + 2, 8),
                  f.ping_frame(bytes(8)), now=0.0)  # fmt: skip
        peer.h2.send_head(peer.streams.pop(stream_id), encode([(b":status", b"200")]), end=True)
        del peer.streams[stream_id + 2]
    assert not peer.h2.closed
    slow = server()
    for second in range(60):
        slow.feed(f.ping_frame(bytes(8)) * 900, now=float(second))
    assert not slow.h2.closed


def test_a_request_in_one_go() -> None:
    """Head and body leave as two frames of one write; what the windows hold back follows when they open."""
    peer = client()
    before = peer.woken
    stream = Recorded(peer.h2, peer.h2.next_id)
    assert peer.h2.open_whole(stream, encode(POST), b"12", b"345")
    assert peer.woken == before + 1
    [head, body] = frames(peer.h2.take())
    assert (head[0], head[1], head[3]) == (f.HEADERS, f.END_HEADERS, encode(POST))
    assert (body[0], body[1], body[3]) == (f.DATA, f.END_STREAM, b"12345")
    assert stream.local_ended
    peer.feed(setting(f.INITIAL_WINDOW_SIZE, 3))
    narrow = Recorded(peer.h2, peer.h2.next_id)
    assert not peer.h2.open_whole(narrow, encode(POST), b"12", b"345")
    assert [payload for kind, _, _, payload in frames(peer.h2.take()) if kind == f.DATA] == [b"123"]
    sent = peer.feed(f.window_frame(narrow.id, 2))
    assert [(flags, payload) for kind, flags, _, payload in sent if kind == f.DATA] == [(f.END_STREAM, b"45")]
    assert narrow.times_drained == 1


def test_a_request_in_one_go_confirms_a_smaller_table() -> None:
    peer = client()
    peer.feed(setting(f.HEADER_TABLE_SIZE, 0))
    assert peer.h2.open_whole(Recorded(peer.h2, peer.h2.next_id), encode(POST), b"", b"x")
    [head, _] = [one for one in frames(peer.h2.take()) if one[0] in (f.HEADERS, f.DATA)]
    assert head[3][0] == 0x20
