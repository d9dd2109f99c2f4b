"""The surface of a sidecar as rows, for tests that walk all of it: what a real composition offers."""

from __future__ import annotations

import asyncio
import contextlib
from typing import TYPE_CHECKING

from pillion.serve.http import HttpApi
from pillion.sidecar import environment, flags, surface
from pillion.sidecar.host import Sidecar
from ports import free_ports

if TYPE_CHECKING:
    from collections.abc import Iterator
    from pathlib import Path
    from typing import Any

    from pillion.api.operation import Http, Operation


def offered(folder: Path) -> list[Operation]:
    """Return the rows of a sidecar that is composed and ended here, places that are only reserved included."""
    found: list[Operation] = []

    def remembering(operations: Any, *rest: Any) -> HttpApi:
        found.extend(operations)
        return HttpApi(found, *rest)

    http, grpc, metrics = free_ports(3)
    resources = folder / "rows"
    resources.mkdir()
    argv = ["--app-id", "rows", "--resources-path", str(resources), "--dapr-http-port", str(http)]
    argv += ["--dapr-grpc-port", str(grpc), "--metrics-port", str(metrics), "--dapr-listen-addresses", "127.0.0.1"]
    options = flags.parse(argv, {})

    async def compose() -> None:
        sidecar = Sidecar(options, environment.read({"DAPR_HOST_IP": "127.0.0.1"}), data_dir=str(folder))
        await sidecar.start()
        await sidecar.stop()

    with _replaced(surface, "HttpApi", remembering):
        asyncio.run(compose())
    return found


def routes(operations: list[Operation]) -> list[tuple[str, Http]]:
    """Return every verb of every HTTP route."""
    return [(verb, row) for operation in operations for row in operation.http for verb in row.verbs]


@contextlib.contextmanager
def _replaced(module: Any, name: str, value: Any) -> Iterator[None]:
    before = getattr(module, name)
    setattr(module, name, value)
    try:
        yield
    finally:
        setattr(module, name, before)
