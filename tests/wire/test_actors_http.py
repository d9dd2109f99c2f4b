"""The actors' HTTP API and the HTTP application behind it (spec `http-api.md` 4.6, `actors-workflows-jobs.md` 1.6)."""

from __future__ import annotations

import asyncio
import json
import re
from typing import TYPE_CHECKING
from urllib.parse import quote

import pytest

from actor_rig import Rig, fault
from apps import Call, HttpApp
from pillion.errors import ApiError
from pillion.kinds.actors import AppRefused, Tick

if TYPE_CHECKING:
    from collections.abc import Mapping

INVOKE, BAD = "ERR_ACTOR_INVOKE_METHOD", "ERR_BAD_REQUEST"


def answer(call: Call) -> tuple[int, Mapping[str, str], bytes]:
    """An application with a method for each thing that it can say."""
    last = call.path.partition("?")[0].rpartition("/")[2]
    match last:
        case "broken":
            return 503, {}, b"no money"
        case "unknown":
            return 404, {}, b""
        case "raise":
            return 200, {"X-DaprErrorResponseHeader": "1", "X-Kind": "E", "Content-Type": "text/x"}, b"mine"
        case "stop":
            return 200, {"X-DaprReminderCancel": "True"}, b""
        case "stubborn":
            return 500, {}, b"not yet"
    said = {"verb": call.method, "path": call.path, "headers": dict(call.headers), "body": call.body.decode()}
    return 200, {"Content-Type": "application/json", "X-Own": "1"}, json.dumps(said).encode()


def test_a_method_and_what_the_application_sees() -> None:
    """PUT whatever the verb; headers, query and body as they came, what is the sidecar's own added."""

    async def main() -> None:
        with HttpApp(answer=answer) as app:
            async with Rig(app.port) as rig:
                rig.hosts("T", "space type")
                for verb in ("GET", "POST", "PUT", "DELETE"):
                    reply = await rig.http(
                        verb, "T/1/method/a/../do?x=1%202", b"body", content_type="text/a", x_mine="m",
                        dapr_caller_app_id="liar", x_dapr_remote="true",
                    )  # fmt: skip
                    assert reply.status == 200
                    assert {(b"x-own", b"1"), (b"content-type", b"application/json")} <= set(reply.headers)
                    said = json.loads(reply.body)  # type: ignore[arg-type]
                    assert (said["verb"], said["path"]) == ("PUT", "/actors/T/1/method/do?x=1%202")
                    assert said["body"] == "body"
                    seen = said["headers"]
                    assert (seen["content-type"], seen["x-mine"], seen["dapr-api-call"]) == ("text/a", "m", "true")
                    assert (seen["dapr-caller-app-id"], seen["dapr-caller-namespace"]) == ("app", "default")
                    assert not {"x-dapr-remote", "dapr-reentrancy-id"} & set(seen)
                reply = await rig.http("POST", "space type/%C3%A4 %25|/method/m")
                assert json.loads(reply.body)["path"] == "/actors/space%20type/%C3%A4%20%25%7C/method/m"  # type: ignore[arg-type]

    asyncio.run(main())


def test_what_answers_of_the_application_mean() -> None:
    async def main() -> None:
        with HttpApp(answer=answer) as app:
            async with Rig(app.port) as rig:
                rig.hosts("T")
                reply = await rig.http("PUT", "T/1/method/raise")
                assert (reply.status, reply.body) == (200, b"mine")
                assert {(b"x-daprerrorresponseheader", b"1"), (b"x-kind", b"E"), (b"content-type", b"text/x")} <= set(
                    reply.headers
                )
                said = fault(await rig.http("PUT", "T/1/method/broken"))
                assert said == (500, INVOKE, "error invoke actor method: error from actor service: (503) no money")
                said = fault(await rig.http("PUT", "T/1/method/unknown"))
                text = "error invoke actor method: actor method not found: actors/T/1/method/unknown"
                assert said == (500, INVOKE, text)
                said = fault(await rig.http("PUT", "U/1/method/m"))
                text = "did not find address for actor 'U||1'"
                lookup = "failed to lookup actor: api error: code = FailedPrecondition desc"
                assert said == (500, INVOKE, f"error invoke actor method: {lookup} = {text}")
            rig = Rig(app.port)
        async with rig:  # nobody listens any more
            rig.hosts("T")
            status, code, _ = fault(await rig.http("PUT", "T/1/method/m"))
            assert (status, code) == (500, INVOKE)

    asyncio.run(main())


