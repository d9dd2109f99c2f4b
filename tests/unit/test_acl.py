"""Access control, the decision (spec `runtime.md` 3.6): a pure table, and what no caller can do about it."""

from __future__ import annotations

from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillion.errors import Code
from pillion.kinds.config import AccessControl, AccessOperation, AccessPolicy
from pillion.net.exchange import RpcError
from pillion.security.acl import AccessRules, Caller, Decision, Trie, access_rules, caller_of, doubts, guard
from pillion.wire.methods import BadMethod, guarded

WHO = "spiffe://public/ns/default/caller"


def operation(name: str, verbs: str = "*", action: str = "allow") -> AccessOperation:
    return AccessOperation(name, tuple(verbs.split()), action)


def policy(*operations: AccessOperation, default: str = "", domain: str = "public") -> AccessPolicy:
    return AccessPolicy("caller", "default", domain, default, operations)


def rules(*policies: AccessPolicy, default: str = "deny", http: bool = True) -> AccessRules:
    return AccessRules(AccessControl(default, "public", policies), http=http)


@pytest.mark.parametrize(
    ("text", "caller"),
    [
        (WHO, Caller("public", "default", "caller")),
        ("spiffe://td.example/ns/a-b/x.y", Caller("td.example", "a-b", "x.y")),
        ("spiffe://public/ns/default/caller/", None),
        ("spiffe://public/ns/default/caller\n", None),
        ("spiffe://public/ns//caller", None),
        ("spiffe://public/caller", None),
        ("https://public/ns/default/caller", None),
        ("", None),
    ],
)
def test_a_spiffe_id_names_trust_domain_namespace_and_application(text: str, caller: Caller | None) -> None:
    """Nothing but the whole form is an identity."""
    assert caller_of(text) == caller


@pytest.mark.parametrize(
    ("names", "called", "found"),
    [
        (["/a"], "/a", "/a"),
        (["/a"], "/a/b/c", "/a"),  # a rule covers all below it
        (["/a"], "/ab", None),
        (["a"], "/a", "a"),
        (["/a/b", "/a"], "/a/b", "/a"),  # the rule of /a ends the search, whichever came first
        (["/a", "/a/b"], "/a/c", "/a"),
        (["/a/b"], "/a", None),
        (["/a/*"], "/a/b", "/a/*"),
        (["/a/*"], "/a", "/a/*"),  # `/a/*` covers `/a`
        (["/a/**"], "/a", "/a/**"),
        (["/a/*"], "/a/b/c", None),  # a lone * takes the last segment only
        (["/a/**"], "/a/b/c", "/a/**"),
        (["/x/*/y"], "/x/z/y", None),  # never matches
        (["/x/**/y"], "/x/z/y", "/x/**/y"),
        (["/x/**/y"], "/x/z/w", None),
        (["/or*er"], "/order", "/or*er"),
        (["/or*er"], "/or/er", None),
        (["/a*b*c/d"], "/a-b-b-c/d", "/a*b*c/d"),
        (["/ab*ba"], "/aba", None),  # the ends do not overlap
        (["/a*/x", "/abc/y"], "/abc/y", None),  # the first child that matches is taken, no way back
        (["/abc/y", "/a*/x"], "/abc/y", "/abc/y"),
        (["/a", "/a"], "/a", "/a"),
        (["/*"], "/", "/*"),
        (["/*"], "/a", "/*"),
        (["/"], "/", "/"),
        (["/"], "/a", None),
        ([], "/a", None),
    ],
)
def test_the_trie(names: list[str], called: str, found: str | None) -> None:
    """Insertion order, patterns, coverage: the rules of 3.6."""
    rule = Trie([operation(name) for name in names], fold=False).find(called)
    assert (rule.name if rule else None) == found


def test_of_a_repeated_rule_the_first_stays() -> None:
    rule = Trie([operation("/a", action="deny"), operation("/a")], fold=False).find("/a")
    assert rule is not None
    assert rule.action == "deny"


