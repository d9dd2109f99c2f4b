"""`WorkflowAccessPolicy`: who may do what to this application's workflows (spec 3.10). Pure.

None loaded: everything is allowed. Otherwise what no rule names is denied. An application may do everything to its own
workflows; one of another namespace nothing. Results that come back to a workflow - of its activities, of its children -
are let through: they answer what this application itself began.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from functools import lru_cache
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable

ACCESS_DENIED = "WorkflowAccessPolicyDenied"
"""`errorType` of an activity or a child that a policy kept from running."""
DENIED_TEXT = "access denied by workflow access policy"


@dataclass(frozen=True, slots=True)
class WorkflowRule:
    """Workflows whose name matches the glob may be subjected to the operations: schedule, terminate, raise, pause,
    resume, purge, get, rerun.
    """

    name: str
    operations: frozenset[str]


@dataclass(frozen=True, slots=True)
class Rule:
    """What these callers, by app id, may do."""

    callers: frozenset[str]
    workflows: tuple[WorkflowRule, ...] = ()
    activities: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Policies:
    """All policies that are loaded for this application, as one list of rules. `told` hears of each decision: whether
    it allowed, the caller, the operation, and whether a workflow or an activity was meant.
    """

    app_id: str
    namespace: str
    rules: tuple[Rule, ...]
    told: Callable[[bool, str, str, str], None] | None = field(default=None, compare=False)

    def workflow(self, caller: str, namespace: str, operation: str, name: str) -> bool:
        """Whether `caller` may do `operation` to workflows called `name`."""
        return self._tell(self._workflow(caller, namespace, operation, name), caller, operation, "workflow")

    def activity(self, caller: str, namespace: str, name: str) -> bool:
        """Whether `caller` may run the activity `name` here."""
        return self._tell(self._activity(caller, namespace, name), caller, "schedule", "activity")

    def _tell(self, allowed: bool, caller: str, operation: str, kind: str) -> bool:
        if self.told is not None:
            self.told(allowed, caller, operation, kind)
        return allowed

    def _workflow(self, caller: str, namespace: str, operation: str, name: str) -> bool:
        if namespace and namespace != self.namespace:
            return False
        if caller == self.app_id:
            return True
        return any(
            operation in one.operations and _glob(one.name).fullmatch(name) is not None
            for rule in self.rules
            if caller in rule.callers
            for one in rule.workflows
        )

    def _activity(self, caller: str, namespace: str, name: str) -> bool:
        if namespace and namespace != self.namespace:
            return False
        if caller == self.app_id:
            return True
        return any(
            _glob(pattern).fullmatch(name) is not None
            for rule in self.rules
            if caller in rule.callers
            for pattern in rule.activities
        )


@lru_cache(maxsize=1024)
def _glob(pattern: str) -> re.Pattern[str]:
    """A shell glob in which `*` and `?` do not cross `/` (spec `runtime.md` 2.7)."""
    made = ""
    at = 0
    while at < len(pattern):
        sign = pattern[at]
        end = pattern.find("]", at + 2) if sign == "[" else -1
        if sign == "*":
            made += "[^/]*"
        elif sign == "?":
            made += "[^/]"
        elif end > 0:
            inside = pattern[at + 1 : end].replace("\\", "\\\\")
            made += f"[{inside}]"
            at = end
        else:
            made += re.escape(sign)
        at += 1
    return re.compile(made, re.DOTALL)
