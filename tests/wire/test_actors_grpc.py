"""The actors' gRPC API, the stream of applications that dial, and calls by other sidecars; grpcio is at the other end
(spec `grpc-api.md` 3, 4 and 8)."""

from __future__ import annotations

import asyncio
import base64
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc
import pytest

from actor_rig import SERVICE, Rig, refusal
from apps import Call, HttpApp
from pillion.errors import Code
from pillion.kinds.actors import ActorError, MethodMissing, Tick
from pillion.kinds.jobs import Constant
from pillion.observe.tracing import Tracer
from pillion.wire.messages import common, internals, wellknown
from pillion.wire.messages import runtime as m

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Mapping

    from pillion.observe.tracing import Span

EMPTY = wellknown.Empty.FromString
IA, NF, AE, PD, RE, FP, UI, IN, UV = (
    Code.INVALID_ARGUMENT, Code.NOT_FOUND, Code.ALREADY_EXISTS, Code.PERMISSION_DENIED, Code.RESOURCE_EXHAUSTED,
    Code.FAILED_PRECONDITION, Code.UNIMPLEMENTED, Code.INTERNAL, Code.UNAVAILABLE,
)  # fmt: skip
LOOKUP = "api error: code = FailedPrecondition desc = did not find address for actor"
TYPES = m.SubscribeActorEventsRequestInitialAlpha1(entities=["T"])


def answer(call: Call) -> tuple[int, Mapping[str, str], bytes]:
    method = call.path.partition("?")[0].rpartition("/")[2]
    if method == "raise":
        return 200, {"X-DaprErrorResponseHeader": "1"}, b"mine"
    if method == "broken":
        return 503, {}, b"no money"
    return 200, {"Content-Type": "text/x"}, b"said " + call.body


def invoke(method: str = "m", **more: Any) -> m.InvokeActorRequest:
    return m.InvokeActorRequest(**{"actor_type": "T", "actor_id": "1", "method": method, "data": b"x", **more})


# --- the API -------------------------------------------------------------------------------------------------------


def test_methods() -> None:
    async def main() -> None:
        with HttpApp(answer=answer) as app:
            async with Rig(app.port) as rig:
                rig.hosts("T")
                metadata = {"X-Mine": "m", "content-type": "text/a", "dapr-caller-app-id": "liar"}
                reply = m.InvokeActorResponse.FromString
                assert (await rig.call("InvokeActor", invoke(metadata=metadata), reply)).data == b"said x"
                headers = app.calls[-1].headers
                assert (headers["x-mine"], headers["content-type"], headers["dapr-api-call"]) == ("m", "text/a", "true")
                assert headers["dapr-caller-app-id"] == "app"
                assert (await rig.call("InvokeActor", invoke("raise"), reply)).data == b"mine"
                for request, code, text in (
                    (invoke("broken"), IN, "error invoke actor method: error from actor service: (503) no money"),
                    (invoke(actor_type="a/b"), IA, "invalid actorType: character 0x2f is not allowed"),
                    (invoke(actor_id=".."), IA, "invalid actorId: '..' is not allowed"),
                    (invoke("a#b"), IA, "invalid actor method: character 0x23 is not allowed"),
                    (invoke(metadata={"a": "b\r\nc: d"}), IA, "invalid request: the metadata 'a' cannot be passed on"),
                    (
                        invoke(actor_type="U"), FP,
                        f"failed to lookup actor: {LOOKUP} 'U||1'",
                    ),
                ):  # fmt: skip
                    assert await refusal(rig.call("InvokeActor", request, reply)) == (code, text)

    asyncio.run(main())


