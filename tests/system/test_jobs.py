"""Jobs through real processes: an application, its sidecar, the scheduler."""

from __future__ import annotations

import asyncio
import threading
from concurrent import futures
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from apps import HttpApp
from job_rig import JOBS, Worker, attached, gone, put
from pillion.errors import Code
from pillion.jobs.remote_admin import RemoteAdmin
from pillion.kinds.jobs import CatchUp
from pillion.net.exchange import RpcError
from pillion.net.grpc_client import Channel
from pillion.wire.messages import rpc, wellknown
from pillion.wire.messages import runtime as m
from schedulers import SchedulerProcess
from sidecars import SidecarProcess, eventually

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path

    from apps import Call

INFO = "type.googleapis.com/google.rpc.ErrorInfo"


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("jobs")


@pytest.fixture(scope="module")
def scheduler(folder: Path) -> Iterator[SchedulerProcess]:
    with SchedulerProcess(folder) as running:
        yield running


@pytest.fixture(scope="module")
def app() -> Iterator[Worker]:
    with Worker() as running:
        yield running


@pytest.fixture(scope="module")
def shop(folder: Path, scheduler: SchedulerProcess, app: Worker) -> Iterator[SidecarProcess]:
    with attached(folder, scheduler.address, "shop", app.port) as running:
        running.wait("/v1.0/healthz")
        yield running


# --- the API -------------------------------------------------------------------------------------------------------


def test_put_get_delete(shop: SidecarProcess) -> None:
    """A job comes back as it was written; both versions of the route are one API."""
    body: dict[str, Any] = {
        "schedule": "@every 1h", "repeats": 4, "dueTime": "1h", "ttl": "24h", "data": {"b": [1, 2.5, None], "a": "ü"},
        "failurePolicy": {"constant": {"interval": "3s", "maxRetries": 2}}, "unknown": 1,
    }  # fmt: skip
    put(shop, "j", **body)
    reply = shop.request("GET", "/v1.0-alpha1/jobs/j")
    assert (reply.status, reply.headers["content-type"]) == (200, "application/json")
    body.pop("unknown")
    data = {"@type": "type.googleapis.com/google.protobuf.Value", "value": body.pop("data")}
    assert list(reply.json()) == ["name", "schedule", "repeats", "dueTime", "ttl", "data", "failurePolicy"]
    assert reply.json() == {"name": "j", **body, "data": data}
    assert '"value":{"a":"ü","b":[1,2.5,null]}'.encode() in reply.body
    for _ in range(2):
        assert shop.request("DELETE", JOBS + "j").status == 204


def test_faults(shop: SidecarProcess) -> None:
    """Statuses, codes, texts and details of `actors-workflows-jobs.md` 2.1 and `http-api.md` 3.2."""
    about = {"appID": "shop", "namespace": "default"}

    def told(reply: Any) -> tuple[int, str, str, Any]:
        found = reply.json()
        (info,) = found["details"]
        assert (info["@type"], info["domain"], info["reason"]) == (INFO, "dapr.io", found["errorCode"])
        return reply.status, found["errorCode"], found["message"], info["metadata"]

    post = shop.post_json
    assert told(post(JOBS + "j", {"name": "j", "dueTime": "1h"})) == (
        400, "DAPR_SCHEDULER_JOB_NAME", "Set the job name in the url only", {"appID": "shop"},
    )  # fmt: skip
    assert told(post(JOBS + "%20", {"dueTime": "1h"})) == (
        400, "DAPR_SCHEDULER_JOB_NAME_EMPTY", "Name is empty", about,
    )  # fmt: skip
    assert told(post(JOBS + "j", {})) == (400, "DAPR_SCHEDULER_SCHEDULE_EMPTY", "Schedule is empty", about)
    put(shop, "taken", dueTime="1h")
    status, code, text, metadata = told(post(JOBS + "taken", {"dueTime": "2h"}))
    assert (status, code, metadata) == (409, "DAPR_SCHEDULER_SCHEDULE_JOB", about)
    assert text.startswith("failed to schedule job due to: rpc error: code = AlreadyExists desc = ")
    put(shop, "taken", dueTime="2h", overwrite=True)
    status, code, text, _ = told(post(JOBS + "bad", {"schedule": "every noon"}))
    assert (status, code) == (400, "DAPR_SCHEDULER_SCHEDULE_JOB")
    assert text.startswith("failed to schedule job due to: rpc error: code = InvalidArgument desc = ")
    status, code, text, metadata = told(shop.request("GET", JOBS + "nowhere"))
    assert (status, code, metadata) == (500, "DAPR_SCHEDULER_GET_JOB", about)
    assert text.startswith("failed to get job due to: rpc error: code = NotFound desc = job not found: ")
    for body in ("[1]", "{", '{"repeats": "x"}', "{} {}"):
        reply = shop.request("POST", JOBS + "j", body)
        assert (reply.status, reply.json()["errorCode"]) == (400, "ERR_MALFORMED_REQUEST"), body


