# Copyright The Pillion Authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of the package dapr.proto.workflows.v1. Generated from proto/ by scripts/generate: do not edit."""

import builtins
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Literal as _Literal, final as _final, overload as _overload

from google.protobuf.internal import containers as _containers, well_known_types as _well_known_types
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper as _EnumTypeWrapper
from google.protobuf.message import Message as _Message

from pillion.wire.messages import wellknown as _wellknown

@_final
class MCPBeforeCallToolHookInput(_Message):
    name: builtins.str
    tool_name: builtins.str
    @builtins.property
    def arguments(self) -> _wellknown.Struct: ...
    def __init__(self, *, name: builtins.str = ..., tool_name: builtins.str = ..., arguments: _wellknown.Struct | None = ...) -> None: ...
    def HasField(self, field_name: _Literal["arguments"]) -> builtins.bool: ...
    def ClearField(self, field_name: _Literal["name", "tool_name", "arguments"]) -> None: ...

@_final
class MCPAfterCallToolHookInput(_Message):
    name: builtins.str
    tool_name: builtins.str
    @builtins.property
    def arguments(self) -> _wellknown.Struct: ...
    result: builtins.bytes
    def __init__(self, *, name: builtins.str = ..., tool_name: builtins.str = ..., arguments: _wellknown.Struct | None = ..., result: builtins.bytes = ...) -> None: ...
    def HasField(self, field_name: _Literal["arguments"]) -> builtins.bool: ...
    def ClearField(self, field_name: _Literal["name", "tool_name", "arguments", "result"]) -> None: ...

@_final
class MCPBeforeListToolsHookInput(_Message):
    name: builtins.str
    def __init__(self, *, name: builtins.str = ...) -> None: ...
    def ClearField(self, field_name: _Literal["name"]) -> None: ...

@_final
class MCPAfterListToolsHookInput(_Message):
    name: builtins.str
    result: builtins.bytes
    def __init__(self, *, name: builtins.str = ..., result: builtins.bytes = ...) -> None: ...
    def ClearField(self, field_name: _Literal["name", "result"]) -> None: ...
