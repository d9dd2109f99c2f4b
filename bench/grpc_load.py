"""One run of the gRPC driver: PORT METHOD MESSAGE-HEX SECONDS CALLS [NAME=VALUE...]; prints calls, rate, p50, p99."""

from __future__ import annotations

import sys

import uvloop

from measure import grpc_load

port, method, message, seconds, calls, *metadata = sys.argv[1:]
pairs = dict(item.split("=", 1) for item in metadata)
load = uvloop.run(grpc_load(int(port), method, bytes.fromhex(message), float(seconds), int(calls), pairs))
print(load.requests, load.rate, load.p50_ms, load.p99_ms)