@pytest.mark.parametrize(
    ("default", "policies", "who", "method", "verb", "decision"),
    [
        # 1: malformed, and nobody
        ("allow", [], "spiffe://x", "a", "GET", (False, False)),
        ("allow", [policy(default="deny")], None, "a", "GET", (True, False)),
        ("deny", [policy(default="allow")], None, "a", "GET", (False, False)),
        # 2: no policy, another trust domain
        ("allow", [], WHO, "a", "GET", (True, False)),
        ("deny", [], WHO, "a", "GET", (False, False)),
        ("deny", [policy(default="allow", domain="other")], WHO, "a", "GET", (False, False)),
        # an explicit empty default denies where policies exist, and allows where none do
        ("", [policy()], WHO, "a", "GET", (False, False)),
        ("", [], WHO, "a", "GET", (True, False)),
        # 3 and 4: no rule matches
        ("deny", [policy(default="allow")], WHO, "a", "GET", (True, True)),
        ("allow", [policy(operation("/b", action="deny"))], WHO, "a", "GET", (True, False)),
        ("allow", [policy(operation("/a", action="deny"))], WHO, "A", "GET", (False, True)),  # case does not count
        # 5: verbs
        ("deny", [policy(operation("/a", "GET POST"))], WHO, "a", "POST", (True, True)),
        ("deny", [policy(operation("/a", "GET POST"))], WHO, "a", "PUT", (False, True)),
        ("allow", [policy(operation("/a", "GET", "deny"))], WHO, "a", "PUT", (True, True)),
        ("deny", [policy(operation("/a", "get"))], WHO, "a", "GET", (False, True)),
        ("deny", [policy(operation("/a", ""))], WHO, "a", "GET", (False, True)),
        ("allow", [policy(operation("/a"))], WHO, "a", "NONE", (False, True)),
        ("deny", [policy(operation("/a", action="deny"), default="allow")], WHO, "a", "NONE", (True, True)),
        # 6: allow in any case, anything else denies
        ("deny", [policy(operation("/a", action="ALLOW"))], WHO, "a", "GET", (True, True)),
        ("allow", [policy(operation("/a", action="yes"))], WHO, "a", "GET", (False, True)),
        ("Allow", [], WHO, "a", "GET", (True, False)),
    ],
)
def test_the_decision_for_http(
    default: str, policies: list[AccessPolicy], who: str | None, method: str, verb: str, decision: tuple[bool, bool]
) -> None:
    """Steps 1 to 6, for an application that speaks HTTP."""
    made = rules(*policies, default=default).decide(who, method, verb)
    assert (made.allowed, made.by_policy) == decision


def test_the_decision_for_grpc_knows_no_verbs_and_minds_case() -> None:
    """5: for a gRPC application the rule's action alone counts; the method is `/package.Service/Method`."""
    those = rules(policy(operation("/shop.Orders/Place", "")), http=False)
    assert those.decide(WHO, "/shop.Orders/Place", "NONE").allowed
    assert those.decide(WHO, "shop.Orders/Place", "POST").allowed
    assert not those.decide(WHO, "/shop.orders/place", "NONE").allowed


def test_rules_that_cannot_deny_are_absent() -> None:
    """What is off costs nothing."""
    assert access_rules(AccessControl(), "http") is None
    assert access_rules(AccessControl(""), "http") is None
    assert access_rules(AccessControl("deny"), "http") is not None
    assert access_rules(AccessControl("allow", "public", (policy(),)), "grpc") is not None


def test_a_denied_call_is_permission_denied_and_every_decision_is_counted() -> None:
    counted: list[Decision] = []
    authorize = guard(rules(policy(operation("/a"))), counted.append)
    authorize(WHO, "a", "GET")
    with pytest.raises(RpcError, match="denied access to id: spiffe://public/ns/default/caller operation: b") as caught:
        authorize(WHO, "b", "GET")
    assert caught.value.code == Code.PERMISSION_DENIED
    assert [(one.allowed, one.by_policy) for one in counted] == [(True, True), (False, False)]


def test_doubts_name_what_matches_no_call() -> None:
    """Rules without effect are told, not silently kept: they may have been meant to deny."""
    those = AccessControl(
        "allow",
        "public",
        (
            policy(
                operation("/x/*/y", "GET"), operation("/a/"), operation("/a%20b"), operation("/v", "get"),
                operation("/n", ""), operation("/fine/*"),
            ),
            policy(),
        ),
    )  # fmt: skip
    told = "\n".join(doubts(those, "http"))
    for part in (
        "default action (allow) decides",
        "'/x/*/y'",
        "'/a/'",
        "'/a%20b'",
        "write GET",
        "'/n' has no httpVerb",
        "more than once",
    ):
        assert part in told
    assert "fine" not in told
    assert len(told.splitlines()) == 7


PATHS = st.lists(st.sampled_from(["admin", "public", "..", ".", "", "a", "ADMIN", "%2e%2e", "%61dmin"]), max_size=6)


@given(PATHS, st.integers(0, 4), st.booleans())
def test_no_spelling_of_a_denied_path_passes(segments: list[str], rounds: int, everything: bool) -> None:
    """A path that an application would decode into one below /admin is denied, however it is written or escaped."""
    those = rules(policy(operation("/admin", action="deny"), default="allow"), default="allow")
    method = "/".join(segments)
    meant = guarded(method)
    below = meant.strip("/").lower().split("/")[0] == "admin"
    for _ in range(rounds):
        method = quote(method, safe="") if everything else method.replace("/", "%2F").replace("m", "%6d")
    try:
        seen = guarded(method)
    except BadMethod:
        return  # refused before any rule is asked
    assert those.decide(WHO, seen.lstrip("/"), "GET").allowed is not below


@given(st.text(max_size=40), st.text(max_size=40), st.sampled_from(["GET", "NONE", "POST"]))
def test_remembered_decisions_are_the_same(who: str, method: str, verb: str) -> None:
    """Asking twice changes nothing; strange text is no error."""
    those = rules(policy(operation("/a*"), operation("/**/b", "GET")))
    first = those.decide(who, method, verb)
    assert (
        those.decide(who, method, verb)
        == first
        == rules(policy(operation("/a*"), operation("/**/b", "GET"))).decide(who, method, verb)
    )
