"""The real policies between two sidecars: proxied gRPC calls and invocation (spec `grpc-api.md` 6, `runtime.md` 4)."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from invoke_apps import GrpcApp
from mini_sidecar import MiniSidecar, two
from pillion.kinds.fields import Fields
from pillion.kinds.resources import KINDS
from pillion.resiliency.policies import Policies
from pillion.wire import yamltext
from pillion.wire.messages import common, wellknown
from pillion.wire.messages import runtime as m

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Awaitable, Callable

INVOKE = "/dapr.proto.runtime.v1.Dapr/InvokeService"
TO_BACK = (("dapr-app-id", "back"),)
Code = grpc.StatusCode


def policies(policy: str = "", targets: str = "", faults: str = "") -> Policies:
    """Policies and targets of applications, in YAML of one line each."""

    def read(version: str, kind: str, spec: str) -> Any:
        text = f"apiVersion: {version}\nkind: {kind}\nmetadata: {{name: r}}\nspec: {spec}\n"
        return KINDS[version, kind](Fields(yamltext.parse(text)))

    rules = [read("dapr.io/v1alpha1", "Resiliency", f"{{policies: {policy}, targets: {{apps: {targets}}}}}")]
    injected = [read("pillion.dev/v1alpha1", "FaultInjection", f"{{targets: {{apps: {faults}}}}}")] if faults else []
    found = Policies.of(rules if policy else [], injected)
    assert not found.notes
    return found


@contextlib.asynccontextmanager
async def sidecars(found: Policies) -> AsyncIterator[tuple[GrpcApp, Any, MiniSidecar]]:
    async with (
        GrpcApp().running() as app,
        two(app.port, protocol="grpc", caller={"policies": found}) as (front, _),
        grpc.aio.insecure_channel(front.grpc_address) as channel,
    ):
        yield app, channel, front


def run(found: Policies, test: Callable[[GrpcApp, Any, MiniSidecar], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with sidecars(found) as parts:
            await test(*parts)

    asyncio.run(whole())


async def failure(call: Awaitable[bytes]) -> tuple[grpc.StatusCode, str | None]:
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await call
    return caught.value.code(), caught.value.details()


def test_a_proxied_call_is_repeated_for_listed_codes() -> None:
    async def test(app: GrpcApp, channel: Any, front: MiniSidecar) -> None:
        call = channel.unary_unary("/app.Echo/Unary")
        app.failures = 2
        assert await call(b"flaky", metadata=TO_BACK) == b"got flaky"
        assert app.calls == 3
        assert (await failure(call(b"fail", metadata=TO_BACK)))[0] is Code.ALREADY_EXISTS
        assert app.calls == 4

    few = '{retries: {few: {duration: 5ms, maxRetries: 3, matching: {gRPCStatusCodes: "10,14"}}}}'
    run(policies(few, "{back: {retry: few}}"), test)


def test_streams_without_retries_pass_and_are_bounded() -> None:
    """A policy without retries does not ask for a single message; its timeout is that of the whole call."""

    async def test(app: GrpcApp, channel: Any, front: MiniSidecar) -> None:
        call = channel.stream_stream("/app.Echo/Chat")(metadata=TO_BACK)
        for text in (b"a", b"b"):
            await call.write(text)
            assert await call.read() == b"got " + text
        await call.done_writing()
        assert await call.read() == b"bye"
        assert await call.code() is Code.OK
        call = channel.stream_stream("/app.Echo/Hang")(metadata=TO_BACK)
        await call.write(b"go")
        assert await call.read() == b"started"
        assert await call.code() is Code.DEADLINE_EXCEEDED
        assert await call.details() == "context deadline exceeded"
        await asyncio.wait_for(app.cancelled.wait(), 90)

    run(policies("{timeouts: {DefaultAppTimeoutPolicy: 1s}}", "{}"), test)


def test_a_breaker_of_each_method() -> None:
    async def test(app: GrpcApp, channel: Any, front: MiniSidecar) -> None:
        call = channel.unary_unary("/app.Echo/Unary")
        assert (await failure(call(b"fail", metadata=TO_BACK)))[0] is Code.ALREADY_EXISTS
        assert await failure(call(b"x", metadata=TO_BACK)) == (Code.UNKNOWN, "circuit breaker is open")
        assert app.calls == 1
        chat = channel.stream_stream("/app.Echo/Chat")(metadata=TO_BACK)
        await chat.done_writing()
        assert await chat.read() == b"bye"

    fuse = "{circuitBreakers: {fuse: {trip: consecutiveFailures > 0}}}"
    run(policies(fuse, "{back: {circuitBreaker: fuse}}"), test)


def test_faults_have_the_status_they_were_given() -> None:
    """The same fault for a proxied call and for an invocation; none of them reaches the application."""

    async def test(app: GrpcApp, channel: Any, front: MiniSidecar) -> None:
        call = channel.unary_unary("/app.Echo/Unary")
        assert await failure(call(b"x", metadata=TO_BACK)) == (Code.RESOURCE_EXHAUSTED, "too much")
        message = common.InvokeRequest(method="m", data=wellknown.Any(value=b"x"))
        request = m.InvokeServiceRequest(id="back", message=message).SerializeToString()
        assert await failure(channel.unary_unary(INVOKE)(request)) == (Code.RESOURCE_EXHAUSTED, "too much")
        assert app.calls == 0

    run(policies(faults="{back: {error: {grpcStatus: RESOURCE_EXHAUSTED, message: too much}}}"), test)
