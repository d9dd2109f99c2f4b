"""Ports: free ones, and who has the others. The sockets are real."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING

import pytest

from pillion.cli import port_blocks, ports
from ports import free_ports

if TYPE_CHECKING:
    from pathlib import Path

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def wish() -> int:
    """Return a port to wish for, of which another `pillion run` of this machine does not know."""
    while (port := free_ports(1)[0]) % 1000 in {3500 % 1000, *range(10)}:
        continue
    return port


def test_a_free_port_is_free_and_not_taken() -> None:
    """Ports given out differ from those that are spoken for."""
    first = wish()
    assert ports.is_free(ports.free(()))
    assert ports.free({first}, wish=first) != first
    assert ports.free((), wish=first) == first


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_taken_port_is_not_free(host: str) -> None:
    """Whether somebody listens on loopback or everywhere."""
    [port] = free_ports(1)
    with socket.create_server((host, port)):
        assert not ports.is_free(port)
        assert ports.listens(port)
        assert ports.free((), wish=port) != port
    assert not ports.listens(port)


@linux
def test_the_holder_is_named() -> None:
    """A process and its command line."""
    program = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', int(sys.argv[1]))); print('up', flush=True);"
        "sys.stdin.read()"
    )
    [port] = free_ports(1)
    command = [sys.executable, "-c", program, str(port), "the-holder"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout is not None
        assert child.stdout.readline() == b"up\n"
        found = ports.holder(port)
        assert found is not None
        assert found.pid == child.pid
        assert str(found).endswith(f"(pid {child.pid})")
        assert ports.listened_by(child.pid) == [port]
        child.communicate()
    assert ports.holder(port) is None
    assert ports.listened_by(os.getsid(0)) is not None


def test_ports_that_are_chosen_lie_below_the_ephemeral_range() -> None:
    """No outgoing connection takes them before they are listened on."""
    assert all(1024 < ports.free(()) < port_blocks.ephemeral_from() for _ in range(3))


@linux
def test_where_the_ephemeral_range_begins(tmp_path: Path) -> None:
    """As the system tells, else as RFC 6335 has it."""
    told = tmp_path / "range"
    told.write_text("20000\t30000\n")
    assert port_blocks.ephemeral_from(told) == 20_000
    told.write_text("?")
    assert port_blocks.ephemeral_from(told) == 49_152
    assert port_blocks.ephemeral_from(tmp_path / "none") == 49_152


def test_two_processes_never_choose_the_same_ports() -> None:
    """Nor is a wished-for one given twice, while neither listens yet."""
    wished = wish()
    program = (
        "import sys; from pillion.cli import ports; taken = set();\n"
        f"for n in range(60): taken.add(ports.free(taken, wish={wished}))\n"
        "print(*taken, flush=True); sys.stdin.read()"
    )
    with contextlib.ExitStack() as stack:
        children = [
            stack.enter_context(
                subprocess.Popen([sys.executable, "-c", program], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
            )
            for _ in range(3)
        ]
        chosen = []
        for child in children:
            assert child.stdout is not None
            chosen.append(set(child.stdout.readline().split()))
        assert [len(each) for each in chosen] == [60, 60, 60]
        assert len(set.union(*chosen)) == 180
        assert sum(str(wished).encode() in each for each in chosen) == 1
        for child in children:
            child.communicate()


def test_ports_of_blocks_come_round_again_when_no_block_is_left() -> None:
    """A port that is used, or taken, is passed over; where nothing is free there is none."""
    first = port_blocks.SIZE * (free_ports(1)[0] // port_blocks.SIZE)  # a block that is another's: ours, of the tests
    assert port_blocks.PortBlocks(first, first + port_blocks.SIZE).take() is None
    blocks = port_blocks.PortBlocks(21_000, 22_000)
    once = [blocks.take() for _ in range(40)]
    assert None not in once
    assert len(set(once)) == 40
    known = sorted(port for port in once if port is not None)
    alone = port_blocks.PortBlocks(0, 0)
    assert alone.take() is None
    alone._ours = known[:3]
    with socket.create_server(("127.0.0.1", known[1])):
        assert [alone.take() for _ in range(4)] == [known[0], known[2]] * 2
        assert alone.take({known[0]}) == known[2]
        assert alone.take(known) is None


def test_any_free_port_will_do_where_no_block_is(monkeypatch: pytest.MonkeyPatch) -> None:
    """A system whose ephemeral range begins where ours does."""
    monkeypatch.setattr(ports, "_blocks", lambda: port_blocks.PortBlocks(0, 0))
    assert ports.is_free(ports.free(()))


def test_threads_get_different_ports() -> None:
    """Applications and servers of one process are started side by side."""
    with ThreadPoolExecutor(16) as threads:
        given = list(threads.map(lambda _: free_ports(1)[0], range(200)))
    assert len(set(given)) == len(given)