def test_state() -> None:
    async def main() -> None:
        with HttpApp(answer=answer) as app:
            async with Rig(app.port) as rig:
                rig.hosts("T")

                def transaction(kind: str = "upsert", **more: Any) -> m.ExecuteActorStateTransactionRequest:
                    fields = {"operationType": kind, "key": "k", "value": wellknown.Any(value=b"\x00v"), **more}
                    operation = m.TransactionalActorStateOperation(**fields)
                    return m.ExecuteActorStateTransactionRequest(actor_type="T", actor_id="1", operations=[operation])

                async def change(*given: str, **more: Any) -> None:
                    await rig.call("ExecuteActorStateTransaction", transaction(*given, **more), EMPTY)

                assert await refusal(change()) == (IN, "actor instance is missing")
                await rig.call("InvokeActor", invoke(), m.InvokeActorResponse.FromString)
                await change()
                get = m.GetActorStateRequest(actor_type="T", actor_id="1", key="k")
                found = m.GetActorStateResponse.FromString
                assert (await rig.call("GetActorState", get, found)).data == b"\x00v"
                await change("delete")
                assert (await rig.call("GetActorState", get, found)).data == b""
                assert await refusal(change("merge")) == (UI, "operation type merge not supported")
                assert (await refusal(change(key="pillion.fence")))[0] == IA
                assert (await refusal(change(metadata={"ttlInSeconds": "1"})))[0] == IN
                rig.state.failing = "disk full"
                text = "error saving actor transaction state: disk full"
                assert await refusal(change()) == (IN, text)
                assert await refusal(rig.call("GetActorState", get, found)) == (
                    IN, "error getting actor state: disk full",
                )  # fmt: skip

    asyncio.run(main())


def test_reminders_and_timers() -> None:
    async def main() -> None:
        async with Rig() as rig:
            rig.hosts("T")

            def reminder(**more: Any) -> m.RegisterActorReminderRequest:
                given = {"actor_type": "T", "actor_id": "1", "name": "r", "due_time": "1s", "period": "2s", **more}
                return m.RegisterActorReminderRequest(**given)

            async def create(**more: Any) -> None:
                await rig.call("RegisterActorReminder", reminder(**more), EMPTY)

            policy = common.JobFailurePolicy(constant=common.JobFailurePolicyConstant(max_retries=7))
            await create(data=b'"foo"', failure_policy=policy)
            job = rig.reminders.jobs["T", "1", "r"]
            assert job.failure_policy == Constant(0.0, 7)
            get = m.GetActorReminderRequest(actor_type="T", actor_id="1", name="r")
            found = await rig.call("GetActorReminder", get, m.GetActorReminderResponse.FromString)
            assert (found.due_time, found.period) == ("1s", "@every 2s")
            kept = wellknown.BytesValue()
            assert found.data.Unpack(kept)
            assert kept.value == b'"' + base64.b64encode(b'"foo"') + b'"'
            assert await refusal(create(overwrite=False)) == (AE, "actor reminder already exists: r")
            assert await refusal(create(name="")) == (IA, "invalid request: reminder name cannot be empty")
            assert (await refusal(create(name="a/b")))[0] == IA
            hosted = (PD, "operations on actor reminders are only possible on hosted actor types")
            assert await refusal(create(actor_type="U")) == hosted
            reserved = 'actor type "dapr.internal.x" is reserved for the Dapr workflow runtime; '
            refused = await refusal(create(actor_type="dapr.internal.x"))
            assert refused == (PD, reserved + "direct actor API access is not permitted")
            await create(actor_id="2", name="other")
            listed = m.ListActorRemindersResponse.FromString
            every = await rig.call("ListActorReminders", m.ListActorRemindersRequest(actor_type="T"), listed)
            assert [(one.name, one.reminder.actor_id) for one in every.reminders] == [("r", "1"), ("other", "2")]
            only = m.ListActorRemindersRequest(actor_type="T", actor_id="2")
            assert [one.name for one in (await rig.call("ListActorReminders", only, listed)).reminders] == ["other"]
            delete = m.UnregisterActorReminderRequest(actor_type="T", actor_id="1", name="r")
            await rig.call("UnregisterActorReminder", delete, EMPTY)
            text = "actor reminder not found: r"
            assert await refusal(rig.call("GetActorReminder", get, EMPTY)) == (NF, text)
            by_type = m.UnregisterActorRemindersByTypeRequest(actor_type="T")
            await rig.call(
                "UnregisterActorRemindersByType", by_type, m.UnregisterActorRemindersByTypeResponse.FromString
            )
            assert not rig.reminders.jobs

            timer = m.RegisterActorTimerRequest(actor_type="T", actor_id="1", name="t", callback="cb", data=b"d")
            await rig.call("RegisterActorTimer", timer, EMPTY)
            assert rig.timers.timers["T", "1", "t"]["data"] == b'"ZA=="'
            undo = m.UnregisterActorTimerRequest(actor_type="T", actor_id="1", name="t")
            for _ in range(2):
                await rig.call("UnregisterActorTimer", undo, EMPTY)
            assert not rig.timers.timers
        async with Rig(enabled=False) as rig:
            text = "placement service is not configured"
            assert await refusal(rig.call("UnregisterActorTimer", undo, EMPTY)) == (UV, text)
            assert await refusal(rig.call("InvokeActor", invoke(), EMPTY)) == (UV, text)

    asyncio.run(main())


