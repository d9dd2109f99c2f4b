"""Reflection and health, asked by our own client with the messages of the wire."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any

import pytest

from h2_support import Calls, serving
from pillion.errors import Code
from pillion.net.exchange import RpcError
from pillion.net.grpc_client import Channel
from pillion.net.grpc_extras import HEALTH, REFLECTION, Health, Layered, reflection_methods
from pillion.wire.messages import health as health_messages
from pillion.wire.messages import reflection, reflection_v1alpha

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

DAPR = "dapr.proto.runtime.v1.Dapr"


def run(test: Callable[[Channel, Health], Awaitable[None]]) -> None:
    async def main() -> None:
        health = Health()
        service = Layered(reflection_methods([DAPR]) | health.methods(), Calls())
        async with serving(grpc=service) as (address, _):
            channel = Channel(address)
            assert (await channel.unary("/s.S/Echo", b"behind")).message == b"behind"
            await test(channel, health)
            await channel.close()

    asyncio.run(main())


@pytest.mark.parametrize(("name", "messages"), [(REFLECTION[0], reflection), (REFLECTION[1], reflection_v1alpha)])
def test_reflection(name: str, messages: Any) -> None:
    """Services are listed; a symbol brings its file and its imports, once for a stream; the unknown is an error."""

    async def test(channel: Channel, _: Health) -> None:
        call = channel.stream(f"/{name}/ServerReflectionInfo")

        async def ask(**question: Any) -> Any:
            await call.send(messages.ServerReflectionRequest(host="h", **question).SerializeToString())
            return messages.ServerReflectionResponse.FromString(await call.receive() or b"")

        listed = await ask(list_services="")
        assert listed.valid_host == "h"
        assert [found.name for found in listed.list_services_response.service] == [DAPR, *REFLECTION]
        first = (await ask(file_containing_symbol=DAPR)).file_descriptor_response.file_descriptor_proto
        assert len(first) > 5
        assert b"dapr/proto/runtime/v1/dapr.proto" in first[0]
        again = await ask(file_by_filename="dapr/proto/runtime/v1/dapr.proto")
        assert list(again.file_descriptor_response.file_descriptor_proto) == [first[0]]
        assert (await ask(file_containing_symbol="no.Such")).error_response.error_code == Code.NOT_FOUND
        assert (await ask()).error_response.error_code == Code.INVALID_ARGUMENT
        numbers = await ask(all_extension_numbers_of_type=f"{DAPR.rpartition('.')[0]}.GetStateRequest")
        assert list(numbers.all_extension_numbers_response.extension_number) == []
        await call.half_close()
        assert await call.receive() is None

    run(test)


def test_health() -> None:
    """Check, list and watch; who watches is told of changes alone."""

    async def test(channel: Channel, health: Health) -> None:
        async def check(service: str) -> int:
            request = health_messages.HealthCheckRequest(service=service).SerializeToString()
            reply = await channel.unary(f"/{HEALTH}/Check", request)
            return health_messages.HealthCheckResponse.FromString(reply.message).status

        response = health_messages.HealthCheckResponse
        assert await check("") == response.SERVING
        with pytest.raises(RpcError, match="error unmarshalling request"):
            await channel.unary(f"/{HEALTH}/Check", b"\xff\xff")
        with pytest.raises(RpcError) as caught:
            await check("s")
        assert caught.value.code == Code.NOT_FOUND
        watch = channel.stream(f"/{HEALTH}/Watch")
        await watch.send(health_messages.HealthCheckRequest(service="s").SerializeToString())
        await watch.half_close()
        for wanted, serving_now in ((response.SERVICE_UNKNOWN, True), (response.SERVING, False)):
            assert response.FromString(await watch.receive() or b"").status == wanted
            health.set("s", serving=serving_now)
            health.set("s", serving=serving_now)
        assert response.FromString(await watch.receive() or b"").status == response.NOT_SERVING
        assert await check("s") == response.NOT_SERVING
        listed = health_messages.HealthListResponse.FromString((await channel.unary(f"/{HEALTH}/List", b"")).message)
        assert set(listed.statuses) == {"", "s"}
        watch.cancel()

    run(test)
