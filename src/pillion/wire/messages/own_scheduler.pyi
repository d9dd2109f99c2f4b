# Copyright The Pillion Authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of the package pillion.scheduler.v1. Generated from proto/ by scripts/generate: do not edit."""

import builtins
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Literal as _Literal, final as _final, overload as _overload

from google.protobuf.internal import containers as _containers, well_known_types as _well_known_types
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper as _EnumTypeWrapper
from google.protobuf.message import Message as _Message

from pillion.wire.messages import scheduler as _scheduler, wellknown as _wellknown

CatchUp: _EnumTypeWrapper
CATCH_UP_ALL: builtins.int
CATCH_UP_LAST: builtins.int
CATCH_UP_NONE: builtins.int

@_final
class JobState(_Message):
    key: builtins.str
    @builtins.property
    def job(self) -> _scheduler.Job: ...
    @builtins.property
    def metadata(self) -> _scheduler.JobMetadata: ...
    name: builtins.str
    catch_up: builtins.int
    catch_up_per_second: builtins.float
    @builtins.property
    def anchor(self) -> _wellknown.Timestamp: ...
    @builtins.property
    def expires(self) -> _wellknown.Timestamp: ...
    @builtins.property
    def next(self) -> _wellknown.Timestamp: ...
    @builtins.property
    def last(self) -> _wellknown.Timestamp: ...
    count: builtins.int
    attempts: builtins.int
    paused: builtins.bool
    def __init__(self, *, key: builtins.str = ..., job: _scheduler.Job | None = ..., metadata: _scheduler.JobMetadata | None = ..., name: builtins.str = ..., catch_up: builtins.int = ..., catch_up_per_second: builtins.float = ..., anchor: _wellknown.Timestamp | None = ..., expires: _wellknown.Timestamp | None = ..., next: _wellknown.Timestamp | None = ..., last: _wellknown.Timestamp | None = ..., count: builtins.int = ..., attempts: builtins.int = ..., paused: builtins.bool = ...) -> None: ...
    def HasField(self, field_name: _Literal["job", "metadata", "anchor", "expires", "next", "last"]) -> builtins.bool: ...
    def ClearField(self, field_name: _Literal["key", "job", "metadata", "name", "catch_up", "catch_up_per_second", "anchor", "expires", "next", "last", "count", "attempts", "paused"]) -> None: ...

@_final
class FindRequest(_Message):
    prefix: builtins.str
    paused: builtins.bool
    after: builtins.str
    limit: builtins.int
    def __init__(self, *, prefix: builtins.str = ..., paused: builtins.bool | None = ..., after: builtins.str = ..., limit: builtins.int = ...) -> None: ...
    def HasField(self, field_name: _Literal["paused"]) -> builtins.bool: ...
    def ClearField(self, field_name: _Literal["prefix", "paused", "after", "limit"]) -> None: ...

@_final
class FindResponse(_Message):
    @builtins.property
    def jobs(self) -> _containers.RepeatedCompositeFieldContainer[JobState]: ...
    def __init__(self, *, jobs: _Iterable[JobState] | None = ...) -> None: ...
    def ClearField(self, field_name: _Literal["jobs"]) -> None: ...

@_final
class JobRequest(_Message):
    key: builtins.str
    def __init__(self, *, key: builtins.str = ...) -> None: ...
    def ClearField(self, field_name: _Literal["key"]) -> None: ...

@_final
class SkipRequest(_Message):
    key: builtins.str
    ticks: builtins.int
    def __init__(self, *, key: builtins.str = ..., ticks: builtins.int = ...) -> None: ...
    def ClearField(self, field_name: _Literal["key", "ticks"]) -> None: ...

@_final
class BackfillRequest(_Message):
    key: builtins.str
    @builtins.property
    def since(self) -> _wellknown.Timestamp: ...
    @builtins.property
    def until(self) -> _wellknown.Timestamp: ...
    def __init__(self, *, key: builtins.str = ..., since: _wellknown.Timestamp | None = ..., until: _wellknown.Timestamp | None = ...) -> None: ...
    def HasField(self, field_name: _Literal["since", "until"]) -> builtins.bool: ...
    def ClearField(self, field_name: _Literal["key", "since", "until"]) -> None: ...

@_final
class BackfillResponse(_Message):
    ticks: builtins.int
    def __init__(self, *, ticks: builtins.int = ...) -> None: ...
    def ClearField(self, field_name: _Literal["ticks"]) -> None: ...

@_final
class PutRequest(_Message):
    name: builtins.str
    @builtins.property
    def job(self) -> _scheduler.Job: ...
    @builtins.property
    def metadata(self) -> _scheduler.JobMetadata: ...
    overwrite: builtins.bool
    catch_up: builtins.int
    catch_up_per_second: builtins.float
    def __init__(self, *, name: builtins.str = ..., job: _scheduler.Job | None = ..., metadata: _scheduler.JobMetadata | None = ..., overwrite: builtins.bool = ..., catch_up: builtins.int = ..., catch_up_per_second: builtins.float = ...) -> None: ...
    def HasField(self, field_name: _Literal["job", "metadata"]) -> builtins.bool: ...
    def ClearField(self, field_name: _Literal["name", "job", "metadata", "overwrite", "catch_up", "catch_up_per_second"]) -> None: ...

@_final
class RunNowResponse(_Message):
    def __init__(self) -> None: ...

@_final
class RemoveResponse(_Message):
    def __init__(self) -> None: ...

@_final
class PutResponse(_Message):
    def __init__(self) -> None: ...
