"""`pillion invoke` and `pillion publish`: requests to a sidecar, for people (spec `runtime.md` 8.4)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from urllib.parse import quote, urlencode

import click

from pillion.cli import find, say

_EVENT = ("id", "source", "specversion", "type", "data")
"""What makes a payload a cloud event already."""


def payload_of(data: str | None, file: str | None) -> bytes:
    """Return what is to be sent: given on the command line, in a file, or on standard input."""
    if data is not None and file is not None:
        raise click.UsageError("give --data or --data-file, not both")
    if file == "-":
        return sys.stdin.buffer.read()
    if file is not None:
        try:
            return Path(file).read_bytes()
        except OSError as error:
            raise click.ClickException(f"{file} cannot be read: {error.strerror}") from error
    return (data or "").encode("utf-8", "surrogateescape")


def complaint(body: bytes) -> str:
    """Return what a sidecar's error says, for people."""
    text = body.decode("utf-8", "replace").strip()
    try:
        document = json.loads(text)
        return f"{document['errorCode']}: {document['message']}"
    except (ValueError, KeyError, TypeError):
        return text or "no explanation was given"


def _is_event(payload: bytes) -> bool:
    try:
        document = json.loads(payload)
    except ValueError:
        return False
    return isinstance(document, dict) and all(name in document for name in _EVENT)


@click.command()
@click.option("-a", "--app-id", required=True, help="The application.")
@click.option("-m", "--method", required=True, help="The method, a path.")
@click.option("-d", "--data", help="What to send.")
@click.option("-f", "--data-file", metavar="FILE|-", help="A file with what to send.")
@click.option("-v", "--verb", default="POST", show_default=True, help="The HTTP verb.")
@click.option("-u", "--unix-domain-socket", default="", metavar="FOLDER", help="Folder of the sidecar's socket files.")
def invoke(
    app_id: str, method: str, data: str | None, data_file: str | None, verb: str, unix_domain_socket: str
) -> None:
    """Call a method of an application through its own sidecar, and print the answer."""
    payload = payload_of(data, data_file)
    path, mark, query = method.lstrip("/").partition("?")
    target = f"/v1.0/invoke/{quote(app_id, safe='')}/method/{quote(path, safe='/%:@!$&()*+,;=~-._')}{mark}{query}"
    if not target.isprintable() or " " in target:
        raise click.UsageError("the method must not contain spaces or control characters after the question mark")
    record = find.one(app_id)
    kind = "application/json" if payload else ""
    status, body = find.ask(record, verb.upper(), target, payload, content_type=kind, folder=unix_domain_socket)
    if not 200 <= status < 400:
        raise click.ClickException(f"{app_id} answered {status}: {complaint(body)}")
    sys.stdout.buffer.write(body)
    if body and not body.endswith(b"\n"):
        sys.stdout.buffer.write(b"\n")
    sys.stdout.buffer.flush()
    say.success(f"{app_id} answered {status}")


@click.command()
@click.option("-i", "--publish-app-id", required=True, help="The application in whose name to publish.")
@click.option("-p", "--pubsub", required=True, help="The pub/sub component.")
@click.option("-t", "--topic", required=True, help="The topic.")
@click.option("-d", "--data", help="The message.")
@click.option("-f", "--data-file", metavar="FILE|-", help="A file with the message.")
@click.option("-m", "--metadata", help='Metadata as JSON: {"ttlInSeconds": "10"}.')
@click.option("-u", "--unix-domain-socket", default="", metavar="FOLDER", help="Folder of the sidecar's socket files.")
def publish(
    publish_app_id: str,
    pubsub: str,
    topic: str,
    data: str | None,
    data_file: str | None,
    metadata: str | None,
    unix_domain_socket: str,
) -> None:
    """Publish a message to a topic through the sidecar of an application."""
    payload = payload_of(data, data_file)
    query = urlencode({f"metadata.{name}": value for name, value in _metadata(metadata).items()}, quote_via=quote)
    target = f"/v1.0/publish/{quote(pubsub, safe='')}/{quote(topic, safe='/')}" + (f"?{query}" if query else "")
    kind = "application/cloudevents+json" if _is_event(payload) else "application/json"
    record = find.one(publish_app_id)
    status, body = find.ask(record, "POST", target, payload, content_type=kind, folder=unix_domain_socket)
    if not 200 <= status < 300:
        raise click.ClickException(f"not published: {complaint(body)}")
    say.success("published")


def _metadata(text: str | None) -> dict[str, str]:
    if not text:
        return {}
    try:
        document = json.loads(text)
    except ValueError as error:
        raise click.UsageError(f"--metadata is not JSON: {error}") from error
    if not isinstance(document, dict):
        raise click.UsageError('--metadata must be a JSON object: {"ttlInSeconds": "10"}')
    return {name: value if isinstance(value, str) else json.dumps(value) for name, value in document.items()}
