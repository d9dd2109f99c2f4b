"""WorkflowAccessPolicy resources as rules (spec `runtime.md` 2.7). What is wrong with one is logged, and it is passed
over; knows fields and their limits, never what the rules mean (`workflow/policy.py`)."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

from pillion.errors import ConfigError
from pillion.kinds.fields import Fields
from pillion.workflow.policy import Policies, Rule, WorkflowRule

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pillion.kinds.resources import WorkflowAccessPolicyResource

log = logging.getLogger("pillion.sidecar.workflows")
OPERATIONS = frozenset({"schedule", "terminate", "raise", "pause", "resume", "purge", "get", "rerun"})


def policies_of(
    resources: Sequence[WorkflowAccessPolicyResource],
    app_id: str,
    namespace: str,
    told: Callable[[bool, str, str, str], None] | None = None,
) -> Policies | None:
    """Return the rules of all resources together; None when there is none that can be used: all is allowed then.

    `told`: as of `Policies`.
    """
    rules: list[Rule] = []
    usable = 0
    for resource in resources:
        notes: list[str] = []
        try:
            found = _rules(Fields(resource.node, "spec", notes))
        except ConfigError as error:
            log.warning("WorkflowAccessPolicy %s is passed over: %s", resource.name, error)
            continue
        for note in notes:
            log.warning("%s", note)
        usable += 1
        rules += found
    return Policies(app_id, namespace, tuple(rules), told) if usable else None


def _rules(spec: Fields) -> list[Rule]:
    found = []
    for entry in spec.items("rules"):
        callers = [caller.text("appID") for caller in entry.items("callers")]
        if not callers or not all(callers):
            raise entry.wrong("callers", "needs one appID or more, none of them empty")
        workflows = tuple(_workflow(each) for each in entry.items("workflows"))
        activities = tuple(each.text("name") for each in entry.items("activities"))
        if not workflows and not activities:
            raise entry.wrong("", "a rule needs workflows or activities")
        if not all(activities):
            raise entry.wrong("activities", "each needs a name")
        entry.done()
        found.append(Rule(frozenset(callers), workflows, activities))
    spec.done()
    return found


def _workflow(entry: Fields) -> WorkflowRule:
    name, operations = entry.text("name"), entry.texts("operations")
    if not name:
        raise entry.wrong("name", "is missing")
    unknown = [each for each in operations if each not in OPERATIONS]
    if not operations or unknown:
        what = f"{unknown[0]!r} is no operation" if unknown else "needs one operation or more"
        raise entry.wrong("operations", what, f"there are {', '.join(sorted(OPERATIONS))}")
    entry.done()
    return WorkflowRule(name, frozenset(operations))