def test_names_that_cannot_be() -> None:
    async def main() -> None:
        async with Rig() as rig:
            rig.hosts("T")
            for path, text in (
                ("a%2Fb/1/method/m", "invalid actorType: character 0x2f is not allowed"),
                ("%23/1/method/m", "invalid actorType: character 0x23 is not allowed"),
                ("T/%5C/method/m", "invalid actorId: character 0x5c is not allowed"),
                ("T/%7F/method/m", "invalid actorId: character 0x7f is not allowed"),
                ("T/1/method/a%3Fb", "invalid actor method: character 0x3f is not allowed"),
            ):
                assert fault(await rig.http("PUT", path)) == (400, BAD, text)
            for what in ("reminders", "timers"):
                said = fault(await rig.http("PUT", f"T/1/{what}/a%00b", {}))
                assert said == (400, BAD, f"invalid request: {what[:-1]} name: character 0x00 is not allowed")

    asyncio.run(main())


def test_reserved_types_and_the_key_of_the_sidecar() -> None:
    async def main() -> None:
        async with Rig() as rig:
            rig.hosts("T")
            reserved = (
                'actor type "dapr.internal.x" is reserved for the Dapr workflow runtime; '
                "direct actor API access is not permitted"
            )
            for verb, path in (
                ("GET", "state/k"), ("POST", "state"), ("POST", "reminders/r"), ("GET", "reminders/r"),
                ("DELETE", "reminders/r"), ("POST", "timers/t"), ("DELETE", "timers/t"),
            ):  # fmt: skip
                said = fault(await rig.http(verb, f"dapr.internal.x/1/{path}", []))
                assert said == (403, "ERR_ACTOR_TYPE_RESERVED", reserved)
            for key in ("pillion.fence", "2||pillion.fence"):  # the second is the mark of the actor `1||2`
                assert fault(await rig.http("GET", f"T/1/state/{quote(key)}"))[:2] == (400, BAD)
                upsert = [{"operation": "upsert", "request": {"key": key, "value": 1}}]
                assert fault(await rig.http("POST", "T/1/state", upsert))[:2] == (400, BAD)

    asyncio.run(main())


def test_the_gate() -> None:
    """Without placement everything is refused; before the application has told its types, everything waits."""

    async def main() -> None:
        async with Rig(enabled=False) as rig:
            for verb, path in (("PUT", "method/m"), ("GET", "state/k"), ("GET", "reminders/r"), ("PUT", "timers/t")):
                said = fault(await rig.http(verb, f"T/1/{path}", {}))
                assert said == (400, "ERR_ACTOR_NO_PLACEMENT", "placement service is not configured")
        async with Rig() as rig:
            waiting = asyncio.create_task(rig.http("GET", "T/1/state/k"))
            refused = asyncio.create_task(rig.http("GET", "T/1/state/k"))
            await asyncio.sleep(0)
            assert not waiting.done()
            rig.hosts("T")
            assert (await waiting).status == (await refused).status == 204
            rig.gate.shut()
            late = asyncio.create_task(rig.access.parts("T"))
            await asyncio.sleep(0)
            rig.gate.close()
            with pytest.raises(ApiError, match="actor runtime is closed"):
                await late
            assert fault(await rig.http("GET", "T/1/state/k")) == (
                503,
                "ERR_ACTOR_RUNTIME_CLOSED",
                "actor runtime is closed",
            )

    asyncio.run(main())


