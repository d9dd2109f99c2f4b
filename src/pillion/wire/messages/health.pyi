# Copyright The Pillion Authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of the package grpc.health.v1. Generated from proto/ by scripts/generate: do not edit."""

import builtins
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Literal as _Literal, final as _final, overload as _overload

from google.protobuf.internal import containers as _containers, well_known_types as _well_known_types
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper as _EnumTypeWrapper
from google.protobuf.message import Message as _Message

@_final
class HealthCheckRequest(_Message):
    service: builtins.str
    def __init__(self, *, service: builtins.str = ...) -> None: ...
    def ClearField(self, field_name: _Literal["service"]) -> None: ...

@_final
class HealthCheckResponse(_Message):
    ServingStatus: _ClassVar[_EnumTypeWrapper]
    UNKNOWN: _ClassVar[builtins.int]
    SERVING: _ClassVar[builtins.int]
    NOT_SERVING: _ClassVar[builtins.int]
    SERVICE_UNKNOWN: _ClassVar[builtins.int]
    status: builtins.int
    def __init__(self, *, status: builtins.int = ...) -> None: ...
    def ClearField(self, field_name: _Literal["status"]) -> None: ...

@_final
class HealthListRequest(_Message):
    def __init__(self) -> None: ...

@_final
class HealthListResponse(_Message):
    @builtins.property
    def statuses(self) -> _containers.MessageMap[builtins.str, HealthCheckResponse]: ...
    def __init__(self, *, statuses: _Mapping[builtins.str, HealthCheckResponse] | None = ...) -> None: ...
    def ClearField(self, field_name: _Literal["statuses"]) -> None: ...
