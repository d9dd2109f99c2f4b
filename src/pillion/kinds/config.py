"""The Configuration resource as typed, checked values (spec `runtime.md` 3).

Knows: every field of `spec` and its default. Never knows: documents (`config_reading.py`), files, the environment, or
who acts on a field; a part of the sidecar is handed its block of this value and nothing else.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING, Any

from pillion.records import record

if TYPE_CHECKING:
    from collections.abc import Mapping

SAMPLING_RATE = 0.0001
DEFAULT_FEATURES = ("HotReload", "WorkflowsRemoteActivityReminder")


@record
class Otel:
    """`tracing.otel`. `protocol` is "http", "grpc" or "" (off); `timeout_s` None is the exporter's own default."""

    protocol: str = ""
    endpoint: str = ""
    secure: bool = True
    headers: tuple[tuple[str, str], ...] = field(default=(), repr=False)
    timeout_s: float | None = None


@record
class Tracing:
    """`tracing`. `sampling_rate` is as written, because "" and a rate differ when there is no exporter."""

    sampling_rate: str = ""
    stdout: bool = False
    zipkin: str = ""
    otel: Otel = Otel()

    @property
    def rate(self) -> float:
        """The share of root traces that are sampled, 0 to 1."""
        try:
            rate = float(self.sampling_rate)
        except ValueError:
            return SAMPLING_RATE
        return min(max(rate, 0.0), 1.0) if rate == rate else SAMPLING_RATE

    @property
    def exporting(self) -> bool:
        """Whether spans go anywhere."""
        return self.stdout or bool(self.zipkin) or bool(self.otel.endpoint and self.otel.protocol)


@record
class LabelRule:
    """Rewrites a label: every match of a pattern becomes the key it stands under."""

    label: str
    replacements: Mapping[str, str]


@record
class MetricRule:
    """Rewrites labels of one metric, named without `dapr_`."""

    metric: str
    labels: tuple[LabelRule, ...]


@record
class Metric:
    """`metric`, with what `metrics` overrides. `increased_cardinality` None: unset, which means true and a warning."""

    enabled: bool = True
    record_error_codes: bool = False
    latency_buckets_ms: tuple[int, ...] = ()
    increased_cardinality: bool | None = None
    path_matching: tuple[str, ...] = ()
    exclude_verbs: bool = False
    rules: tuple[MetricRule, ...] = ()


@record
class ApiLogging:
    """`logging.apiLogging`."""

    enabled: bool = False
    obfuscate_urls: bool = False
    omit_health_checks: bool = False


@record
class Handler:
    """One member of a pipeline: a middleware component found by all three; an empty version is v1."""

    name: str
    type: str
    version: str = "v1"


@record
class NameResolution:
    """`nameResolution`; `component` has no prefix, "" chooses the mode's default. `settings` is free form."""

    component: str = ""
    version: str = "v1"
    settings: Any = None


@record
class ApiRule:
    """One row of `api.allowed` or `api.denied`."""

    name: str
    version: str
    protocol: str


@record
class AccessOperation:
    """One rule of an access policy; no verbs means that none matches but `*`."""

    name: str
    verbs: tuple[str, ...]
    action: str


@record
class AccessPolicy:
    """What one calling application may do."""

    app_id: str
    namespace: str
    trust_domain: str
    default_action: str
    operations: tuple[AccessOperation, ...]


@record
class AccessControl:
    """`accessControl`, enforced by the called side. An explicit empty `default_action` denies where policies exist."""

    default_action: str = "allow"
    trust_domain: str = "public"
    policies: tuple[AccessPolicy, ...] = ()


@record
class SecretScope:
    """One of `secrets.scopes`."""

    store: str
    allow_by_default: bool = True
    allowed: frozenset[str] = frozenset()
    denied: frozenset[str] = frozenset()


@record
class Retention:
    """How long a finished workflow is kept, in seconds: None is for ever, 0 not at all."""

    completed_s: float | None = None
    failed_s: float | None = None
    terminated_s: float | None = None


@record
class Workflow:
    """`workflow`; 0 means no limit. The limits by name are (name, most at once)."""

    max_workflows: int = 0
    max_activities: int = 0
    global_max_workflows: int = 0
    global_max_activities: int = 0
    workflow_limits: Mapping[str, int] = field(default_factory=dict)
    activity_limits: Mapping[str, int] = field(default_factory=dict)
    retention: Retention = Retention()


@record
class Mtls:
    """`mtls`: read by the certificate authority and the command line, not by the sidecar."""

    enabled: bool = False
    workload_cert_ttl: str = ""
    allowed_clock_skew: str = ""
    sentry_address: str = ""
    trust_domain: str = ""
    token_validators: tuple[tuple[str, Any], ...] = ()


@record
class Configuration:
    """All of `spec`."""

    name: str = ""
    tracing: Tracing = Tracing()
    metric: Metric = Metric()
    api_logging: ApiLogging = ApiLogging()
    http_pipeline: tuple[Handler, ...] = ()
    app_http_pipeline: tuple[Handler, ...] = ()
    name_resolution: NameResolution = NameResolution()
    mtls: Mtls = Mtls()
    features: tuple[str, ...] = DEFAULT_FEATURES
    """Those that are on, known or not, in the order they were named; the default ones last."""
    components_deny: tuple[str, ...] = ()
    wasm_strict_sandbox: bool = False
    workflow: Workflow = Workflow()
    api_allowed: tuple[ApiRule, ...] = ()
    api_denied: tuple[ApiRule, ...] = ()
    access_control: AccessControl = AccessControl()
    secret_scopes: tuple[SecretScope, ...] = ()

    def enabled(self, feature: str) -> bool:
        return feature in self.features
