"""Redis for components: one node, a master found by sentinels, or a cluster - the same few calls for all three.

    client = RedisClient(settings, where="component statestore")
    await client.open()
    value = await client.call(key, "HGET", key, "data", safe=True)     # the first argument routes in a cluster
    done = await client.run(SCRIPT, [key], [b"argument"])              # EVALSHA, or EVAL when the server forgot it
    link = await client.own_link(stream, read_s=block_s + 3)           # for commands that block; the caller closes it
    await client.close()

`call` and `run` return futures: many of them made in one turn of the event loop leave in one write. Errors are those of
`redis_link`: `RedisError` (refused), `Unreachable` (not sent), `Interrupted` (outcome unknown).

Knows: where commands go. Never knows: what they are for.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
from binascii import crc_hqx
from dataclasses import replace
from typing import TYPE_CHECKING, Any

from pillion.components.redis_link import Command, Denied, Link, Part, RedisError, Unreachable, pack
from pillion.components.redis_settings import Dialing, RedisSettings, addresses, dialing
from pillion.errors import ComponentError
from pillion.tasks import Tasks

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Iterable, Sequence

log = logging.getLogger("pillion.components.redis")

SLOTS = 16384
MAX_REDIRECTS = 8
"""How often one command follows MOVED, ASK and the like before its caller hears of it."""
REFRESH_PAUSE_S = 0.5
"""Least time between two questions for the map of the cluster."""


def slot_of(key: bytes | str) -> int:
    """Return the hash slot of a key (redis.io/docs/reference/cluster-spec: CRC16 of the key or of its `{tag}`)."""
    raw = key.encode() if isinstance(key, str) else key
    start = raw.find(b"{")
    if start >= 0:
        end = raw.find(b"}", start + 1)
        if end > start + 1:
            raw = raw[start + 1 : end]
    return crc_hqx(raw, 0) % SLOTS


class Script:
    """A Lua script, called by the hash of its text. Made once, at import."""

    known: dict[bytes, Script] = {}  # noqa: RUF012 - the registry of all scripts, by hash

    def __init__(self, text: str) -> None:
        self.text = text.strip().encode()
        self.sha = hashlib.sha1(self.text, usedforsecurity=False).hexdigest().encode()
        self.known[self.sha] = self


_EVALSHA = b"$7\r\nEVALSHA\r\n$40\r\n"


def spelled_out(packed: bytes) -> bytes | None:
    """Return the EVAL that says the same as a packed EVALSHA; None when it is no EVALSHA of ours."""
    start = packed.find(b"\r\n") + 2
    sha_at = start + len(_EVALSHA)
    script = Script.known.get(packed[sha_at : sha_at + 40]) if packed[start:sha_at] == _EVALSHA else None
    if script is None:
        return None
    head = b"$4\r\nEVAL\r\n$%d\r\n%b" % (len(script.text), script.text)
    return packed[:start] + head + packed[sha_at + 40 :]


class RedisClient:
    """The commands of one component. `open` connects and learns the topology."""

    def __init__(self, settings: RedisSettings, where: str) -> None:
        self._dialing = dialing(settings, where)
        self._seeds = addresses(settings, where)
        self.is_cluster = settings.redis_type == "cluster"
        self._sentinel_name = settings.sentinel_master_name if settings.failover else ""
        self._sentinel_dialing = replace(
            self._dialing, username=settings.sentinel_username, password=settings.sentinel_password, database=0
        )
        self._tasks = Tasks(where)
        self._links: dict[tuple[str, int], Link] = {}
        self._only: Link | None = None
        self._slots: list[Link] = []
        self._refreshing: asyncio.Task[None] | None = None
        self._last_refresh = float("-inf")
        self._loop: asyncio.AbstractEventLoop

    @property
    def dialing(self) -> Dialing:
        """How connections are made, for those that this client does not make itself."""
        return self._dialing

    # --- life ---

    async def open(self) -> None:
        self._loop = asyncio.get_running_loop()
        if self.is_cluster:
            await self._learn_map()
            return
        locate = self._ask_sentinels if self._sentinel_name else _fixed(*self._seeds[0])
        self._only = self._new_link(locate)
        await self._only.open()

    async def close(self) -> None:
        await self._tasks.close()
        links = [*self._links.values(), *([self._only] if self._only else [])]
        self._links, self._only, self._slots = {}, None, []
        for link in links:
            await link.close()

    async def ping(self) -> None:
        for link in self.masters():
            await link.call("PING", safe=True)

    # --- commands ---

    def link_for(self, key: bytes | str) -> Link:
        """Return the shared link to the server that has `key`; raises `Unreachable` before `open`."""
        if self._only is not None:
            return self._only
        if not self._slots:
            raise Unreachable("redis: the client is not open")
        return self._slots[slot_of(key)]

    def masters(self) -> list[Link]:
        """Return the links to all masters: one, unless this is a cluster."""
        if self._only is not None:
            return [self._only]
        if not self._slots:
            raise Unreachable("redis: the client is not open")
        return list(dict.fromkeys(self._slots))

    def call(self, key: bytes | str, *parts: Part, safe: bool = False) -> asyncio.Future[Any]:
        """Send a command to the server that has `key`. `safe`: it may be executed twice (reads)."""
        return self.link_for(key).send(pack(parts), safe)

    def run(
        self, script: Script, keys: Sequence[bytes | str], arguments: Iterable[Part], *, safe: bool = False
    ) -> asyncio.Future[Any]:
        """Run a script where its first key is; all keys must have the same slot in a cluster."""
        packed = pack((b"EVALSHA", script.sha, len(keys), *keys, *arguments))
        return self.link_for(keys[0]).send(packed, safe)

    async def scan(self, pattern: str, *, limit: int) -> list[bytes]:
        """Return all keys that match a glob, from every master, in no order; more than `limit` is an error."""
        found: set[bytes] = set()
        for link in self.masters():
            cursor = b"0"
            while True:
                cursor, keys = await link.call("SCAN", cursor, "MATCH", pattern, "COUNT", 1000, safe=True)
                found.update(keys)
                if len(found) > limit:
                    raise ComponentError(f"redis: more than {limit} keys match")
                if cursor == b"0":
                    break
        return list(found)

    async def own_link(self, key: bytes | str, *, read_s: float | None = None) -> Link:
        """Return a new open link to the server that has `key`: for commands that block. The caller closes it.

        `read_s` is how long the server may stay silent: the blocking time and some more.
        """
        link = self._new_link(self.locator(key), read_s)
        try:
            await link.open()
        except BaseException:
            await link.close()
            raise
        return link

    def locator(self, key: bytes | str) -> Callable[[], Awaitable[tuple[str, int]]]:
        """Return what tells the address of the server that has `key`, anew for each attempt to connect."""

        async def locate() -> tuple[str, int]:
            self._refresh_soon()
            return next(address for address, link in self._links.items() if link is self.link_for(key))

        if self.is_cluster:
            return locate
        return self._ask_sentinels if self._sentinel_name else _fixed(*self._seeds[0])

    def _new_link(self, locate: Callable[[], Awaitable[tuple[str, int]]], read_s: float | None = None) -> Link:
        return Link(
            locate,
            self._dialing,
            refusals=self._refused,
            must_be_master=bool(self._sentinel_name),
            read_s=read_s,
        )

    # --- error answers that are no errors yet: none of these commands was executed ---

    def _refused(self, link: Link, command: Command, text: str) -> bool:
        future, packed, safe, tries = command
        if tries >= MAX_REDIRECTS:
            return False
        again = (future, packed, safe, tries + 1)
        code, _, rest = text.partition(" ")
        if code == "NOSCRIPT" and (whole := spelled_out(packed)) is not None:
            link.submit((future, whole, safe, tries + 1))
            return True
        if code == "READONLY" and self._only is not None:
            link.reset("the server has become a replica")
            link.hold(again)
            return True
        if code in ("MOVED", "ASK") and self.is_cluster:
            slot, _, address = rest.partition(" ")
            target = self._link_to(address, link)
            if target is None:
                return False
            if code == "MOVED":
                if self._slots and slot.isdecimal() and len(slot) < 6 and int(slot) < SLOTS:
                    self._slots[int(slot)] = target
                self._refresh_soon()
            else:
                asking: asyncio.Future[Any] = self._loop.create_future()
                asking.add_done_callback(_ignore)
                target.submit((asking, _ASKING, False, MAX_REDIRECTS))
            target.submit(again)
            return True
        if code in ("CLUSTERDOWN", "TRYAGAIN", "LOADING"):
            self._refresh_soon()
            # Growing pauses that add up to the time that a call waits for a connection.
            pause_s = self._dialing.dial_s / 2 ** (MAX_REDIRECTS - tries)
            self._loop.call_later(pause_s, link.submit, again)
            return True
        return False

    # --- sentinels ---

    async def _ask_sentinels(self) -> tuple[str, int]:
        """Return the master's address; the sentinel that knew it is asked first next time."""
        trouble: list[str] = []
        for number, (host, port) in enumerate(self._seeds):
            link = Link(_fixed(host, port), replace(self._sentinel_dialing, dial_s=self._dialing.dial_s / 2))
            try:
                await link.open()
                reply = await link.call("SENTINEL", "GET-MASTER-ADDR-BY-NAME", self._sentinel_name, safe=True)
            except ComponentError as error:
                trouble.append(str(error))
                continue
            finally:
                await link.close()
            if not reply:
                trouble.append(f"{host}:{port} does not know {self._sentinel_name!r}")
            elif (master := _address(reply)) is None:
                trouble.append(f"{host}:{port} tells an address that is none")
            else:
                self._seeds.insert(0, self._seeds.pop(number))
                return master
        raise Unreachable(f"redis: no sentinel tells the master: {'; '.join(trouble)}")

    # --- the map of a cluster ---

    def _link_to(self, address: str, asked: Link) -> Link | None:
        """Return the link to `host:port` of a redirection; an empty host means the server that was asked."""
        host, _, port = address.rpartition(":")
        if not port.isdecimal() or len(port) > 5 or not 0 < int(port) < 65536:
            return None
        if not host:
            host = next((known[0] for known, link in self._links.items() if link is asked), "")
        return self._link_at(host.removeprefix("[").removesuffix("]"), int(port)) if host else None

    def _link_at(self, host: str, port: int) -> Link:
        link = self._links.get((host, port))
        if link is None:

            async def locate() -> tuple[str, int]:
                self._refresh_soon()  # a lost node may mean that another has taken its slots
                return host, port

            link = self._links[host, port] = self._new_link(locate)
        return link

    def _refresh_soon(self) -> None:
        if self._refreshing is None and self._slots:
            self._refreshing = self._tasks.start(self._refresh(), "map of the cluster")

    async def _refresh(self) -> None:
        try:
            await asyncio.sleep(max(self._last_refresh + REFRESH_PAUSE_S - self._loop.time(), 0))
            await self._learn_map()
        except ComponentError as error:
            log.warning("redis: the map of the cluster could not be read: %s", error)
        finally:
            self._last_refresh = self._loop.time()
            self._refreshing = None

    async def _learn_map(self) -> None:
        """Ask one node after the other for the owners of the slots; raises `Unreachable` when none tells."""
        trouble: list[str] = []
        for host, port in dict.fromkeys((*self._links, *self._seeds)):
            link = Link(_fixed(host, port), replace(self._dialing, dial_s=self._dialing.dial_s / 2))
            try:
                await link.open()
                reply = await link.call("CLUSTER", "SLOTS", safe=True)
            except Denied:
                raise
            except ComponentError as error:
                trouble.append(str(error))
                continue
            finally:
                await link.close()
            if self._take_map(reply, host):
                return
            trouble.append(f"{host}:{port} has no owner for some slots")
        raise Unreachable(f"redis: no node tells the map of the cluster: {'; '.join(trouble)}")

    def _take_map(self, reply: Any, asked: str) -> bool:
        """Keep the answer of CLUSTER SLOTS: `[first, last, [host, port, …], replicas…]…`; False if it has gaps."""
        owners: list[tuple[str, int] | None] = [None] * SLOTS
        for row in reply if isinstance(reply, list) else ():
            match row:
                case [int(first), int(last), [host, port, *_], *_] if 0 <= first <= last < SLOTS:
                    owners[first : last + 1] = [_address([asked.encode() if host in (b"", None) else host, port])] * (
                        last + 1 - first
                    )
                case _:
                    return False
        if None in owners:
            return False
        self._slots = [self._link_at(*owner) for owner in owners if owner is not None]
        used = set(map(id, self._slots))
        for address in [address for address, link in self._links.items() if id(link) not in used]:
            self._tasks.start(self._links.pop(address).close(), f"leave {address}")
        return True

    def __repr__(self) -> str:
        return f"<RedisClient {self._only or list(self._links.values())}>"


_ASKING: bytes = pack((b"ASKING",))


def _address(told: Any) -> tuple[str, int] | None:
    """Return the host and port that a server tells, None when they are none."""
    try:
        host, port = told
        found = (host.decode(), int(port))
    except (TypeError, ValueError, AttributeError):
        return None
    return found if found[0] and 0 < found[1] < 65536 else None


def _fixed(host: str, port: int) -> Callable[[], Awaitable[tuple[str, int]]]:
    async def locate() -> tuple[str, int]:
        return host, port

    return locate


def _ignore(future: asyncio.Future[Any]) -> None:
    """Look at the outcome, so that the loop does not complain; the command that follows ASKING tells its own."""
    if not future.cancelled():
        future.exception()


__all__ = ["RedisClient", "RedisError", "Script", "slot_of"]