# --- the stream ----------------------------------------------------------------------------------------------------


class Dialled:
    """One stream of an application."""

    def __init__(self, rig: Rig) -> None:
        stream = rig.channel.stream_stream(
            SERVICE + "SubscribeActorEventsAlpha1",
            request_serializer=m.SubscribeActorEventsRequestAlpha1.SerializeToString,
            response_deserializer=m.SubscribeActorEventsResponseAlpha1.FromString,
        )
        self.call: Any = stream()

    async def begin(self, initial: m.SubscribeActorEventsRequestInitialAlpha1 = TYPES) -> Dialled:
        await self.say(initial_request=initial)
        assert (await self.heard()).HasField("initial_response")
        return self

    async def say(self, **fields: Any) -> None:
        await self.call.write(m.SubscribeActorEventsRequestAlpha1(**fields))

    async def heard(self) -> m.SubscribeActorEventsResponseAlpha1:
        async with asyncio.timeout(90):
            message = await self.call.read()
        assert message is not grpc.aio.EOF, await self.call.details()
        return message  # type: ignore[no-any-return]

    async def replies(self, data: bytes, **more: Any) -> m.SubscribeActorEventsResponseInvokeRequestAlpha1:
        """Answer the invocation that comes next."""
        asked = (await self.heard()).invoke_request
        answered = m.SubscribeActorEventsRequestInvokeResponseAlpha1(id=asked.id, data=data, **more)
        await self.say(invoke_response=answered)
        return asked

    async def ended(self) -> tuple[int, str]:
        async with asyncio.timeout(90):
            return (await self.call.code()).value[0], await self.call.details()


@asynccontextmanager
async def dialled() -> AsyncIterator[tuple[Rig, Dialled]]:
    async with Rig() as rig:
        yield rig, await Dialled(rig).begin()


async def ask(rig: Rig, method: str = "m", **more: Any) -> bytes:
    reply = await rig.call("InvokeActor", invoke(method, **more), m.InvokeActorResponse.FromString)
    return reply.data  # type: ignore[no-any-return]


def test_every_callback() -> None:
    async def main() -> None:
        async with dialled() as (rig, app):
            waiting = asyncio.create_task(ask(rig, metadata={"x-mine": "m"}))
            asked = await app.replies(b"did", metadata={"content-type": "text/a"})
            assert (asked.id, asked.actor_type, asked.actor_id, asked.method) == ("1", "T", "1", "m")
            assert asked.data == b"x"
            assert (asked.metadata["X-Mine"], asked.metadata["Dapr-Api-Call"]) == ("m", "true")
            assert await waiting == b"did"

            reply = asyncio.create_task(rig.http("PUT", "T/1/method/m"))
            await app.replies(b"bad", error=True, metadata={"content-type": "text/a"})
            answered = await reply
            assert (answered.status, answered.body) == (200, b"bad")
            assert {(b"content-type", b"text/a"), (b"x-daprerrorresponseheader", b"true")} <= set(answered.headers)

            for is_timer in (False, True):
                tick = Tick("T", "1", "n", b'{"a":1}', "0s", "1s", "cb" if is_timer else "", is_timer=is_timer)
                ticking = asyncio.create_task(rig.host.tick(tick))
                message = await app.heard()
                fired = message.timer_request if is_timer else message.reminder_request
                kept = wellknown.BytesValue()
                assert fired.data.Unpack(kept)
                assert (fired.name, fired.due_time, fired.period, kept.value) == ("n", "0s", "1s", b'{"a":1}')
                said = m.SubscribeActorEventsRequestReminderResponseAlpha1(id=fired.id, cancel=True)
                await app.say(**{"timer_response" if is_timer else "reminder_response": said})
                assert await ticking

            halting = asyncio.create_task(rig.host.halt("T", "1"))
            gone = (await app.heard()).deactivate_request
            assert (gone.actor_type, gone.actor_id) == ("T", "1")
            await app.say(deactivate_response=m.SubscribeActorEventsRequestDeactivateResponseAlpha1(id=gone.id))
            await halting
            app.call.cancel()

    asyncio.run(main())


