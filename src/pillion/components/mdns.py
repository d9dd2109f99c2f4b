"""`mdns` name resolution: sidecars, also the reference's, find each other by multicast DNS (spec `components.md` 9).

An instance is announced as `<host>:<pid>` of the service type `<app id>.local.`: a PTR record with SRV, TXT (the app
id) and address records. Knows: what is announced, asked and remembered, and when. Bytes are `wire.dns`'s, sockets
`multicast`'s. Namespaces play no part here, as in the reference.
"""

from __future__ import annotations

import asyncio
import ipaddress
import logging
import os
import random
import socket
from collections import deque
from dataclasses import dataclass
from typing import TYPE_CHECKING

from pillion.clock import SystemClock
from pillion.components.multicast import PORT, Multicast
from pillion.components.names_cache import Shunned
from pillion.errors import ComponentError
from pillion.tasks import Tasks
from pillion.wire import dns
from pillion.wire.addresses import join_host_port

if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from pillion.clock import Clock
    from pillion.kinds.component import Context
    from pillion.kinds.names import Instance

log = logging.getLogger("pillion.components.mdns")

RECORD_TTL_S = 3200
KEEP_S = 60.0
"""How long an address is believed after it was last heard of."""
REFRESH_S = 30.0
ACTIVE_S = 600.0
"""Names that were asked for within this time are refreshed in the background."""
FIRST_LOOKUP_S = 1.0
ASK_AGAIN_S = 0.3
GATHER_S = 0.05
"""How long a first look-up goes on after the first answer, for the other instances to be heard."""
ANNOUNCE_AGAIN_S = 1.0
SHUN_S = 5.0
MAX_NAMES = 10_000
MAX_ADDRESSES = 1000
"""Addresses remembered of one app."""
MAX_REPLIES = 100
"""Replies in one second: a flood of questions must not become a flood of answers."""

_SERVICES = dns.name("_services._dns-sd._udp.local.")
_names_here: set[tuple[str, bytes]] = set()
"""App id and instance of everything this process announces: instance names must differ."""


@dataclass(frozen=True, slots=True)
class Announced:
    """One instance as DNS records."""

    service: dns.Name
    instance: dns.Name
    host: dns.Name
    app_id: str
    address: ipaddress.IPv4Address | ipaddress.IPv6Address
    port: int

    def answer(self, question: dns.Question) -> dns.Message | None:
        """Return the answer to a question, None when it is not about this instance."""
        asked = dns.folded(question.name)
        if asked == dns.folded(self.service) and question.type in (dns.PTR, dns.ANY):
            return self.browse()
        if asked == dns.folded(self.instance):
            wanted = [one for one in self._details(RECORD_TTL_S) if question.type in (one.type, dns.ANY)]
            return dns.Message(flags=dns.RESPONSE, answers=wanted) if wanted else None
        if asked == _SERVICES and question.type in (dns.PTR, dns.ANY):
            record = dns.Record(_SERVICES, dns.PTR, RECORD_TTL_S, self.service)
            return dns.Message(flags=dns.RESPONSE, answers=[record])
        return None

    def browse(self, ttl: int = RECORD_TTL_S) -> dns.Message:
        """Return the PTR record with all that belongs to it; `ttl` 0 takes it back (RFC 6762 section 10.1)."""
        pointer = dns.Record(self.service, dns.PTR, ttl, self.instance)
        return dns.Message(flags=dns.RESPONSE, answers=[pointer], additional=self._details(ttl))

    def _details(self, ttl: int) -> list[dns.Record]:
        kind = dns.A if self.address.version == 4 else dns.AAAA
        return [
            dns.Record(self.instance, dns.SRV, ttl, dns.Srv(self.host, self.port)),
            dns.Record(self.instance, dns.TXT, ttl, [self.app_id.encode()]),
            dns.Record(self.host, kind, ttl, self.address),
        ]


@dataclass(frozen=True, slots=True)
class Sighting:
    """One instance found in a message; `gone` when it said goodbye."""

    app_id: str
    address: str
    is_ipv4: bool
    gone: bool


def sightings(message: dns.Message) -> Iterable[Sighting]:
    """Return the instances that a response tells of: PTR, SRV, a TXT that is the app id, and an address."""
    records = message.records
    targets = {dns.folded(record.name): srv for record, srv in dns.of_type(records, dns.SRV, dns.Srv)}
    texts = {dns.folded(record.name): strings for record, strings in dns.of_type(records, dns.TXT, list)}
    hosts: dict[dns.Name, list[ipaddress.IPv4Address | ipaddress.IPv6Address]] = {}
    for record, v4 in dns.of_type(records, dns.A, ipaddress.IPv4Address):
        hosts.setdefault(dns.folded(record.name), []).insert(0, v4)
    for record, v6 in dns.of_type(records, dns.AAAA, ipaddress.IPv6Address):
        hosts.setdefault(dns.folded(record.name), []).append(v6)
    for record, instance in dns.of_type(records, dns.PTR, tuple):
        srv = targets.get(dns.folded(instance))
        strings = texts.get(dns.folded(instance), [])
        addresses = hosts.get(dns.folded(srv.target), []) if srv is not None else []
        if srv is None or not addresses or not srv.port:
            continue
        owner = dns.folded(record.name)
        for text in strings:
            app_id = text.decode("utf-8", "replace")
            if owner == _service_key(app_id):
                yield Sighting(
                    app_id, join_host_port(str(addresses[0]), srv.port), addresses[0].version == 4, not record.ttl
                )
                break


