"""Meters of jobs: those of a sidecar and those of a scheduler (spec `runtime.md` 6.1, `control-plane.md` 5.2)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.kinds.jobs import Outcome

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

    from pillion.observe.metrics import Registry

OPERATION = "job_trigger_op"


class JobMeter:
    """What the application makes of its jobs."""

    def __init__(self, registry: Registry) -> None:
        self._done = registry.number("component_job_success_count")
        self._failed = registry.number("component_job_failure_count")
        self._latencies = registry.histogram("component_job_latencies")

    def job(self, success: bool, elapsed_ms: float) -> None:
        (self._done if success else self._failed).child(OPERATION).value += 1
        self._latencies.child(OPERATION, "true" if success else "false").observe(elapsed_ms)


class SchedulerMeter:
    """What a scheduler registers, fires and serves. `kind` is "job", "actor" or "unknown".

    `gates`, once it is set, tells how many triggers are inside each concurrency gate, and how many wait.
    """

    def __init__(self, registry: Registry) -> None:
        self.gates: Callable[[], Mapping[str, tuple[int, int]]] = dict
        registry.collect(self._measure)
        self._sidecars = registry.number("scheduler_sidecars_connected")
        self._created = registry.number("scheduler_jobs_created_total")
        self._not_created = registry.number("scheduler_jobs_created_failed_total")
        self._deleted = registry.number("scheduler_jobs_deleted_total")
        self._deleted_many = registry.number("scheduler_jobs_bulk_deleted_total")
        self._triggered = registry.number("scheduler_jobs_triggered_total")
        self._failed = registry.number("scheduler_jobs_failed_total")
        self._undelivered = registry.number("scheduler_jobs_undelivered_total")
        self._latency = registry.histogram("scheduler_trigger_latency")
        self._inside = registry.number("scheduler_concurrency_inflight")
        self._pending = registry.number("scheduler_concurrency_pending")
        self._throttled = registry.number("scheduler_concurrency_throttled_total")
        self._errors = registry.number("scheduler_sidecar_errors_total")

    def _measure(self) -> str:
        """Look at the gates when somebody asks for the metrics; one that is gone stands at 0."""
        standing = self.gates()
        for family, at in ((self._inside, 0), (self._pending, 1)):
            for (key,), series in family.series.items():
                if key not in standing:
                    series.value = 0
            for key, counts in standing.items():
                family.child(key).value = counts[at]
        return ""

    def created(self, kind: str) -> None:
        self._created.child(kind).value += 1

    def not_created(self, kind: str) -> None:
        self._not_created.child(kind).value += 1

    def deleted(self, kind: str) -> None:
        self._deleted.child(kind).value += 1

    def deleted_many(self) -> None:
        self._deleted_many.child().value += 1

    def sidecars(self, number: int) -> None:
        self._sidecars.child().value = number

    def sidecar_error(self, reason: str) -> None:
        self._errors.child(reason).value += 1

    def triggered(self, kind: str) -> None:
        self._triggered.child(kind).value += 1

    def answered(self, kind: str, outcome: Outcome, seconds: float) -> None:
        """`seconds` passed between the trigger and its end."""
        if outcome is Outcome.UNDELIVERABLE:
            self._undelivered.child(kind).value += 1
            return
        if outcome is Outcome.FAILED:
            self._failed.child(kind).value += 1
        self._latency.child(kind).observe(seconds * 1000)

    def throttled(self, concurrency_key: str) -> None:
        self._throttled.child(concurrency_key).value += 1
