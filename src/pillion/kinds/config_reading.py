"""From a Configuration document to its typed value (spec `runtime.md` 3).

Knows: which values cannot be meant (they end the start), and which are doubtful (they become notes). Never knows:
files and merging.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pillion.kinds.config import (
    DEFAULT_FEATURES,
    AccessControl,
    AccessOperation,
    AccessPolicy,
    ApiLogging,
    ApiRule,
    Configuration,
    Handler,
    LabelRule,
    Metric,
    MetricRule,
    Mtls,
    NameResolution,
    Otel,
    Retention,
    SecretScope,
    Tracing,
    Workflow,
)
from pillion.wire.durations import go_duration

if TYPE_CHECKING:
    from pillion.kinds.fields import Fields


def configuration(document: Fields) -> Configuration:
    """Read a (merged) document. Raises `ConfigError` for what cannot be meant; doubts are in `document.notes`."""
    for name in ("apiVersion", "kind"):
        document.text(name)
    meta, spec = document.nested("metadata"), document.nested("spec")
    denied, wasm = spec.nested("components"), spec.nested("wasm")
    api, secrets = spec.nested("api"), spec.nested("secrets")
    read = Configuration(
        name=meta.text("name"),
        tracing=_tracing(spec.nested("tracing")),
        metric=_metric(spec.nested("metric"), spec.nested("metrics")),
        api_logging=_api_logging(spec.nested("logging")),
        http_pipeline=_pipeline(spec.nested("httpPipeline")),
        app_http_pipeline=_pipeline(spec.nested("appHttpPipeline")),
        name_resolution=_name_resolution(spec.nested("nameResolution")),
        mtls=_mtls(spec.nested("mtls")),
        features=_features(spec),
        components_deny=denied.texts("deny"),
        wasm_strict_sandbox=wasm.flag("strictSandbox"),
        workflow=_workflow(spec.nested("workflow")),
        api_allowed=_api_rules(api, "allowed"),
        api_denied=_api_rules(api, "denied"),
        access_control=_access_control(spec.nested("accessControl")),
        secret_scopes=_secret_scopes(secrets),
    )
    for fields in (denied, wasm, api, secrets, spec, document):
        fields.done()
    return read


def _tracing(block: Fields) -> Tracing:
    zipkin, otel = block.nested("zipkin"), block.nested("otel")
    read = Tracing(
        sampling_rate=block.text("samplingRate"),
        stdout=block.flag("stdout"),
        zipkin=zipkin.text("endpointAddress"),
        otel=Otel(
            protocol=otel.text("protocol"),
            endpoint=otel.text("endpointAddress"),
            secure=otel.flag("isSecure", True),
            headers=tuple((name.strip(), value.strip()) for name, value in otel.pairs("headers")),
            timeout_s=_duration(otel, "timeout"),
        ),
    )
    if read.otel.endpoint and read.otel.protocol not in ("", "http", "grpc"):
        raise otel.wrong("protocol", f"invalid protocol {read.otel.protocol!r}", "use http or grpc")
    for fields in (zipkin, otel, block):
        fields.done()
    return read


def _duration(block: Fields, name: str) -> float | None:
    text = block.text(name)
    if not text:
        return None
    try:
        return go_duration(text)
    except ValueError as error:
        raise block.wrong(name, str(error)) from error


def _metric(block: Fields, alias: Fields) -> Metric:
    """`metrics` is an alias whose fields, where they are set, win over those of `metric`."""

    def source(name: str) -> Fields:
        return alias if alias.raw(name) is not None else block

    read = Metric(
        enabled=source("enabled").flag("enabled", True),
        record_error_codes=source("recordErrorCodes").flag("recordErrorCodes"),
        latency_buckets_ms=source("latencyDistributionBuckets").integers("latencyDistributionBuckets"),
        rules=tuple(_metric_rule(rule) for rule in source("rules").items("rules")),
        **_http_metric(source("http").nested("http")),
    )
    for fields in (block, alias):
        fields.know("enabled", "recordErrorCodes", "latencyDistributionBuckets", "rules", "http")
        fields.done()
    return read


def _http_metric(http: Fields) -> dict[str, Any]:
    cardinality = http.flag("increasedCardinality") if http.raw("increasedCardinality") is not None else None
    values = {
        "increased_cardinality": cardinality,
        "path_matching": http.texts("pathMatching"),
        "exclude_verbs": http.flag("excludeVerbs"),
    }
    http.done()
    return values


def _metric_rule(rule: Fields) -> MetricRule:
    labels = tuple(LabelRule(label.text("name"), label.mapping("regex")) for label in rule.items("labels"))
    return MetricRule(rule.text("name"), labels)


def _api_logging(block: Fields) -> ApiLogging:
    api = block.nested("apiLogging")
    read = ApiLogging(api.flag("enabled"), api.flag("obfuscateURLs"), api.flag("omitHealthChecks"))
    api.done()
    block.done()
    return read


def _pipeline(block: Fields) -> tuple[Handler, ...]:
    handlers = []
    for entry in block.items("handlers"):
        handlers.append(Handler(entry.text("name"), entry.text("type"), entry.text("version") or "v1"))
        entry.know("selector")
        entry.done()
    block.done()
    return tuple(handlers)


def _name_resolution(block: Fields) -> NameResolution:
    read = NameResolution(block.text("component"), block.text("version") or "v1", block.free("configuration"))
    block.done()
    return read


def _mtls(block: Fields) -> Mtls:
    read = Mtls(
        enabled=block.flag("enabled"),
        workload_cert_ttl=block.text("workloadCertTTL"),
        allowed_clock_skew=block.text("allowedClockSkew"),
        sentry_address=block.text("sentryAddress"),
        trust_domain=block.text("controlPlaneTrustDomain"),
        token_validators=tuple((entry.text("name"), entry.free("options")) for entry in block.items("tokenValidators")),
    )
    block.done()
    return read


def _features(spec: Fields) -> tuple[str, ...]:
    """Apply the entries in order, a later false removes; a default feature that no entry names is on."""
    on: dict[str, bool] = {}
    for entry in spec.items("features"):
        name = entry.text("name")
        if name:
            on[name] = entry.flag("enabled")
        entry.done()
    return tuple(
        name for name, enabled in {**on, **{n: True for n in DEFAULT_FEATURES if n not in on}}.items() if enabled
    )


def _workflow(block: Fields) -> Workflow:
    def limit(name: str) -> int:
        return max(block.integer(name), 0)

    def limits(name: str) -> dict[str, int]:
        read = {entry.text("name"): entry.integer("maxConcurrent") for entry in block.items(name)}
        return {key: most for key, most in read.items() if key and most > 0}

    policy = block.nested("stateRetentionPolicy")
    anyway = _duration(policy, "anyTerminal")
    kept = [_duration(policy, name) for name in ("completed", "failed", "terminated")]
    read = Workflow(
        max_workflows=limit("maxConcurrentWorkflowInvocations"),
        max_activities=limit("maxConcurrentActivityInvocations"),
        global_max_workflows=limit("globalMaxConcurrentWorkflowInvocations"),
        global_max_activities=limit("globalMaxConcurrentActivityInvocations"),
        workflow_limits=limits("workflowConcurrencyLimits"),
        activity_limits=limits("activityConcurrencyLimits"),
        retention=Retention(*(anyway if seconds is None else seconds for seconds in kept)),
    )
    policy.done()
    block.done()
    return read


def _api_rules(api: Fields, name: str) -> tuple[ApiRule, ...]:
    rules = []
    for entry in api.items(name):
        rule = ApiRule(entry.text("name"), entry.text("version"), entry.text("protocol"))
        if rule.protocol.lower() not in ("http", "grpc"):
            entry.note("protocol", f"is {rule.protocol!r}: the rule has no effect (use http or grpc)")
        elif rule.protocol.lower() == "grpc" and rule.protocol != "grpc":
            entry.note("protocol", f"is {rule.protocol!r}: the rule has no effect (write grpc in lower case)")
        entry.done()
        rules.append(rule)
    return tuple(rules)


def _access_control(block: Fields) -> AccessControl:
    policies = []
    for entry in block.items("policies"):
        for name in ("appId", "trustDomain", "namespace"):
            if not entry.text(name):
                raise entry.wrong(name, "invalid access control spec: is missing", "name the caller completely")
        policies.append(
            AccessPolicy(
                app_id=entry.text("appId"),
                namespace=entry.text("namespace"),
                trust_domain=entry.text("trustDomain"),
                default_action=_action(entry, "defaultAction"),
                operations=tuple(_operation(operation) for operation in entry.items("operations")),
            )
        )
        entry.done()
    action = _action(block, "defaultAction", "allow")
    read = AccessControl(action, block.text("trustDomain", "public"), tuple(policies))
    block.done()
    return read


def _operation(entry: Fields) -> AccessOperation:
    read = AccessOperation(entry.text("name"), entry.texts("httpVerb"), _action(entry, "action"))
    entry.done()
    return read


def _action(entry: Fields, name: str, default: str = "") -> str:
    action = entry.text(name, default)
    if action.lower() not in ("", "allow", "deny"):
        entry.note(name, f"is {action!r}, which denies (use allow or deny)")
    return action


def _secret_scopes(block: Fields) -> tuple[SecretScope, ...]:
    scopes: dict[str, SecretScope] = {}
    for entry in block.items("scopes"):
        store, access = entry.text("storeName"), entry.text("defaultAccess") or "allow"
        if store in scopes:
            raise entry.wrong(
                "storeName", f"{store} storeName is repeated in secrets configuration", "merge the scopes"
            )
        if access.lower() not in ("allow", "deny"):
            raise entry.wrong("defaultAccess", f"defaultAccess {access!r} can be either allow or deny")
        allowed, denied = frozenset(entry.texts("allowedSecrets")), frozenset(entry.texts("deniedSecrets"))
        scopes[store] = SecretScope(store, access.lower() == "allow", allowed, denied)
        entry.done()
    return tuple(scopes.values())