@pytest.mark.parametrize("alpha", ["", "Alpha1"])
def test_over_grpc(shop: SidecarProcess, alpha: str) -> None:
    """List and delete by prefix, which HTTP has not; both names of each method; its own errors."""
    takes: Any = m

    async def test() -> None:
        channel = Channel(f"127.0.0.1:{shop.grpc_port}")

        async def call(name: str, request: Any) -> bytes:
            method = f"/dapr.proto.runtime.v1.Dapr/{name}{alpha}"
            return (await channel.unary(method, request.SerializeToString())).message

        async def refused(name: str, request: Any) -> tuple[Code, str, str]:
            with pytest.raises(RpcError) as failed:
                await call(name, request)
            status = rpc.Status.FromString(failed.value.details)
            info = rpc.ErrorInfo()
            assert status.details[0].Unpack(info)
            assert dict(info.metadata) == {"appID": "shop", "namespace": "default"}
            return Code(failed.value.code), failed.value.message, info.reason

        async def names() -> list[str]:
            reply = await call("ListJobs", takes.ListJobsRequest())
            return [job.name for job in takes.ListJobsResponse.FromString(reply).jobs if job.name.startswith("g-")]

        for name in ("g-b", "g-a", "g-x"):
            job = m.Job(name=name, due_time="1h", data=wellknown.Any(type_url="t/x", value=b"1"))
            await call("ScheduleJob", m.ScheduleJobRequest(job=job))
        assert await names() == ["g-a", "g-b", "g-x"]
        got = m.GetJobResponse.FromString(await call("GetJob", m.GetJobRequest(name="g-a"))).job
        assert (got.name, got.due_time, got.data.type_url, got.data.value) == ("g-a", "1h", "t/x", b"1")
        document = shop.request("GET", JOBS + "g-a").json()["data"]
        assert document == {"@type": "t/x", "value": "MQ=="}
        await call("DeleteJobsByPrefix", takes.DeleteJobsByPrefixRequest(name_prefix="g-x"))
        await call("DeleteJob", m.DeleteJobRequest(name="g-b"))
        assert await names() == ["g-a"]
        await call("DeleteJobsByPrefix", takes.DeleteJobsByPrefixRequest(name_prefix="g-"))
        assert await names() == []
        schedule, code = "ScheduleJob", Code.INVALID_ARGUMENT
        empty = m.ScheduleJobRequest(job=m.Job(due_time="1s"))
        assert await refused(schedule, m.ScheduleJobRequest()) == (code, "Job is empty", "DAPR_SCHEDULER_EMPTY")
        nameless = code, "Name is empty", "DAPR_SCHEDULER_JOB_NAME_EMPTY"
        assert await refused(schedule, empty) == nameless
        assert await refused("GetJob", m.GetJobRequest()) == nameless
        assert await refused("DeleteJob", m.DeleteJobRequest()) == nameless
        never = m.ScheduleJobRequest(job=m.Job(name="n"))
        assert await refused(schedule, never) == (code, "Schedule is empty", "DAPR_SCHEDULER_SCHEDULE_EMPTY")
        found = await refused("GetJob", m.GetJobRequest(name="nowhere"))
        assert (found[0], found[2]) == (Code.INTERNAL, "DAPR_SCHEDULER_GET_JOB")
        await channel.close()

    asyncio.run(test())


