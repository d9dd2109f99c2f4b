# Copyright The Pillion Authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of the package dapr.proto.placement.v1. Generated from proto/ by scripts/generate: do not edit."""

import builtins
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Literal as _Literal, final as _final, overload as _overload

from google.protobuf.internal import containers as _containers, well_known_types as _well_known_types
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper as _EnumTypeWrapper
from google.protobuf.message import Message as _Message

HostOperation: _EnumTypeWrapper
UNKNOWN: builtins.int
REPORT: builtins.int
LOCK: builtins.int
UPDATE: builtins.int
UNLOCK: builtins.int

@_final
class PlacementOrder(_Message):
    @builtins.property
    def tables(self) -> PlacementTables: ...
    operation: builtins.str
    version: builtins.int
    def __init__(self, *, tables: PlacementTables | None = ..., operation: builtins.str = ..., version: builtins.int = ...) -> None: ...
    def HasField(self, field_name: _Literal["tables"]) -> builtins.bool: ...
    def ClearField(self, field_name: _Literal["tables", "operation", "version"]) -> None: ...

@_final
class PlacementTables(_Message):
    @builtins.property
    def entries(self) -> _containers.MessageMap[builtins.str, PlacementTable]: ...
    version: builtins.str
    api_level: builtins.int
    replication_factor: builtins.int
    def __init__(self, *, entries: _Mapping[builtins.str, PlacementTable] | None = ..., version: builtins.str = ..., api_level: builtins.int = ..., replication_factor: builtins.int = ...) -> None: ...
    def ClearField(self, field_name: _Literal["entries", "version", "api_level", "replication_factor"]) -> None: ...

@_final
class PlacementTable(_Message):
    @builtins.property
    def hosts(self) -> _containers.ScalarMap[builtins.int, builtins.str]: ...
    @builtins.property
    def sorted_set(self) -> _containers.RepeatedScalarFieldContainer[builtins.int]: ...
    @builtins.property
    def load_map(self) -> _containers.MessageMap[builtins.str, Host]: ...
    total_load: builtins.int
    def __init__(self, *, hosts: _Mapping[builtins.int, builtins.str] | None = ..., sorted_set: _Iterable[builtins.int] | None = ..., load_map: _Mapping[builtins.str, Host] | None = ..., total_load: builtins.int = ...) -> None: ...
    def ClearField(self, field_name: _Literal["hosts", "sorted_set", "load_map", "total_load"]) -> None: ...

@_final
class Host(_Message):
    name: builtins.str
    port: builtins.int
    load: builtins.int
    @builtins.property
    def entities(self) -> _containers.RepeatedScalarFieldContainer[builtins.str]: ...
    id: builtins.str
    pod: builtins.str
    api_level: builtins.int
    namespace: builtins.str
    operation: builtins.int
    version: builtins.int
    def __init__(self, *, name: builtins.str = ..., port: builtins.int = ..., load: builtins.int = ..., entities: _Iterable[builtins.str] | None = ..., id: builtins.str = ..., pod: builtins.str = ..., api_level: builtins.int = ..., namespace: builtins.str = ..., operation: builtins.int = ..., version: builtins.int | None = ...) -> None: ...
    def HasField(self, field_name: _Literal["version"]) -> builtins.bool: ...
    def ClearField(self, field_name: _Literal["name", "port", "load", "entities", "id", "pod", "api_level", "namespace", "operation", "version"]) -> None: ...

@_final
class StatePlacementTables(_Message):
    @builtins.property
    def tables(self) -> _containers.MessageMap[builtins.str, StatePlacementTable]: ...
    def __init__(self, *, tables: _Mapping[builtins.str, StatePlacementTable] | None = ...) -> None: ...
    def ClearField(self, field_name: _Literal["tables"]) -> None: ...

@_final
class StatePlacementTable(_Message):
    @builtins.property
    def hosts(self) -> _containers.RepeatedCompositeFieldContainer[Host]: ...
    version: builtins.int
    def __init__(self, *, hosts: _Iterable[Host] | None = ..., version: builtins.int = ...) -> None: ...
    def ClearField(self, field_name: _Literal["hosts", "version"]) -> None: ...
