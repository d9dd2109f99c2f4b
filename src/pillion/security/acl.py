"""Access rules for calls from other applications (spec `runtime.md` 3.6), decided by the called side.

Knows: policies, the rule trie and who a SPIFFE id names. Never knows: how calls arrive or where an identity comes from;
methods are given in the form of `wire.methods.guarded`, so that escapes hide nothing.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pillion.errors import Code
from pillion.net.exchange import RpcError
from pillion.records import record
from pillion.wire.methods import BadMethod, guarded

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable

    from pillion.kinds.config import AccessControl, AccessOperation, AccessPolicy

HTTP_PROTOCOLS = frozenset(("http", "https", "h2c"))
REMEMBERED = 4096
"""Decisions that are kept: calls repeat, and a decision depends on nothing but the call and the rules."""
MEMORABLE = 256
"""Characters of a method whose decision is kept."""
ALLOW = "allow"


@record
class Caller:
    """Who calls, as its certificate says."""

    trust_domain: str
    namespace: str
    app_id: str


@record
class Decision:
    """What became of a call. `by_policy`: the caller's own policy decided, not the global default (metrics tell)."""

    allowed: bool
    by_policy: bool
    caller: Caller | None = None


_SPIFFE_ID = re.compile(r"spiffe://([^/\s]+)/ns/([^/\s]+)/([^/\s]+)")


def caller_of(spiffe_id: str) -> Caller | None:
    """Return whom `spiffe://<trust domain>/ns/<namespace>/<app id>` names, None for any other text."""
    match = _SPIFFE_ID.fullmatch(spiffe_id)
    return None if match is None else Caller(*match.groups())


class Trie:
    """The operations of one policy, segment by segment. What comes first in the list is tried first."""

    def __init__(self, rules: Iterable[AccessOperation], *, fold: bool) -> None:
        self._root = _Node("")
        self._fold = fold
        for rule in rules:
            node = self._root
            for segment in _segments(rule.name.lower() if fold else rule.name):
                node = node.child(segment)
            if node.rule is None:  # of a repeated name the first rule stays
                node.rule = rule

    def find(self, operation: str) -> AccessOperation | None:
        """Return the rule for an operation, or None. The first child that matches is taken; there is no way back.

        A rule covers all that lies below it, and `/a/*` covers `/a` too.
        """
        segments = _segments(operation.lower() if self._fold else operation)
        node: _Node | None = self._root
        last = len(segments) - 1
        for at, segment in enumerate(segments):
            assert node is not None
            node = next((child for child in node.children if child.matches(segment, at == last)), None)
            if node is None:
                return None
            if node.rule is not None:
                return node.rule
        assert node is not None
        return next((child.rule for child in node.children if child.name in ("*", "**") and child.rule), None)


class _Node:
    __slots__ = ("_pattern", "children", "name", "rule")

    def __init__(self, name: str) -> None:
        self.name = name
        self.children: list[_Node] = []
        self.rule: AccessOperation | None = None
        self._pattern: list[str] | None = name.split("*") if "*" in name and name not in ("*", "**") else None

    def child(self, name: str) -> _Node:
        for known in self.children:
            if known.name == name:
                return known
        node = _Node(name)
        self.children.append(node)
        return node

    def matches(self, segment: str, last: bool) -> bool:
        """A lone `*` takes a last segment only, `**` any; inside a segment `*` is any run of characters."""
        if self.name == segment or self.name == "**":
            return True
        if self.name == "*":
            return last
        return self._pattern is not None and _like(self._pattern, segment)


def _like(parts: list[str], text: str) -> bool:
    """Whether `text` is made of `parts` in order with anything in between: each is taken where it first occurs.

    Linear in the text for each part, unlike a regular expression with several stars.
    """
    first, *middle, last = parts
    if len(text) < len(first) + len(last) or not text.startswith(first) or not text.endswith(last):
        return False
    at, end = len(first), len(text) - len(last)
    for part in middle:
        at = text.find(part, at, end)
        if at < 0:
            return False
        at += len(part)
    return True


def _segments(operation: str) -> list[str]:
    return (operation if operation[:1] == "/" else "/" + operation)[1:].split("/")


