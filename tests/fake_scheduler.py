"""A scheduler in memory that fires when a test says so: the protocol's and the sidecar's tests need no clock."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING

from pillion.kinds.jobs import Interest, Job, JobExists, JobInvalid, JobKey, Outcome, Trigger

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Sequence

    Deliver = Callable[[Trigger], Awaitable[Outcome]]


class FakeWatch:
    def __init__(self, scheduler: FakeScheduler, interest: Interest, deliver: Deliver) -> None:
        self._scheduler, self.interest, self.deliver = scheduler, interest, deliver

    def close(self) -> None:
        if self in self._scheduler.watches:
            self._scheduler.watches.remove(self)
            self._scheduler.news()

    def takes(self, key: JobKey) -> bool:
        wanted = self.interest
        if key.namespace != wanted.namespace:
            return False
        return key.actor_type in wanted.actor_types if key.actor_type else wanted.jobs and key.app_id == wanted.app_id


class FakeScheduler:
    """`fire` offers a job to the watches in turn."""

    def __init__(self) -> None:
        self.jobs: dict[JobKey, Job] = {}
        self.watches: list[FakeWatch] = []
        self.changed = asyncio.Event()
        self.closed = False
        self._turn = 0

    def news(self) -> None:
        self.changed.set()
        self.changed = asyncio.Event()

    async def until(self, holds: Callable[[list[FakeWatch]], bool]) -> None:
        """Wait until `holds` says so of the watches."""
        async with asyncio.timeout(90):
            while not holds(self.watches):
                await self.changed.wait()

    async def schedule(self, key: JobKey, job: Job, *, overwrite: bool = False) -> None:
        if not (job.schedule or job.due_time):
            raise JobInvalid("neither schedule nor due time")
        if key in self.jobs and not overwrite:
            raise JobExists(f"job already exists: '{key.text}'")
        self.jobs[key] = job

    async def get(self, key: JobKey) -> Job | None:
        return self.jobs.get(key)

    async def delete(self, key: JobKey) -> None:
        self.jobs.pop(key, None)

    async def delete_many(self, keys: Sequence[JobKey]) -> None:
        for key in keys:
            await self.delete(key)

    async def list_jobs(self, namespace: str, app_id: str, prefix: str = "") -> list[tuple[JobKey, Job]]:
        return [
            (key, job)
            for key, job in sorted(self.jobs.items(), key=lambda row: row[0].text)
            if not key.actor_type and (key.namespace, key.app_id) == (namespace, app_id) and key.name.startswith(prefix)
        ]

    async def list_reminders(
        self, namespace: str, actor_type: str, actor_id: str | None = None
    ) -> list[tuple[JobKey, Job]]:
        return [
            (key, job)
            for key, job in sorted(self.jobs.items(), key=lambda row: row[0].text)
            if (key.namespace, key.actor_type) == (namespace, actor_type) and actor_id in (None, key.actor_id)
        ]

    async def delete_jobs(self, namespace: str, app_id: str, prefix: str = "") -> None:
        for key, _ in await self.list_jobs(namespace, app_id, prefix):
            del self.jobs[key]

    async def delete_reminders(self, namespace: str, actor_type: str, actor_id: str | None = None) -> None:
        for key, _ in await self.list_reminders(namespace, actor_type, actor_id):
            del self.jobs[key]

    def watch(self, interest: Interest, deliver: Deliver) -> FakeWatch:
        watch = FakeWatch(self, interest, deliver)
        self.watches.append(watch)
        self.news()
        return watch

    async def fire(self, key: JobKey) -> Outcome:
        """Offer one tick to one watch; nobody there: undeliverable."""
        takers = [watch for watch in self.watches if watch.takes(key)]
        if not takers:
            return Outcome.UNDELIVERABLE
        self._turn += 1
        job = self.jobs.get(key, Job())
        trigger = Trigger(key, job.payload, 0.0, job.concurrency_key)
        return await takers[self._turn % len(takers)].deliver(trigger)

    async def close(self) -> None:
        self.closed = True
