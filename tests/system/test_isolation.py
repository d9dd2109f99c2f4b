"""Nothing leaks between applications, scopes and namespaces, whatever names are chosen."""

from __future__ import annotations

import json
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import pytest
from hypothesis import HealthCheck, assume, given, settings
from hypothesis import strategies as st

from sidecars import SidecarProcess, component, sidecars

if TYPE_CHECKING:
    from collections.abc import Iterator

APPS = ("shop", "shop-1", "shop-1-2")
"""Each is the beginning of the next."""
ODD = st.sampled_from(
    ["shop", "shop-1", "-1", "|", "shop|", "%", "..", ".", "*", "?", "[a]", "_", "\\", "'", '"', "é", "e\u0301", "K"]
)
NAMES = ODD | st.text(min_size=1, max_size=10).filter(lambda name: "||" not in name and "\x00" not in name)
NAMES = NAMES.filter(lambda name: name.encode("utf-8", "replace").decode() == name)
ALLOWED = ("orders", "a/b")


def quick(examples: int) -> settings:
    checks = [HealthCheck.function_scoped_fixture, HealthCheck.too_slow, HealthCheck.filter_too_much]
    return settings(max_examples=examples, deadline=None, suppress_health_check=checks)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[SidecarProcess, ...]]:
    """Three applications on the same files; the last of them in another namespace."""
    folder = tmp_path_factory.mktemp("isolation")
    (folder / "secrets.json").write_text(json.dumps({"open": "1", "opener": "2", "Open ": "3"}))

    def file(name: str) -> dict[str, str]:
        return {"connectionString": str(folder / f"{name}.db")}

    resources = {
        "all.yaml": "---\n".join(
            [
                component("state", "state.sqlite", **file("state")),
                component("locks", "lock.sqlite", **file("locks")),
                component("spaced", "state.sqlite", **file("spaced"), keyPrefix="namespace"),
                component("pubsub", "pubsub.sqlite", **file("pubsub"), allowedTopics=",".join(ALLOWED)),
                component("vault", "secretstores.local.file", secretsFile=str(folder / "secrets.json")),
            ]
        )
    }
    config = folder / "config.yaml"
    config.write_text(
        "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\nspec:\n  secrets:\n    scopes:\n"
        "    - {storeName: vault, defaultAccess: deny, allowedSecrets: [open]}\n"
    )
    each = [
        SidecarProcess(
            folder, app_id, resources=resources, arguments=["--config", str(config)],
            env={"NAMESPACE": "other" if app_id == APPS[-1] else "default"},
        )
        for app_id in APPS
    ]  # fmt: skip
    with sidecars(*each) as running:
        yield running


def escaped(name: str) -> str:
    """A name as one segment of a path; dots too, which would lead elsewhere."""
    return quote(name, safe="").replace(".", "%2E")


def saved(sidecar: SidecarProcess, store: str, key: str) -> Any:
    reply = sidecar.request("GET", f"/v1.0/state/{store}/{escaped(key)}")
    assert reply.status in (200, 204), reply
    return reply.json() if reply.status == 200 else None


@quick(60)
@given(key=NAMES, store=st.sampled_from(["state", "spaced"]))
def test_state_is_the_application_s(three: tuple[SidecarProcess, ...], key: str, store: str) -> None:
    """Same keys, three values: by every way to read one. What one deletes, the others keep."""
    for one in three:
        value = [{"key": key, "value": {"of": one.app_id}}]
        assert one.post_json(f"/v1.0/state/{store}", value).status == 204
    for one in three:
        assert saved(one, store, key) == {"of": one.app_id}
        [item] = one.post_json(f"/v1.0/state/{store}/bulk", {"keys": [key]}).json()
        assert (item["key"], item["data"]) == (key, {"of": one.app_id})
        listed = one.request("GET", f"/v1.0-pillion/state/{store}/keys?prefix={quote(key)}")
        assert listed.status == 200, listed
        for found in listed.json()["keys"]:
            assert found.startswith(key)
            assert saved(one, store, found) == {"of": one.app_id}
    first, *others = three
    operations = {"operations": [{"operation": "delete", "request": {"key": key}}]}
    assert first.post_json(f"/v1.0/state/{store}/transaction", operations).status == 204
    assert saved(first, store, key) is None
    assert [saved(one, store, key) for one in others] == [{"of": one.app_id} for one in others]


@quick(60)
@given(resource=NAMES)
def test_locks_are_the_application_s(three: tuple[SidecarProcess, ...], resource: str) -> None:
    held = {"resourceId": resource, "lockOwner": "me", "expiryInSeconds": 60}
    for one in three:
        assert one.post_json("/v1.0-alpha1/lock/locks", held).body == b'{"success":true}'
    assert three[0].post_json("/v1.0-alpha1/unlock/locks", held).body == b'{"status":0}'
    for one in three[1:]:
        assert one.post_json("/v1.0-alpha1/lock/locks", held).body == b'{"success":false}'
        assert one.post_json("/v1.0-alpha1/unlock/locks", held).body == b'{"status":0}'


TOPICS = NAMES | st.sampled_from(
    [
        "orders ",
        " orders",
        "Orders",
        "orders/",
        "/orders",
        "a",
        "a/b/",
        "a//b",
        "a/./b",
        "orders\n",
        "order",
        "orders,a/b",
    ]
)


@quick(120)
@given(topic=TOPICS)
def test_topics_that_are_not_allowed(three: tuple[SidecarProcess, ...], topic: str) -> None:
    """Exactly the topics that are listed, over every way to publish."""
    cleaned = "/".join(part for part in topic.split("/") if part not in ("", "."))
    assume(".." not in topic.split("/"))
    plain = three[0].post_json("/v1.0/publish/pubsub/" + quote(topic, safe="/"), {})
    assert (plain.status == 204) == (cleaned in ALLOWED), (topic, plain)
    bulk = [{"entryId": "1", "event": {}, "contentType": "application/json"}]
    several = three[0].post_json("/v1.0/publish/bulk/pubsub/" + escaped(topic), bulk)
    assert (several.status == 204) == (topic in ALLOWED), (topic, several)


@quick(80)
@given(name=NAMES | st.sampled_from(["open ", " open", "Open", "OPEN", "opener", "open/", "ope", "open\n", "Open "]))
def test_secrets_that_are_not_allowed(three: tuple[SidecarProcess, ...], name: str) -> None:
    assume(name not in ("open", "bulk"))
    reply = three[0].request("GET", f"/v1.0/secrets/vault/{escaped(name)}")
    assert (reply.status, reply.json()["errorCode"]) == (403, "ERR_PERMISSION_DENIED"), (name, reply)
    assert three[0].request("GET", "/v1.0/secrets/vault/bulk").json() == {"open": {"open": "1"}}
    assert three[0].request("GET", "/v1.0/secrets/vault/open").json() == {"open": "1"}
