"""What the sidecar tells of itself, and the labels it is given (spec `http-api.md` 4.7, `grpc-api.md` 3)."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import orjson
from google.protobuf import json_format

from pillion.api.operation import Http, Operation, Rpc
from pillion.api.render import JSON
from pillion.errors import ApiError, Code, Fault
from pillion.net.exchange import BodyIncomplete, BodyTooLarge, Response
from pillion.records import record
from pillion.wire.messages import runtime as m
from pillion.wire.messages import wellknown

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping, Sequence

    from google.protobuf.message import Message

    from pillion.api.call import HttpCall, RpcCall

BODY_READ = Fault("ERR_BODY_READ", 400, Code.INVALID_ARGUMENT, "failed to read body: {error}")
MAX_LABELS = 1024
TOO_MANY = Fault(
    "ERR_BAD_REQUEST",
    400,
    Code.INVALID_ARGUMENT,
    f"more than {MAX_LABELS} metadata keys: remove some before adding others",
)


@record
class ComponentRow:
    """A loaded component."""

    name: str
    type: str
    version: str
    capabilities: Sequence[str] = ()


@record
class AppConnection:
    """How the application is reached; the health fields only where probes are on."""

    port: int
    protocol: str
    channel_address: str
    max_concurrency: int = 0
    health_path: str = ""
    health_interval: str = ""
    health_timeout: str = ""
    health_threshold: int = 0


@record
class ActorFacts:
    """How the actor runtime stands: `status` is DISABLED, INITIALIZING or RUNNING; `active` counts by type."""

    status: str = "DISABLED"
    active: Mapping[str, int] = field(default_factory=dict)
    host_ready: bool = False
    placement: str = ""


@record
class WorkflowFacts:
    """How the workflow engine stands: workers with an open stream, and the access policies for this application."""

    workers: int = 0
    policies: Sequence[str] = ()


@dataclass(slots=True)
class Facts:
    """Where the block reads from; functions, because all of it changes while the sidecar runs."""

    app_id: str
    runtime_version: str
    features: Sequence[str] = ()
    components: Callable[[], Sequence[ComponentRow]] = list
    subscriptions: Callable[[], Sequence[m.PubsubSubscription]] = list
    http_endpoints: Callable[[], Sequence[str]] = list
    resiliencies: Callable[[], Sequence[str]] = list
    mcp_servers: Callable[[], Sequence[str]] = list
    schedulers: Callable[[], Sequence[str]] = list
    actors: Callable[[], ActorFacts] = ActorFacts
    workflows: Callable[[], WorkflowFacts] = WorkflowFacts
    extended: Callable[[], Mapping[str, str]] = dict
    """Told besides the labels; names of our own begin with `pillion.`."""
    app: AppConnection | None = None


class MetadataBlock:
    """The handlers, and the labels that SetMetadata stored."""

    def __init__(self, facts: Facts) -> None:
        self._facts = facts
        self._labels: dict[str, str] = {}

    def operations(self) -> list[Operation]:
        """The rows of this block; the public port serves the same."""
        return [
            Operation(
                "GetMetadata", "metadata", http=(Http(("GET",), "v1.0/metadata", self.get),),
                rpc=Rpc(("GetMetadata",), m.GetMetadataRequest, self.rpc_get),
            ),
            Operation(
                "SetMetadata", "metadata", http=(Http(("PUT",), "v1.0/metadata/{key}", self.set),),
                rpc=Rpc(("SetMetadata",), m.SetMetadataRequest, self.rpc_set),
            ),
        ]  # fmt: skip

    def _describe(self) -> m.GetMetadataResponse:
        facts = self._facts
        reply = m.GetMetadataResponse(
            id=facts.app_id, runtime_version=facts.runtime_version, enabled_features=facts.features,
            extended_metadata={**self._labels, **facts.extended(), "daprRuntimeVersion": facts.runtime_version},
        )  # fmt: skip
        for row in facts.components():
            reply.registered_components.add(
                name=row.name, type=row.type, version=row.version, capabilities=row.capabilities
            )
        reply.subscriptions.extend(facts.subscriptions())
        for name in facts.http_endpoints():
            reply.http_endpoints.add(name=name)
        for name in facts.resiliencies():
            reply.resiliencies.add(name=name)
        for name in facts.mcp_servers():
            reply.mcp_servers.add(name=name)
        workflows = facts.workflows()
        if workflows.workers:
            reply.workflows.connected_workers = workflows.workers
        for name in workflows.policies:
            reply.workflow_access_policies.add(name=name)
        if schedulers := facts.schedulers():
            reply.scheduler.connected_addresses.extend(schedulers)
        if facts.app is not None:
            app = reply.app_connection_properties
            app.port, app.protocol = facts.app.port, facts.app.protocol
            app.channel_address, app.max_concurrency = facts.app.channel_address, facts.app.max_concurrency
            if facts.app.health_interval:
                app.health.health_check_path = facts.app.health_path
                app.health.health_probe_interval = facts.app.health_interval
                app.health.health_probe_timeout = facts.app.health_timeout
                app.health.health_threshold = facts.app.health_threshold
        _add_actors(reply, facts.actors())
        return reply

    async def get(self, call: HttpCall) -> Response:
        document = json_format.MessageToDict(self._describe())
        document["extended"] = dict(sorted(document["extended"].items()))  # a protobuf map has no order
        for item in document.get("subscriptions", ()):
            rules = item.pop("rules", None)
            if rules is not None:
                item["rules"] = rules.get("rules", [])
            item.setdefault("deadLetterTopic", "")
        if "scheduler" in document:
            document["scheduler"] = {"connected_addresses": document["scheduler"]["connectedAddresses"]}
        runtime = {"runtimeStatus": "INITIALIZING", "hostReady": False, **document.get("actorRuntime", {})}
        document["actorRuntime"] = runtime
        return Response(200, [JSON], orjson.dumps(document) + b"\n")

    def _store(self, key: str, value: str) -> None:
        if key not in self._labels and len(self._labels) >= MAX_LABELS:
            raise ApiError(TOO_MANY)
        self._labels[key] = value

    async def set(self, call: HttpCall) -> Response:
        try:
            value = call.body()
        except (BodyTooLarge, BodyIncomplete) as error:
            raise ApiError(BODY_READ, error=error) from error
        self._store(call.params[0], value.decode("utf-8", "replace"))
        return Response(204)

    async def rpc_get(self, call: RpcCall, request: m.GetMetadataRequest) -> Message:
        return self._describe()

    async def rpc_set(self, call: RpcCall, request: m.SetMetadataRequest) -> Message:
        if request.key:
            self._store(request.key, request.value)
        return wellknown.Empty()


def _add_actors(reply: m.GetMetadataResponse, facts: ActorFacts) -> None:
    """Tell of actors, their numbers twice: clients of long ago look for them at the top."""
    runtime = reply.actor_runtime
    runtime.runtime_status = m.ActorRuntime.ActorRuntimeStatus.Value(facts.status)
    runtime.host_ready, runtime.placement = facts.host_ready, facts.placement
    for actor_type, count in facts.active.items():
        runtime.active_actors.add(type=actor_type, count=count)
        reply.active_actors_count.add(type=actor_type, count=count)
