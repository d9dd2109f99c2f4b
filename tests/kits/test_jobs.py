"""Every storage of jobs passes the kit."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import pytest

from pillion import tasks
from pillion.components.jobs_postgresql import PostgresJobs
from pillion.components.jobs_sqlite import SqliteJobs
from pillion.jobs.machine import register
from pillion.kinds.jobs import Job, JobKey
from pillion.testing.job_store_kit import JobStoreKit
from pillion.testing.memory_jobs import Jobs, MemoryJobStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable, Sequence
    from pathlib import Path

    from servers import PostgresServer


class TestMemory(JobStoreKit):
    @asynccontextmanager
    async def stores(self) -> AsyncIterator[Callable[[], MemoryJobStore]]:
        jobs = Jobs()
        yield lambda: MemoryJobStore(jobs)


class TestSqlite(JobStoreKit):
    folder: Path

    @pytest.fixture(autouse=True)
    def _folder(self, tmp_path: Path) -> None:
        type(self).folder = tmp_path

    @asynccontextmanager
    async def stores(self) -> AsyncIterator[Callable[[], SqliteJobs]]:
        yield lambda: SqliteJobs(str(self.folder / "jobs.db"))


@pytest.mark.postgresql
class TestPostgres(JobStoreKit):
    server: PostgresServer

    @pytest.fixture(autouse=True)
    def _server(self, postgres_server: PostgresServer) -> None:
        type(self).server = postgres_server

    @asynccontextmanager
    async def stores(self) -> AsyncIterator[Callable[[], PostgresJobs]]:
        connection = await asyncpg.connect(self.server.url)
        await connection.execute("DROP TABLE IF EXISTS pillion_jobs, pillion_job_members, pillion_job_leases")
        await connection.close()
        yield lambda: PostgresJobs(self.server.dsn)

    def test_a_process_that_hangs_in_a_transaction(self) -> None:
        """Its locks are taken from it by the server, whatever form the connection string has."""

        async def run() -> None:
            for text in (self.server.dsn, self.server.url, self.server.url + "?application_name=x"):
                store = PostgresJobs(text)
                await store.open()
                try:
                    [[timeout]] = await store._pool.fetch("SHOW idle_in_transaction_session_timeout")
                    assert timeout == "3s"
                finally:
                    await store.close()

        asyncio.run(run())


def test_a_change_that_could_not_be_told_is_told_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever is told of another process's change may fail in a way that nobody expects."""
    monkeypatch.setattr(tasks, "FIRST_PAUSE_S", 0.001)

    async def main() -> None:
        one, two = SqliteJobs(str(tmp_path / "jobs.db")), SqliteJobs(str(tmp_path / "jobs.db"))
        told: list[list[str]] = []
        twice = asyncio.Event()

        def tell(keys: Sequence[str]) -> None:
            if not keys:
                return
            told.append(list(keys))
            if len(told) == 1:
                raise RuntimeError("nobody expects this")
            twice.set()

        await one.open()
        await two.open()
        try:
            one.changed(tell)
            key = JobKey("ns", "j", app_id="a")
            stored = register(key, Job(due_time="1h"), 0, 0.0)
            assert stored is not None
            assert await two.put(0, stored, overwrite=True)
            async with asyncio.timeout(90):
                await twice.wait()
            assert told == [[key.text], [key.text]]
        finally:
            await two.close()
            await one.close()

    asyncio.run(main())
