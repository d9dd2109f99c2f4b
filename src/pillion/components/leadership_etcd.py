"""Leadership by etcd 3.4 or later: a key that lives as long as a lease.

Knows: etcd's JSON gateway (etcd.io/docs/v3.5/dev-guide/api_grpc_gateway). Never knows: what is led.

The holder vouches for itself until `MARGIN_S` before its lease can have expired, counted by its own monotonic clock
from the moment it *sent* the last renewal that was granted: etcd counts from its receipt, which is later.
"""

from __future__ import annotations

import asyncio
import base64
import contextlib
import json
import logging
import ssl
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

from pillion.components.candidacy import RETRY_S, Candidacy
from pillion.components.leadership_file import APART
from pillion.errors import ComponentError, ConfigError
from pillion.net.exchange import BodyIncomplete, Request
from pillion.net.http_client import HttpClient, HttpError

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from pillion.clock import Clock

log = logging.getLogger("pillion.components.leadership")
TTL_S, RENEW_S, MARGIN_S = 10, 2.0, 2.0
CALL_S = 3.0
WATCH_S = 60.0
"""A watch that says nothing for so long is begun anew: its connection may be dead without our knowing."""
_LOST = (ComponentError, HttpError, BodyIncomplete, OSError, TimeoutError, ValueError, LookupError, TypeError)


