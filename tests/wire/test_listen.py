"""Listeners: several addresses, free ports, retries, socket files."""

from __future__ import annotations

import asyncio
import socket
import stat
from typing import TYPE_CHECKING, cast

import pytest

from pillion.net import listen
from ports import free_port

if TYPE_CHECKING:
    from pathlib import Path


class Greeter(asyncio.Protocol):
    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        stream = cast("asyncio.Transport", transport)
        stream.write(b"hello")
        stream.close()


async def _greeting(host: str, port: int) -> bytes:
    reader, writer = await asyncio.open_connection(host, port)
    greeting = await reader.read()
    writer.close()
    return greeting


def test_every_interface() -> None:
    """`""` takes IPv4 and, where there is any, IPv6 on one port."""

    async def main() -> None:
        listeners = await listen.tcp(Greeter, [""], 0)
        assert await _greeting("127.0.0.1", listeners.port) == b"hello"
        if listeners.addresses[0][0] == "::":
            assert await _greeting("::1", listeners.port) == b"hello"
        listeners.close()
        with pytest.raises(OSError, match=r"."):
            await _greeting("127.0.0.1", listeners.port)

    asyncio.run(main())


def test_several_addresses_share_a_free_port(caplog: pytest.LogCaptureFixture) -> None:
    """Addresses that are not this machine's are left out with a warning (spec `http-api.md` 1)."""

    async def main() -> None:
        listeners = await listen.tcp(Greeter, ["127.0.0.1", "192.0.2.1", "127.0.0.2"], 0, retry_s=0)
        assert [host for host, _ in listeners.addresses] == ["127.0.0.1", "127.0.0.2"]
        assert len({port for _, port in listeners.addresses}) == 1
        for host, port in listeners.addresses:
            assert await _greeting(host, port) == b"hello"
        listeners.close()

    asyncio.run(main())
    assert "cannot listen on 192.0.2.1" in caplog.text


def test_no_address_at_all_is_an_error() -> None:
    async def main() -> None:
        with pytest.raises(listen.CannotListen, match=r"could not listen on any endpoint: 192\.0\.2\.1:0: "):
            await listen.tcp(Greeter, ["192.0.2.1", "no such name"], 0, retry_s=0)

    asyncio.run(main())


def test_a_port_that_becomes_free_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Binding is tried again while somebody else still has the port (spec `runtime.md` 1.2)."""

    async def main() -> None:
        with socket.socket() as holder:
            port = free_port()
            holder.bind(("127.0.0.1", port))
            holder.listen()
            with pytest.raises(listen.CannotListen, match="in use"):
                await listen.tcp(Greeter, ["127.0.0.1"], port, retry_s=0)
            monkeypatch.setattr(listen, "_FIRST_WAIT_S", 0.01)
            waiting = asyncio.create_task(listen.tcp(Greeter, ["127.0.0.1"], port))
            await asyncio.sleep(0)
            assert not waiting.done()
        listeners = await waiting
        assert await _greeting("127.0.0.1", port) == b"hello"
        listeners.close()

    asyncio.run(main())


def test_socket_files(tmp_path: Path) -> None:
    """Mode set, stale files replaced, living ones and other files respected, removed at the end."""
    path = tmp_path / "app.socket"

    async def main() -> None:
        with socket.socket(socket.AF_UNIX) as dead:
            dead.bind(str(path))
        listeners = await listen.unix(Greeter, path, mode=0o600)
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        reader, writer = await asyncio.open_unix_connection(str(path))
        assert await reader.read() == b"hello"
        writer.close()
        with pytest.raises(listen.CannotListen, match="another process"):
            await listen.unix(Greeter, path)
        listeners.close()
        assert not path.exists()
        path.write_text("mine")
        with pytest.raises(listen.CannotListen, match="no socket"):
            await listen.unix(Greeter, path)
        with pytest.raises(listen.CannotListen, match="cannot listen"):
            await listen.unix(Greeter, tmp_path / "missing" / "x.socket")

    asyncio.run(main())


def test_close_leaves_a_file_that_is_not_ours(tmp_path: Path) -> None:
    path = tmp_path / "app.socket"

    async def main() -> None:
        first = await listen.unix(Greeter, path)
        path.rename(tmp_path / "moved.socket")
        second = await listen.unix(Greeter, path)
        first.close()
        assert path.exists()
        second.close()
        assert not path.exists()

    asyncio.run(main())