def _service_key(app_id: str) -> dns.Name | None:
    try:
        return dns.folded(dns.name(f"{app_id}.local."))
    except dns.DnsError:
        return None


class _Known:
    """What is remembered of one app id."""

    __slots__ = ("addresses", "asked", "heard", "wanted")

    def __init__(self) -> None:
        self.addresses: dict[str, tuple[float, bool]] = {}
        """Address to when it is forgotten, and whether it is IPv4."""
        self.asked = float("-inf")
        """When a question was last sent."""
        self.wanted = 0.0
        """When somebody last wanted to know."""
        self.heard = asyncio.Event()

    def living(self, now: float) -> list[str]:
        """Return the addresses still believed, those of IPv4 first."""
        if any(until <= now for until, _ in self.addresses.values()):
            self.addresses = {address: kept for address, kept in self.addresses.items() if kept[0] > now}
        return sorted(self.addresses, key=lambda address: not self.addresses[address][1])


class MdnsNames:
    """A resolver with its own sockets."""

    @dataclass(frozen=True)
    class Settings:
        pass

    def __init__(self, settings: Settings, context: Context, *, clock: Clock | None = None) -> None:
        self._clock: Clock = clock or SystemClock()
        self._tasks = Tasks("nameresolution mdns")
        self._multicast: Multicast | None = None
        self._announced: list[Announced] = []
        self._known: dict[str, _Known] = {}
        self._lookups: dict[str, asyncio.Task[None]] = {}
        self._shunned = Shunned(SHUN_S, self._clock)
        self._replies = (0, 0)
        self._questions: deque[bytes] = deque(maxlen=32)

    async def open(self) -> None:
        multicast = self._multicast = Multicast(self._heard)
        await multicast.open()
        self._tasks.keep(self._refresh_for_ever, "refresh")

    async def ping(self) -> None:
        self._opened()

    async def close(self) -> None:
        """Say goodbye for every instance and let go of the sockets."""
        await self._tasks.close()
        multicast, self._multicast = self._multicast, None
        for one in self._announced:
            _names_here.discard((one.app_id, one.instance[0]))
            if multicast is not None:
                multicast.send(dns.encode(one.browse(ttl=0)))
        self._announced.clear()
        if multicast is not None:
            multicast.close()

    def _opened(self) -> Multicast:
        if self._multicast is None:
            raise ComponentError("the mDNS resolver is closed")
        return self._multicast

    async def register(self, instance: Instance) -> None:
        """Announce the instance now and once more a second later (RFC 6762 section 8.3)."""
        self._opened()
        one = _announced(instance)
        self._announced.append(one)
        self._tasks.start(self._announce(one), f"announce {one.app_id}")

    async def _announce(self, one: Announced) -> None:
        data = dns.encode(one.browse())
        if not self._opened().send(data):
            log.warning("mDNS: no network interface took the announcement of %s", one.app_id)
        await asyncio.sleep(ANNOUNCE_AGAIN_S)
        self._opened().send(data)

    # --- looking up ---

    async def resolve(self, app_id: str, namespace: str) -> Sequence[str]:
        """Return what is remembered; the first time, or when all is too old, ask and wait up to a second."""
        self._opened()
        known = self._known.get(app_id)
        now = self._clock.monotonic()
        living = known.living(now) if known is not None else []
        if known is None or not living:
            known = await self._first_lookup(app_id)
            now = self._clock.monotonic()
            living = known.living(now)
        known.wanted = now
        if not living:
            raise ComponentError(f"couldn't find service: {app_id}")
        return self._shunned.without((app_id, ""), living)

    def failed(self, app_id: str, namespace: str, address: str) -> None:
        """Forget the address and ask again: if it lives, it answers."""
        self._shunned.add((app_id, ""), address)
        known = self._known.get(app_id)
        if known is not None and self._multicast is not None:
            known.addresses.pop(address, None)
            self._ask(app_id, known)

    async def _first_lookup(self, app_id: str) -> _Known:
        if _service_key(app_id) is None:
            raise ComponentError(f"couldn't find service: {app_id}")
        known = self._known.get(app_id)
        if known is None:
            self._make_room()
            known = self._known[app_id] = _Known()
            known.wanted = self._clock.monotonic()
        lookup = self._lookups.get(app_id)
        if lookup is None:
            lookup = self._lookups[app_id] = self._tasks.start(self._lookup(app_id, known), f"look up {app_id}")
            lookup.add_done_callback(lambda _: self._lookups.pop(app_id, None))
        await asyncio.wait([lookup])
        return known

    async def _lookup(self, app_id: str, known: _Known) -> None:
        known.heard.clear()
        self._ask(app_id, known)
        for wait in (ASK_AGAIN_S, FIRST_LOOKUP_S - ASK_AGAIN_S):
            try:
                async with asyncio.timeout(wait):
                    await known.heard.wait()
                await asyncio.sleep(GATHER_S)
                return
            except TimeoutError:
                if wait == ASK_AGAIN_S:
                    self._ask(app_id, known)

    def _ask(self, app_id: str, known: _Known) -> None:
        known.asked = self._clock.monotonic()
        question = dns.Question(dns.name(f"{app_id}.local."), dns.PTR)
        self._opened().send(dns.encode(dns.Message(id=random.randrange(1, 1 << 16), questions=[question])))

    def _make_room(self) -> None:
        """Forget the name that nobody has wanted for the longest time when there are too many."""
        if len(self._known) >= MAX_NAMES:
            oldest = min(self._known, key=lambda app_id: self._known[app_id].wanted)
            del self._known[oldest]

    async def _refresh_for_ever(self) -> None:
        """Ask again for names in use, and forget those that are not."""
        while True:
            await asyncio.sleep(REFRESH_S)
            now = self._clock.monotonic()
            for app_id, known in list(self._known.items()):
                if now - known.wanted > ACTIVE_S:
                    del self._known[app_id]
                elif known.living(now) and now - known.asked >= REFRESH_S / 2:
                    self._ask(app_id, known)

    # --- what comes in ---

    def _heard(self, data: bytes, port: int) -> None:
        if not self._announced and not self._known:
            return
        try:
            message = dns.decode(data)
        except dns.DnsError as error:
            log.debug("mDNS: a message was ignored: %s", error)
            return
        if not message.is_plain:
            return
        if not message.is_response:
            if not self._seen_before(message.id, data):
                self._reply(message.questions)
        elif port == PORT:  # RFC 6762 section 6: others are not to be believed
            for one in sightings(message):
                self._remember(one)

    def _seen_before(self, identity: int, data: bytes) -> bool:
        """Tell whether the same question came in just now by another interface; askers number their questions."""
        if not identity:
            return False
        if data in self._questions:
            return True
        self._questions.append(data)
        return False

    def _reply(self, questions: list[dns.Question]) -> None:
        """Answer what is about our instances, each at most once for a message, with a bound on replies a second."""
        answered: set[int] = set()
        for question in questions[:64]:
            for number, one in enumerate(self._announced):
                answer = one.answer(question) if number not in answered else None
                if answer is not None and self._may_reply():
                    answered.add(number)
                    self._opened().send(dns.encode(answer))

    def _may_reply(self) -> bool:
        second, count = self._replies
        now = int(self._clock.monotonic())
        self._replies = (now, count + 1 if now == second else 1)
        return self._replies[1] <= MAX_REPLIES

    def _remember(self, one: Sighting) -> None:
        known = self._known.get(one.app_id)
        if known is None:
            return
        if one.gone:
            known.addresses.pop(one.address, None)
            return
        if one.address in known.addresses or len(known.addresses) < MAX_ADDRESSES:
            known.addresses[one.address] = (self._clock.monotonic() + KEEP_S, one.is_ipv4)
            known.heard.set()

    def __repr__(self) -> str:
        return f"<MdnsNames announces {[one.app_id for one in self._announced]}, knows {len(self._known)} names>"


def _announced(instance: Instance) -> Announced:
    """Make the records of an instance; raises `ComponentError` when they cannot be made."""
    host = socket.gethostname().removesuffix(".local").strip(".") or "localhost"
    end = f":{os.getpid()}"
    label = _label(host, end)
    number = 1
    while (instance.app_id, label) in _names_here:
        number += 1
        label = _label(host, f"{end}-{number}")
    try:
        service = dns.name(f"{instance.app_id}.local.")
        one = Announced(
            service,
            (label, *service),
            dns.name(f"{host}.local."),
            instance.app_id,
            ipaddress.ip_address(instance.address),
            instance.internal_port,
        )
        dns.encode(one.browse())
    except ValueError as error:
        raise ComponentError(f"mDNS: {instance.app_id} at {instance.address} cannot be announced: {error}") from error
    _names_here.add((instance.app_id, label))
    return one


def _label(host: str, end: str) -> bytes:
    return host.encode()[: dns.MAX_LABEL - len(end)] + end.encode()