def test_failures() -> None:
    """What an application cannot do is told with a code; what does not belong to anything is passed over."""

    async def main() -> None:
        async with dialled() as (rig, app):
            for code, error in ((5, MethodMissing), (13, ActorError)):
                ticking = asyncio.create_task(rig.host.tick(Tick("T", "1", "r")))
                fired = (await app.heard()).reminder_request
                assert not fired.HasField("data")
                other = m.SubscribeActorEventsRequestInvokeResponseAlpha1(id="77")
                await app.say(invoke_response=other)
                failure = m.SubscribeActorEventsRequestFailedAlpha1(id=fired.id, code=code, message="why")
                await app.say(request_failed=failure)
                with pytest.raises(error):
                    await ticking
            waiting = asyncio.create_task(ask(rig))
            asked = (await app.heard()).invoke_request
            wrong = m.SubscribeActorEventsRequestReminderResponseAlpha1(id=asked.id)
            await app.say(reminder_response=wrong)
            assert (await refusal(waiting))[1].startswith("error invoke actor method: unexpected response type")
            waiting = asyncio.create_task(ask(rig))
            asked = (await app.heard()).invoke_request
            await app.say(request_failed=m.SubscribeActorEventsRequestFailedAlpha1(id=asked.id, code=13, message="why"))
            text = "error invoke actor method: error from actor service: why"
            assert await refusal(waiting) == (IN, text)
            waiting = asyncio.create_task(ask(rig))
            await app.heard()
            app.call.cancel()
            text = "error invoke actor method: actor host disconnected before responding"
            assert await refusal(waiting) == (IN, text)

    asyncio.run(main())


def test_how_streams_begin() -> None:
    async def main() -> None:
        with HttpApp(answer=answer) as served:
            async with Rig(served.port) as rig:
                app = Dialled(rig)
                assert await app.ended() == (FP, "actor callback streaming requires a gRPC app channel")
        async with Rig(enabled=False) as rig:
            assert await Dialled(rig).ended() == (UV, "placement service is not configured")
        async with Rig() as rig:
            app = Dialled(rig)
            await app.say(invoke_response=m.SubscribeActorEventsRequestInvokeResponseAlpha1(id="1"))
            assert (await app.ended())[0] == IA
            app = Dialled(rig)
            await app.call.done_writing()
            assert (await app.ended())[0] == IA
            early = asyncio.create_task(rig.http("GET", "T/1/state/k"))
            app = await Dialled(rig).begin(m.SubscribeActorEventsRequestInitialAlpha1())  # no types: the gate opens
            assert (await early).status == 204
            assert not rig.host.hosts("T")
            app.call.cancel()

    asyncio.run(main())


def test_several_streams() -> None:
    """The newest is asked; an older one answers what it was asked, and takes over again when the newest is gone."""

    async def main() -> None:
        async with dialled() as (rig, old):
            first = asyncio.create_task(ask(rig))
            asked = (await old.heard()).invoke_request
            new = await Dialled(rig).begin(m.SubscribeActorEventsRequestInitialAlpha1(entities=["T", "U"]))
            second = asyncio.create_task(ask(rig, actor_id="2"))
            assert (await new.replies(b"new")).id == "1"
            assert await second == b"new"
            answered = m.SubscribeActorEventsRequestInvokeResponseAlpha1(id=asked.id, data=b"old")
            await old.say(invoke_response=answered)
            assert await first == b"old"
            assert rig.host.hosts("U")
            new.call.cancel()
            async with asyncio.timeout(90):
                while rig.host.hosts("U"):
                    third = asyncio.create_task(ask(rig, actor_id="3"))
                    await asyncio.wait({third}, timeout=0.02)
                    third.cancel()
            third = asyncio.create_task(ask(rig, actor_id="4"))
            while (await old.replies(b"old again")).actor_id != "4":
                pass
            assert await third == b"old again"
            old.call.cancel()

    asyncio.run(main())


# --- other sidecars ------------------------------------------------------------------------------------------------


def inside(method: str = "m", **more: Any) -> internals.InternalInvokeRequest:
    fields = {"actor": internals.Actor(actor_type="T", actor_id="1"), **more}
    message = common.InvokeRequest(
        method=method, data=wellknown.Any(value=b"x"), content_type="text/a",
        http_extension=common.HTTPExtension(verb=3, querystring="q=1"),
    )  # fmt: skip
    metadata = {"X-Mine": internals.ListStringValue(values=["m"]), "Host": internals.ListStringValue(values=["h"])}
    return internals.InternalInvokeRequest(ver=1, message=message, metadata=metadata, **fields)