def test_catching_up(shop: SidecarProcess, scheduler: SchedulerProcess) -> None:
    """Our own options, over HTTP as keys of the body, over gRPC as metadata; they reach the scheduler."""

    async def test() -> None:
        channel, near = Channel(f"127.0.0.1:{shop.grpc_port}"), Channel(scheduler.address)
        job = m.ScheduleJobRequest(job=m.Job(name="late-rpc", schedule="@every 1h"))
        metadata: list[tuple[str, str | bytes]] = [("pillion-catch-up", "none")]
        await channel.unary("/dapr.proto.runtime.v1.Dapr/ScheduleJob", job.SerializeToString(), metadata=metadata)
        ours: dict[str, Any] = {"pillion.catchUp": "last", "pillion.catchUpPerSecond": 2.5}
        put(shop, "late", schedule="@every 1h", **ours)
        admin = RemoteAdmin(near)
        told = (await admin.inspect("app||default||shop||late")).job
        assert (told.catch_up, told.catch_up_per_second) == (CatchUp.LAST, 2.5)
        assert (await admin.inspect("app||default||shop||late-rpc")).job.catch_up is CatchUp.NONE
        await channel.close()
        await near.close()

    asyncio.run(test())
    for wrong in ({"pillion.catchUp": "some"}, {"pillion.catchUpPerSecond": -1}, {"pillion.catchUp": 7}):
        reply = shop.post_json(JOBS + "late", {"schedule": "@every 1h", "overwrite": True, **wrong})
        assert (reply.status, reply.json()["errorCode"]) == (400, "PILLION_SCHEDULER_CATCH_UP")


def test_without_a_scheduler(folder: Path) -> None:
    """At once, not after 30 seconds."""
    with SidecarProcess(folder, "alone") as sidecar:
        for reply in (
            sidecar.post_json(JOBS + "j", {"dueTime": "1s"}),
            sidecar.request("GET", JOBS + "j"),
            sidecar.request("DELETE", JOBS + "j"),
        ):
            assert reply.status == 500
            assert reply.json()["message"].endswith(" job due to: scheduler clients are disabled")
        assert "scheduler" not in sidecar.request("GET", "/v1.0/metadata").json()


def test_metadata_and_health_tell_of_the_scheduler(
    shop: SidecarProcess, scheduler: SchedulerProcess, folder: Path
) -> None:
    """`connected_addresses` in snake case; a sidecar whose scheduler has not been found is not ready, but works."""
    told = shop.request("GET", "/v1.0/metadata").json()["scheduler"]
    assert told == {"connected_addresses": [scheduler.address]}
    with attached(folder, "127.0.0.1:1", "lost") as lost:
        reply = lost.request("GET", "/v1.0/healthz")
        assert reply.status == 500
        assert "scheduler-watch-hosts" in reply.json()["message"]


# --- delivery ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "data", "body"),
    [
        ("object", {"expression": "val", "n": 1.0}, b'{"expression":"val","n":1}'),
        ("text", "hello", b'"hello"'),
        ("null", None, b"null"),
        ("odd%20n%C3%A4me", [True], b"[true]"),
    ],
)
def test_delivery_over_http(shop: SidecarProcess, app: Worker, name: str, data: object, body: bytes) -> None:
    """`POST /job/<name>` with the JSON that was put, the application's token, a content type."""
    put(shop, name, dueTime="0s", data=data)
    (call,) = app.wait_for(name)
    assert (call.method, call.body, call.headers["content-type"]) == ("POST", body, "application/json")
    assert call.headers["dapr-api-token"] == "secret"


def test_a_job_without_data_has_an_empty_body(shop: SidecarProcess, app: Worker) -> None:
    put(shop, "nothing", dueTime="0s")
    (call,) = app.wait_for("nothing")
    assert (call.body, call.headers["content-length"]) == (b"", "0")


def test_repeats_and_failures(shop: SidecarProcess, app: Worker) -> None:
    """n ticks, then the job is gone; failed ones are tried again and count once; 404 is final; drop gives up."""
    app.failing.update({"flaky": 2, "dropped": 1, "hopeless": 99})
    constant = {"constant": {"interval": "0.01s", "maxRetries": 3}}
    put(shop, "thrice", schedule="@every 10ms", repeats=3, dueTime="0s")
    put(shop, "flaky", schedule="@every 10ms", repeats=2, failurePolicy=constant, dueTime="0s")
    put(shop, "dropped", dueTime="0s", failurePolicy={"drop": {}})
    put(shop, "hopeless", dueTime="0s", failurePolicy=constant)
    put(shop, "missing", dueTime="0s")
    expected = {"thrice": 3, "flaky": 4, "dropped": 1, "hopeless": 4, "missing": 1}
    for name, times in expected.items():
        app.wait_for(name, times)
        gone(shop, name)
    assert {name: app.times(name) for name in expected} == expected


