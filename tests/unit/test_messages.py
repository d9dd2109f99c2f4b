"""The generated messages: fresh, complete, and at peace with the official package in the same process."""

from __future__ import annotations

import ast
import importlib
import re
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from google.protobuf import descriptor_pool, json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message_factory import GetMessageClass

from pillion.wire.messages import (
    _pool,
    common,
    internals,
    message_class,
    pool,
    rpc,
    runtime,
    services,
    taskhub,
    wellknown,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

    from google.protobuf.descriptor import Descriptor
    from google.protobuf.message import Message

ROOT = Path(__file__).resolve().parents[2]
MESSAGES = ROOT / "src" / "pillion" / "wire" / "messages"

# The official package of 1.19 against the schemas of 1.18: fields that came later ...
NEWER = {
    "dapr.proto.runtime.v1.ConversationRequestAlpha2": {"max_tokens"},
    "dapr.proto.runtime.v1.GetWorkflowRequest": {"app_id"},
    "dapr.proto.runtime.v1.PauseWorkflowRequest": {"app_id"},
    "dapr.proto.runtime.v1.PurgeWorkflowRequest": {"app_id"},
    "dapr.proto.runtime.v1.RaiseEventWorkflowRequest": {"app_id"},
    "dapr.proto.runtime.v1.ResumeWorkflowRequest": {"app_id"},
    "dapr.proto.runtime.v1.StartWorkflowRequest": {"app_id"},
    "dapr.proto.runtime.v1.SubscribeActorEventsResponseReminderRequestAlpha1": {"metadata"},
    "dapr.proto.runtime.v1.SubscribeActorEventsResponseTimerRequestAlpha1": {"metadata"},
    "dapr.proto.runtime.v1.TerminateWorkflowRequest": {"app_id"},
    "durabletask.protos.backend.v1.CreateWorkflowInstanceRequest": {"enforceUniqueInstanceId"},
    "ChildWorkflowInstanceCreatedEvent": {"retryParentInstanceInfo"},
    "CreateChildWorkflowAction": {"retryParentInstanceInfo"},
    "CreateInstanceRequest": {"enforceUniqueInstanceId", "router"},
    "GetInstanceRequest": {"router"},
    "PurgeInstancesRequest": {"router"},
    "RaiseEventRequest": {"router"},
    "RerunWorkflowFromEventRequest": {"router"},
    "ResumeRequest": {"router"},
    "SuspendRequest": {"router"},
    "TerminateRequest": {"router"},
    "WorkItem": {"healthPing"},
}
# ... and fields that it gave up and that older SDKs still send.
OLDER = {
    "CreateChildWorkflowAction": {"router"},
    "CreateDetachedWorkflowAction": {"router"},
    "ScheduleTaskAction": {"router"},
}


@cache
def official() -> descriptor_pool.DescriptorPool:
    """The default pool, with every schema of the official package imported into it."""
    for package in ("dapr.proto", "dapr.ext.workflow._durabletask.internal"):
        origin = importlib.import_module(package).__file__
        assert origin is not None
        folder = Path(origin).parent
        for path in sorted(folder.rglob("*_pb2.py")):
            inside = path.relative_to(folder).with_suffix("")
            importlib.import_module(".".join((package, *inside.parts)))
    return descriptor_pool.Default()


def all_messages() -> Iterator[Descriptor]:
    def walk(messages: Iterable[Descriptor]) -> Iterator[Descriptor]:
        for message in messages:
            yield message
            yield from walk(nested for nested in message.nested_types if not nested.GetOptions().map_entry)

    for file in _pool.files:
        yield from walk(file.message_types_by_name.values())


def shared_messages() -> Iterator[tuple[Descriptor, Descriptor]]:
    """Ours and theirs of every message that both know, well-known types excepted."""
    for ours in all_messages():
        if ours.file.package in {"google.protobuf", "google.rpc"} or ours.file.package.startswith(
            ("grpc.", "pillion.")
        ):
            continue
        try:
            yield ours, official().FindMessageTypeByName(ours.full_name)
        except KeyError:
            assert re.match(
                r"dapr\.proto\.(internals|components|placement|operator|sentry|scheduler|workflows)", ours.full_name
            )


def type_name(field: FieldDescriptor) -> str | None:
    kind = field.message_type or field.enum_type
    return kind.full_name if kind is not None else None


def shape(field: FieldDescriptor) -> tuple[object, ...]:
    group = field.containing_oneof.name if field.containing_oneof else None
    return field.name, field.type, field.is_repeated, field.has_presence, field.json_name, type_name(field), group


def fill(message: Message, depth: int = 3) -> None:
    """Put a value into every field that the official package knows too."""
    if isinstance(message, wellknown.Any):
        message.Pack(wellknown.StringValue(value="packed"))
        return
    if isinstance(message, wellknown.Struct):
        message.update({"key": ["value", 1.5, None, {"nested": True}]})
        return
    their = official().FindMessageTypeByName(message.DESCRIPTOR.full_name).fields_by_number
    samples: dict[int, object] = {
        FieldDescriptor.CPPTYPE_BOOL: True,
        FieldDescriptor.CPPTYPE_DOUBLE: 0.5,
        FieldDescriptor.CPPTYPE_ENUM: 1,
        FieldDescriptor.CPPTYPE_STRING: "text",
    }
    for field in message.DESCRIPTOR.fields:
        if field.number not in their:
            continue
        value = b"\x00\xff" if field.type == field.TYPE_BYTES else samples.get(field.cpp_type, 7)
        held = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            entry = field.message_type.fields_by_name
            key = "key" if entry["key"].cpp_type == FieldDescriptor.CPPTYPE_STRING else 7
            if entry["value"].message_type is None:
                held[key] = "text" if entry["value"].cpp_type == FieldDescriptor.CPPTYPE_STRING else 7
            elif depth:
                fill(held[key], depth - 1)
        elif field.message_type is not None:
            if depth:
                part = held.add() if field.is_repeated else held
                part.SetInParent()
                fill(part, depth - 1)
        elif field.is_repeated:
            held.append(value)
        else:
            setattr(message, field.name, value)


def test_bytes_and_json_agree_with_the_official_package() -> None:
    """What one side writes the other reads, writes back byte for byte, and spells the same in JSON."""
    seen = 0
    for ours, theirs in shared_messages():
        message = message_class(ours.full_name)()
        fill(message)
        data = message.SerializeToString(deterministic=True)
        other = GetMessageClass(theirs).FromString(data)
        assert other.SerializeToString(deterministic=True) == data, ours.full_name
        assert json_format.MessageToDict(message, descriptor_pool=pool) == json_format.MessageToDict(other)
        assert message_class(ours.full_name).FromString(data) == message
        seen += 1
    assert seen > 270


def test_fields_agree_with_the_official_package() -> None:
    """Number, name, type, label, presence, JSON name and oneof of every field that both know."""
    newer: dict[str, set[str]] = {}
    older: dict[str, set[str]] = {}
    for ours, theirs in shared_messages():
        here = {field.number: field for field in ours.fields}
        there = {field.number: field for field in theirs.fields}
        for number in here.keys() & there.keys():
            assert shape(here[number]) == shape(there[number]), ours.full_name
        if missing := there.keys() - here.keys():
            newer[ours.full_name] = {there[number].name for number in missing}
        if gone := here.keys() - there.keys():
            older[ours.full_name] = {here[number].name for number in gone}
    if not version("dapr").startswith("1.19."):
        pytest.skip("the lists of differences were made against 1.19")
    assert newer == NEWER
    assert older == OLDER


def test_services_agree_with_the_official_package() -> None:
    """Every method we serve is called the same, with the same types and the same streams, by the official client."""
    for name in (
        "dapr.proto.runtime.v1.Dapr",
        "dapr.proto.runtime.v1.AppCallback",
        "dapr.proto.runtime.v1.AppCallbackHealthCheck",
        "dapr.proto.runtime.v1.AppCallbackAlpha",
        "TaskHubSidecarService",
    ):
        theirs = {
            method.name: services.Method(
                method.input_type.full_name,
                method.output_type.full_name,
                method.client_streaming,
                method.server_streaming,
            )
            for method in official().FindServiceByName(name).methods
        }
        assert {method: theirs.get(method) for method in services.methods(name)} == services.methods(name)


def test_service_tables() -> None:
    """`grpc-messages.md`, Services: 18 of the API, the three that every gRPC server may have, and two of our own."""
    assert len(services.names()) == 24
    table = services.methods("dapr.proto.runtime.v1.Dapr")
    assert len(table) == 72
    assert table["SubscribeConfiguration"] == (
        "dapr.proto.runtime.v1.SubscribeConfigurationRequest",
        "dapr.proto.runtime.v1.SubscribeConfigurationResponse",
        False,
        True,
    )
    with pytest.raises(KeyError):
        services.methods("dapr.proto.runtime.v1.Nothing")


def test_counts() -> None:
    """`grpc-messages.md`: 425 messages and 1161 fields, and two copies of three fields in components.v1; of what came
    later a message and three fields, by which workers keep histories.
    """
    found = [m for m in all_messages() if not m.full_name.startswith(("google.", "grpc.", "pillion."))]
    assert len(found) == 425 + 2 + 1
    assert sum(len(m.fields) for m in found) == 1161 + 3 + 3


def test_json_names() -> None:
    """`grpc-messages.md`, Notation: lowerCamel, except where the schemas say otherwise."""
    odd = {
        f"{message.name}.{field.name}": field.json_name
        for message in all_messages()
        for field in message.fields
        if field.json_name != re.sub(r"_(.)", lambda match: match[1].upper(), field.name)
    }
    workflow = ("Start", "Get", "Purge", "Terminate", "Pause", "Resume", "RaiseEvent")
    assert odd == {
        **{f"{verb}WorkflowRequest.instance_id": "instanceID" for verb in workflow},
        "StartWorkflowResponse.instance_id": "instanceID",
        "GetWorkflowResponse.instance_id": "instanceID",
        "GetActorReminderRequest.actor_id": "actorID",
        "GetActorReminderResponse.actor_id": "actorID",
        "ActorReminder.actor_id": "actorID",
        "RegisterActorReminderRequest.failure_policy": "failure_policy",
        "PubsubSubscription.pubsub_name": "pubsubname",
        "GetMetadataResponse.active_actors_count": "actors",
        "GetMetadataResponse.registered_components": "components",
        "GetMetadataResponse.extended_metadata": "extended",
    }
    assert json_format.MessageToDict(runtime.GetWorkflowRequest(instance_id="a")) == {"instanceID": "a"}


def test_well_known_types_keep_their_methods() -> None:
    """The helpers of Any, Struct, Timestamp and Duration work on the classes of the private pool."""
    item = wellknown.Any()
    item.Pack(rpc.ErrorInfo(reason="R", domain="dapr.io", metadata={"a": "b"}))
    status = rpc.Status(code=5, message="gone", details=[item])
    info = rpc.ErrorInfo()
    assert item.TypeName() == "google.rpc.ErrorInfo"
    assert rpc.Status.FromString(status.SerializeToString()).details[0].Unpack(info)
    assert info.metadata == {"a": "b"}
    assert json_format.MessageToDict(status, descriptor_pool=pool)["details"][0]["reason"] == "R"

    struct = wellknown.Struct()
    struct.update({"a": [1, {"b": None}], "c": "d"})
    assert json_format.MessageToDict(struct) == {"a": [1.0, {"b": None}], "c": "d"}
    assert runtime.TopicEventRequest(extensions=struct).extensions["c"] == "d"

    moment = datetime(2026, 1, 2, 3, 4, 5, tzinfo=UTC)
    reminder = internals.Reminder()
    reminder.registered_time.FromDatetime(moment)
    assert reminder.registered_time.ToJsonString() == "2026-01-02T03:04:05Z"
    assert reminder.registered_time.ToDatetime(UTC) == moment
    policy = common.JobFailurePolicyConstant()
    policy.interval.FromTimedelta(timedelta(milliseconds=1500))
    assert policy.interval.ToJsonString() == "1.500s"


def test_the_pools_do_not_mix() -> None:
    """An object of the official package is refused where one of ours belongs, instead of being half understood."""
    theirs = GetMessageClass(official().FindMessageTypeByName("dapr.proto.common.v1.Etag"))
    assert theirs is not common.Etag
    with pytest.raises(TypeError):
        runtime.DeleteStateRequest(etag=theirs(value="1"))  # type: ignore[arg-type]


def test_presence_and_enums() -> None:
    """Optional scalars know whether they were set; enum values are attributes, nested ones of their message."""
    job = runtime.Job(name="a")
    assert not job.HasField("schedule")
    job.schedule = ""
    assert job.HasField("schedule")
    assert runtime.UnlockResponse.LOCK_BELONGS_TO_OTHERS == 2
    assert runtime.UnlockResponse.Status.Name(1) == "LOCK_DOES_NOT_EXIST"
    assert runtime.PubsubSubscriptionType.Value("STREAMING") == runtime.STREAMING == 3
    assert taskhub.OrchestrationStatus.Name(taskhub.ORCHESTRATION_STATUS_STALLED) == "ORCHESTRATION_STATUS_STALLED"
    event = taskhub.HistoryEvent(eventId=1, timerFired=taskhub.TimerFiredEvent(timerId=2))
    assert event.WhichOneof("eventType") == "timerFired"


def test_names_are_made_on_first_use() -> None:
    """Importing the modules makes no class and does not pull in `descriptor_pb2`; a wrong name is an AttributeError."""
    program = """
import sys
from pillion.wire.messages import runtime, taskhub
assert not [name for name in vars(runtime) if name.endswith("Request")]
assert "google.protobuf.descriptor_pb2" not in sys.modules
assert runtime.GetStateRequest is runtime.GetStateRequest is vars(runtime)["GetStateRequest"]
assert "GetStateResponse" in dir(runtime) and not hasattr(runtime, "Nothing")
"""
    subprocess.run([sys.executable, "-c", program], check=True)


def test_stubs_tell_the_truth() -> None:
    """Every class, attribute and parameter that a stub declares exists, and no message is missing from the stubs."""

    def declared(body: list[ast.stmt]) -> Iterator[tuple[str, ast.ClassDef | None]]:
        for node in body:
            if isinstance(node, ast.ClassDef):
                yield node.name, node
            elif isinstance(node, ast.AnnAssign) and isinstance(node.target, ast.Name):
                yield node.target.id, None
            elif isinstance(node, ast.FunctionDef) and not node.name.startswith("__"):
                yield node.name, None

    def check(owner: object, body: list[ast.stmt]) -> int:
        count = 0
        for name, nested in declared(body):
            if nested is not None:
                count += 1 + check(getattr(owner, name), nested.body)
            else:  # fields show on instances only
                assert hasattr(owner, name) or (isinstance(owner, type) and hasattr(owner(), name)), (owner, name)
        return count

    total = 0
    for stub in MESSAGES.glob("*.pyi"):
        module = importlib.import_module(f"pillion.wire.messages.{stub.stem}")
        total += check(module, ast.parse(stub.read_text()).body)
    assert total == len(list(all_messages()))


def test_generated_files_are_fresh(tmp_path: Path) -> None:
    """`scripts/generate` writes exactly what is committed."""
    pytest.importorskip("grpc_tools", reason="grpcio-tools compiles the schemas")
    subprocess.run([sys.executable, str(ROOT / "scripts" / "generate"), str(tmp_path)], check=True)
    made = {path.name: path.read_bytes() for path in tmp_path.iterdir()}
    kept = {path.name: path.read_bytes() for path in MESSAGES.iterdir() if path.is_file()}
    written = {"__init__.py", "_pool.py", "services.py"}
    assert made.keys() == kept.keys() - written
    assert [name for name, contents in made.items() if kept[name] != contents] == []
