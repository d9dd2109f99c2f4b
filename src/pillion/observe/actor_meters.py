"""Meters of actors: those of their host and those of its place among others (spec `actors-workflows-jobs.md` 1.13)."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pillion.observe.metrics import Family, Number, Registry


class ActorMeter:
    """The `Meter` of the host of actors. Types are few: the application names them."""

    def __init__(self, registry: Registry) -> None:
        self._rebalanced = registry.number("runtime_actor_rebalanced_total")
        self._deactivated = registry.number("runtime_actor_deactivated_total")
        self._not_deactivated = registry.number("runtime_actor_deactivated_failed_total")
        self._pending = registry.number("runtime_actor_pending_actor_calls")
        self._timers = registry.number("runtime_actor_timers")
        self._timers_fired = registry.number("runtime_actor_timers_fired_total")
        self._reminders_fired = registry.number("runtime_actor_reminders_fired_total")

    def rebalanced(self, actor_type: str) -> None:
        self._rebalanced.child(actor_type).value += 1

    def deactivated(self, actor_type: str, *, success: bool) -> None:
        (self._deactivated if success else self._not_deactivated).child(actor_type).value += 1

    def pending(self, actor_type: str, change: int) -> None:
        self._pending.child(actor_type).value += change

    def timers(self, actor_type: str, change: int) -> None:
        self._timers.child(actor_type).value += change

    def timer_fired(self, actor_type: str, *, success: bool) -> None:
        _fired(self._timers_fired, actor_type, success)

    def reminder_fired(self, actor_type: str, *, success: bool) -> None:
        _fired(self._reminders_fired, actor_type, success)


class PlacementMeter:
    """The `Meter` of a sidecar's membership. A report is of all types at once: the label stays empty."""

    def __init__(self, registry: Registry) -> None:
        self._reported = registry.number("runtime_actor_status_report_total")
        self._failed = registry.number("runtime_actor_status_report_fail_total")
        self._ordered = registry.number("runtime_actor_table_operation_recv_total")

    def reported(self, operation: str) -> None:
        self._reported.child("", operation).value += 1

    def report_failed(self, reason: str) -> None:
        self._failed.child("", "send", reason).value += 1

    def ordered(self, operation: str) -> None:
        self._ordered.child("", operation).value += 1


def _fired(family: Family[Number], actor_type: str, success: bool) -> None:
    family.child(actor_type, "true" if success else "false").value += 1
