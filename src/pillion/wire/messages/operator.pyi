# Copyright The Pillion Authors
# SPDX-License-Identifier: Apache-2.0
"""Messages of the package dapr.proto.operator.v1. Generated from proto/ by scripts/generate: do not edit."""

import builtins
from collections.abc import Iterable as _Iterable, Mapping as _Mapping
from typing import ClassVar as _ClassVar, Literal as _Literal, final as _final, overload as _overload

from google.protobuf.internal import containers as _containers, well_known_types as _well_known_types
from google.protobuf.internal.enum_type_wrapper import EnumTypeWrapper as _EnumTypeWrapper
from google.protobuf.message import Message as _Message

from pillion.wire.messages import wellknown as _wellknown

ResourceEventType: _EnumTypeWrapper
UNKNOWN: builtins.int
CREATED: builtins.int
UPDATED: builtins.int
DELETED: builtins.int

ResourceConditionStatus: _EnumTypeWrapper
STATUS_UNKNOWN: builtins.int
STATUS_SUCCESS: builtins.int
STATUS_FAILURE: builtins.int

ResourceType: _EnumTypeWrapper
RESOURCE_UNKNOWN: builtins.int
RESOURCE_COMPONENT: builtins.int

EventType: _EnumTypeWrapper
EVENT_UNKNOWN: builtins.int
EVENT_INIT: builtins.int
EVENT_CLOSE: builtins.int

@_final
class ListComponentsRequest(_Message):
    namespace: builtins.str
    def __init__(self, *, namespace: builtins.str = ...) -> None: ...
    def ClearField(self, field_name: _Literal["namespace"]) -> None: ...

@_final
class ComponentUpdateRequest(_Message):
    namespace: builtins.str
    def __init__(self, *, namespace: builtins.str = ...) -> None: ...
    def ClearField(self, field_name: _Literal["namespace"]) -> None: ...

@_final
class SubscriptionUpdateRequest(_Message):
    namespace: builtins.str
    def __init__(self, *, namespace: builtins.str = ...) -> None: ...
    def ClearField(self, field_name: _Literal["namespace"]) -> None: ...

@_final
class ListResiliencyRequest(_Message):
    namespace: builtins.str
    def __init__(self, *, namespace: builtins.str = ...) -> None: ...
    def ClearField(self, field_name: _Literal["namespace"]) -> None: ...

@_final
class ListHTTPEndpointsRequest(_Message):
    namespace: builtins.str
    def __init__(self, *, namespace: builtins.str = ...) -> None: ...
    def ClearField(self, field_name: _Literal["namespace"]) -> None: ...

@_final
class HTTPEndpointUpdateRequest(_Message):
    namespace: builtins.str
    def __init__(self, *, namespace: builtins.str = ...) -> None: ...
    def ClearField(self, field_name: _Literal["namespace"]) -> None: ...

@_final
class ListMCPServersRequest(_Message):
    namespace: builtins.str
    def __init__(self, *, namespace: builtins.str = ...) -> None: ...
    def ClearField(self, field_name: _Literal["namespace"]) -> None: ...

@_final
class MCPServerUpdateRequest(_Message):
    namespace: builtins.str
    def __init__(self, *, namespace: builtins.str = ...) -> None: ...
    def ClearField(self, field_name: _Literal["namespace"]) -> None: ...

@_final
class ConfigurationUpdateRequest(_Message):
    namespace: builtins.str
    def __init__(self, *, namespace: builtins.str = ...) -> None: ...
    def ClearField(self, field_name: _Literal["namespace"]) -> None: ...

@_final
class ResiliencyUpdateRequest(_Message):
    namespace: builtins.str
    def __init__(self, *, namespace: builtins.str = ...) -> None: ...
    def ClearField(self, field_name: _Literal["namespace"]) -> None: ...

@_final
class ListWorkflowAccessPolicyRequest(_Message):
    namespace: builtins.str
    def __init__(self, *, namespace: builtins.str = ...) -> None: ...
    def ClearField(self, field_name: _Literal["namespace"]) -> None: ...

@_final
class WorkflowAccessPolicyUpdateRequest(_Message):
    namespace: builtins.str
    def __init__(self, *, namespace: builtins.str = ...) -> None: ...
    def ClearField(self, field_name: _Literal["namespace"]) -> None: ...

@_final
class ComponentUpdateEvent(_Message):
    component: builtins.bytes
    type: builtins.int
    def __init__(self, *, component: builtins.bytes = ..., type: builtins.int = ...) -> None: ...
    def ClearField(self, field_name: _Literal["component", "type"]) -> None: ...

@_final
class ListComponentResponse(_Message):
    @builtins.property
    def components(self) -> _containers.RepeatedScalarFieldContainer[builtins.bytes]: ...
    def __init__(self, *, components: _Iterable[builtins.bytes] | None = ...) -> None: ...
    def ClearField(self, field_name: _Literal["components"]) -> None: ...

@_final
class GetConfigurationRequest(_Message):
    name: builtins.str
    namespace: builtins.str
    def __init__(self, *, name: builtins.str = ..., namespace: builtins.str = ...) -> None: ...
    def ClearField(self, field_name: _Literal["name", "namespace"]) -> None: ...

@_final
class GetResiliencyRequest(_Message):
    name: builtins.str
    namespace: builtins.str
    def __init__(self, *, name: builtins.str = ..., namespace: builtins.str = ...) -> None: ...
    def ClearField(self, field_name: _Literal["name", "namespace"]) -> None: ...

@_final
class GetHTTPEndpointRequest(_Message):
    name: builtins.str
    namespace: builtins.str
    def __init__(self, *, name: builtins.str = ..., namespace: builtins.str = ...) -> None: ...
    def ClearField(self, field_name: _Literal["name", "namespace"]) -> None: ...