def test_jobs_wait_for_a_healthy_application(folder: Path, scheduler: SchedulerProcess) -> None:
    """While the application is unwell its jobs wait, and no try is spent (invariant 11)."""
    unwell = threading.Event()

    def answer(call: Call) -> tuple[int, Mapping[str, str], bytes]:
        return (503 if unwell.is_set() and call.path == "/healthz" else 200), {}, b""

    probes = ["--enable-app-health-check", "--app-health-probe-interval", "1", "--app-health-threshold", "1"]
    with HttpApp(answer=answer) as app, attached(folder, scheduler.address, "moody", app.port, *probes) as sidecar:
        sidecar.wait("/v1.0/healthz")
        unwell.set()
        sidecar.wait_log("the application is unhealthy")
        put(sidecar, "waits", dueTime="0s", failurePolicy={"drop": {}})
        assert not any(call.path == "/job/waits" for call in app.calls)
        unwell.clear()
        app.wait(lambda calls: any(call.path == "/job/waits" for call in calls))


class GrpcWorker(grpc.GenericRpcHandler):  # type: ignore[misc]
    """A gRPC application that knows the given methods."""

    def __init__(self, *methods: str) -> None:
        self.methods = methods
        self.events: list[tuple[str, m.JobEventRequest, dict[str, Any]]] = []
        self.changed = threading.Condition()

    def service(self, details: Any) -> Any:
        method = details.method.rpartition("/")[2]
        if method not in self.methods:
            return None

        def serve(request: bytes, context: Any) -> bytes:
            with self.changed:
                event = m.JobEventRequest.FromString(request)
                self.events.append((method, event, dict(context.invocation_metadata())))
                self.changed.notify_all()
            if event.name == "missing":
                context.abort(grpc.StatusCode.NOT_FOUND, "no")
            return b""

        return grpc.unary_unary_rpc_method_handler(serve)

    def wait(self, count: int) -> None:
        with self.changed:
            assert self.changed.wait_for(lambda: len(self.events) >= count, 90)

    @contextmanager
    def running(self) -> Iterator[int]:
        server = grpc.server(futures.ThreadPoolExecutor(4))
        server.add_generic_rpc_handlers((self,))
        port = server.add_insecure_port("127.0.0.1:0")
        server.start()
        try:
            yield port
        finally:
            server.stop(None).wait()


@pytest.mark.parametrize("method", ["OnJobEvent", "OnJobEventAlpha1"])
def test_delivery_over_grpc(folder: Path, scheduler: SchedulerProcess, method: str) -> None:
    """OnJobEvent, or its older name where that alone is known; NotFound is final."""
    app_id, app = f"grpc-{method.lower()}", GrpcWorker(method)
    with app.running() as port, attached(folder, scheduler.address, app_id, port, "--app-protocol", "grpc") as sidecar:
        for name in ("one", "two", "missing"):
            put(sidecar, name, dueTime="0s", data={"n": name})
        app.wait(3)
        gone(sidecar, "missing")
        assert len(app.events) == 3
        (_, event, metadata) = next(row for row in app.events if row[1].name == "one")
        value = wellknown.Value.FromString(event.data.value)
        assert value.struct_value.fields["n"].string_value == "one"
        assert (event.method, event.content_type) == ("job/one", "type.googleapis.com/google.protobuf.Value")
        assert event.http_extension.verb == 3
        assert metadata["dapr-api-token"] == "secret"


# --- looking after it ----------------------------------------------------------------------------------------------


def test_metrics(shop: SidecarProcess, scheduler: SchedulerProcess, app: Worker) -> None:
    put(shop, "counted", dueTime="0s")
    app.wait_for("counted")
    eventually(lambda: "scheduler_trigger_latency_count" in scheduler.metrics())
    lines = scheduler.metrics().splitlines()
    assert any(line.startswith('dapr_scheduler_jobs_created_total{type="job"}') for line in lines)
    assert any(line.startswith('dapr_scheduler_jobs_triggered_total{type="job"}') for line in lines)
    assert any(line.startswith('dapr_scheduler_trigger_latency_bucket{type="job",le="100"}') for line in lines)
    connected = next(line for line in lines if line.startswith("dapr_scheduler_sidecars_connected "))
    assert int(connected.split()[-1]) >= 3
