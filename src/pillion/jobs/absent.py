"""The scheduler of a sidecar that was told of none: every call says so."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NoReturn

from pillion.kinds.jobs import SchedulerUnavailable

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

    from pillion.kinds.jobs import Interest, Outcome, Trigger, Watch

DISABLED = "scheduler clients are disabled"


class AbsentScheduler:
    """Satisfies `Scheduler`."""

    async def _refuse(self, *_: Any, **__: Any) -> NoReturn:
        raise SchedulerUnavailable(DISABLED)

    schedule = get = delete = delete_many = list_jobs = list_reminders = delete_jobs = delete_reminders = _refuse

    def watch(self, interest: Interest, deliver: Callable[[Trigger], Awaitable[Outcome]]) -> Watch:
        """Nothing will ever come."""
        return _Nothing()

    async def close(self) -> None:
        pass


class _Nothing:
    def close(self) -> None:
        pass
