"""Calls between instances and the sidecars that drive them: who calls, how an event is brought, who may.

Knows: the internal methods' shape. Never knows: instances.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.kinds.actors import ActorCall, RemoteFailure
from pillion.kinds.jobs import Constant, Job
from pillion.wire.messages import wellknown
from pillion.workflow.family import is_child_of
from pillion.workflow.faults import AccessDenied, InstanceMissing, from_remote
from pillion.workflow.surroundings import moment

if TYPE_CHECKING:
    from pillion.workflow.engine import Engine
    from pillion.workflow.history import Event

CREATE, ADD = "CreateWorkflowInstance", "AddWorkflowEvent"
PROTOBUF = b"application/x-protobuf"
_CALLER, _CALLER_NAMESPACE = b"dapr-caller-app-id", b"dapr-caller-namespace"
_PARENT, _EXECUTION = b"pillion-parent", b"pillion-execution"


class Calls:
    """What one engine says to others, and whom it lets speak."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine

    async def tell(
        self, actor_type: str, instance_id: str, event: Event, *, parent: str = "", execution: str | None = None
    ) -> None:
        """Bring an event to an instance, wherever it lives. Raises its fault.

        `parent`: it is for the child of this instance of ours, not for another one that has its name. `execution`: it
        is for this execution of the instance alone, and nobody's when that is no more.
        """
        headers = self.caller() if not parent else self.as_parent(parent)
        if execution is not None:
            headers.append((_EXECUTION, execution.encode()))
        call = ActorCall(
            actor_type, instance_id, ADD, body=event.SerializeToString(), headers=headers, content_type=PROTOBUF,
            verb="",
        )  # fmt: skip
        try:
            await self._engine.surroundings.actors.invoke(call)
        except RemoteFailure as error:
            raise from_remote(error) from error

    async def leave_result(self, actor_type: str, instance_id: str, event: Event) -> None:
        """Leave a result with the scheduler, which brings it when the workflow can be reached (3.2)."""
        payload = wellknown.Any()
        payload.Pack(event)
        surroundings = self._engine.surroundings
        name = f"activity-result-{surroundings.random.getrandbits(64):016x}"
        job = Job(
            due_time=moment(surroundings.clock.now()), payload=payload.SerializeToString(),
            failure_policy=Constant(1.0, None),
        )  # fmt: skip
        await surroundings.scheduler.schedule(
            surroundings.names.key(actor_type, instance_id, name), job, overwrite=True
        )

    def caller(self) -> list[tuple[bytes, bytes]]:
        """The headers by which the other side knows who calls."""
        names = self._engine.surroundings.names
        return [(_CALLER, names.app_id.encode()), (_CALLER_NAMESPACE, names.namespace.encode())]

    def as_parent(self, instance_id: str) -> list[tuple[bytes, bytes]]:
        """The headers of a call to a child of an instance of ours."""
        return [*self.caller(), (_PARENT, f"{self._engine.surroundings.names.app_id}||{instance_id}".encode())]

    async def check_parent(self, call: ActorCall) -> None:
        """Raise `InstanceMissing` when a call is for a child, and the instance of that name is not the caller's."""
        wanted = _text(call, _PARENT)
        if wanted is None:
            return
        runner = await self._engine.find(call.actor_id)
        app_id, _, parent_id = wanted.partition("||")
        if runner is None or not is_child_of(runner.instance.start_event, app_id, parent_id):
            raise InstanceMissing

    def check_activity(self, call: ActorCall, name: str) -> None:
        """Raise `AccessDenied` when a policy does not let the caller run activities of the name here."""
        policies = self._engine.surroundings.policies()
        if policies is None:
            return
        caller, namespace = caller_of(call)
        if not caller and not call.remote:
            return  # the sidecar itself, or its own application
        if not policies.activity(caller, namespace, name):
            raise AccessDenied

    def __repr__(self) -> str:
        return f"<Calls of {self._engine.surroundings.names.app_id}>"


def execution_of(call: ActorCall) -> str | None:
    """The execution for which an event is meant, None for whichever there is."""
    return _text(call, _EXECUTION)


def _text(call: ActorCall, wanted: bytes) -> str | None:
    return next((value.decode("utf-8", "replace") for name, value in call.headers if name == wanted), None)


def caller_of(call: ActorCall) -> tuple[str, str]:
    """The application and namespace that call, "" when the sidecar itself does."""
    caller = namespace = ""
    for name, value in call.headers:
        if name == _CALLER:
            caller = value.decode("utf-8", "replace")
        elif name == _CALLER_NAMESPACE:
            namespace = value.decode("utf-8", "replace")
    return caller, namespace
