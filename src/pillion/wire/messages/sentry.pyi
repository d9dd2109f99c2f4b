# Copyright The Pillion Authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of the package dapr.proto.sentry.v1. Generated from proto/ by scripts/generate: do not edit."""

import builtins
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Literal as _Literal, final as _final, overload as _overload

from google.protobuf.internal import containers as _containers, well_known_types as _well_known_types
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper as _EnumTypeWrapper
from google.protobuf.message import Message as _Message

from pillion.wire.messages import wellknown as _wellknown

@_final
class SignCertificateRequest(_Message):
    TokenValidator: _ClassVar[_EnumTypeWrapper]
    UNKNOWN: _ClassVar[builtins.int]
    INSECURE: _ClassVar[builtins.int]
    KUBERNETES: _ClassVar[builtins.int]
    JWKS: _ClassVar[builtins.int]
    id: builtins.str
    token: builtins.str
    trust_domain: builtins.str
    namespace: builtins.str
    certificate_signing_request: builtins.bytes
    token_validator: builtins.int
    @builtins.property
    def jwt_audiences(self) -> _containers.RepeatedScalarFieldContainer[builtins.str]: ...
    def __init__(self, *, id: builtins.str = ..., token: builtins.str = ..., trust_domain: builtins.str = ..., namespace: builtins.str = ..., certificate_signing_request: builtins.bytes = ..., token_validator: builtins.int = ..., jwt_audiences: _Iterable[builtins.str] | None = ...) -> None: ...
    def ClearField(self, field_name: _Literal["id", "token", "trust_domain", "namespace", "certificate_signing_request", "token_validator", "jwt_audiences"]) -> None: ...

@_final
class SignCertificateResponse(_Message):
    workload_certificate: builtins.bytes
    @builtins.property
    def trust_chain_certificates(self) -> _containers.RepeatedScalarFieldContainer[builtins.bytes]: ...
    @builtins.property
    def valid_until(self) -> _wellknown.Timestamp: ...
    @builtins.property
    def jwt(self) -> _wellknown.StringValue: ...
    @builtins.property
    def per_audience_jwts(self) -> _containers.MessageMap[builtins.str, _wellknown.StringValue]: ...
    def __init__(self, *, workload_certificate: builtins.bytes = ..., trust_chain_certificates: _Iterable[builtins.bytes] | None = ..., valid_until: _wellknown.Timestamp | None = ..., jwt: _wellknown.StringValue | None = ..., per_audience_jwts: _Mapping[builtins.str, _wellknown.StringValue] | None = ...) -> None: ...
    def HasField(self, field_name: _Literal["valid_until", "jwt"]) -> builtins.bool: ...
    def ClearField(self, field_name: _Literal["workload_certificate", "trust_chain_certificates", "valid_until", "jwt", "per_audience_jwts"]) -> None: ...
