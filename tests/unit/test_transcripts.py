"""The HTTP surface as transcripts: a request, `----`, the answer, byte for byte but for what is random.

Each file under tests/transcripts/http is one conversation with a sidecar that has a store, a broker and secrets in
memory. `PILLION_REWRITE=1` writes what is answered now; commit only a difference that you can explain.
"""

from __future__ import annotations

import asyncio
import os
import re
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from pillion.blocks import reserved
from pillion.blocks.bindings import Binding, BindingsBlock, Outputs
from pillion.blocks.broker import Broker
from pillion.blocks.health import HealthBlock, Readiness
from pillion.blocks.metadata import Facts, MetadataBlock
from pillion.blocks.publish import PublishBlock
from pillion.blocks.secrets import SecretsBlock
from pillion.blocks.state import StateBlock
from pillion.components.local_secrets import FileSecrets
from pillion.components.memory import MemoryState
from pillion.components.memory_broker import MemoryPubSub
from pillion.errors import ApiError
from pillion.kinds.bindings import BindingError
from pillion.kinds.bindings import Response as BindingResponse
from pillion.kinds.component import Context
from pillion.kinds.config import SecretScope
from pillion.kinds.keys import KeyPrefix
from pillion.net.exchange import Request, Response
from pillion.security.scopes import SecretScopes, TopicScopes
from pillion.serve.http import HttpApi, HttpSettings

if TYPE_CHECKING:
    from pillion.api.call import HttpCall
    from pillion.kinds.bindings import Request as Asked
    from pillion.kinds.pubsub import Delivery

FOLDER = Path(__file__).parents[1] / "transcripts" / "http"
UUID = re.compile(r"[0-9a-f]{8}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{4}-[0-9a-f]{12}")
TIME = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d(?:\.\d+)?(?:Z|[+-]\d\d:\d\d)")


class Store:
    def __init__(self, name: str, component: MemoryState) -> None:
        self.name, self.component, self.prefix, self.sealed = name, component, KeyPrefix("app1||"), False


class Secrets:
    def __init__(self, component: FileSecrets) -> None:
        self.component = component


class Mirror:
    """An output binding that answers with what it was given."""

    operations = ("create", "fail", "take")

    async def open(self) -> None: ...

    async def ping(self) -> None: ...

    async def close(self) -> None: ...

    async def invoke(self, asked: Asked) -> BindingResponse | None:
        if asked.operation == "fail":
            raise BindingError("the other side said no", {"statusCode": "404"})
        if asked.operation == "take":
            return None
        told = {f"saw-{key}": value for key, value in asked.metadata.items()}
        return BindingResponse(asked.data, {"statusCode": "200", "bad name": "x", "two": "a\r\nb", **told})


async def unmatched(call: HttpCall) -> Response:
    from pillion.blocks.invoke import NO_APP_ID

    raise ApiError(NO_APP_ID)


async def converse(text: str, folder: Path) -> str:
    """Run one conversation; return it with the answers of now."""
    state = MemoryState(MemoryState.Settings(), Context("store"))
    broker = MemoryPubSub(MemoryPubSub.Settings(), Context("ps"))
    secrets_file = folder / "secrets.json"
    secrets_file.write_text('{"password": "s3cret", "db": {"user": "ada"}, "hidden": "x"}')
    secrets = FileSecrets(FileSecrets.Settings(secrets_file=str(secrets_file)), Context("vault"))
    events: list[Delivery] = []
    arrived = asyncio.Event()

    async def keep(delivery: Delivery) -> None:
        events.append(delivery)
        arrived.set()

    for component in (state, broker, secrets):
        await component.open()
    try:
        await broker.subscribe("t1", {}, keep)
        scopes = TopicScopes.parse({"protectedTopics": "guarded"}, "app1")
        stop_asked: list[bool] = []
        health = Readiness()
        health.expect("runtime")
        health.ready("runtime")
        rows = [
            *StateBlock("app1", {"store": Store("store", state)}).operations(),
            *PublishBlock("app1", {"ps": Broker("ps", broker, scopes)}).operations(),
            *SecretsBlock(
                {"vault": Secrets(secrets)},
                SecretScopes.of([SecretScope("vault", denied=frozenset({"hidden"}))]),
            ).operations(),
            *BindingsBlock(Outputs({"mirror": Binding("mirror", Mirror())})).operations(),
            *HealthBlock("app1", health, health, stop_asked.append).operations(),
            *MetadataBlock(Facts("app1", "1.18.3")).operations(),
        ]
        api = HttpApi([*rows, *reserved.operations(rows)], HttpSettings(api_token=""), unmatched)
        done = []
        for exchange in re.split(r"\n====\n", text.strip("\n")):
            asked = exchange.split("\n----\n")[0]
            if asked.startswith("EVENT"):
                async with asyncio.timeout(90):
                    while not events:
                        arrived.clear()
                        await arrived.wait()
                answer = events.pop(0).data.decode()
            else:
                answer = shown(await api.serve(request(asked)))
            done.append(f"{asked}\n----\n{scrubbed(answer)}")
        return "\n====\n".join(done) + "\n"
    finally:
        for component in (state, broker, secrets):
            await component.close()


def request(text: str) -> Request:
    head, _, body = text.partition("\n\n")
    first, *lines = head.split("\n")
    method, target = first.split(" ", 1)
    headers = [(name.lower().encode(), value.strip().encode()) for name, _, value in (x.partition(":") for x in lines)]
    return Request(method, target.encode(), headers, body.encode())


def shown(response: Response) -> str:
    assert isinstance(response.body, bytes)
    lines = [str(response.status)]
    lines += [f"{k.decode()}: {v.decode()}" for k, v in response.headers if not v.startswith(b"00-0000000000")]
    return "\n".join(lines) + (f"\n\n{response.body.decode()}" if response.body else "")


def scrubbed(text: str) -> str:
    return TIME.sub("<time>", UUID.sub("<uuid>", text)).rstrip("\n")


@pytest.mark.parametrize("path", sorted(FOLDER.glob("*.txt")), ids=lambda path: path.stem)
def test_conversation(path: Path, tmp_path: Path) -> None:
    expected = path.read_text()
    found = asyncio.run(converse(expected, tmp_path))
    if os.environ.get("PILLION_REWRITE") == "1":
        path.write_text(found)
        return
    assert found == expected