class AccessRules:
    """The access rules of one application. `http`: the application speaks HTTP, so verbs count and case does not."""

    def __init__(self, control: AccessControl, *, http: bool) -> None:
        self._http = http
        default = control.default_action
        self._default = default or ("deny" if control.policies else ALLOW)
        self._policies: dict[tuple[str, str], tuple[AccessPolicy, Trie]] = {}
        for policy in control.policies:
            self._policies[policy.app_id, policy.namespace] = (policy, Trie(policy.operations, fold=http))
        self._seen: dict[tuple[str | None, str, str], Decision] = {}

    def decide(self, spiffe_id: str | None, method: str, verb: str) -> Decision:
        """Decide on a call. `method` is guarded, its first `/` may be missing; `verb` is upper case, or "NONE"."""
        key = (spiffe_id, method, verb)
        known = self._seen.get(key)
        if known is None:
            known = self._decide(spiffe_id, method, verb)
            if len(method) <= MEMORABLE:
                if len(self._seen) >= REMEMBERED:
                    self._seen.clear()
                self._seen[key] = known
        return known

    def _decide(self, spiffe_id: str | None, method: str, verb: str) -> Decision:
        by_default = _permits(self._default)
        if spiffe_id is None:
            return Decision(by_default, by_policy=False)
        caller = caller_of(spiffe_id)
        if caller is None:
            return Decision(False, by_policy=False)
        found = self._policies.get((caller.app_id, caller.namespace))
        if found is None or found[0].trust_domain != caller.trust_domain:
            return Decision(by_default, by_policy=False, caller=caller)
        policy, trie = found
        action = policy.default_action or self._default
        rule = trie.find(method if method[:1] == "/" else "/" + method)
        if rule is None:
            return Decision(_permits(action), bool(policy.default_action), caller)
        if not self._http:
            action = rule.action
        elif verb == "NONE":
            action = policy.default_action
        elif verb in rule.verbs or "*" in rule.verbs:
            action = rule.action
        return Decision(_permits(action), by_policy=True, caller=caller)

    def __repr__(self) -> str:
        return f"<AccessRules default {self._default}, policies for {sorted(self._policies)}>"


def _permits(action: str) -> bool:
    return action.lower() == ALLOW


def access_rules(control: AccessControl, protocol: str) -> AccessRules | None:
    """Return the rules for an application that speaks `protocol`, None when they could never deny anything."""
    if not control.policies and (control.default_action or ALLOW).lower() == ALLOW:
        return None
    return AccessRules(control, http=protocol in HTTP_PROTOCOLS)


def guard(
    rules: AccessRules, count: Callable[[Decision], None] | None = None
) -> Callable[[str | None, str, str], None]:
    """Return a function that raises `RpcError` for a call the rules deny; `count` is told of each decision."""
    decide = rules.decide

    def authorize(spiffe_id: str | None, method: str, verb: str) -> None:
        decision = decide(spiffe_id, method, verb)
        if count is not None:
            count(decision)
        if not decision.allowed:
            who = spiffe_id or "an application without identity"
            text = f"access control policy has denied access to id: {who} operation: {method} verb: {verb}"
            raise RpcError(Code.PERMISSION_DENIED, text)

    return authorize


def doubts(control: AccessControl, protocol: str) -> list[str]:
    """Return what an operator should hear: rules that can never match, and policies that hide one another."""
    found: list[str] = []
    if control.policies:  # mutual TLS is not offered yet
        default = control.default_action or "deny"
        found.append(
            "accessControl: without mutual TLS callers have no identity: no policy of an application applies, "
            f"the default action ({default}) decides every call"
        )
    seen: set[tuple[str, str]] = set()
    for policy in control.policies:
        where = f"accessControl: the policy of {policy.app_id} in {policy.namespace}"
        if (policy.app_id, policy.namespace) in seen:
            found.append(f"{where}: is given more than once; the last one counts")
        seen.add((policy.app_id, policy.namespace))
        for rule in policy.operations:
            if (why := _unreachable(rule.name)) is not None:
                found.append(f"{where}: the operation {rule.name!r} matches no call: {why}")
            if protocol in HTTP_PROTOCOLS:
                found += [
                    f"{where}: the verb {verb!r} of {rule.name!r} matches no call (write {verb.upper()})"
                    for verb in rule.verbs
                    if verb != verb.upper()
                ]
                if not rule.verbs:
                    found.append(f"{where}: the operation {rule.name!r} has no httpVerb; the default action counts")
    return found


def _unreachable(name: str) -> str | None:
    *inner, last = _segments(name)
    if "*" in inner:
        return "a lone * stands for the last segment only (use **)"
    if not last and inner:
        return "calls carry no / at their end"
    try:
        if guarded(name).lstrip("/") != name.lstrip("/"):
            return f"calls carry the decoded, cleaned path (write {guarded(name)})"
    except BadMethod as error:
        return str(error)
    return None
