"""Ports: free ones, and who has the others. The sockets are real."""

from __future__ import annotations

import os
import socket
import subprocess
import sys

import pytest

from pillion.cli import ports

linux = pytest.mark.skipif(sys.platform != "linux", reason="needs /proc")


def test_a_free_port_is_free_and_not_taken() -> None:
    """Ports given out differ from those that are spoken for."""
    first = ports.free(())
    assert ports.is_free(first)
    assert ports.free({first}, wish=first) != first
    assert ports.free((), wish=first) == first


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_a_taken_port_is_not_free(host: str) -> None:
    """Whether somebody listens on loopback or everywhere."""
    with socket.create_server((host, 0)) as server:
        port = server.getsockname()[1]
        assert not ports.is_free(port)
        assert ports.listens(port)
        assert ports.free((), wish=port) != port
    assert not ports.listens(port)


@linux
def test_the_holder_is_named() -> None:
    """A process and its command line."""
    program = (
        "import socket, sys; s = socket.create_server(('127.0.0.1', 0)); print(s.getsockname()[1], flush=True);"
        "sys.stdin.read()"
    )
    command = [sys.executable, "-c", program, "the-holder"]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True) as child:
        assert child.stdout is not None
        port = int(child.stdout.readline())
        found = ports.holder(port)
        assert found is not None
        assert found.pid == child.pid
        assert str(found).endswith(f"(pid {child.pid})")
        assert ports.listened_by(child.pid) == [port]
        child.communicate()
    assert ports.holder(port) is None
    assert ports.listened_by(os.getsid(0)) is not None
