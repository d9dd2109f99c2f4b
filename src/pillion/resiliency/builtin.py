"""The retry policies that are there without a resource, and what may override them (spec `runtime.md` 4.3)."""

from __future__ import annotations

from dataclasses import replace
from enum import StrEnum
from typing import TYPE_CHECKING

from pillion.resiliency.machine import GROWTH, INITIAL_S, SPREAD, TOTAL_S, Retry

if TYPE_CHECKING:
    from collections.abc import Mapping


class BuiltIn(StrEnum):
    """Their names. A `retries` entry of the same name overrides one, ACTOR_NOT_FOUND excepted."""

    SERVICE = "DaprBuiltInServiceRetries"
    ACTOR = "DaprBuiltInActorRetries"
    REMINDER = "DaprBuiltInActorReminderRetries"
    INITIALIZATION = "DaprBuiltInInitializationRetries"
    ACTOR_NOT_FOUND = "DaprBuiltInActorNotFoundRetries"


BUILT_IN: Mapping[BuiltIn, Retry] = {
    BuiltIn.SERVICE: Retry(BuiltIn.SERVICE.value, 3, 1.0),
    BuiltIn.ACTOR: Retry(BuiltIn.ACTOR.value, 3, 1.0),
    BuiltIn.REMINDER: Retry(BuiltIn.REMINDER.value, 0, INITIAL_S, GROWTH, SPREAD, 60.0, TOTAL_S),
    BuiltIn.INITIALIZATION: Retry(BuiltIn.INITIALIZATION.value, 3, INITIAL_S, GROWTH, 0.0, 1.0, 10.0),
    BuiltIn.ACTOR_NOT_FOUND: Retry(BuiltIn.ACTOR_NOT_FOUND.value, 5, 1.0),
}
LEAST_RETRIES = 3
"""Of one that is overridden; "unlimited" is lowered to it too, as in the reference."""


def overridden(declared: Mapping[str, Retry], notes: list[str]) -> dict[BuiltIn, Retry]:
    """Return the built-in policies as resources have them; `notes` hears of what was not taken as written."""
    found = dict(BUILT_IN)
    for name in BuiltIn:
        given = declared.get(name)
        if given is None:
            continue
        if name is BuiltIn.ACTOR_NOT_FOUND:
            notes.append(f"Resiliency: the retry policy {name} cannot be overridden; ignored")
            continue
        if given.limit < LEAST_RETRIES:
            notes.append(f"Resiliency: the retry policy {name} makes {LEAST_RETRIES} retries, not {given.limit}")
            given = replace(given, limit=LEAST_RETRIES)
        found[name] = given
    return found
