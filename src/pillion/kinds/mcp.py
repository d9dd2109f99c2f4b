"""MCP servers: what their resource says, and what the sidecar asks of one (spec `runtime.md` 2.6).

`read` is strict: a mistake names file, line and field. Knows: fields and what makes them unusable. Never knows: the
protocol, how values that are secrets are found.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol
from urllib.parse import urlsplit

from pillion.errors import ComponentError, ConfigError
from pillion.kinds.fields import Fields
from pillion.kinds.resources import Item, SecretRef, items
from pillion.wire.durations import go_duration

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pillion.kinds.resources import MCPServerResource

TRANSPORTS = ("streamableHTTP", "sse", "stdio")
TIMEOUT_S = 30.0
"""How long one request may take when the resource does not say; always, over stdio."""
KUBERNETES = "kubernetes"


class McpError(ComponentError):
    """An MCP server cannot be reached, refused, answered with an error, or did not answer in time."""


class ToolServer(Protocol):
    """A connected MCP server."""

    @property
    def tools(self) -> tuple[Mapping[str, Any], ...]:
        """The tools as they were listed last, each as the server describes it."""

    async def list_tools(self) -> tuple[Mapping[str, Any], ...]:
        """List the tools, all pages. Raises `McpError`."""

    async def call(self, tool: str, arguments: Mapping[str, Any] | None) -> dict[str, Any]:
        """Return a tool's CallToolResult as the server wrote it. Raises `McpError`."""


@dataclass(frozen=True, slots=True)
class OAuth2:
    """Client credentials. `issuer` is the URL of the token endpoint itself."""

    issuer: str
    client_id: str = ""
    audience: str = ""
    scopes: tuple[str, ...] = ()
    secret: SecretRef | None = None


@dataclass(frozen=True, slots=True)
class Spiffe:
    """A JWT of this sidecar's identity in a header of every request."""

    header: str
    audience: str
    prefix: str = ""


@dataclass(frozen=True, slots=True)
class Hook:
    """A child workflow before or after a request; `mutate`: what it returns replaces what it was given."""

    workflow: str
    app_id: str = ""
    mutate: bool = False


@dataclass(frozen=True, slots=True)
class Hooks:
    """What runs around requests, each in its order."""

    before_call: tuple[Hook, ...] = ()
    after_call: tuple[Hook, ...] = ()
    before_list: tuple[Hook, ...] = ()
    after_list: tuple[Hook, ...] = ()


@dataclass(frozen=True, slots=True)
class McpSettings:
    """One MCPServer. `items` are the headers, or the environment of stdio, not yet resolved; `secret_store` "" when
    none is named; `timeout_s` None for no limit.
    """

    name: str
    transport: str
    url: str = ""
    command: str = ""
    arguments: tuple[str, ...] = ()
    items: tuple[Item, ...] = ()
    timeout_s: float | None = TIMEOUT_S
    secret_store: str = ""
    oauth2: OAuth2 | None = None
    spiffe: Spiffe | None = None
    hooks: Hooks = Hooks()


def ignores_errors(resource: MCPServerResource) -> bool:
    """Whether a failure of this server shall not end the sidecar; no, when that cannot be read."""
    try:
        return Fields(resource.node, "spec").flag("ignoreErrors")
    except ConfigError:
        return False


def endpoint_of(resource: MCPServerResource) -> tuple[str, str]:
    """Return the transport of a server, and its URL or its command. Raises `ConfigError` when there is not one."""
    transport, place = _endpoint(Fields(resource.node, "spec"))
    return transport, place.text("url") or place.text("command")


def _endpoint(spec: Fields) -> tuple[str, Fields]:
    endpoint = spec.nested("endpoint")
    given = [name for name in TRANSPORTS if endpoint.raw(name) is not None]
    if len(given) != 1:
        what = f"has {' and '.join(given)}" if given else "is missing"
        raise spec.wrong("endpoint", what, f"write exactly one of: {', '.join(TRANSPORTS)}")
    place = endpoint.nested(given[0])
    endpoint.done()
    return given[0], place


def read(resource: MCPServerResource, *, kubernetes: bool, folder: Path) -> tuple[McpSettings, list[str]]:
    """Return the settings and notes on what was ignored. `folder` is that in which commands begin to run.

    Raises `ConfigError` for what the schema or the rules of security forbid.
    """
    spec = Fields(resource.node, "spec")
    spec.flag("ignoreErrors")
    transport, place = _endpoint(spec)
    hooks = _hooks(spec.nested("middleware"))
    _catalog(spec.nested("catalog"))
    if transport == "stdio":
        made = _stdio(resource.name, place, hooks, kubernetes=kubernetes, folder=folder)
    else:
        made = _http(resource.name, transport, place, hooks, kubernetes=kubernetes)
    place.done()
    spec.done()
    return made, spec.notes


def _required(fields: Fields, name: str, mend: str = "") -> str:
    text = fields.text(name)
    if not text:
        raise fields.wrong(name, "is missing or empty", mend)
    return text


