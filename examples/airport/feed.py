"""The feed: tells the airport what happens, flight by flight, in order of schedule.

Official SDK over gRPC. Reads the file, signs each row with a key from the secret store, and publishes in bulk. It knows
the names `enrich`, `pubsub` and `secretstore`; where they are and what stands behind them is the sidecar's business.
"""

from __future__ import annotations

import json
import os
import time

from dapr.clients import BulkPublishEntry, DaprClient
from grpc import RpcError

import flights

BATCH = 200
"""Flights in one bulk publish."""
AHEAD = 5_000
"""How many flights the feed may be ahead of those who read it."""
PATIENCE_S = 60.0


def main() -> None:
    rows = flights.lines(int(os.environ.get("AIRPORT_FLIGHTS", "0")))
    copies = 2 if os.environ.get("AIRPORT_TWICE") else 1
    with DaprClient() as sidecar:
        open_the_day(sidecar, rows)
        key = sidecar.get_secret("secretstore", "signing-key").secret["signing-key"]
        for start in range(0, len(rows), BATCH):
            stay_near(sidecar, start - AHEAD)
            entries = [signed(row, key) for row in rows[start : start + BATCH]]
            for _ in range(copies):
                publish(sidecar, entries)
    print(f"{len(rows)} flights published")


def open_the_day(sidecar: DaprClient, rows: list[str]) -> None:
    """Wait for the enriching service, and hand it what it needs to know."""
    seen = [flights.read(row) for row in rows]
    day = {"airports": sorted({row["origin"] for row in seen}), "carriers": sorted({row["carrier"] for row in seen})}
    deadline = time.monotonic() + PATIENCE_S
    while True:
        try:
            invoke(sidecar, "open", day)
            break
        except RpcError as error:  # both start at the same time, and nobody says when the other one listens
            if time.monotonic() > deadline:
                raise
            print(f"waiting for enrich: {error.code()}")
            time.sleep(0.2)
    for kind in ("airlines", "airports", "planes"):
        entries = flights.reference(kind)
        for start in range(0, len(entries), 500):
            invoke(sidecar, f"reference/{kind}", entries[start : start + 500])


def stay_near(sidecar: DaprClient, number: int) -> None:
    """Return when `number` flights have been handled."""
    while number > 0 and invoke(sidecar, f"handled/{number}", None)["handled"] < number:
        pass  # each call waits for some seconds


def signed(row: str, key: str) -> BulkPublishEntry:
    event = {"row": row, "signature": flights.sign(row, key)}
    return BulkPublishEntry(
        json.dumps(event), content_type="application/json", entry_id=flights.name(flights.read(row))
    )


def publish(sidecar: DaprClient, entries: list[BulkPublishEntry]) -> None:
    """Publish all entries; those that fail are published again."""
    deadline = time.monotonic() + PATIENCE_S
    while entries:
        answer = sidecar.publish_events("pubsub", "flights", entries)
        failed = {entry.entry_id: entry.error for entry in answer.failed_entries}
        if failed and time.monotonic() > deadline:
            raise RuntimeError(f"{len(failed)} flights cannot be published: {next(iter(failed.values()))}")
        entries = [entry for entry in entries if entry.entry_id in failed]


def invoke(sidecar: DaprClient, method: str, body: object) -> dict[str, int]:
    """Call the enriching service."""
    answer = sidecar.invoke_method("enrich", method, json.dumps(body), "application/json", http_verb="POST")
    return json.loads(answer.data) if answer.data else {}


if __name__ == "__main__":
    main()
