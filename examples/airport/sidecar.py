"""A sidecar over plain HTTP: the few calls that a service without an SDK needs, with what each answer means.

Knows: the paths of the API. Never knows: airports.
"""

from __future__ import annotations

import asyncio
import os
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import aiohttp

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

FIRST_WRITE = {"concurrency": "first-write"}


class Conflict(Exception):
    """Somebody else was faster: read again and try again."""


class Failed(Exception):
    """The sidecar could not do what it was asked; the text is its answer."""


class Sidecar:
    """The sidecar beside this application. `store` and `broker` are names that its operator has given a meaning."""

    def __init__(self, *, store: str = "statestore", broker: str = "pubsub") -> None:
        self._store, self._broker = store, broker
        connections = aiohttp.TCPConnector(limit=64)
        address = f"http://127.0.0.1:{os.environ['DAPR_HTTP_PORT']}/v1.0/"
        self._session = aiohttp.ClientSession(address, connector=connections)

    async def close(self) -> None:
        await self._session.close()

    async def ready(self) -> None:
        """Wait until the sidecar can be asked for something. Raises `TimeoutError` after a minute."""
        async with asyncio.timeout(60):
            while True:
                try:
                    async with self._session.get("healthz/outbound") as answer:
                        if answer.status == 204:
                            return
                except aiohttp.ClientConnectionError:
                    pass  # it may start later than this application
                await asyncio.sleep(0.1)

    async def bulk_get(self, keys: Iterable[str]) -> dict[str, tuple[Any, str]]:
        """Return value and ETag of the keys that exist."""
        found = await self._post(f"state/{self._store}/bulk", {"keys": list(keys), "parallelism": 10})
        for item in found:
            if error := item.get("error"):
                raise Failed(f"{item['key']}: {error}")
        return {item["key"]: (item["data"], item["etag"]) for item in found if "data" in item}

    async def save(self, values: Mapping[str, Any]) -> None:
        """Save values, whatever was there."""
        await self._post(f"state/{self._store}", [{"key": key, "value": value} for key, value in values.items()])

    async def create(self, key: str, value: Any) -> None:
        """Save a value where there is none. Raises `Conflict` where there is one.

        Without an ETag stores differ in what they call that: SQLite answers 409, Redis and PostgreSQL 500.
        """
        try:
            await self._post(f"state/{self._store}", [{"key": key, "value": value, "options": FIRST_WRITE}])
        except Failed as error:
            if await self.bulk_get([key]):
                raise Conflict(str(error)) from error
            raise

    async def transact(self, values: Iterable[tuple[str, Any, str]]) -> None:
        """Save (key, value, ETag) together or not at all; an empty ETag means whatever was there.

        Raises `Conflict` when a value is no longer the one its ETag belongs to.
        """
        operations = [
            {"operation": "upsert", "request": {"key": key, "value": value} | _guard(etag)}
            for key, value, etag in values
        ]
        await self._post(f"state/{self._store}/transaction", {"operations": operations})

    async def publish(self, topic: str, events: Mapping[str, Any]) -> set[str]:
        """Publish events by id to a topic; return the ids of those that failed."""
        entries = [
            {"entryId": each, "event": event, "contentType": "application/json"} for each, event in events.items()
        ]
        answer = await self._post(f"publish/bulk/{self._broker}/{topic}", entries, accept=500)
        return {entry["entryId"] for entry in (answer or {}).get("failedEntries", ())}

    async def act(self, kind: str, each: str, method: str, given: Any) -> Any:
        """Call a method of an actor, wherever it lives."""
        return await self._post(f"actors/{kind}/{quote(each, safe='')}/method/{method}", given)

    async def secret(self, store: str, key: str) -> str:
        async with self._session.get(f"secrets/{store}/{key}") as answer:
            if answer.status != 200:
                raise Failed(await answer.text())
            value: str = (await answer.json())[key]
            return value

    async def _post(self, path: str, body: object, *, accept: int = 200) -> Any:
        async with self._session.post(path, json=body) as answer:
            if answer.status == 204:
                return None
            said = await answer.text()
            if answer.status in (200, accept) and "json" in answer.content_type:
                result = await answer.json()
                if answer.status == 200 or "failedEntries" in result:
                    return result
            # A save answers 409. A transaction answers 500 for whatever failed, and only its text tells why.
            if answer.status == 409 or ("ERR_STATE_TRANSACTION" in said and "etag" in said.lower()):
                raise Conflict(said)
            raise Failed(f"{path}: {answer.status} {said}")


def _guard(etag: str) -> dict[str, Any]:
    return {"etag": etag, "options": FIRST_WRITE} if etag else {}
