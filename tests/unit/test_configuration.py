"""Configuration files (spec `runtime.md` 3)."""

from __future__ import annotations

import contextlib
import re
from typing import TYPE_CHECKING

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillion.errors import ConfigError
from pillion.kinds.config import (
    AccessControl,
    AccessOperation,
    ApiLogging,
    ApiRule,
    Configuration,
    Handler,
    LabelRule,
    MetricRule,
    Otel,
    Retention,
    SecretScope,
    Tracing,
)
from pillion.sidecar.configuration import Read, with_environment
from pillion.sidecar.configuration import read as read_files
from pillion.sidecar.environment import Environment

if TYPE_CHECKING:
    from pathlib import Path

HEAD = "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata: {name: c}\n"


def read(folder: Path, *specs: str, **variables: str) -> Read:
    paths = []
    for index, spec in enumerate(specs):
        path = folder / f"{index}.yaml"
        path.write_text(spec if spec.startswith("api") else f"{HEAD}spec: {spec}\n")
        paths.append(str(path))
    return read_files(paths, Environment(variables=variables))


def test_defaults() -> None:
    """3.1: the defaults underneath."""
    found = read_files([], Environment()).configuration
    assert found == Configuration()
    assert found.tracing.otel.secure
    assert found.metric.enabled
    assert found.access_control == AccessControl("allow", "public", ())
    assert found.features == ("HotReload", "WorkflowsRemoteActivityReminder")


WHOLE = (
    HEAD
    + """spec:
  tracing:
    samplingRate: 0.5
    stdout: true
    zipkin: {endpointAddress: http://z/api}
    otel: {protocol: grpc, endpointAddress: "o:4317", isSecure: false, timeout: 2s,
      headers: ["a=b=c", {name: x, value: z}]}
  metric:
    enabled: false
    recordErrorCodes: true
    latencyDistributionBuckets: [1, 2]
    http: {increasedCardinality: false, pathMatching: [/a, "/b/{id}"], excludeVerbs: true}
    rules: [{name: m, labels: [{name: path, regex: {/orders: "/orders/.+"}}]}]
  metrics:
    enabled: true
  logging: {apiLogging: {enabled: true, obfuscateURLs: true, omitHealthChecks: true}}
  httpPipeline: {handlers: [{name: u, type: middleware.http.uppercase, selector: {}}]}
  appHttpPipeline: {handlers: [{name: v, type: middleware.http.x, version: v2}]}
  nameResolution: {component: consul, configuration: {selfRegister: true, Tags: [a]}}
  mtls: {enabled: true, workloadCertTTL: 24h, allowedClockSkew: 15m, tokenValidators: [{name: jwks, options: {a: b}}]}
  features: [{name: New, enabled: true}, {name: HotReload, enabled: false}]
  components: {deny: [state.x, state.y/v1]}
  wasm: {strictSandbox: true}
  workflow:
    maxConcurrentWorkflowInvocations: 5
    maxConcurrentActivityInvocations: -1
    globalMaxConcurrentWorkflowInvocations: 7
    workflowConcurrencyLimits: [{name: w, maxConcurrent: 3}, {name: z}, {maxConcurrent: 4}]
    stateRetentionPolicy: {anyTerminal: 1h, failed: 0s}
  api:
    allowed: [{name: state, version: v1.0, protocol: http}]
    denied: [{name: invoke, version: v1, protocol: grpc}]
  accessControl:
    defaultAction: deny
    trustDomain: mine
    policies:
    - appId: a
      namespace: prod
      trustDomain: t
      defaultAction: allow
      operations: [{name: /x/*, httpVerb: [POST, "*"], action: deny}]
  secrets: {scopes: [{storeName: s, defaultAccess: DENY, allowedSecrets: [k], deniedSecrets: [l]}]}
"""
)


