"""`middleware.http.opa`: a policy in Rego decides on each request (query `data.http.allow`).

The policy is compiled when the component opens and evaluated on a thread of its own: the evaluator lets go of the
interpreter lock, so a slow policy holds up those who wait for it and nobody else.
"""

from __future__ import annotations

import asyncio
import logging
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any
from urllib.parse import parse_qs, unquote

from regopy import Interpreter, RegoError

from pillion.errors import ComponentError, ConfigError
from pillion.kinds.component import setting
from pillion.net.middleware import plain, request_body, set_header
from pillion.wire.http1 import is_token

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pillion.kinds.component import Context
    from pillion.net.exchange import Request, Response
    from pillion.net.middleware import Next

log = logging.getLogger("pillion.components.opa")
QUERY = "data.http.allow"
COMPILE_S = 60.0
MOST_WAITING = 1024
"""Requests that wait for the policy; more are refused."""


@dataclass(frozen=True)
class OpaSettings:
    rego: str = setting(help="the policy; its package is `http`")
    default_status: int = setting(403, help="the status of a denied request, where the policy names none")
    included_headers: str = setting("", help="headers that the policy sees; separated by commas")
    read_body: bool = setting(False, help="the policy sees the body")


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a policy said of one request."""

    allow: bool
    status: int
    headers: Mapping[str, str] = field(default_factory=dict)


class Undecided(Exception):
    """The policy failed, or said nothing that can be a verdict."""


def verdict(said: Any, default_status: int) -> Verdict:
    """Read the value of `allow`: a boolean, or an object that has `allow`, `status_code` and `additional_headers`.

    Raises `Undecided`.
    """
    if isinstance(said, bool):
        return Verdict(said, default_status)
    if not isinstance(said, dict):
        raise Undecided(f"{QUERY} is {type(said).__name__}")
    allow, status = said.get("allow", False), said.get("status_code", default_status)
    headers = said.get("additional_headers") or {}
    if not isinstance(allow, bool):
        raise Undecided("allow is no boolean")
    if isinstance(status, bool) or not isinstance(status, int) or not (allow or 100 <= status <= 999):
        raise Undecided("status_code is no status")
    if not isinstance(headers, dict) or not all(_sendable(name, value) for name, value in headers.items()):
        raise Undecided("additional_headers are no headers")
    return Verdict(allow, status, headers)


def _sendable(name: str, value: object) -> bool:
    return is_token(name.encode()) and isinstance(value, str) and not any(char in value for char in "\r\n\0")


class Policy:
    """A compiled policy. It belongs to one thread."""

    def __init__(self, rego: str) -> None:
        """Compile. Raises `RegoError`."""
        self._interpreter = Interpreter()
        self._interpreter.add_module("policy", rego)
        self._bundle = self._interpreter.build(QUERY, [])

    def ask(self, given: dict[str, Any]) -> Any:
        """Return the value of the query. Raises `Undecided`."""
        try:
            self._interpreter.set_input(given)
            results = self._interpreter.query_bundle(self._bundle).results
            return results[0].expressions[0]
        except (RegoError, ValueError, IndexError) as error:
            raise Undecided(f"{QUERY} has no value") from error


class Opa:
    """The middleware."""

    Settings = OpaSettings

    def __init__(self, settings: OpaSettings, context: Context) -> None:
        if not 100 <= settings.default_status <= 999:
            raise ConfigError("metadata field 'defaultStatus' is no status")
        self._settings = settings
        self._headers = [name.strip() for name in settings.included_headers.split(",") if name.strip()]
        self._thread = ThreadPoolExecutor(1, f"opa {context.name}")
        self._policy: Policy | None = None
        self._waiting = 0

    async def open(self) -> None:
        try:
            async with asyncio.timeout(COMPILE_S):
                self._policy = await self._run(Policy, self._settings.rego)
        except RegoError as error:
            raise ComponentError(f"the policy cannot be compiled: {error}") from error
        except TimeoutError as error:
            raise ComponentError(f"the policy was not compiled within {COMPILE_S:g} s") from error

    async def ping(self) -> None: ...

    async def close(self) -> None:
        self._thread.shutdown(wait=False, cancel_futures=True)

    async def _run(self, work: Any, *arguments: Any) -> Any:
        return await asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    async def __call__(self, request: Request, next: Next) -> Response:
        try:
            decided = await self._decide(request)
        except Undecided as error:
            log.error("the policy did not decide: %s", error)
            response = plain(self._settings.default_status)
            response.headers.append((b"x-dapr-opa-error", b"true"))
            return response
        headers = [(name.lower().encode(), value.encode()) for name, value in decided.headers.items()]
        if decided.allow:
            for name, value in headers:
                set_header(request, name, value)
            return await next(request)
        response = plain(decided.status)
        named = {name for name, _ in headers}
        response.headers = [pair for pair in response.headers if pair[0] not in named] + headers
        return response

    async def _decide(self, request: Request) -> Verdict:
        body = (await request_body(request)).decode("utf-8", "replace") if self._settings.read_body else ""
        policy = self._policy
        if policy is None or self._waiting >= MOST_WAITING:
            raise Undecided("too many requests wait for the policy" if policy else "the policy is not there")
        self._waiting += 1
        try:
            said = await self._run(policy.ask, {"request": facts(request, body, self._headers)})
        except RuntimeError as error:  # closed meanwhile
            raise Undecided(str(error)) from error
        finally:
            self._waiting -= 1
        return verdict(said, self._settings.default_status)


def facts(request: Request, body: str, included: list[str]) -> dict[str, Any]:
    """Return what a policy knows of a request. Headers have their canonical name, and the one they were asked by."""
    path, _, query = request.target.partition(b"?")
    decoded = unquote(path.decode("latin-1"), errors="replace")
    headers = {}
    for name in included:
        values = [value.decode("latin-1") for key, value in request.headers if key == name.lower().encode()]
        if values:
            headers[name] = headers[name.title()] = ", ".join(values)
    return {
        "method": request.method,
        "path": decoded,
        "path_parts": decoded.strip("/").split("/"),
        "raw_query": query.decode("latin-1"),
        "query": parse_qs(query.decode("latin-1"), keep_blank_values=True, errors="replace"),
        "headers": headers,
        "scheme": "",
        "body": body,
    }