@_final
class GetConfigurationResponse(_Message):
    configuration: builtins.bytes
    def __init__(self, *, configuration: builtins.bytes = ...) -> None: ...
    def ClearField(self, field_name: _Literal["configuration"]) -> None: ...

@_final
class ListSubscriptionsResponse(_Message):
    @builtins.property
    def subscriptions(self) -> _containers.RepeatedScalarFieldContainer[builtins.bytes]: ...
    def __init__(self, *, subscriptions: _Iterable[builtins.bytes] | None = ...) -> None: ...
    def ClearField(self, field_name: _Literal["subscriptions"]) -> None: ...

@_final
class SubscriptionUpdateEvent(_Message):
    subscription: builtins.bytes
    type: builtins.int
    def __init__(self, *, subscription: builtins.bytes = ..., type: builtins.int = ...) -> None: ...
    def ClearField(self, field_name: _Literal["subscription", "type"]) -> None: ...

@_final
class GetResiliencyResponse(_Message):
    resiliency: builtins.bytes
    def __init__(self, *, resiliency: builtins.bytes = ...) -> None: ...
    def ClearField(self, field_name: _Literal["resiliency"]) -> None: ...

@_final
class ListResiliencyResponse(_Message):
    @builtins.property
    def resiliencies(self) -> _containers.RepeatedScalarFieldContainer[builtins.bytes]: ...
    def __init__(self, *, resiliencies: _Iterable[builtins.bytes] | None = ...) -> None: ...
    def ClearField(self, field_name: _Literal["resiliencies"]) -> None: ...

@_final
class ListSubscriptionsRequest(_Message):
    namespace: builtins.str
    def __init__(self, *, namespace: builtins.str = ...) -> None: ...
    def ClearField(self, field_name: _Literal["namespace"]) -> None: ...

@_final
class GetHTTPEndpointResponse(_Message):
    http_endpoint: builtins.bytes
    def __init__(self, *, http_endpoint: builtins.bytes = ...) -> None: ...
    def ClearField(self, field_name: _Literal["http_endpoint"]) -> None: ...

@_final
class ListHTTPEndpointsResponse(_Message):
    @builtins.property
    def http_endpoints(self) -> _containers.RepeatedScalarFieldContainer[builtins.bytes]: ...
    def __init__(self, *, http_endpoints: _Iterable[builtins.bytes] | None = ...) -> None: ...
    def ClearField(self, field_name: _Literal["http_endpoints"]) -> None: ...

@_final
class HTTPEndpointUpdateEvent(_Message):
    http_endpoints: builtins.bytes
    type: builtins.int
    def __init__(self, *, http_endpoints: builtins.bytes = ..., type: builtins.int = ...) -> None: ...
    def ClearField(self, field_name: _Literal["http_endpoints", "type"]) -> None: ...

@_final
class ListMCPServersResponse(_Message):
    @builtins.property
    def mcp_servers(self) -> _containers.RepeatedScalarFieldContainer[builtins.bytes]: ...
    def __init__(self, *, mcp_servers: _Iterable[builtins.bytes] | None = ...) -> None: ...
    def ClearField(self, field_name: _Literal["mcp_servers"]) -> None: ...

@_final
class MCPServerUpdateEvent(_Message):
    mcp_server: builtins.bytes
    type: builtins.int
    def __init__(self, *, mcp_server: builtins.bytes = ..., type: builtins.int = ...) -> None: ...
    def ClearField(self, field_name: _Literal["mcp_server", "type"]) -> None: ...

@_final
class ConfigurationUpdateEvent(_Message):
    configuration: builtins.bytes
    type: builtins.int
    def __init__(self, *, configuration: builtins.bytes = ..., type: builtins.int = ...) -> None: ...
    def ClearField(self, field_name: _Literal["configuration", "type"]) -> None: ...

@_final
class ResiliencyUpdateEvent(_Message):
    resiliency: builtins.bytes
    type: builtins.int
    def __init__(self, *, resiliency: builtins.bytes = ..., type: builtins.int = ...) -> None: ...
    def ClearField(self, field_name: _Literal["resiliency", "type"]) -> None: ...

@_final
class ListWorkflowAccessPolicyResponse(_Message):
    @builtins.property
    def policies(self) -> _containers.RepeatedScalarFieldContainer[builtins.bytes]: ...
    def __init__(self, *, policies: _Iterable[builtins.bytes] | None = ...) -> None: ...
    def ClearField(self, field_name: _Literal["policies"]) -> None: ...

@_final
class WorkflowAccessPolicyUpdateEvent(_Message):
    policy: builtins.bytes
    type: builtins.int
    def __init__(self, *, policy: builtins.bytes = ..., type: builtins.int = ...) -> None: ...
    def ClearField(self, field_name: _Literal["policy", "type"]) -> None: ...

@_final
class ResourceResult(_Message):
    resource_type: builtins.int
    event_type: builtins.int
    name: builtins.str
    condition: builtins.int
    reason: builtins.str
    message: builtins.str
    observed_generation: builtins.int
    @builtins.property
    def last_transaction_time(self) -> _wellknown.Timestamp: ...
    def __init__(self, *, resource_type: builtins.int = ..., event_type: builtins.int = ..., name: builtins.str = ..., condition: builtins.int = ..., reason: builtins.str | None = ..., message: builtins.str | None = ..., observed_generation: builtins.int = ..., last_transaction_time: _wellknown.Timestamp | None = ...) -> None: ...
    def HasField(self, field_name: _Literal["reason", "message", "last_transaction_time"]) -> builtins.bool: ...
    def ClearField(self, field_name: _Literal["resource_type", "event_type", "name", "condition", "reason", "message", "observed_generation", "last_transaction_time"]) -> None: ...