def test_every_field(tmp_path: Path) -> None:
    """3.2 to 3.7: every field is parsed and kept."""
    found, warnings = (read_all := read(tmp_path, WHOLE)).configuration, read_all.warnings
    assert warnings == ()
    assert found.tracing == Tracing(
        "0.5", True, "http://z/api", Otel("grpc", "o:4317", False, (("a", "b=c"), ("x", "z")), 2.0)
    )
    assert found.metric.enabled
    assert found.metric.record_error_codes
    assert found.metric.latency_buckets_ms == (1, 2)
    assert found.metric.increased_cardinality is False
    assert found.metric.path_matching == ("/a", "/b/{id}")
    assert found.metric.rules == (MetricRule("m", (LabelRule("path", {"/orders": "/orders/.+"}),)),)
    assert found.api_logging == ApiLogging(True, True, True)
    assert found.http_pipeline == (Handler("u", "middleware.http.uppercase", "v1"),)
    assert found.app_http_pipeline == (Handler("v", "middleware.http.x", "v2"),)
    assert found.name_resolution.settings == {"selfRegister": True, "Tags": ["a"]}
    assert found.mtls.token_validators == (("jwks", {"a": "b"}),)
    assert found.features == ("New", "WorkflowsRemoteActivityReminder")
    assert found.components_deny == ("state.x", "state.y/v1")
    assert found.wasm_strict_sandbox
    assert (found.workflow.max_workflows, found.workflow.max_activities) == (5, 0)
    assert found.workflow.workflow_limits == {"w": 3}
    assert found.workflow.retention == Retention(3600.0, 0.0, 3600.0)
    assert found.api_allowed == (ApiRule("state", "v1.0", "http"),)
    assert found.api_denied == (ApiRule("invoke", "v1", "grpc"),)
    (policy,) = found.access_control.policies
    assert (policy.app_id, policy.namespace, policy.trust_domain, policy.default_action) == ("a", "prod", "t", "allow")
    assert policy.operations == (AccessOperation("/x/*", ("POST", "*"), "deny"),)
    assert found.secret_scopes == (SecretScope("s", False, frozenset("k"), frozenset("l")),)


def test_merging(tmp_path: Path) -> None:
    """3.1: scalars overwrite, mappings merge in any case, lists are replaced, free-form values too."""
    found = read(
        tmp_path,
        "{tracing: {samplingRate: 1, stdout: true}, components: {deny: [a]}, nameResolution: {configuration: {a: 1}}}",
        "{Tracing: {SamplingRate: '0.2', stdout: ~}, components: {deny: [c]}, nameresolution: {configuration: {b: 2}}}",
        "{accessControl: {defaultAction: ''}}",
    ).configuration
    assert (found.tracing.sampling_rate, found.tracing.stdout) == ("0.2", True)
    assert found.components_deny == ("c",)
    assert found.name_resolution.settings == {"b": 2}
    assert (found.access_control.default_action, found.access_control.trust_domain) == ("", "public")


def test_expansion(tmp_path: Path) -> None:
    """3.1: variables are expanded before the text is read."""
    found = read(
        tmp_path, "{tracing: {samplingRate: $RATE, zipkin: {endpointAddress: '${HOST}:1$NONE'}}}", RATE="1", HOST="h"
    )
    assert (found.configuration.tracing.sampling_rate, found.configuration.tracing.zipkin) == ("1", "h:1")


@pytest.mark.parametrize(
    ("spec", "text"),
    [
        ("{tracing: {stdout: 'yes'}}", "0.yaml:4: spec.tracing.stdout: expected true or false without quotes"),
        ("{tracing: {otel: {endpointAddress: x, protocol: tcp}}}", "invalid protocol 'tcp' (use http or grpc)"),
        ("{tracing: {otel: {timeout: soon}}}", "spec.tracing.otel.timeout: not a duration"),
        ("{metric: {latencyDistributionBuckets: [a]}}", "latencyDistributionBuckets[0]: expected a whole number"),
        (
            "{accessControl: {policies: [{appId: a, namespace: n}]}}",
            "policies[0].trustDomain: invalid access control spec",
        ),
        ("{secrets: {scopes: [{storeName: s}, {storeName: s}]}}", "scopes[1].storeName: s storeName is repeated"),
        ("{secrets: {scopes: [{storeName: s, defaultAccess: maybe}]}}", "can be either allow or deny"),
        ("{features: {HotReload: false}}", "spec.features: expected a list"),
        ("{workflow: {stateRetentionPolicy: {completed: x}}}", "stateRetentionPolicy.completed: not a duration"),
        ("[", "0.yaml:4: "),
        ("5", "spec: expected a mapping"),
        ("{metric: {rules: [{labels: [{regex: {a: .nan}}]}]}}", "0.yaml:4: JSON has no infinity"),
    ],
)
def test_fatal(tmp_path: Path, spec: str, text: str) -> None:
    """A value that cannot be meant ends the start, with file, line and field."""
    with pytest.raises(ConfigError, match=re.escape(text)):
        read(tmp_path, spec)


