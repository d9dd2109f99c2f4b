"""Every storage of jobs passes the kit."""

from __future__ import annotations

from contextlib import asynccontextmanager
from typing import TYPE_CHECKING

import asyncpg
import pytest

from pillion.components.jobs_postgresql import PostgresJobs
from pillion.components.jobs_sqlite import SqliteJobs
from pillion.testing.job_store_kit import JobStoreKit
from pillion.testing.memory_jobs import Jobs, MemoryJobStore

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Callable
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
