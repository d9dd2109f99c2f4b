# Copyright The Pillion Authors
# SPDX-License-Identifier: Apache-2.0
"""The services of the wire as tables: full name of a service, then name of a method, then its types."""

from __future__ import annotations

from functools import cache
from types import MappingProxyType
from typing import TYPE_CHECKING, NamedTuple

from pillion.wire.messages._pool import files, pool

if TYPE_CHECKING:
    from collections.abc import Mapping


class Method(NamedTuple):
    """One method: full names of its messages (see `message_class`) and which sides stream."""

    request: str
    response: str
    client_streaming: bool
    server_streaming: bool


@cache
def names() -> tuple[str, ...]:
    """The full name of every service, e.g. `dapr.proto.runtime.v1.Dapr` or, without a package, `TaskHubSidecarService`."""
    return tuple(service.full_name for file in files for service in file.services_by_name.values())


@cache
def methods(service: str) -> Mapping[str, Method]:
    """The methods of a service, in the order of its definition. Raises `KeyError` for a service the pool does not know."""
    return MappingProxyType(
        {
            method.name: Method(
                method.input_type.full_name,
                method.output_type.full_name,
                method.client_streaming,
                method.server_streaming,
            )
            for method in pool.FindServiceByName(service).methods
        }
    )
