"""The command line (spec `runtime.md` 1.1 and 1.2)."""

from __future__ import annotations

import contextlib
import re
import socket
import subprocess
import sys
from dataclasses import replace
from ipaddress import ip_address
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillion.errors import ConfigError
from pillion.kinds.quantity import quantity
from pillion.sidecar import address
from pillion.sidecar.arguments import UsageError, whole
from pillion.sidecar.checks import check, unserved
from pillion.sidecar.environment import Environment, own_variables, read
from pillion.sidecar.flags import FLAGS, HelpWanted, Options, parse, usage

ROOT = Path(__file__).resolve().parents[2]


def options(line: str, **environ: str) -> Options:
    return parse(line.split(), environ)


def test_defaults() -> None:
    """Nothing said is the table's default column."""
    said = options("")
    assert (said.mode, said.app_id, said.app_port, said.app_protocol) == ("standalone", "", 0, "http")
    assert (said.dapr_http_port, said.dapr_grpc_port, said.metrics_port, said.profile_port) == (3500, 50001, 9090, 7777)
    assert (said.max_body_size, said.read_buffer_size) == (4 << 20, 4 << 10)
    assert (said.actors_disseminate_timeout, said.hot_reload_reconcile_interval) == (30.0, 60.0)
    assert said.dapr_public_port is None
    assert said.enable_api_logging is None
    assert said.enable_metrics is True
    assert said.dapr_block_shutdown_duration is None
    assert said.control_plane_trust_domain == "localhost"
    assert said.warnings == ()


READINGS = [
    ("-app-id x", "app_id", "x"),
    ("--app-id=x", "app_id", "x"),
    ("--app-id a --app-id b", "app_id", "b"),
    ("--app-port 80", "app_port", 80),
    ("--app-max-concurrency -1", "app_max_concurrency", -1),
    ("--app-max-concurrency=-10", "app_max_concurrency", -10),
    ("--app-max-concurrency 0x10", "app_max_concurrency", 16),
    ("--enable-metrics=false", "enable_metrics", False),
    ("--enable-api-logging", "enable_api_logging", True),
    ("--enable-api-logging=F", "enable_api_logging", False),
    ("--resources-path a,b -resources-path c", "resources_path", ("a", "b", "c")),
    ('--resources-path "a,b",c', "resources_path", ("a,b", "c")),
    ("--components-path d", "resources_path", ("d",)),
    ("--components-path d --resources-path e", "resources_path", ("e",)),
    ("--config a --config b", "config", ("a", "b")),
    ("--max-body-size 1Ki", "max_body_size", 1024),
    ("--max-body-size 0", "max_body_size", 0),
    ("--max-body-size=-5", "max_body_size", 0),
    ("--max-body-size -1", "max_body_size", 4 << 20),
    ("--dapr-http-max-request-size 2", "max_body_size", 2 << 20),
    ("--dapr-http-max-request-size -1", "max_body_size", 4 << 20),
    ("--dapr-http-max-request-size 2 --max-body-size 1k", "max_body_size", 1000),
    ("--dapr-http-read-buffer-size 8", "read_buffer_size", 8192),
    ("--app-protocol GRPC", "app_protocol", "grpc"),
    ("--app-protocol=", "app_protocol", "http"),
    ("--app-ssl", "app_protocol", "https"),
    ("--app-ssl --app-protocol grpc", "app_protocol", "grpcs"),
    ("--app-ssl --app-protocol h2c", "app_protocol", "h2c"),
    ("--placement-host-address a:1,b:2", "placement_host_address", ("a:1", "b:2")),
    ("--actors-service placement:a:1,b:2", "placement_host_address", ("a:1", "b:2")),
    ("--actors-service other:a:1", "placement_host_address", ()),
    ("--dapr-public-port 3501", "dapr_public_port", 3501),
    ("--dapr-public-port=", "dapr_public_port", None),
    ("--dapr-internal-grpc-port=", "dapr_internal_grpc_port", 0),
    ("--app-health-probe-interval 0", "app_health_probe_interval", 5),
    ("--app-health-probe-timeout -1", "app_health_probe_timeout", 500),
    ("--app-health-threshold 0", "app_health_threshold", 3),
    ("--app-health-threshold 2147483648", "app_health_threshold", 3),
    ("--dapr-graceful-shutdown-seconds -1", "dapr_graceful_shutdown_seconds", 5),
    ("--dapr-graceful-shutdown-seconds 0", "dapr_graceful_shutdown_seconds", 0),
    ("--dapr-block-shutdown-duration 1m30s", "dapr_block_shutdown_duration", 90.0),
    ("--hot-reload-reconcile-interval 0", "hot_reload_reconcile_interval", 60.0),
    ("--app-binding-options-timeout=-1s", "app_binding_options_timeout", 3.0),
    ("--log-level WARN", "log_level", "warn"),
    ("--dapr-listen-addresses 127.0.0.1,::1", "dapr_listen_addresses", ("127.0.0.1", "::1")),
]


