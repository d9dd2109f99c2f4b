"""What is announced and what is believed in multicast DNS, and how several resolvers get on."""

from __future__ import annotations

import asyncio
import ipaddress
import secrets
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pillion.components.mdns import Announced, MdnsNames, Sighting, sightings
from pillion.errors import ComponentError
from pillion.kinds.component import Context
from pillion.kinds.names import Instance
from pillion.wire import dns

PROGRAM = Path(__file__).with_name("mdns_process.py")
SERVICE = dns.name("app.local.")
ONE = Announced(SERVICE, (b"box:42", *SERVICE), dns.name("box.local."), "app", ipaddress.IPv4Address("10.0.0.7"), 50002)


def through_the_wire(message: dns.Message) -> dns.Message:
    return dns.decode(dns.encode(message))


def test_the_announcement() -> None:
    """Spec 9: PTR of the bare app id with SRV, TXT and address, 3200 seconds, an authoritative response."""
    message = through_the_wire(ONE.browse())
    assert message.flags == 0x8400
    assert message.answers == [dns.Record(SERVICE, dns.PTR, 3200, (b"box:42", b"app", b"local"))]
    assert message.additional == [
        dns.Record((b"box:42", b"app", b"local"), dns.SRV, 3200, dns.Srv((b"box", b"local"), 50002)),
        dns.Record((b"box:42", b"app", b"local"), dns.TXT, 3200, [b"app"]),
        dns.Record((b"box", b"local"), dns.A, 3200, ipaddress.IPv4Address("10.0.0.7")),
    ]


@pytest.mark.parametrize(
    ("asked", "kind", "types"),
    [
        ("app.local.", dns.PTR, [dns.PTR]),
        ("APP.local.", dns.ANY, [dns.PTR]),
        ("box:42.app.local.", dns.SRV, [dns.SRV]),
        ("box:42.app.local.", dns.ANY, [dns.SRV, dns.TXT, dns.A]),
        ("_services._dns-sd._udp.local.", dns.PTR, [dns.PTR]),
        ("app.local.", dns.A, None),
        ("other.local.", dns.PTR, None),
    ],
)
def test_which_questions_are_answered(asked: str, kind: int, types: list[int] | None) -> None:
    answer = ONE.answer(dns.Question(dns.name(asked), kind))
    assert (None if answer is None else [record.type for record in answer.answers]) == types


def test_an_instance_is_recognised() -> None:
    assert list(sightings(through_the_wire(ONE.browse()))) == [Sighting("app", "10.0.0.7:50002", True, False)]
    assert list(sightings(through_the_wire(ONE.browse(ttl=0)))) == [Sighting("app", "10.0.0.7:50002", True, True)]


def test_ipv4_comes_before_ipv6() -> None:
    message = ONE.browse()
    message.additional.insert(0, dns.Record(ONE.host, dns.AAAA, 10, ipaddress.IPv6Address("fd00::1")))
    assert [one.address for one in sightings(message)] == ["10.0.0.7:50002"]
    message.additional.pop()
    assert [one.address for one in sightings(message)] == ["[fd00::1]:50002"]


@pytest.mark.parametrize("missing", [dns.SRV, dns.TXT, dns.A])
def test_incomplete_instances_are_not_believed(missing: int) -> None:
    message = ONE.browse()
    message.additional = [record for record in message.additional if record.type != missing]
    assert list(sightings(message)) == []


def test_a_text_must_be_the_app_id() -> None:
    """Spec 9: an entry counts if a TXT string equals the app id."""
    message = ONE.browse()
    message.additional[1].data = [b"other", b"x"]
    assert list(sightings(message)) == []
    message.additional[1].data = [b"other", b"app"]
    assert len(list(sightings(message))) == 1


def test_a_goodbye_is_heard() -> None:
    """A resolver that knows two instances drops the one that leaves, without asking."""

    async def run() -> None:
        app = f"app-{secrets.token_hex(4)}"
        asking, one, two = (MdnsNames(MdnsNames.Settings(), Context("names")) for _ in range(3))
        for each in (asking, one, two):
            await each.open()
        await one.register(Instance(app, "", "127.0.0.1", 50001))
        await two.register(Instance(app, "", "127.0.0.1", 50002))

        async def knows(*addresses: str) -> None:
            async with asyncio.timeout(90):
                while sorted(await asking.resolve(app, "")) != list(addresses):  # noqa: ASYNC110 - hearing has no event
                    await asyncio.sleep(0.01)

        await knows("127.0.0.1:50001", "127.0.0.1:50002")
        await two.close()
        await knows("127.0.0.1:50001")
        await one.close()
        await asking.close()

    asyncio.run(run())


def test_a_host_name_is_no_address() -> None:
    async def run() -> None:
        names = MdnsNames(MdnsNames.Settings(), Context("names"))
        await names.open()
        with pytest.raises(ComponentError, match="cannot be announced"):
            await names.register(Instance("app", "", "box.example", 50001))
        with pytest.raises(ComponentError, match="couldn't find service: "):
            await names.resolve("x" * 64, "")
        await names.close()

    asyncio.run(run())


def test_two_processes_without_a_network() -> None:
    """A machine that has nothing but its loopback interface (a network namespace of its own) will do."""
    unshare, ip = shutil.which("unshare"), shutil.which("ip")
    if not unshare or not ip or subprocess.run([unshare, "-n", "true"], capture_output=True).returncode:
        pytest.skip("needs unshare and ip, and the right to make a network namespace")
    script = 'ip link set lo up; exec "$0" "$1" ask'
    done = subprocess.run(
        [unshare, "-n", "sh", "-c", script, sys.executable, str(PROGRAM)], capture_output=True, text=True, timeout=90
    )
    assert done.stdout == "127.0.0.1:50001\n", done.stderr
