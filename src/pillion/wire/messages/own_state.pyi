# Copyright The Pillion Authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of the package pillion.state.v1. Generated from proto/ by scripts/generate: do not edit."""

import builtins
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Literal as _Literal, final as _final, overload as _overload

from google.protobuf.internal import containers as _containers, well_known_types as _well_known_types
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper as _EnumTypeWrapper
from google.protobuf.message import Message as _Message

@_final
class ListKeysRequest(_Message):
    store_name: builtins.str
    prefix: builtins.str
    limit: builtins.int
    token: builtins.str
    def __init__(self, *, store_name: builtins.str = ..., prefix: builtins.str = ..., limit: builtins.int = ..., token: builtins.str = ...) -> None: ...
    def ClearField(self, field_name: _Literal["store_name", "prefix", "limit", "token"]) -> None: ...

@_final
class ListKeysResponse(_Message):
    @builtins.property
    def keys(self) -> _containers.RepeatedScalarFieldContainer[builtins.str]: ...
    token: builtins.str
    def __init__(self, *, keys: _Iterable[builtins.str] | None = ..., token: builtins.str = ...) -> None: ...
    def ClearField(self, field_name: _Literal["keys", "token"]) -> None: ...
