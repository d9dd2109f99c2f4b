"""Random and mutated bytes against the connection machine: it must never raise, hang, or keep more than its bounds.

    python tests/wire/fuzz_h2.py --seconds 60 [--seed 1]

The suite runs a short deterministic part (`test_h2_fuzz.py`).
"""

from __future__ import annotations

import argparse
import random
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from h2_support import GET, POST, Recorder, data, headers
from pillion.wire import h2_frames as f
from pillion.wire.h2_headers import encode
from pillion.wire.h2_limits import Limits

LIMITS = Limits(streams=20, window=5000, connection_window=70_000, header_list=2000, control_backlog=2000)


def material(chance: random.Random) -> bytes:
    """Return one frame, usually well-formed."""
    stream_id = chance.choice((0, 1, 1, 1, 3, 3, 5, 7, 9, 2, 4, chance.randrange(2**31)))
    size = chance.choice((0, 1, 4, 5, 6, 8, 9, 100, 4000, 17_000))
    payload = chance.randbytes(size) if chance.random() < 0.5 else bytes(size)
    end = chance.random() < 0.3
    choice = chance.randrange(16)
    if choice < 4:
        fields = [*chance.choice((GET, POST, [(b":status", b"200")], [(b":status", b"100")], [])),
                  *chance.sample([(b"content-length", b"5"), (b"x", b"y" * 100), (b"te", b"trailers"), (b"Bad", b"1"),
                                  (b"content-type", b"application/grpc")], chance.randrange(3))]  # fmt: skip
        return headers(stream_id, fields, end=end)
    if choice < 7:
        return data(stream_id, payload, end=end)
    if choice == 7:
        return f.settings_frame({chance.randrange(8): chance.choice((0, 1, 100, 16384, 65535, 2**31 - 1, 2**32 - 1))})
    if choice == 8:
        return f.window_frame(stream_id, chance.choice((0, 1, 1000, 2**31 - 1)))
    if choice == 9:
        return f.reset_frame(stream_id, chance.randrange(16))
    if choice == 10:
        return f.ping_frame(bytes(8), ack=end)
    if choice == 11:
        return f.goaway_frame(stream_id, chance.randrange(16), payload[:10])
    if choice == 12:
        return f.frame(f.CONTINUATION, f.END_HEADERS if end else 0, stream_id, encode(GET)[: chance.randrange(20)])
    return f.frame(chance.randrange(12), chance.randrange(256), stream_id, payload)


def mutated(chance: random.Random, raw: bytes) -> bytes:
    if raw and chance.random() < 0.15:
        changed = bytearray(raw)
        for _ in range(chance.randrange(1, 4)):
            changed[chance.randrange(len(changed))] = chance.randrange(256)
        return bytes(changed)
    return raw


def reply(chance: random.Random, peer: Recorder) -> None:
    """Do on a random stream what a driver might do."""
    if not peer.h2.streams:
        return
    stream = chance.choice(list(peer.h2.streams.values()))
    choice = chance.randrange(6)
    if choice == 0:
        peer.h2.send_head(stream, encode([(b":status", b"200")]), end=chance.random() < 0.3)
    elif choice == 1:
        peer.h2.send_data(stream, bytes(chance.choice((0, 10, 70_000))), end=chance.random() < 0.3)
    elif choice == 2:
        peer.h2.send_whole(stream, encode([(b":status", b"200")]), b"12345", bytes(50), encode([(b"x", b"1")]))
    elif choice == 3:
        peer.h2.reset(stream)
    elif choice == 4:
        peer.h2.consume(stream, chance.randrange(5000))
    elif chance.random() < 0.5:
        peer.h2.pause()
    else:
        peer.h2.resume()


def one_run(seed: int) -> int:
    """Play one connection; return how many bytes it was given. Raises for whatever the machine did wrong."""
    chance = random.Random(seed)
    is_client = chance.random() < 0.4
    peer = Recorder(client=is_client, limits=LIMITS, consuming=chance.random() < 0.7)
    if is_client:
        for _ in range(3):
            peer.open(POST, end=chance.random() < 0.5)
    start = (b"" if is_client else f.PREFACE) + f.settings_frame({})
    fed = 0
    raw = mutated(chance, start) if chance.random() < 0.05 else start
    for _ in range(chance.randrange(1, 60)):
        while raw:
            size = chance.choice((1, 3, 9, 50, 1000, 100_000))
            peer.h2.receive(raw[:size], now=0.0)
            fed += len(raw[:size])
            raw = raw[size:]
        if chance.random() < 0.4:
            reply(chance, peer)
        out = peer.h2.take()
        check(peer, out)
        raw = mutated(chance, material(chance))
    peer.h2.lost("the end")
    assert all(stream.closed for stream in peer.streams.values())
    assert not peer.h2.streams
    return fed


def check(peer: Recorder, out: bytes) -> None:
    h2 = peer.h2
    assert len(h2.streams) <= LIMITS.streams
    assert len(h2._tail) <= LIMITS.frame_size + 100_009
    assert len(h2._reset_ids) <= 2001
    assert 0 <= h2._receive_window <= LIMITS.connection_window or h2.closed
    assert h2.closed == (peer.error is not None)
    for stream in h2.streams.values():
        assert 0 <= stream.unread <= LIMITS.window
        assert not (stream.remote_ended and stream.local_ended)
        assert stream.send_window <= f.LARGEST_WINDOW
    assert len(out) < 50_000_000


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    until, seed, total = time.monotonic() + options.seconds, options.seed, 0
    while time.monotonic() < until:
        try:
            total += one_run(seed)
        except BaseException:
            sys.stderr.write(f"seed {seed}\n")
            raise
        seed += 1
    sys.stdout.write(f"{seed - options.seed} connections, {total} bytes\n")
