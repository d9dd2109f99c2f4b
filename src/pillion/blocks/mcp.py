"""Tools of MCP servers as durable workflows (spec `crypto-conversation-mcp.md` 5.3 and 5.4).

`dapr.internal.mcp.<server>.ListTools` and `.CallTool.<tool>`, with the activities `.list-tools` and `.call-tool`, and
hooks as child workflows around them. Knows: inputs, results, errors, hooks. Never knows: how a server is reached.
"""

from __future__ import annotations

import base64
import json
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf import json_format

from pillion.kinds.mcp import McpError
from pillion.wire.messages import workflows as m
from pillion.workflow.builtin import Activity, Child, WorkflowFailed
from pillion.workflow.items import INTERNAL

if TYPE_CHECKING:
    from collections.abc import Generator, Mapping, Sequence

    from google.protobuf.message import Message

    from pillion.kinds.mcp import Hook, Hooks, ToolServer
    from pillion.workflow.builtin import Outcome, Run, Step, Workflow

    _AfterInput = type[m.MCPAfterCallToolHookInput] | type[m.MCPAfterListToolsHookInput]

PREFIX = f"{INTERNAL}mcp."
M = TypeVar("M", bound="Message")


class ToolWorkflows:
    """What one server offers; register `workflows` and `activities` while it is connected."""

    def __init__(self, name: str, server: ToolServer, hooks: Hooks) -> None:
        self._name, self._server, self._hooks = name, server, hooks
        self._prefix = f"{PREFIX}{name}."
        self.workflows: dict[str, Workflow] = {f"{self._prefix}ListTools": self._list_tools}
        for tool in server.tools:
            called = str(tool.get("name", ""))
            self.workflows[f"{self._prefix}CallTool.{called}"] = self._calling(called)
        self.activities: dict[str, Run] = {
            f"{self._prefix}list-tools": self._run_list,
            f"{self._prefix}call-tool": self._run_call,
        }

    # -- workflows: replayed, so they depend on their input and outcomes alone

    def _list_tools(self, _input: str) -> Generator[Step, Outcome, str]:
        for hook in self._hooks.before_list:
            outcome = yield _child(hook, {"name": self._name})
            if outcome.error is not None:
                raise WorkflowFailed(f"beforeListTools failed: {outcome.error}")
        outcome = yield Activity(f"{self._prefix}list-tools")
        if outcome.error is not None:
            raise WorkflowFailed(f"list-tools activity failed: {outcome.error}")
        return (
            yield from _afterwards(
                "afterListTools", self._hooks.after_list, {"name": self._name}, outcome.result,
                m.MCPAfterListToolsHookInput,
            )
        )  # fmt: skip

    def _calling(self, tool: str) -> Workflow:
        return lambda given: self._call_tool(tool, given)

    def _call_tool(self, tool: str, given: str) -> Generator[Step, Outcome, str]:
        try:
            arguments = _arguments(given)
        except ValueError as error:
            return failure(f"failed to parse CallToolInput: {error}")
        for hook in self._hooks.before_call:
            outcome = yield _child(hook, self._facts(tool, arguments))
            if outcome.error is not None:
                return failure(f"beforeCallTool: {outcome.error}")
            if hook.mutate:
                try:
                    _parsed(outcome.result, m.MCPBeforeCallToolHookInput)
                    arguments = _arguments(outcome.result)
                except ValueError as error:
                    return failure(f"beforeCallTool: {error}")
        asked: dict[str, Any] = {"tool_name": tool}
        if arguments is not None:
            asked["arguments"] = arguments
        outcome = yield Activity(f"{self._prefix}call-tool", _json(asked))
        if outcome.error is not None:
            raise WorkflowFailed(f"call-tool activity failed: {outcome.error}")
        return (
            yield from _afterwards(
                "afterCallTool", self._hooks.after_call, self._facts(tool, arguments), outcome.result,
                m.MCPAfterCallToolHookInput,
            )
        )  # fmt: skip

    def _facts(self, tool: str, arguments: Mapping[str, Any] | None) -> dict[str, Any]:
        facts: dict[str, Any] = {"name": self._name, "toolName": tool}
        if arguments is not None:
            facts["arguments"] = arguments
        return facts

    # -- activities

    async def _run_list(self, _input: str) -> str:
        tools = self._server.tools or await self._server.list_tools()
        return _json({"tools": tools})

    async def _run_call(self, given: str) -> str:
        asked = json.loads(given)
        tool, arguments = asked["tool_name"], asked.get("arguments")
        missing = self._missing(tool, arguments or {})
        if missing:
            return failure(f'call-tool: missing required argument(s) for tool "{tool}": {", ".join(missing)}')
        try:
            result = await self._server.call(tool, arguments)
        except McpError as error:
            return failure(f'call-tool: initial call failed for "{self._name}": {error} (tool "{tool}")')
        if result.get("isError") is False:
            del result["isError"]
        try:
            return _json(result)
        except ValueError as error:
            return failure(f'call-tool: the result of "{self._name}" is no JSON: {error} (tool "{tool}")')

    def _missing(self, tool: str, arguments: Mapping[str, Any]) -> list[str]:
        """The arguments that the tool's schema requires and that are not there; nothing else is checked here."""
        for known in self._server.tools:
            if known.get("name") == tool:
                schema = known.get("inputSchema")
                required = schema.get("required") if isinstance(schema, dict) else None
                return [each for each in required or () if isinstance(each, str) and each not in arguments]
        return []

    def __repr__(self) -> str:
        return f"<ToolWorkflows {self._name}, {len(self.workflows) - 1} tools>"