@pytest.mark.parametrize(("line", "field", "value"), READINGS, ids=[row[0] for row in READINGS])
def test_reading(line: str, field: str, value: object) -> None:
    """One dash or two, `=` or a space, repeated or comma-separated; deprecated spellings are folded in."""
    assert getattr(options(line), field) == value


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("--app-idd x", "unknown flag: --app-idd (did you mean --app-id?)"),
        ("--nonsense", "unknown flag: --nonsense"),
        ("-x", "unknown shorthand flag: '-x'"),
        ("--app-id", "flag needs an argument: --app-id"),
        ("--enable-metrics=perhaps", "invalid argument 'perhaps' for --enable-metrics: not a boolean: 'perhaps'"),
        (
            "--app-max-concurrency -10",
            "invalid argument '--10' for --app-max-concurrency: not an integer (write --app-max-concurrency=-10)",
        ),
        ("--scheduler-job-streams -1", "invalid argument '-1' for --scheduler-job-streams: not a natural number"),
        ("--app-max-concurrency 9999999999999999999", "out of range"),
        ("--actors-disseminate-timeout 30", "not a duration: '30' (write it like 1h30m, 10s or 250ms)"),
        ('--config "a', "unexpected end of data"),
    ],
)
def test_usage_errors(line: str, text: str) -> None:
    """An unknown flag or a bad value is status 2, and the text says what would be right."""
    with pytest.raises(UsageError, match=re.escape(text)):
        options(line)


@pytest.mark.parametrize(
    ("line", "text"),
    [
        ("--app-port x", "--app-port: 'x': not a port number"),
        ("--dapr-http-port 65536", "--dapr-http-port: '65536': not a port number"),
        ("--dapr-http-port=", "--dapr-http-port: ''"),
        ("--max-body-size 4Mo", "write it like 4Mi"),
    ],
)
def test_values_read_later(line: str, text: str) -> None:
    """Ports and quantities are plain text to the parser: a wrong one is a configuration error (status 1)."""
    with pytest.raises(ConfigError, match=re.escape(text)):
        options(line)


def test_help_and_rest() -> None:
    """`--help` ends the reading; what is no flag is named, because `--flag false` is the classic mistake."""
    with pytest.raises(HelpWanted):
        options("--app-id x --help --nonsense")
    with pytest.raises(HelpWanted):
        options("-h")
    assert options("--enable-metrics false").warnings == ("argument 'false' is not used: write --enable-metrics=false",)
    assert options("--app-id x -- y --z").warnings == ("argument 'y' is not used", "argument '--z' is not used")
    assert options("--components-path x").warnings == ("flag --components-path is deprecated: use --resources-path",)


def test_environment_fallbacks() -> None:
    """A flag with an environment variable takes it when it was not given."""
    said = options("", DAPR_CONTROLPLANE_TRUST_DOMAIN="t", DAPR_SCHEDULER_HOST_ADDRESS_DNS_A="a:1,b:2")
    assert (said.control_plane_trust_domain, said.scheduler_host_address) == ("t", ("a:1", "b:2"))
    assert options("--scheduler-host-address c", DAPR_SCHEDULER_HOST_ADDRESS_DNS_A="a").scheduler_host_address == ("c",)
    assert options("", DAPR_CONTROLPLANE_NAMESPACE="").control_plane_namespace == "default"


