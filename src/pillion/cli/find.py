"""Finding what runs by its id, and talking to it over HTTP.

Knows: the records of running sidecars. Raises `click.ClickException` with a text for people.
"""

from __future__ import annotations

import difflib
import http.client
import os
import socket

import click

from pillion.cli import places
from pillion.sidecar.presence import Record, running

TIMEOUT_S = 60.0


def one(app_id: str) -> Record:
    """Return the sidecar of an application; of several instances the one that started last."""
    found = running(places.of(os.environ).home)
    for record in reversed(found):
        if record.app_id == app_id:
            return record
    raise not_running(app_id, [record.app_id for record in found])


def one_or_only(app_id: str) -> Record:
    """Return the sidecar of an application; with "" that of the only application that runs here."""
    if app_id:
        return one(app_id)
    names = sorted({record.app_id for record in running(places.of(os.environ).home)})
    if len(names) == 1:
        return one(names[0])
    if not names:
        raise click.ClickException("nothing runs here: start something with `pillion run`")
    raise click.ClickException(f"several applications run here: say which with --app-id ({', '.join(names)})")


def not_running(app_id: str, others: list[str]) -> click.ClickException:
    """Return the error that an application does not run."""
    near = difflib.get_close_matches(app_id, others, n=1, cutoff=0.6)
    if near:
        hint = f" (did you mean {near[0]}?)"
    elif others:
        hint = f" (running: {', '.join(sorted(set(others)))})"
    else:
        hint = " (nothing runs here)"
    return click.ClickException(f"no application {app_id} is running{hint}")


class _OverSocketFile(http.client.HTTPConnection):
    """HTTP over a socket file."""

    def __init__(self, path: str, timeout_s: float) -> None:
        super().__init__("localhost", timeout=timeout_s)
        self._path = path

    def connect(self) -> None:
        self.sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self.sock.settimeout(self.timeout)
        self.sock.connect(self._path)


def ask(
    record: Record, method: str, target: str, body: bytes = b"", *, content_type: str = "", folder: str = "",
    timeout_s: float = TIMEOUT_S,
) -> tuple[int, bytes]:  # fmt: skip
    """Send one request to a sidecar; return status and body. `folder` is that of its socket files, when it has any."""
    path = f"{folder}/dapr-{record.app_id}-http.socket" if folder else record.socket
    connection: http.client.HTTPConnection
    if path:
        connection = _OverSocketFile(path, timeout_s)
    else:
        connection = http.client.HTTPConnection(record.host, record.http_port, timeout=timeout_s)
    headers = {"Content-Type": content_type} if content_type else {}
    if token := os.environ.get("DAPR_API_TOKEN"):
        headers["dapr-api-token"] = token
    try:
        connection.request(method, target, body or None, headers)
        answer = connection.getresponse()
        return answer.status, answer.read()
    except (OSError, http.client.HTTPException) as error:
        where = path or f"{record.host}:{record.http_port}"
        reason = str(error) or type(error).__name__
        raise click.ClickException(f"the sidecar of {record.app_id} at {where} does not answer: {reason}") from error
    finally:
        connection.close()