def test_state() -> None:
    """An array of operations, all or nothing; values come back as they were, what is not there is 204."""

    async def main() -> None:
        with HttpApp(answer=answer) as app:
            async with Rig(app.port, ttl=True) as rig:
                rig.hosts("T")
                upsert = {"operation": "upsert", "request": {"key": "k", "value": {"b": 1.0, "a": "<"}}}
                said = fault(await rig.http("POST", "T/1/state", [upsert]))
                assert said == (400, "ERR_ACTOR_INSTANCE_MISSING", "actor instance is missing")
                await rig.http("PUT", "T/1/method/m")
                ttl = {"operation": "upsert", "request": {"key": "t", "value": None, "metadata": {"ttlInSeconds": "5"}}}
                assert (await rig.http("PUT", "T/1/state", [upsert, ttl])).status == 204
                reply = await rig.http("GET", "T/1/state/k")
                assert (reply.status, reply.body) == (200, b'{"a":"<","b":1}')
                reply = await rig.http("GET", "T/1/state/t")
                assert (b"metadata.ttlexpiretime", b"in 5 s") in reply.headers
                delete = {"operation": "delete", "request": {"key": "k"}}
                assert (await rig.http("POST", "T/1/state", [delete])).status == 204
                assert (await rig.http("GET", "T/1/state/k")).status == 204
                assert fault(await rig.http("POST", "T/1/state", b"{"))[:2] == (400, "ERR_MALFORMED_REQUEST")
                assert fault(await rig.http("POST", "T/1/state", {}))[:2] == (400, "ERR_MALFORMED_REQUEST")
                for wrong in (
                    {"operation": "upsert", "request": {"value": 1}}, {"operation": "upsert"}, {}, 1,
                    {"operation": "merge", "request": {"key": "k"}},
                    {"operation": "upsert", "request": {"key": "k", "etag": 1}},
                    {"operation": "upsert", "request": {"key": "k", "metadata": {"a": 1}}},
                ):  # fmt: skip
                    status, code, text = fault(await rig.http("POST", "T/1/state", [upsert, wrong]))
                    assert (status, code) == (500, "ERR_ACTOR_STATE_TRANSACTION_SAVE")
                    assert text.startswith("error saving actor transaction state: ")
                assert (await rig.http("GET", "T/1/state/k")).status == 204
                rig.state.failing = "disk full"
                said = fault(await rig.http("GET", "T/1/state/k"))
                assert said == (500, "ERR_ACTOR_STATE_GET", "error getting actor state: disk full")
            async with Rig(app.port) as rig:
                rig.hosts("T")
                assert "ActorStateTTL" in fault(await rig.http("POST", "T/1/state", [ttl]))[2]

    asyncio.run(main())