def _stdio(name: str, place: Fields, hooks: Hooks, *, kubernetes: bool, folder: Path) -> McpSettings:
    if kubernetes:
        raise place.wrong("", "stdio is not offered in Kubernetes: it would run a process in the sidecar's container",
                          "use streamableHTTP")  # fmt: skip
    command = _required(place, "command", "name the program that serves MCP on its standard input and output")
    if "\0" in command:
        raise place.wrong("command", "contains a NUL character")
    if os.sep in command and not Path(command).is_absolute():
        # Resolved as the system will do it: a symbolic link may lead out as well as "..".
        base = folder.resolve()
        if not (base / command).resolve().is_relative_to(base):
            raise place.wrong("command", f"{command!r} leads out of {base}", "write an absolute path")
    arguments = place.texts("args")
    if any("\0" in argument for argument in arguments):
        raise place.wrong("args", "contains a NUL character")
    variables = items(place, "env")
    for variable in variables:
        if not variable.name or any(bad in variable.name for bad in "=\n\0"):
            raise place.wrong("env", f"{variable.name!r} is no name of a variable", "leave out =, newlines and NUL")
    return McpSettings(name, "stdio", command=command, arguments=arguments, items=variables, hooks=hooks)


def _http(name: str, transport: str, place: Fields, hooks: Hooks, *, kubernetes: bool) -> McpSettings:
    url = _required(place, "url", "write the address of the MCP endpoint")
    try:
        parts = urlsplit(url)
        usable = parts.scheme in ("http", "https") and bool(parts.hostname) and parts.port != 0
    except ValueError:
        usable = False
    if not usable or not url.isprintable():
        raise place.wrong("url", f"is {url!r}", "write http:// or https://, a host and a path")
    place.know("protocolVersion")  # negotiated with the server, whatever is written
    auth = place.nested("auth")
    oauth2, spiffe = _oauth2(auth), _spiffe(auth)
    store = auth.text("secretStore") or (KUBERNETES if kubernetes else "")
    auth.done()
    headers = items(place, "headers")
    for header in headers:
        if not _is_header(header.name):
            raise place.wrong("headers", f"{header.name!r} is no name of a header")
    return McpSettings(
        name, transport, url=url, items=headers, timeout_s=_timeout(place), secret_store=store, oauth2=oauth2,
        spiffe=spiffe, hooks=hooks,
    )  # fmt: skip


def _is_header(name: str) -> bool:
    return bool(name) and name.isascii() and all(each.isalnum() or each in "!#$%&'*+-.^_`|~" for each in name)


def _timeout(place: Fields) -> float | None:
    written = place.text("timeout")
    if not written:
        return TIMEOUT_S
    try:
        seconds = go_duration(written)
    except ValueError as error:
        raise place.wrong("timeout", str(error), "write 30s or 2m; 0s sets no limit") from error
    if seconds < 0:
        raise place.wrong("timeout", f"{written!r} is negative", "write 0s for no limit")
    return seconds or None


def _oauth2(auth: Fields) -> OAuth2 | None:
    if auth.raw("oauth2") is None:
        return None
    given = auth.nested("oauth2")
    reference = given.nested("secretKeyRef")
    secret = None
    if reference:
        secret = SecretRef(_required(reference, "name"), _required(reference, "key", "name the key of the secret"))
    made = OAuth2(
        _required(given, "issuer", "write the URL of the token endpoint"), given.text("clientID"),
        given.text("audience"), given.texts("scopes"), secret,
    )  # fmt: skip
    reference.done()
    given.done()
    return made


def _spiffe(auth: Fields) -> Spiffe | None:
    spiffe = auth.nested("spiffe")
    if spiffe.raw("jwt") is None:
        return None
    jwt = spiffe.nested("jwt")
    header = _required(jwt, "header")
    if not _is_header(header):
        raise jwt.wrong("header", f"{header!r} is no name of a header")
    made = Spiffe(header, _required(jwt, "audience"), jwt.text("headerValuePrefix"))
    jwt.done()
    spiffe.done()
    return made


def _hooks(middleware: Fields) -> Hooks:
    found = {}
    for name in ("beforeCallTool", "afterCallTool", "beforeListTools", "afterListTools"):
        made = []
        for entry in middleware.items(name):
            workflow = entry.nested("workflow")
            called = _required(workflow, "workflowName", "name the workflow to be run")
            mutate = name != "beforeListTools" and entry.flag("mutate")
            made.append(Hook(called, workflow.text("appID"), mutate))
            workflow.done()
            entry.done()
        found[name] = tuple(made)
    middleware.done()
    return Hooks(
        found["beforeCallTool"], found["afterCallTool"], found["beforeListTools"], found["afterListTools"]
    )  # fmt: skip


def _catalog(catalog: Fields) -> None:
    """Only its form counts: it tells people about the server."""
    for name in ("displayName", "description"):
        catalog.text(name)
    owner = catalog.nested("owner")
    for name in ("team", "contact"):
        owner.text(name)
    catalog.texts("tags")
    catalog.mapping("links")
    owner.done()
    catalog.done()
