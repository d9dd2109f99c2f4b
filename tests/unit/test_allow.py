"""API allow and deny lists (spec `runtime.md` 3.5): which routes and methods a rule names."""

from __future__ import annotations

import pytest

from pillion.api.allow import DAPR, GrpcRules, HttpRules, grpc_key
from pillion.kinds.config import ApiRule
from pillion.wire.messages import services

STATE = "v1.0/state/{store}/{key}"
QUERY = "v1.0-alpha1/state/{store}/query"
KEYS = "v1.0-pillion/state/{store}/keys"


def rules(*texts: str, protocol: str = "http") -> list[ApiRule]:
    """`name@version` each."""
    return [ApiRule(name, version, protocol) for name, _, version in (text.rpartition("@") for text in texts)]


@pytest.mark.parametrize(
    ("allowed", "denied", "opened", "closed"),
    [
        (["state@v1"], [], [STATE], [QUERY, "v1.0/invoke/{rest*}", "v1.0/metadata"]),
        (["state@v1alpha1"], [], [QUERY], [STATE]),
        (["state@v1.0"], [], [STATE], [QUERY]),  # a prefix of the template
        (["state@v1.0-alpha1"], [], [QUERY], [STATE]),
        (["state/{store}/{key}@v1.0"], [], [STATE], ["v1.0/state/{store}"]),
        (["st@v1.0"], [], [STATE], ["v1.0/publish/{pubsub}/{topic*}"]),  # any prefix, also inside a segment
        (["st@v1"], [], [], [STATE]),  # a group is named whole
        ([], ["state@v1"], [QUERY, "v1.0/metadata"], [STATE]),
        (["state@v1"], ["state@v1"], [], [STATE]),  # denied wins
        (["state@v1"], ["healthz@v1"], ["v1.0/healthz", "v1.0/healthz/outbound"], []),  # health is always open
        (["conversation@v1alpha2"], [], ["v1.0-alpha2/conversation/{n}/converse"], [STATE]),
        (["workflows@v1beta1"], [], ["v1.0-beta1/workflows/{c}/{i}"], ["v1.0/workflows/{c}/{i}"]),
        (["state@v1"], [], [STATE, KEYS], [QUERY]),  # what we add to a block follows the block's rules
        ([], ["state@v1.0"], [QUERY], [STATE, KEYS]),
        ([], ["state@v1.0-pillion"], [STATE, QUERY], [KEYS]),
        ([], [], [STATE, QUERY], []),
    ],
)
def test_http_rules(allowed: list[str], denied: list[str], opened: list[str], closed: list[str]) -> None:
    """`version/name` is a group of one version or a prefix of the route."""
    made = HttpRules(rules(*allowed), rules(*denied, protocol="HTTP"))
    assert [path for path in opened + closed if made.open(path)] == opened
    assert bool(made) is bool(allowed or denied)


def test_rules_of_one_protocol_do_not_touch_the_other() -> None:
    assert not HttpRules(rules("state@v1", protocol="grpc"), [])
    assert not GrpcRules(rules("state@v1", protocol="http"), rules("state@v1", protocol="GRPC"))
    assert not GrpcRules(rules("nobody@v1", protocol="grpc"), [])  # no rule resolves: all open


EXPECTED = {
    "invoke.v1": {"InvokeService"},
    "state.v1": {
        "GetState", "GetBulkState", "SaveState", "DeleteState", "DeleteBulkState", "ExecuteStateTransaction",
    },
    "state.v1alpha1": {"QueryStateAlpha1"},
    "publish.v1": {"PublishEvent", "BulkPublishEvent"},
    "publish.v1alpha1": {"BulkPublishEventAlpha1"},
    "subscribe.v1alpha1": {"SubscribeTopicEventsAlpha1"},
    "bindings.v1": {"InvokeBinding"},
    "secrets.v1": {"GetSecret", "GetBulkSecret"},
    "actors.v1alpha1": {"SubscribeActorEventsAlpha1"},
    "metadata.v1": {"GetMetadata", "SetMetadata"},
    "configuration.v1": {"GetConfiguration", "SubscribeConfiguration", "UnsubscribeConfiguration"},
    "lock.v1alpha1": {"TryLockAlpha1"},
    "unlock.v1alpha1": {"UnlockAlpha1"},
    "crypto.v1alpha1": {"EncryptAlpha1", "DecryptAlpha1"},
    "shutdown.v1": {"Shutdown"},
    "conversation.v1alpha1": {"ConverseAlpha1"},
    "conversation.v1alpha2": {"ConverseAlpha2"},
}  # fmt: skip


def test_every_grpc_method_has_one_key() -> None:
    """No method of the service is out of reach of a rule; the keys of the specification name what it lists."""
    found: dict[str, set[str]] = {}
    for method in services.methods(DAPR):
        found.setdefault(grpc_key(method), set()).add(method)
    assert "" not in found
    assert EXPECTED.items() <= found.items()
    assert set(found) - set(EXPECTED) == {
        "actors.v1", "configuration.v1alpha1", "subtlecrypto.v1alpha1", "workflows.v1alpha1", "workflows.v1beta1",
        "jobs.v1", "jobs.v1alpha1",
    }  # fmt: skip
    assert {"GetActorState", "InvokeActor", "ExecuteActorStateTransaction"} <= found["actors.v1"]


def test_grpc_rules() -> None:
    """Denied wins; an allowed key closes all else of the package, known or not, and nothing outside of it."""
    made = GrpcRules(rules("state@v1", "invoke@v1", protocol="grpc"), rules("invoke@v1", "x@v1", protocol="grpc"))
    assert made.open(f"/{DAPR}/GetState")
    assert not made.open(f"/{DAPR}/InvokeService")
    assert not made.open(f"/{DAPR}/GetSecret")
    assert not made.open(f"/{DAPR}/SomethingNew")
    assert made.open("/shop.Orders/Place")
    assert made.open("/TaskHubSidecarService/Hello")
    assert made.open("/pillion.state.v1.State/ListKeys")
    assert not GrpcRules(rules("invoke@v1", protocol="grpc"), []).open("/pillion.state.v1.State/ListKeys")
    assert not GrpcRules([], rules("state@v1", protocol="grpc")).open("/pillion.state.v1.State/ListKeys")
