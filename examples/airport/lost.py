"""Lost and found: receives the dead letters, asks why each flight was refused, and keeps the tally.

Official SDK, gRPC both ways. A dead letter may come more than once, and ten at a time: the mark of a flight and the
tally are written in one transaction that the tally's ETag guards.
"""

from __future__ import annotations

import json
import logging
import os
import random
import time

from dapr.clients import DaprClient
from dapr.clients.exceptions import DaprGrpcError
from dapr.clients.grpc._request import TransactionalStateOperation
from dapr.clients.grpc._state import Concurrency, StateOptions
from dapr.ext.grpc import App, SubscriptionMessage
from grpc import RpcError

import flights

STORE = "statestore"
TALLY = "tally"
EMPTY = {"flights": 0, "reasons": {}, "airports": {}, "imprint": "0"}
PATIENCE_S = 45.0
UNEXPLAINED = "unexplained"
app = App()
sidecar: DaprClient
log = logging.getLogger("lost")


@app.subscribe("pubsub", "lost-flights")
def lost(event: SubscriptionMessage) -> None:
    """One dead letter."""
    found = why(event.data())
    deadline = time.monotonic() + PATIENCE_S
    while not note(found):
        if time.monotonic() > deadline:
            raise TimeoutError(f"the tally is never free: {found}")
        time.sleep(random.uniform(0, 0.05))


def why(event: dict[str, str]) -> dict[str, str]:
    """Ask the enriching service, which refused the flight."""
    answer = sidecar.invoke_method("enrich", "why", json.dumps(event), "application/json", http_verb="POST")
    found: dict[str, str] = json.loads(answer.data)
    return {"airport": "", "reason": UNEXPLAINED} | found


def note(found: dict[str, str]) -> bool:
    """Count a flight if it was not yet; False when somebody else changed the tally meanwhile."""
    before = sidecar.get_state(STORE, TALLY)
    mark = f"seen:{found['name']}"
    if sidecar.get_state(STORE, mark).data:
        return True
    tally = json.loads(before.data)
    after = {
        "flights": tally["flights"] + 1,
        "reasons": one_more(tally["reasons"], found["reason"]),
        "airports": one_more(tally["airports"], found["airport"]),
        "imprint": flights.imprint([found["name"]], tally["imprint"]),
    }
    try:
        sidecar.execute_state_transaction(
            STORE,
            [
                TransactionalStateOperation(mark, json.dumps(found)),
                TransactionalStateOperation(TALLY, json.dumps(after), etag=before.etag),
            ],
        )
    except DaprGrpcError as error:
        log.info("once more: %s", error.details())
        return False
    return True


def one_more(counts: dict[str, int], key: str) -> dict[str, int]:
    return counts | {key: counts.get(key, 0) + 1}


@app.method("tally")
def tally(_: object) -> str:
    """The tally as it stands in the store."""
    return sidecar.get_state(STORE, TALLY).data.decode()


def begin() -> None:
    """Make the tally where there is none, so that it always has an ETag."""
    try:
        sidecar.save_state(STORE, TALLY, json.dumps(EMPTY), options=StateOptions(concurrency=Concurrency.first_write))
    except (DaprGrpcError, RpcError) as error:
        log.info("the tally is there already: %s", error.details())


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    with DaprClient() as sidecar:
        begin()
        app.run(int(os.environ["APP_PORT"]), "127.0.0.1")