class EtcdLease(Candidacy):
    """A `Leadership` by the key `key`. `endpoints` are URLs, tried in turn; `ca_file` verifies `https` ones.

    `client` makes the client of one of them.
    """

    def __init__(
        self,
        endpoints: Sequence[str],
        clock: Clock,
        *,
        key: str = "pillion/placement/leader",
        identity: str = "",
        username: str = "",
        password: str = "",
        ca_file: str = "",
        client: Callable[..., HttpClient] = HttpClient,
    ) -> None:
        if not endpoints:
            raise ConfigError("leadership by etcd needs an endpoint")
        super().__init__("etcd", clock, _LOST)
        self._endpoints = [_endpoint(endpoint) for endpoint in endpoints]
        self._key, self._identity = _b64(key), _b64(identity or "pillion")
        self._term_key = _b64(f"{key}/term")
        self._user = {"name": username, "password": password} if username else None
        self._ca_file, self._client_of = ca_file, client
        self._client: HttpClient | None = None
        self._token = b""
        self._lease = ""

    async def open(self) -> None:
        """An etcd that is not there yet is waited for by `elected`."""
        await self._next()

    async def _turn_elsewhere(self) -> None:
        await self._next()

    # -- one candidacy ------------------------------------------------------------------------------------------------

    async def _stand(self) -> int:
        while True:
            asked = self._clock.monotonic()
            self._lease = str((await self._call("lease/grant", {"TTL": TTL_S}))["ID"])
            term, revision = await self._take()
            if term:
                self._lead(asked + TTL_S - MARGIN_S, self._renew)
                return term
            await self._revoke()
            await self._vacancy(revision)

    async def _take(self) -> tuple[int, int]:
        """Try to put the key. Return the term, 0 when another leads, and the store's revision then."""
        found = await self._call("kv/range", {"key": self._term_key})
        rows = found.get("kvs", [])
        before = int(_text(rows[0]["value"])) if rows else 0
        seen = rows[0]["mod_revision"] if rows else "0"
        term = max(before + APART, int(self._clock.now() * 1000))
        answer = await self._call(
            "kv/txn",
            {
                "compare": [
                    {"key": self._key, "target": "CREATE", "createRevision": "0"},
                    {"key": self._term_key, "target": "MOD", "modRevision": seen},
                ],
                "success": [
                    {"requestPut": {"key": self._key, "value": self._identity, "lease": self._lease}},
                    {"requestPut": {"key": self._term_key, "value": _b64(str(term))}},
                ],
            },
        )
        self.inherited = before > 0
        return (term if answer.get("succeeded") else 0), int(answer["header"]["revision"])

    async def _vacancy(self, revision: int) -> None:
        """Wait until the leader's key is gone, or a watch ends without word of it."""
        if not (await self._call("kv/range", {"key": self._key})).get("kvs"):
            return
        body = {"create_request": {"key": self._key, "start_revision": str(revision + 1)}}
        assert self._client is not None
        response = await self._client.request(self._request("watch", body), timeout_s=CALL_S)
        stream = response.body
        if isinstance(stream, bytes):
            return
        try:
            async with asyncio.timeout(WATCH_S):
                text = b""
                async for piece in stream:
                    text = (text + piece)[-65536:]
                    if b'"DELETE"' in text:
                        return
        except TimeoutError:
            return
        finally:
            if (close := getattr(stream, "aclose", None)) is not None:
                await close()

    async def _renew(self) -> None:
        while True:
            await asyncio.sleep(RENEW_S)
            await self._renewed()

    async def _renewed(self) -> None:
        """Renew the lease; try again, elsewhere, as long as it still vouches for us."""
        while True:
            asked = self._clock.monotonic()
            left = self._vouched_until - asked
            if left <= 0:
                raise TimeoutError("the lease was not renewed in time")
            try:
                async with asyncio.timeout(min(left, CALL_S)):
                    answer = await self._call("lease/keepalive", {"ID": self._lease})
            except _LOST as error:
                log.warning("leadership: etcd: %s", error or type(error).__name__)
                await asyncio.sleep(min(max(left, 0.0), RETRY_S / 4))
                await self._next()
                continue
            if int(answer.get("result", {}).get("TTL", 0)) <= 0:
                raise ComponentError("the lease has expired")
            self._vouched_until = asked + TTL_S - MARGIN_S
            return

    async def _revoke(self) -> None:
        with contextlib.suppress(*_LOST):  # it expires by itself
            await self._call("lease/revoke", {"ID": self._lease})

    async def close(self) -> None:
        await self._tasks.close()
        if self._leads:
            self._leads = False
            await self._revoke()
        if self._client is not None:
            await self._client.close()
            self._client = None

    # -- calls --------------------------------------------------------------------------------------------------------

    async def _next(self) -> None:
        """Turn to the next endpoint."""
        if self._client is not None:
            await self._client.close()
        self._endpoints.append(self._endpoints.pop(0))
        host, port, tls = self._endpoints[-1]
        context = ssl.create_default_context(cafile=self._ca_file or None) if tls else None
        self._client = self._client_of(host, port, tls=context, connect_timeout_s=CALL_S)
        self._token = b""

    def _request(self, path: str, body: dict[str, Any]) -> Request:
        headers = [(b"content-type", b"application/json")]
        if self._token:
            headers.append((b"authorization", self._token))
        return Request("POST", f"/v3/{path}".encode(), headers, json.dumps(body).encode())

    async def _call(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert self._client is not None
        if self._user is not None and not self._token:
            self._token = str((await self._send("auth/authenticate", self._user))["token"]).encode()
        return await self._send(path, body)

    async def _send(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        assert self._client is not None
        response = await self._client.request(self._request(path, body), timeout_s=CALL_S)
        content = (
            response.body if isinstance(response.body, bytes) else b"".join([each async for each in response.body])
        )
        if response.status != 200:
            self._token = b""
            raise ComponentError(f"{path} answered {response.status}: {content[:200].decode('utf-8', 'replace')}")
        try:
            found = json.loads(content)
        except ValueError as error:
            raise ComponentError(f"{path} answered what is no JSON") from error
        if not isinstance(found, dict):
            raise ComponentError(f"{path} answered what is no object")
        return found


def _endpoint(text: str) -> tuple[str, int, bool]:
    url = urlsplit(text if "://" in text else f"http://{text}")
    if url.scheme not in ("http", "https") or not url.hostname:
        raise ConfigError(f"{text!r} is no endpoint of etcd", mend="write http://host:2379")
    return url.hostname, url.port or 2379, url.scheme == "https"


def _b64(text: str) -> str:
    return base64.b64encode(text.encode()).decode()


def _text(value: str) -> str:
    return base64.b64decode(value).decode()
