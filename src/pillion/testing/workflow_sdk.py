"""Workflows of the official Python SDK without a sidecar: for `WorkflowTest` and `replay`.

    runtime = WorkflowRuntime()                       # of dapr.ext.workflow, with what is registered; not started
    with WorkflowTest(code=SdkCode(runtime)) as test: ...

The SDK has no public way in: this takes what its worker does with a work item, and stands where the connection would
be. Written against 1.18, whose worker is handed the connection, and 1.19, whose worker finds the current one by itself;
another version that is different inside is refused when `SdkCode` is made.

Knows: the inside of the SDK's worker. Never knows: the engine.
"""

from __future__ import annotations

import inspect
from typing import TYPE_CHECKING, Any, TypeVar

from google.protobuf.message import Message

from pillion.wire.messages import taskhub as m

if TYPE_CHECKING:
    from collections.abc import Callable

M = TypeVar("M", bound=Message)


class UnknownSdk(TypeError):
    """The SDK is not one that this knows the inside of."""


class SdkCode:
    """The workflows and activities that are registered with an SDK's `WorkflowRuntime`."""

    def __init__(self, runtime: Any) -> None:
        worker: Any = getattr(runtime, "_WorkflowRuntime__worker", None)
        for name in ("_execute_orchestrator", "_execute_activity", "_registry", "_activity_executor"):
            if not hasattr(worker, name):
                raise UnknownSdk(f"{type(runtime).__module__}.{type(runtime).__name__} has no {name} inside")
        self._worker = worker
        self._stub = _Stub()
        self._handed = "stub" in inspect.signature(self._worker._execute_orchestrator).parameters
        if not self._handed:
            if not hasattr(worker, "_send_on_current_connection"):
                raise UnknownSdk(
                    f"{type(runtime).__module__}.{type(runtime).__name__} sends its answers in another way"
                )
            self._worker._send_on_current_connection = self._send

    def _send(self, send: Callable[[Any], None], *_: object) -> None:
        """Stands where the worker would look for its connection."""
        send(self._stub)

    def turn(self, request: m.WorkflowRequest, token: str) -> m.WorkflowResponse:
        asked, stub = _their("WorkflowRequest", request), self._begin()
        if self._handed:
            self._worker._execute_orchestrator(asked, stub, token)
        else:
            self._worker._execute_orchestrator(asked, token, _nothing)
        return m.WorkflowResponse.FromString(stub.answer())

    async def activity(self, request: m.ActivityRequest, token: str) -> m.ActivityResponse:
        asked, stub = _their("ActivityRequest", request), self._begin()
        code = self._worker._registry.get_activity(request.name)
        arguments = (code, asked, stub, token) if self._handed else (code, asked, token)
        if code is not None and inspect.iscoroutinefunction(code):
            await self._worker._execute_activity_async(*arguments)
        else:
            self._worker._execute_activity(*arguments)
        return m.ActivityResponse.FromString(stub.answer())

    def _begin(self) -> _Stub:
        """Make room for the one answer of the next item."""
        self._stub = _Stub()
        return self._stub


def _nothing() -> None:
    """There is no stream to give up."""


class _Stub:
    """Stands for the sidecar: keeps the one answer."""

    def __init__(self) -> None:
        self._answers: list[bytes] = []

    def __getattr__(self, name: str) -> Any:
        if not name.startswith("Complete"):
            raise AttributeError(name)
        return self._complete

    def _complete(self, answer: Message, *_: object, **__: object) -> None:
        self._answers.append(answer.SerializeToString())

    def answer(self) -> bytes:
        if len(self._answers) != 1:
            raise UnknownSdk(f"the SDK gave {len(self._answers)} answers to one work item")
        return self._answers[0]


def _their(name: str, message: Message) -> Any:
    """The message as a class of the SDK's own."""
    from dapr.ext.workflow._durabletask.internal import protos

    return getattr(protos, name).FromString(message.SerializeToString())
