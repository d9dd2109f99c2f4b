# Copyright The Pillion Authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of the package dapr.proto.common.v1. Generated from proto/ by scripts/generate: do not edit."""

import builtins
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Literal as _Literal, final as _final, overload as _overload

from google.protobuf.internal import containers as _containers, well_known_types as _well_known_types
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper as _EnumTypeWrapper
from google.protobuf.message import Message as _Message

from pillion.wire.messages import wellknown as _wellknown

@_final
class HTTPExtension(_Message):
    Verb: _ClassVar[_EnumTypeWrapper]
    NONE: _ClassVar[builtins.int]
    GET: _ClassVar[builtins.int]
    HEAD: _ClassVar[builtins.int]
    POST: _ClassVar[builtins.int]
    PUT: _ClassVar[builtins.int]
    DELETE: _ClassVar[builtins.int]
    CONNECT: _ClassVar[builtins.int]
    OPTIONS: _ClassVar[builtins.int]
    TRACE: _ClassVar[builtins.int]
    PATCH: _ClassVar[builtins.int]
    verb: builtins.int
    querystring: builtins.str
    def __init__(self, *, verb: builtins.int = ..., querystring: builtins.str = ...) -> None: ...
    def ClearField(self, field_name: _Literal["verb", "querystring"]) -> None: ...

@_final
class InvokeRequest(_Message):
    method: builtins.str
    @builtins.property
    def data(self) -> _wellknown.Any: ...
    content_type: builtins.str
    @builtins.property
    def http_extension(self) -> HTTPExtension: ...
    def __init__(self, *, method: builtins.str = ..., data: _wellknown.Any | None = ..., content_type: builtins.str = ..., http_extension: HTTPExtension | None = ...) -> None: ...
    def HasField(self, field_name: _Literal["data", "http_extension"]) -> builtins.bool: ...
    def ClearField(self, field_name: _Literal["method", "data", "content_type", "http_extension"]) -> None: ...

@_final
class InvokeResponse(_Message):
    @builtins.property
    def data(self) -> _wellknown.Any: ...
    content_type: builtins.str
    def __init__(self, *, data: _wellknown.Any | None = ..., content_type: builtins.str = ...) -> None: ...
    def HasField(self, field_name: _Literal["data"]) -> builtins.bool: ...
    def ClearField(self, field_name: _Literal["data", "content_type"]) -> None: ...

@_final
class StreamPayload(_Message):
    data: builtins.bytes
    seq: builtins.int
    def __init__(self, *, data: builtins.bytes = ..., seq: builtins.int = ...) -> None: ...
    def ClearField(self, field_name: _Literal["data", "seq"]) -> None: ...

@_final
class StateItem(_Message):
    key: builtins.str
    value: builtins.bytes
    @builtins.property
    def etag(self) -> Etag: ...
    @builtins.property
    def metadata(self) -> _containers.ScalarMap[builtins.str, builtins.str]: ...
    @builtins.property
    def options(self) -> StateOptions: ...
    def __init__(self, *, key: builtins.str = ..., value: builtins.bytes = ..., etag: Etag | None = ..., metadata: _Mapping[builtins.str, builtins.str] | None = ..., options: StateOptions | None = ...) -> None: ...
    def HasField(self, field_name: _Literal["etag", "options"]) -> builtins.bool: ...
    def ClearField(self, field_name: _Literal["key", "value", "etag", "metadata", "options"]) -> None: ...

@_final
class Etag(_Message):
    value: builtins.str
    def __init__(self, *, value: builtins.str = ...) -> None: ...
    def ClearField(self, field_name: _Literal["value"]) -> None: ...

@_final
class StateOptions(_Message):
    StateConcurrency: _ClassVar[_EnumTypeWrapper]
    CONCURRENCY_UNSPECIFIED: _ClassVar[builtins.int]
    CONCURRENCY_FIRST_WRITE: _ClassVar[builtins.int]
    CONCURRENCY_LAST_WRITE: _ClassVar[builtins.int]
    StateConsistency: _ClassVar[_EnumTypeWrapper]
    CONSISTENCY_UNSPECIFIED: _ClassVar[builtins.int]
    CONSISTENCY_EVENTUAL: _ClassVar[builtins.int]
    CONSISTENCY_STRONG: _ClassVar[builtins.int]
    concurrency: builtins.int
    consistency: builtins.int
    def __init__(self, *, concurrency: builtins.int = ..., consistency: builtins.int = ...) -> None: ...
    def ClearField(self, field_name: _Literal["concurrency", "consistency"]) -> None: ...

@_final
class ConfigurationItem(_Message):
    value: builtins.str
    version: builtins.str
    @builtins.property
    def metadata(self) -> _containers.ScalarMap[builtins.str, builtins.str]: ...
    def __init__(self, *, value: builtins.str = ..., version: builtins.str = ..., metadata: _Mapping[builtins.str, builtins.str] | None = ...) -> None: ...
    def ClearField(self, field_name: _Literal["value", "version", "metadata"]) -> None: ...

@_final
class JobFailurePolicy(_Message):
    @builtins.property
    def drop(self) -> JobFailurePolicyDrop: ...
    @builtins.property
    def constant(self) -> JobFailurePolicyConstant: ...
    def __init__(self, *, drop: JobFailurePolicyDrop | None = ..., constant: JobFailurePolicyConstant | None = ...) -> None: ...
    def HasField(self, field_name: _Literal["drop", "constant", "policy"]) -> builtins.bool: ...
    def ClearField(self, field_name: _Literal["drop", "constant", "policy"]) -> None: ...
    def WhichOneof(self, oneof_group: _Literal["policy"]) -> _Literal["drop", "constant"] | None: ...

@_final
class JobFailurePolicyConstant(_Message):
    @builtins.property
    def interval(self) -> _wellknown.Duration: ...
    max_retries: builtins.int
    def __init__(self, *, interval: _wellknown.Duration | None = ..., max_retries: builtins.int | None = ...) -> None: ...
    def HasField(self, field_name: _Literal["interval", "max_retries"]) -> builtins.bool: ...
    def ClearField(self, field_name: _Literal["interval", "max_retries"]) -> None: ...

@_final
class JobFailurePolicyDrop(_Message):
    def __init__(self) -> None: ...
