"""Service invocation: whom a call is for, and the way there (spec `http-api.md` 4.1, `grpc-api.md` 5).

Knows: the application here, other sidecars, servers outside, and which policy surrounds a call. Never knows: how bytes
travel; how a call looks in HTTP and in gRPC is told by `invoke_http` and `invoke_rpc`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.api.operation import Http, Operation, Rpc
from pillion.app.invoke import app_request, invoke_app, read_response
from pillion.blocks.invoke_http import (
    close,
    http_response,
    login_target,
    path_target,
    success_response,
    whole_path,
)
from pillion.blocks.invoke_rpc import invocation_of, rpc_reply
from pillion.errors import ApiError, Code, ComponentError, Fault, code_name
from pillion.kinds.invocation import Invocation, Unsuccessful
from pillion.net.exchange import BodyIncomplete, BodyTooLarge, RpcError
from pillion.net.http_client import HttpError
from pillion.peers.resolve import NO_RESOLVER, Place, parse_target
from pillion.resiliency.failures import Refused
from pillion.wire.messages import runtime as m
from pillion.wire.methods import VERB_NUMBERS, BadMethod, normalise, safe_query

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillion.api.call import HttpCall, RpcCall
    from pillion.app.channel import AppChannel
    from pillion.kinds.invocation import InvokePolicies, InvokePolicy, Reply
    from pillion.net.exchange import Response
    from pillion.peers.client import PeerClient
    from pillion.peers.endpoints import External
    from pillion.peers.resolve import Target
    from pillion.wire.messages import common

DIRECT_INVOKE = Fault(
    "ERR_DIRECT_INVOKE", 500, Code.INTERNAL, "failed to invoke, id: {id}, err: {error}", category="service-invocation"
)
NO_APP_ID = Fault(
    "ERR_DIRECT_INVOKE", 404, Code.NOT_FOUND,
    "failed getting app id either from the URL path or the header dapr-app-id", category="service-invocation",
)  # fmt: skip
NO_LOCAL_APP = "cannot invoke local endpoint: app channel not initialized"
REMEMBERED = 4096
ALL_VERBS = tuple(verb for verb in VERB_NUMBERS if verb != "NONE")
FORESEEN = (RpcError, ComponentError, HttpError, BodyTooLarge, BodyIncomplete, OSError, ValueError)
"""What a call may fail of; anything else is a fault of ours."""


class InvokeBlock:
    """The handlers. `app` returns the channel to the application, None while there is none.

    `policies` None: no resiliency is configured.
    """

    def __init__(
        self,
        app_id: str,
        namespace: str,
        app: Callable[[], AppChannel | None],
        peers: PeerClient,
        external: External,
        policies: InvokePolicies | None = None,
    ) -> None:
        self._app_id = app_id
        self._namespace = namespace
        self._app = app
        self._peers = peers
        self._external = external
        self._policies = policies
        self._paths: dict[bytes, tuple[str, str]] = {}
        self._targets: dict[str, Target] = {}

    def operations(self) -> list[Operation]:
        """The row of this block."""
        return [
            Operation(
                "InvokeService", "invoke",
                http=(Http(ALL_VERBS, "v1.0/invoke/{rest*}", self.http, streams=True),),
                rpc=Rpc(("InvokeService",), m.InvokeServiceRequest, self.rpc),
            )
        ]  # fmt: skip

    async def http(self, call: HttpCall) -> Response:
        """Serve the invocation routes and, as the fallback, every request that no route matches."""
        request = call.request
        body = request.body
        verb = request.method if request.method in VERB_NUMBERS else "POST"
        invocation = Invocation("", "", "", verb, b"", None, b"", body, None)
        invocation.take(request.headers)
        if isinstance(body, bytes):
            if not body:
                invocation.length = 0
        else:
            invocation.length = body.length
        path = call.path
        if call.query_text:
            invocation.query = safe_query(call.query_text)
        text = ""
        try:
            if invocation.route:
                text = invocation.route.decode()
                method = whole_path(path)
            elif invocation.login and (text := login_target(invocation.login)):
                method = whole_path(path)
            else:
                known = self._paths.get(path)
                if known is None:
                    found = path_target(path)
                    if found is None:
                        raise ApiError(NO_APP_ID)
                    text = found[0]  # an error from here on names it
                    known = (text, normalise(found[1]))
                    self._remember(path, known)
                text, method = known
            if verb == "CONNECT":
                raise BadMethod("the verb CONNECT cannot be invoked")
            invocation.method = method
            reply = await self._invoke(text, invocation)
            if 200 <= reply.code < 400 and not invocation.sse:
                return success_response(reply)
            return await http_response(reply, sse=invocation.sse, buffered=invocation.length is not None)
        except FORESEEN as error:
            denied = isinstance(error, RpcError) and error.code == Code.PERMISSION_DENIED
            status = 403 if denied else 500
            raise ApiError(DIRECT_INVOKE, http_status=status, id=text, error=quoted(error)) from error

    def _remember(self, path: bytes, found: tuple[str, str]) -> None:
        if len(self._paths) >= REMEMBERED:
            self._paths.clear()
        if len(path) <= 1024:
            self._paths[path] = found

    async def rpc(self, call: RpcCall, request: m.InvokeServiceRequest) -> common.InvokeResponse:
        """Serve `InvokeService`."""
        try:
            invocation = invocation_of(call, request)
        except BadMethod as error:
            raise RpcError(Code.INVALID_ARGUMENT, str(error)) from error
        try:
            reply = await self._invoke(request.id, invocation)
        except TimeoutError:
            raise
        except FORESEEN as error:
            raise ApiError(DIRECT_INVOKE, id=request.id, error=quoted(error)) from error
        return await rpc_reply(call, reply)

    # The way there.

    def _invoke(self, text: str, invocation: Invocation) -> Awaitable[Reply]:
        """Find the target and call it. Raises `ComponentError` at once for a text that is none."""
        endpoints = self._external.endpoints
        target = self._targets.get(text)
        if target is None or (target.place is Place.ENDPOINT) != (text in endpoints):
            if self._peers.directory.resolver is None:
                raise ComponentError(NO_RESOLVER)
            target = parse_target(text, self._app_id, self._namespace, endpoints)
            if len(self._targets) >= REMEMBERED:
                self._targets.clear()
            self._targets[text] = target
        policies = self._policies
        policy, built_in = (None, True) if policies is None else policies.find(target.name, invocation.method)
        if policy is None:
            return self._attempt(target, invocation, built_in=built_in)
        return self._guided(policy, target, invocation, built_in=built_in)

    async def _guided(self, policy: InvokePolicy, target: Target, invocation: Invocation, *, built_in: bool) -> Reply:
        """Call under the policy of the target. An answer that is no success counts as a failure of the attempt."""
        if invocation.fixed:
            await invocation.settle()

        last: Reply | None = None

        async def attempt() -> Reply:
            nonlocal last
            if last is not None:
                await close(last.body)
            last = reply = await self._attempt(target, invocation, built_in=built_in)
            if not reply.succeeded:
                raise Unsuccessful(reply)
            return reply

        try:
            return await policy(attempt, replayable=invocation.fixed)
        except Unsuccessful as error:
            return error.reply
        except Refused:
            if last is not None:
                await close(last.body)
            raise

    def _attempt(self, target: Target, invocation: Invocation, *, built_in: bool) -> Awaitable[Reply]:
        place = target.place
        if place is Place.PEER:
            return self._peers.invoke(target, invocation, built_in=built_in)
        if place is Place.HERE:
            app = self._app()
            if app is None:
                raise ComponentError(NO_LOCAL_APP)
            return invoke_app(app, invocation)
        return self._outside(target, invocation, built_in=built_in and invocation.fixed)

    async def _outside(self, target: Target, invocation: Invocation, *, built_in: bool) -> Reply:
        request = app_request(invocation)
        if target.place is Place.URL:
            return read_response(await self._external.request_url(target.name, request, built_in=built_in))
        return read_response(await self._external.request_endpoint(target.name, request, built_in=built_in))


def quoted(error: BaseException) -> str:
    """Return an error as it is quoted inside another (spec `http-api.md` 3.1)."""
    if isinstance(error, RpcError):
        return f"rpc error: code = {code_name(error.code)} desc = {error.message}"
    if isinstance(error, TimeoutError) and not error.args:
        return "context deadline exceeded"
    return str(error) or type(error).__name__