GOOD = "--app-id x "
CHECKS = [
    ("--mode other", {}, "invalid mode"),
    ("", {}, "the app id is missing (name the application: --app-id orders)"),
    ("--app-id a.b", {}, "cannot contain '.': 'a.b' (write 'a-b' instead)"),
    (GOOD + "--log-level loud", {}, "use debug, info, warn, error, fatal"),
    (GOOD + "--app-protocol ws", {}, "unknown protocol 'ws'"),
    (GOOD + "--disable-init-endpoints Config,other", {}, "unknown endpoint 'other'"),
    (GOOD + "--app-health-probe-timeout 6000", {}, "make the timeout"),
    (GOOD + "--app-port 3500", {}, "the app port (3500) and the port of --dapr-http-port must differ"),
    (GOOD + "--app-port 50001", {}, "the app port (50001) and the port of --dapr-grpc-port must differ"),
    (GOOD + "--dapr-http-port 0", {}, "give --dapr-http-port a port of its own"),
    (GOOD + "--scheduler-job-streams 0", {}, "at least one stream"),
    (GOOD + "--actors-disseminate-timeout 0", {}, "longer than zero"),
    (GOOD + "--control-plane-trust-domain=", {}, "the trust domain is empty"),
    (GOOD + "--enable-mtls", {}, "trust anchors are required"),
    (GOOD, {"DAPR_SENTRY_TOKEN_FILE": ""}, "DAPR_SENTRY_TOKEN_FILE: is set but empty"),
]


@pytest.mark.parametrize(("line", "environ", "text"), CHECKS, ids=[row[2] for row in CHECKS])
def test_checks(line: str, environ: dict[str, str], text: str) -> None:
    """What cannot work ends the start, and the text says how to mend it."""
    with pytest.raises(ConfigError, match=re.escape(text)):
        check(parse(line.split(), environ), read(environ))


def test_checks_pass() -> None:
    """A whole command line, and root in Kubernetes mode only by consent."""
    check(options(GOOD + "--enable-mtls --app-port 80"), read({"DAPR_TRUST_ANCHORS": "pem"}))
    kube = options("--mode kubernetes")
    with pytest.raises(ConfigError, match="root"):
        check(kube, replace(read({}), user=0))
    check(kube, replace(read({"DAPR_UNSAFE_SKIP_CONTAINER_UID_GID_CHECK": "true"}), user=0))
    check(kube, replace(read({}), user=1000))


def test_what_is_not_served_yet_is_said() -> None:
    """Nobody who asked for encryption may believe to have it."""
    assert unserved(options(GOOD)) == []
    said = unserved(options(GOOD + "--enable-mtls --sentry-address a:1 --mode kubernetes"))
    assert [text.split()[0] for text in said] == ["--enable-mtls", "--mode", "--sentry-address"]
    assert "neither encrypted nor authenticated" in said[0]


def test_every_flag_is_explained() -> None:
    """Every row has a help text, and the usage shows all but the hidden ones."""
    text = usage()
    for flag in FLAGS:
        assert flag.help, flag.name
        assert (f"--{flag.name}" in text) != flag.hidden
    assert "--metrics-port port" in text
    assert "(default true)" in text


def test_flags_page_is_fresh() -> None:
    """`docs/flags.md` is what the rows say."""
    script = ROOT / "scripts" / "flags_page.py"
    ran = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


@pytest.mark.parametrize(
    ("text", "number"),
    [
        ("0", 0), ("4Mi", 4 << 20), ("1k", 1000), ("1.5Ki", 1536), ("1e3", 1000), ("1E", 10**18), ("100m", 1),
        ("+5", 5), ("-5", -5), (".5Gi", 1 << 29), ("1n", 1), ("5.", 5), ("7Ei", 7 << 60),
    ],
)  # fmt: skip
def test_quantity(text: str, number: int) -> None:
    """Binary and decimal suffixes, exponents; fractions round up."""
    assert quantity(text) == number


@pytest.mark.parametrize("text", ["", "Mi", "4mi", "4 Mi", "1e", "--1", "1Kib", "8Ei", "1e999", "٤", "1" * 65])
def test_not_a_quantity(text: str) -> None:
    with pytest.raises(ValueError, match="quantity"):
        quantity(text)


@given(st.text(max_size=20))
def test_hostile_numbers(text: str) -> None:
    """Whatever the text: a number that fits, or ValueError."""
    for reader in (quantity, whole):
        with contextlib.suppress(ValueError):
            assert abs(reader(text)) <= 2**63


@given(st.lists(st.text(alphabet='-=aebl, 01"', max_size=8), max_size=5))
def test_hostile_command_lines(argv: list[str]) -> None:
    """Whatever the command line: options, help, or one of the two errors."""
    with contextlib.suppress(UsageError, ConfigError, HelpWanted):
        parse(argv, {})