def test_reminders() -> None:
    async def main() -> None:
        async with Rig() as rig:
            rig.hosts("T")
            body = b'{"dueTime":"1s","period":"2s","ttl":"2030-01-01T00:00:00Z","data":{"z":1.5,"a":"<"},"odd":1} x'
            assert (await rig.http("POST", "T/1/reminders/r", body)).status == 204
            reply = await rig.http("GET", "T/1/reminders/r")
            assert reply.body == (
                b'{"actorID":"1","actorType":"T","data":{"z":1.5,"a":"\\u003c"},"dueTime":"1s","period":"@every 2s",'
                b'"ttl":"2030-01-01T00:00:00Z"}\n'
            )
            assert (await rig.http("PUT", "T/1/reminders/r", {"dueTime": "5s", "ttl": "10s"})).status == 204
            reply = await rig.http("GET", "T/1/reminders/r")
            assert json.loads(reply.body) == {"actorID": "1", "actorType": "T", "dueTime": "5s"}  # type: ignore[arg-type]
            said = fault(await rig.http("POST", "T/1/reminders/r", {"overwrite": False}))
            assert said == (409, "ERR_ACTOR_REMINDER_ALREADY_EXISTS", "actor reminder already exists: r")
            assert (await rig.http("DELETE", "T/1/reminders/r")).status == 204
            assert (await rig.http("DELETE", "T/1/reminders/r")).status == 204
            said = fault(await rig.http("GET", "T/1/reminders/r"))
            assert said == (404, "ERR_ACTOR_REMINDER_NOT_FOUND", "actor reminder not found: r")
            for wrong in (b"{", b"", b"[]", b'{"dueTime":1}', b'{"overwrite":"no"}'):
                assert fault(await rig.http("POST", "T/1/reminders/r", wrong))[:2] == (400, "ERR_MALFORMED_REQUEST")
            for verb in ("POST", "GET", "DELETE"):
                status, code, text = fault(await rig.http(verb, "U/1/reminders/r", {}))
                assert (status, code) == (403, "ERR_ACTOR_REMINDER_NON_HOSTED")
                assert text == "operations on actor reminders are only possible on hosted actor types"
            rig.reminders.failing = "away"
            for verb, what, ing in (("POST", "CREATE", "creating"), ("GET", "GET", "getting"),
                                    ("DELETE", "DELETE", "deleting")):  # fmt: skip
                said = fault(await rig.http(verb, "T/1/reminders/r", {}))
                assert said == (500, f"ERR_ACTOR_REMINDER_{what}", f"error {ing} actor reminder: away")

    asyncio.run(main())


def test_timers() -> None:
    async def main() -> None:
        async with Rig() as rig:
            rig.hosts("T")
            body = {"dueTime": "1s", "period": "R2/PT1S", "ttl": "5s", "callback": "cb", "data": None}
            assert (await rig.http("POST", "T/1/timers/t", body)).status == 204
            assert rig.timers.timers["T", "1", "t"] == {
                "due_time": "1s", "period": "R2/PT1S", "ttl": "5s", "callback": "cb", "data": b"null",
            }  # fmt: skip
            assert (await rig.http("DELETE", "T/1/timers/t")).status == 204
            assert (await rig.http("DELETE", "T/1/timers/t")).status == 204
            said = fault(await rig.http("PUT", "U/1/timers/t", {}))
            assert said[:2] == (500, "ERR_ACTOR_TIMER_CREATE")
            assert said[2].startswith("error creating actor timer: ")

    asyncio.run(main())


def test_turns_of_reminders_and_timers() -> None:
    """The bodies byte for byte; what an answer means for the next one."""

    async def main() -> None:
        with HttpApp(answer=answer) as app:
            async with Rig(app.port) as rig:
                rig.hosts("T")
                assert not await rig.host.tick(Tick("T", "1", "r", b'{"foo":[12,4]}'))
                assert await rig.host.tick(Tick("T", "1", "stop"))
                timer = Tick("T", "1", "t 1", b'"foo"', "0s", "", "", is_timer=True)
                assert not await rig.host.tick(timer)
                with pytest.raises(AppRefused, match=re.escape("error from actor service: (500) not yet")):
                    await rig.host.tick(Tick("T", "1", "stubborn"))
                await rig.host.halt("T", "1")
            said = [(call.method, call.path, call.body) for call in app.calls]
        assert said == [
            ("PUT", "/actors/T/1/method/remind/r", b'{"data":{"foo":[12,4]},"dueTime":"","period":""}'),
            ("PUT", "/actors/T/1/method/remind/stop", b'{"dueTime":"","period":""}'),
            ("PUT", "/actors/T/1/method/timer/t%201", b'{"data":"foo","callback":"","dueTime":"0s","period":""}'),
            ("PUT", "/actors/T/1/method/remind/stubborn", b'{"dueTime":"","period":""}'),
            ("DELETE", "/actors/T/1", b""),
        ]
        assert app.calls[-1].headers["content-type"] == "application/x-protobuf"

    asyncio.run(main())