def failure(text: str) -> str:
    """A CallToolResult that says what went wrong where a model can read it."""
    return _json({"content": [{"type": "text", "text": text}], "isError": True})


def _json(value: object) -> str:
    """Not by orjson: servers may write integers of any size. Raises `ValueError` for NaN and infinities."""
    return json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))


def _base64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _afterwards(
    moment: str, hooks: Sequence[Hook], facts: Mapping[str, Any], result: str, given: _AfterInput
) -> Generator[Step, Outcome, str]:
    """Run the hooks of one moment, each of which may put another result in the place of the one before."""
    for hook in hooks:
        outcome = yield _child(hook, {**facts, "result": _base64(result)})
        if outcome.error is not None:
            raise WorkflowFailed(f"{moment} failed: {outcome.error}")
        if hook.mutate:
            try:
                result = _replaced(outcome.result, given)
            except ValueError as error:
                raise WorkflowFailed(f"{moment} failed: {error}") from error
    return result


def _child(hook: Hook, facts: Mapping[str, Any]) -> Child:
    return Child(hook.workflow, _json(facts), hook.app_id)


def _arguments(text: str) -> dict[str, Any] | None:
    """The member `arguments` of a JSON object, None when there is none. Raises `ValueError`."""
    if not text.strip():
        return None
    found = json.loads(text)
    if found is None:
        return None
    if not isinstance(found, dict):
        raise ValueError("expected a JSON object")
    arguments = found.get("arguments")
    if arguments is not None and not isinstance(arguments, dict):
        raise ValueError("'arguments' is no JSON object")
    return arguments


def _parsed(text: str, kind: type[M]) -> M:
    """A hook's output: the protobuf JSON of its input's message, "" and null for an empty one. Raises `ValueError`."""
    message = kind()
    if text.strip() in ("", "null"):
        return message
    try:
        return json_format.Parse(text, message)
    except json_format.ParseError as error:
        raise ValueError(f"its output cannot be used: {error}") from error


def _replaced(text: str, kind: _AfterInput) -> str:
    """The result that a hook put in the place of its own. Raises `ValueError`."""
    result = _parsed(text, kind).result
    if not result:
        raise ValueError("its output has no 'result'")
    if not isinstance(json.loads(result), dict):
        raise ValueError("its 'result' is no JSON object")
    return result.decode()