def test_calls_by_other_sidecars() -> None:
    async def main() -> None:
        reply = internals.InternalInvokeResponse.FromString
        with HttpApp(answer=answer) as app:
            async with Rig(app.port) as rig:
                rig.hosts("T")
                found = await rig.call("CallActor", inside(), reply, peer=True)
                assert (found.status.code, found.message.data.value) == (200, b"said x")
                assert found.message.content_type == "text/x"
                call = app.calls[-1]
                assert call.path == "/actors/T/1/method/m?q=1"
                assert (call.headers["x-mine"], call.headers["x-dapr-remote"]) == ("m", "true")
                found = await rig.call("CallActor", inside("raise"), reply, peer=True)
                assert (found.message.data.value, found.status.code) == (b"mine", 200)
                assert "X-Daprerrorresponseheader" in found.headers
                other = internals.Actor(actor_type="U", actor_id="1")
                for request, code, text in (
                    (inside("broken"), IN, "error invoke actor method: error from actor service: (503) no money"),
                    (inside(actor=other), IN, "error invoke actor method: remote actor moved"),
                    (inside("a#b"), IA, "parsing InternalInvokeRequest error: "),
                    (internals.InternalInvokeRequest(), IA, "parsing InternalInvokeRequest error: "),
                ):
                    refused = await refusal(rig.call("CallActor", request, reply, peer=True))
                    assert (refused[0], refused[1][: len(text)]) == (code, text)
                packed = wellknown.Any()
                packed.Pack(wellknown.BytesValue(value=b'{"a":1}'))
                reminder = internals.Reminder(actor_type="T", actor_id="1", name="r", data=packed)
                await rig.call("CallActorReminder", reminder, EMPTY, peer=True)
                assert app.calls[-1].body == b'{"data":{"a":1},"dueTime":"","period":""}'
                reminder.is_timer, reminder.period = True, "1s"
                await rig.call("CallActorReminder", reminder, EMPTY, peer=True)
                assert app.calls[-1].path == "/actors/T/1/method/timer/r"
                reminder.actor_type = "U"
                moved = "error invoke actor method: remote actor moved"
                assert await refusal(rig.call("CallActorReminder", reminder, EMPTY, peer=True)) == (IN, moved)
                assert rig.listeners

    asyncio.run(main())


def test_answers_in_many_messages() -> None:
    """`CallActorStream`: what the engine yields, as it yields it."""

    class Engine:
        async def invoke(self, call: Any) -> Any: ...

        async def tick(self, tick: Any) -> bool:
            return False

        async def deactivate(self, actor_type: str, actor_id: str) -> None: ...

        async def stream(self, call: Any) -> AsyncIterator[bytes]:
            for number in range(3):
                yield wellknown.Any(type_url="t/n", value=b"%d" % number).SerializeToString()

    async def main() -> None:
        async with Rig() as rig:
            rig.handler = Engine()
            rig.hosts("T", locked=False)
            stream = rig.peer.unary_stream(
                "/dapr.proto.internals.v1.ServiceInvocation/CallActorStream",
                request_serializer=internals.InternalInvokeRequest.SerializeToString,
                response_deserializer=internals.InternalInvokeResponse.FromString,
            )
            found: list[Any] = [one.message.data async for one in stream(inside(), timeout=60)]
            assert [(one.type_url, one.value) for one in found] == [("t/n", b"0"), ("t/n", b"1"), ("t/n", b"2")]

    asyncio.run(main())


def test_a_span_for_each_call_of_another_sidecar() -> None:
    """`CallActor/<type>/<method>`, below the context of the call; the application gets the span's."""
    ended: list[Span] = []
    parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

    async def main() -> None:
        with HttpApp(answer=answer) as app:
            async with Rig(app.port, tracer=Tracer("app", 1.0, ended.append)) as rig:
                rig.hosts("T")
                request = inside()
                request.metadata["Traceparent"].values.append(parent)
                await rig.call("CallActor", request, internals.InternalInvokeResponse.FromString, peer=True)
                with pytest.raises(grpc.aio.AioRpcError):
                    await rig.call("CallActor", inside("broken"), EMPTY, peer=True)
                sent = app.calls[0].headers["traceparent"]
        first, second = ended
        assert (first.name, first.trace_id, first.parent_id) == ("CallActor/T/m", parent[3:35], parent[36:52])
        assert ("dapr.actor", "T.1") in first.attributes
        assert sent == first.traceparent
        assert second.error is not None
        assert "no money" in second.error

    asyncio.run(main())
