"""Rebooking: a workflow for each cancelled flight takes its passengers to later flights, or returns their money.

Official SDK over gRPC. The subscription's rule lets only cancelled flights come here. The name of the flight is that of
the workflow, so a flight that is told twice is rebooked once. Activities run at least once: each leaves a record in
state, in one transaction with what else it changes, and whoever comes again finds it.
"""

from __future__ import annotations

import json
import logging
import os
import random
import time
from collections.abc import Generator
from datetime import timedelta
from typing import Any

import dapr.ext.workflow as wf
from dapr.clients import DaprClient
from dapr.clients.exceptions import DaprGrpcError
from dapr.clients.grpc._request import TransactionalStateOperation
from dapr.clients.grpc._state import Concurrency, StateOptions
from dapr.ext.grpc import App, Rule, SubscriptionMessage
from grpc import RpcError

import bookings
import flights

STORE = "statestore"
TALLY = "rebooked"
EMPTY = {"flights": 0, "passengers": 0, "rebooked": 0, "refunded": 0, "refused": 0, "imprint": "0"}
PATIENCE_S = 30.0
OFTEN = wf.RetryPolicy(
    first_retry_interval=timedelta(milliseconds=100),
    max_number_of_attempts=bookings.ATTEMPTS,
    backoff_coefficient=2,
    max_retry_interval=timedelta(seconds=1),
)
Steps = Generator[Any, Any, dict[str, Any]]
app = App()
runtime = wf.WorkflowRuntime()
client: wf.DaprWorkflowClient
sidecar: DaprClient
timetable: bookings.Timetable
log = logging.getLogger("rebook")


@app.subscribe("pubsub", "departures", rule=Rule("event.data.cancelled == true", 1))
def cancelled(event: SubscriptionMessage) -> None:
    """Start the workflow of a flight, unless it was."""
    flight = event.data()
    name = flight["name"]
    if client.get_workflow_state(name, fetch_payloads=False) is not None:
        return
    try:
        given = {"name": name, "to": flight["destination"]["code"], "scheduled": flight["scheduled"]}
        client.schedule_new_workflow(rebook, input=given, instance_id=name)
    except RpcError:  # the other instance of this service may have just started it
        if client.get_workflow_state(name, fetch_payloads=False) is None:
            raise


@runtime.workflow
def rebook(ctx: wf.DaprWorkflowContext, flight: dict[str, Any]) -> Steps:
    """Move as many passengers as there are seats; who cannot be moved is compensated."""
    name = flight["name"]
    moved = {"seats": {}, "refused": False}
    try:
        offers = yield ctx.call_activity(find_seats, input=flight, retry_policy=OFTEN)
        moved["seats"] = yield ctx.call_activity(move, input=flight | {"offers": offers}, retry_policy=OFTEN)
    except wf.TaskFailedError:
        moved["refused"] = True
    left = bookings.passengers(name) - sum(moved["seats"].values())
    if left:
        yield ctx.call_activity(refund, input={"name": name, "passengers": left}, retry_policy=OFTEN)
    result = yield ctx.call_activity(notify, input=moved | {"name": name, "refunded": left}, retry_policy=OFTEN)
    return result


@runtime.activity
def find_seats(_: wf.WorkflowActivityContext, flight: dict[str, Any]) -> dict[str, int]:
    """Return later flights on the same route and day, by name, the earliest first, with the seats they had to give."""
    later = timetable.later(flight["name"], flight["to"], flight["scheduled"])
    return {each.name: seats for each in later if (seats := bookings.free_seats(each.name))}


@runtime.activity
def move(_: wf.WorkflowActivityContext, flight: dict[str, Any]) -> dict[str, int]:
    """Take seats, the earliest flights first; fails at times. Return how many were taken on which flight."""
    name = flight["name"]
    tries = json.loads(sidecar.get_state(STORE, f"tries:{name}").data or "0")
    if tries < bookings.refusals(name):
        sidecar.save_state(STORE, f"tries:{name}", json.dumps(tries + 1))
        raise ConnectionError(f"the airline's reservations do not answer: attempt {tries + 1}")
    where = f"taken:{bookings.route(name, flight['to'])}"
    begin(where, {})

    def take(taken: dict[str, int]) -> tuple[dict[str, int], dict[str, int]]:
        left, seats = bookings.passengers(name), {}
        for each, free in flight["offers"].items():
            if number := min(left, free - taken.get(each, 0)):
                seats[each] = number
                left -= number
        return taken | {each: taken.get(each, 0) + number for each, number in seats.items()}, seats

    return once(f"booking:{name}", where, take)


@runtime.activity
def refund(_: wf.WorkflowActivityContext, given: dict[str, Any]) -> None:
    """Give their money back to those who stay."""
    sidecar.save_state(STORE, f"refund:{given['name']}", json.dumps(given["passengers"]))


@runtime.activity
def notify(_: wf.WorkflowActivityContext, given: dict[str, Any]) -> dict[str, Any]:
    """Tell everybody, and count the flight."""
    name = given["name"]
    found = {
        "passengers": bookings.passengers(name),
        "rebooked": sum(given["seats"].values()),
        "refunded": given["refunded"],
        "refused": int(given["refused"]),
    }

    def count(tally: dict[str, Any]) -> tuple[dict[str, Any], dict[str, Any]]:
        sums = {key: tally[key] + number for key, number in found.items()}
        more = {"flights": tally["flights"] + 1, "imprint": flights.imprint([name], tally["imprint"])}
        return tally | sums | more, found

    return once(f"told:{name}", TALLY, count)


def once(record: str, shared: str, change: Any) -> Any:
    """Change what is shared and record what came of it, both or neither; return what was recorded, now or before.

    The shared value is read before the record: whoever made the record in between has changed it, and its ETag tells.
    """
    deadline = time.monotonic() + PATIENCE_S
    while True:
        before = sidecar.get_state(STORE, shared)
        if recorded := sidecar.get_state(STORE, record).data:
            return json.loads(recorded)
        after, result = change(json.loads(before.data))
        try:
            sidecar.execute_state_transaction(
                STORE,
                [
                    TransactionalStateOperation(record, json.dumps(result)),
                    TransactionalStateOperation(shared, json.dumps(after), etag=before.etag),
                ],
            )
            return result
        except DaprGrpcError as error:
            if time.monotonic() > deadline:
                raise
            log.info("once more: %s", error.details())
            time.sleep(random.uniform(0, 0.05))


def begin(key: str, value: object) -> None:
    """Make a value where there is none, so that it always has an ETag."""
    try:
        sidecar.save_state(STORE, key, json.dumps(value), options=StateOptions(concurrency=Concurrency.first_write))
    except (DaprGrpcError, RpcError) as error:
        log.info("%s is there already: %s", key, error.details())


@app.method("tally")
def tally(_: object) -> str:
    """The tally as it stands in the store."""
    return sidecar.get_state(STORE, TALLY).data.decode()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(levelname)s %(message)s")
    timetable = bookings.Timetable(flights.lines(int(os.environ.get("AIRPORT_FLIGHTS", "0"))))
    with DaprClient() as sidecar:
        begin(TALLY, EMPTY)
        client = wf.DaprWorkflowClient()
        runtime.start()
        app.run(int(os.environ["APP_PORT"]), "127.0.0.1")
