"""Finding components that are other processes (spec `grpc-api.md` 9, `runtime.md` 1.4): which sockets there are, and
what each of them serves.

Knows: the folder, gRPC server reflection, which service makes which type. Never knows: how the services are called.
A socket that does not answer is logged and missing; it harms no other.
"""

from __future__ import annotations

import asyncio
import logging
import os
import stat
from pathlib import Path

from google.protobuf.message import DecodeError

from pillion.components.catalog import Entry
from pillion.net.exchange import RpcError
from pillion.net.grpc_client import Channel
from pillion.wire.messages import reflection_v1alpha as reflection

log = logging.getLogger("pillion.sidecar.components")
ANSWER_S = 5.0
"""How long one socket may take to tell what it serves; all are asked at the same time."""
MOST_SOCKETS = 256
_METHOD = "/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo"
_PACKAGE = "dapr.proto.components.v1."
_HERE = "pillion.components.pluggable_"


async def discover(folder: str) -> list[Entry]:
    """Return an entry for each component type that a socket in `folder` serves. Never raises: failures are logged."""
    paths = await asyncio.to_thread(_sockets, folder)
    if len(paths) > MOST_SOCKETS:
        log.error("%s has %d sockets; those after %s are ignored", folder, len(paths), paths[MOST_SOCKETS - 1])
    found = await asyncio.gather(*map(_entries, paths[:MOST_SOCKETS]))
    entries = [entry for group in found for entry in group]
    for entry in entries:
        log.info("pluggable component found: %s/%s", entry.type, entry.version)
    return entries


def _sockets(folder: str) -> list[Path]:
    try:
        names = sorted(os.listdir(folder))
    except FileNotFoundError:
        return []
    except OSError as error:
        log.error("the folder of pluggable components %s cannot be read: %s", folder, error.strerror)
        return []
    return [path for name in names if _is_socket(path := Path(folder, name))]


def _is_socket(path: Path) -> bool:
    try:
        return stat.S_ISSOCK(path.stat().st_mode)
    except OSError as error:
        log.warning("%s cannot be looked at: %s", path, error.strerror)
        return False


async def _entries(path: Path) -> list[Entry]:
    try:
        async with asyncio.timeout(ANSWER_S):
            services = await _services(str(path))
    except TimeoutError:
        log.error("pluggable component %s: no answer within %gs; it is ignored", path, ANSWER_S)
        return []
    except (RpcError, DecodeError) as error:
        log.error("pluggable component %s: %s; it is ignored", path, error)
        return []
    entries = entries_of(path, {name.removeprefix(_PACKAGE) for name in services if name.startswith(_PACKAGE)})
    if not entries:
        log.warning("%s serves no component (it must offer server reflection v1alpha)", path)
    return entries


def entries_of(path: Path, services: set[str]) -> list[Entry]:
    """Return what a socket with these services (names without package) offers; the file name without its last
    extension is the type's second part.
    """
    kinds = []
    if "StateStore" in services:
        kinds.append(("state", "state:PluggableState"))
    if "PubSub" in services:
        kinds.append(("pubsub", "pubsub:PluggablePubSub"))
    if "SecretStore" in services:
        kinds.append(("secretstores", "secrets:PluggableSecrets"))
    if directions := services & {"InputBinding", "OutputBinding"}:
        name = "PluggableBinding" if len(directions) == 2 else f"Pluggable{min(directions).removesuffix('Binding')}"
        kinds.append(("bindings", f"bindings:{name}"))
    given = (("pillion.socket", str(path)),)
    return [Entry(f"{kind}.{path.stem}", "v1", _HERE + name, given=given) for kind, name in kinds]


async def _services(path: str) -> list[str]:
    """Ask for the names of all services; raises `RpcError` and `DecodeError`."""
    channel = Channel(f"unix:{path}")
    try:
        stream = channel.stream(_METHOD)
        await stream.send_last(reflection.ServerReflectionRequest(list_services="*").SerializeToString())
        answer = reflection.ServerReflectionResponse()
        answer.ParseFromString(await stream.receive() or b"")
        stream.cancel()
    finally:
        await channel.close()
    return [service.name for service in answer.list_services_response.service]