def test_environment() -> None:
    """NAMESPACE unset is `default`, set but empty stays empty; tokens never show."""
    assert (read({}).namespace, read({}).namespace_raw) == ("default", "")
    assert (read({"NAMESPACE": ""}).namespace, read({"NAMESPACE": ""}).namespace_raw) == ("", "")
    assert read({"NAMESPACE": "n"}).namespace == "n"
    assert not read({"DAPR_HTTP_DISABLE_H2C": " Yes "}).http2_cleartext
    shown = repr(read({"DAPR_API_TOKEN": "hush", "APP_API_TOKEN": "hush", "DAPR_TRUST_ANCHORS": "hush"}))
    assert "hush" not in shown


@pytest.mark.parametrize(
    ("name", "environ", "value"),
    [
        ("A", {"A": "1"}, "1"),
        ("A", {}, ""),
        ("dapr_x", {"dapr_x": "1"}, None),
        ("App_Api_Token", {}, None),
        ("a b", {}, None),
        ("", {}, None),
        ("A", {"A": "1", "DAPR_ENV_KEYS": "AB C"}, None),
        ("A", {"A": "1", "DAPR_ENV_KEYS": "AB A"}, "1"),
        ("A", {"A": "1", "DAPR_ENV_KEYS": ""}, None),
    ],
)
def test_env_references(name: str, environ: dict[str, str], value: str | None) -> None:
    """2.3: the sidecar's own names are forbidden, and DAPR_ENV_KEYS is an allow-list."""
    assert read(environ).reference(name) == value


@pytest.mark.parametrize(
    ("text", "result"),
    [
        ("a $A ${A} $B|", "a 1 1 |"),
        ("$1$$x$? ${1}", "x "),
        ("cost: 5$ $, $%", "cost: 5$ $, $%"),
        ("${}x ${open", "x open"),
        ("$A_B-$A", "-1"),
    ],
)
def test_expansion(text: str, result: str) -> None:
    """3.1: unset names vanish, one-character shell names too, a lone dollar stays."""
    assert Environment(variables={"A": "1"}).expand(text) == result


def test_own_variables() -> None:
    """1.3: what a configuration file may name of the sidecar itself."""
    mine = own_variables(options(GOOD + "--app-port 80"), internal_port=47301, host_address="10.0.0.1")
    assert mine["APP_ID"] == "x"
    assert (mine["DAPR_PORT"], mine["DAPR_HTTP_PORT"], mine["APP_PORT"]) == ("47301", "3500", "80")
    assert read({}).including(mine).expand("${HOST_ADDRESS}:$DAPR_PORT") == "10.0.0.1:47301"


def test_stable_port() -> None:
    """1.2: the port depends on app, folder, user and host alone, and gives way when it is taken."""
    one = address.stable_port("x", "/", 0, "h")
    assert one == address.stable_port("x", "/", 0, "h")
    assert one != address.stable_port("y", "/", 0, "h")
    assert 47300 <= one < 47300 + 18235
    assert address.internal_port("x", 4711) == 4711
    mine = address.internal_port("flags-test")
    with socket.create_server(("127.0.0.1", mine)):
        assert address.internal_port("flags-test") != mine


def test_host_address() -> None:
    """1.3: the override wins; else some address of this machine; the better one first."""
    assert address.host_address(read({"DAPR_HOST_IP": "10.1.2.3"})) == "10.1.2.3"
    assert ip_address(address.host_address(read({})))
    ranked = ["203.0.114.1", "2a00::1", "10.0.0.1", "fd00::1", "fe80::1"]
    for best in range(len(ranked)):
        rest = [ip_address(text) for text in reversed(ranked[best:])]
        assert str(address.preferred([ip_address("127.0.0.1"), ip_address("192.0.0.1"), *rest])) == ranked[best]
    assert address.preferred([ip_address("::1")]) is None


def test_sockets_and_advertised_address() -> None:
    said = options(GOOD + "--unix-domain-socket /run --dapr-internal-grpc-listen-address localhost")
    assert said.socket_path("http") == "/run/dapr-x-http.socket"
    assert said.advertised_address == "localhost"
    assert options("--dapr-internal-grpc-listen-address 10.0.0.1").advertised_address == ""
    assert options("").socket_path("grpc") == ""
