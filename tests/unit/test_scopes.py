"""Key prefixes, topic scopes, secret scopes (spec `runtime.md` 7.1, 7.4, 3.7)."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillion.errors import ConfigError
from pillion.kinds.config import SecretScope
from pillion.kinds.keys import KeyPrefix
from pillion.security.scopes import SecretScopes, TopicScopes


@pytest.mark.parametrize(
    ("metadata", "namespace", "stored", "lock"),
    [
        ({}, "", "app||k", "lock||app||k"),
        ({"keyPrefix": ""}, "", "app||k", "lock||app||k"),
        ({"KEYPREFIX": "AppId"}, "ns", "app||k", "lock||app||k"),
        ({"keyPrefix": "name"}, "ns", "store||k", "lock||store||k"),
        ({"keyPrefix": "namespace"}, "ns", "ns.app||k", "lock||namespace||k"),
        ({"keyPrefix": "namespace"}, "", "app||k", "lock||namespace||k"),
        ({"keyPrefix": "none"}, "ns", "k", "lock||k"),
        ({"keyPrefix": "Shared"}, "ns", "shared||k", "lock||shared||k"),
    ],
)
def test_prefixes(metadata: dict[str, str], namespace: str, stored: str, lock: str) -> None:
    """The table of 7.1; locks know no namespace."""
    prefix = KeyPrefix.for_component(metadata, component="store", app_id="app", namespace=namespace)
    assert prefix.apply("k") == stored
    assert KeyPrefix.for_lock(metadata, component="store", app_id="app").apply("k") == lock


def test_separator_in_prefix() -> None:
    with pytest.raises(ConfigError, match=r"input key/keyPrefix 'a\|\|b' can't contain"):
        KeyPrefix.for_component({"keyPrefix": "a||b"}, component="store", app_id="app")


@given(
    st.text().filter(lambda key: "||" not in key and not key.startswith("|")),
    st.sampled_from(["", "name", "none", "x"]),
)
def test_strip_undoes_apply(key: str, strategy: str) -> None:
    prefix = KeyPrefix.for_component({"keyPrefix": strategy}, component="store", app_id="app")
    assert prefix.strip(prefix.apply(key)) == key


SCOPED = {"publishingScopes": "a=t1, t2; b=", "SubscriptionScopes": "a = t1;a=t3;odd"}


@pytest.mark.parametrize(
    ("metadata", "app", "publishes", "subscribes"),
    [
        ({}, "a", {"t1", "t2", "t3"}, {"t1", "t2", "t3"}),
        ({"AllowedTopics": "t1, t2"}, "a", {"t1", "t2"}, {"t1", "t2"}),
        ({"allowedTopics": ""}, "a", {"t1", "t2", "t3"}, {"t1", "t2", "t3"}),
        ({"protectedTopics": "t1"}, "a", {"t2", "t3"}, {"t2", "t3"}),
        (SCOPED, "a", {"t1", "t2"}, {"t1", "t3"}),
        (SCOPED, "b", set(), {"t1", "t2", "t3"}),
        (SCOPED, "c", {"t1", "t2", "t3"}, {"t1", "t2", "t3"}),
        ({**SCOPED, "protectedTopics": "t1"}, "a", {"t1", "t2"}, {"t1", "t3"}),
        ({**SCOPED, "protectedTopics": "t1"}, "c", {"t2", "t3"}, {"t2", "t3"}),
        ({**SCOPED, "allowedTopics": "t2"}, "a", {"t2"}, set()),
        ({**SCOPED, "allowedTopics": "t2", "protectedTopics": "t2"}, "c", set(), set()),
    ],
)
def test_topics(metadata: dict[str, str], app: str, publishes: set[str], subscribes: set[str]) -> None:
    """7.4: allowed, protected and scoped topics, and all of them together."""
    scopes = TopicScopes.parse(metadata, app)
    assert {topic for topic in ("t1", "t2", "t3") if scopes.may_publish(topic)} == publishes
    assert {topic for topic in ("t1", "t2", "t3") if scopes.may_subscribe(topic)} == subscribes


def test_malformed_scopes_are_told() -> None:
    assert TopicScopes.parse(SCOPED, "a").ignored == ("odd",)
    assert TopicScopes.parse({"publishingScopes": "a=b=c;;"}, "a").ignored == ("a=b=c",)


@pytest.mark.parametrize(
    ("scope", "allowed"),
    [
        (SecretScope("s"), {"a", "b"}),
        (SecretScope("s", allow_by_default=False), set()),
        (SecretScope("s", denied=frozenset("a")), {"b"}),
        (SecretScope("s", allow_by_default=False, allowed=frozenset("a")), {"a"}),
        (SecretScope("s", allowed=frozenset("a"), denied=frozenset("a")), {"a"}),
        (SecretScope("other", allow_by_default=False), {"a", "b"}),
    ],
)
def test_secrets(scope: SecretScope, allowed: set[str]) -> None:
    """3.7: a list of allowed secrets decides alone; a store without a scope is open."""
    scopes = SecretScopes.of([scope])
    assert {key for key in ("a", "b") if scopes.allows("s", key)} == allowed