def test_missing_and_odd_files(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="correct --config"):
        read_files([str(tmp_path / "none.yaml")], Environment())
    (tmp_path / "latin").write_bytes(b"a: \xe4")
    with pytest.raises(ConfigError, match="UTF-8"):
        read_files([str(tmp_path / "latin")], Environment())
    assert read(tmp_path, "apiVersion: v1\nkind: Component\n").warnings[0].endswith("all the same")


@pytest.mark.parametrize(
    ("spec", "warning"),
    [
        ("{tracng: {}}", "spec.tracng: unknown field is ignored (did you mean tracing?)"),
        ("{api: {allowed: [{name: state, version: v1, protocol: GRPC}]}}", "write grpc in lower case"),
        ("{api: {denied: [{name: state, version: v1}]}}", "the rule has no effect"),
        ("{accessControl: {defaultAction: permit}}", "is 'permit', which denies"),
        ("{tracing: {otel: {headers: [plain]}}}", "spec.tracing.otel.headers[0]: is not of the form name=value"),
    ],
)
def test_doubts(tmp_path: Path, spec: str, warning: str) -> None:
    """What passes but is hardly meant is told."""
    (told,) = read(tmp_path, spec).warnings
    assert warning in told


@pytest.mark.parametrize(
    ("features", "on"),
    [
        ("[]", {"HotReload", "WorkflowsRemoteActivityReminder"}),
        ("[{name: HotReload, enabled: false}]", {"WorkflowsRemoteActivityReminder"}),
        ("[{name: X, enabled: true}, {name: X, enabled: false}]", {"HotReload", "WorkflowsRemoteActivityReminder"}),
    ],
)
def test_features(tmp_path: Path, features: str, on: set[str]) -> None:
    assert set(read(tmp_path, f"{{features: {features}}}").configuration.features) == on


@pytest.mark.parametrize(
    ("written", "rate"), [("", 0.0001), ("x", 0.0001), ("nan", 0.0001), ("0", 0.0), ("1", 1.0), ("7", 1.0), ("-1", 0.0)]
)
def test_sampling(written: str, rate: float) -> None:
    assert Tracing(written).rate == rate


ENDPOINT = "OTEL_EXPORTER_OTLP_ENDPOINT"


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({}, Tracing()),
        (
            {ENDPOINT: "http://o:4318", "OTEL_EXPORTER_OTLP_PROTOCOL": "http/protobuf"},
            Tracing("1", otel=Otel("http", "o:4318")),
        ),
        (
            {ENDPOINT: "x", "OTEL_EXPORTER_OTLP_TRACES_ENDPOINT": "o:4317", "OTEL_EXPORTER_OTLP_INSECURE": "true"},
            Tracing("1", otel=Otel("grpc", "o:4317", False)),
        ),
        ({"OTEL_EXPORTER_OTLP_HEADERS": "a=1%2C2, b=x=y"}, Tracing(otel=Otel(headers=(("a", "1,2"), ("b", "x=y"))))),
        ({"OTEL_EXPORTER_OTLP_TIMEOUT": "1500"}, Tracing(otel=Otel(timeout_s=1.5))),
    ],
)
def test_otel_variables(variables: dict[str, str], expected: Tracing) -> None:
    """3.2: the environment speaks where no file names an endpoint."""
    assert with_environment(Tracing(), variables) == expected
    settled = Tracing(otel=Otel("http", "mine"))
    assert with_environment(settled, variables) == settled


@pytest.mark.parametrize(
    ("name", "value"),
    [("HEADERS", "plain"), ("HEADERS", "=x"), ("HEADERS", "a=%ff"), ("TIMEOUT", "2s"), ("TRACES_TIMEOUT", "1.5")],
)
def test_malformed_otel_variables(name: str, value: str) -> None:
    with pytest.raises(ConfigError, match=f"OTEL_EXPORTER_OTLP_{name}"):
        with_environment(Tracing(), {f"OTEL_EXPORTER_OTLP_{name}": value})


@given(st.text(alphabet=st.sampled_from("spectracingmlo:{}[],-\n '\"$AB01&*"), max_size=80))
def test_hostile_files(tmp_path_factory: pytest.TempPathFactory, text: str) -> None:
    """Whatever a file holds: a configuration, or `ConfigError`."""
    path = tmp_path_factory.getbasetemp() / "hostile.yaml"
    path.write_text(text)
    with contextlib.suppress(ConfigError):
        read_files([str(path)], Environment(variables={"A": "["}))
