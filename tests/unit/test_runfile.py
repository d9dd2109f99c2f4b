"""The run file (spec `runtime.md` 8.3)."""

from __future__ import annotations

from pathlib import Path

import pytest

from pillion.cli import runfile
from pillion.cli.runfile import Destination, RunFile, parse
from pillion.errors import ConfigError
from pillion.sidecar.flags import FLAGS

FULL = """\
version: 1
name: shop
common:
  resourcesPath: ./common/resources
  configFilePath: ./common/config.yaml
  appProtocol: grpc
  logLevel: debug
  enableApiLogging: true
  appMaxConcurrency: 4
  maxBodySize: 8Mi
  env:
    DEBUG: true
    REGION: north
  daprdLogDestination: fileAndConsole
  placementHostAddress: ""
apps:
  - appDirPath: ./orders
    appPort: 8001
    command: ["python3", "app.py"]
    env: {REGION: south, COUNT: 3}
    enableApiLogging: false
  - appID: stock
    appDirPath: ~/stock/
    resourcesPaths: [first, ../second]
    configFilePath: own.yaml
    appProtocol: http
    daprHTTPPort: 3555
    daprGRPCPort: 3556
    daprInternalGRPCPort: 3557
    metricsPort: 3558
    profilePort: 3559
    appLogDestination: console
    daprdLogDestination: console
    schedulerHostAddress: far:50006
    unixDomainSocket: /run/x
    appChannelAddress: 127.0.0.2
"""


def read(text: str) -> RunFile:
    return parse(text, source="dapr.yaml", folder=Path("/proj"), home=Path("/home/me"))


def wrong(text: str) -> str:
    with pytest.raises(ConfigError) as caught:
        read(text)
    return str(caught.value)


def test_common_is_inherited_and_overridden() -> None:
    """An application's own word wins over `common`, key by key and variable by variable."""
    run = read(FULL)
    orders, stock = run.apps
    assert (run.name, run.warnings) == ("shop", ())
    assert orders.flags == {
        "app-protocol": "grpc",
        "log-level": "debug",
        "enable-api-logging": "false",
        "app-max-concurrency": "4",
        "max-body-size": "8Mi",
    }
    assert orders.environment == {"DEBUG": "true", "REGION": "south", "COUNT": "3"}
    assert stock.flags["app-protocol"] == "http"
    assert stock.flags["enable-api-logging"] == "true"
    assert stock.flags["unix-domain-socket"] == "/run/x"
    assert stock.flags["app-channel-address"] == "127.0.0.2"
    assert (orders.placement, orders.scheduler) == ("", None)
    assert (stock.placement, stock.scheduler) == ("", "far:50006")
    assert (orders.sidecar_log, orders.app_log) == (Destination.BOTH, Destination.BOTH)
    assert (stock.sidecar_log, stock.app_log) == (Destination.CONSOLE, Destination.CONSOLE)


def test_unwritten_destinations() -> None:
    """An application's log goes to both places; what becomes of the sidecar's is left open."""
    (app,) = read("version: 1\napps: [{appDirPath: a}]").apps
    assert (app.sidecar_log, app.app_log) == (None, Destination.BOTH)


def test_paths() -> None:
    """Paths of `common` start at the run file, an application's at its folder; `~/` is the home."""
    orders, stock = read(FULL).apps
    assert orders.folder.path == Path("/proj/orders")
    assert orders.app_id == "orders"
    assert [place.path for place in orders.resources] == [Path("/proj/common/resources")]
    assert orders.config is not None
    assert orders.config.path == Path("/proj/common/config.yaml")
    assert (orders.resources_inherited, orders.config_inherited) == (True, True)
    assert stock.folder.path == Path("/home/me/stock")
    assert [place.path for place in stock.resources] == [Path("/home/me/stock/first"), Path("/home/me/second")]
    assert stock.config is not None
    assert stock.config.path == Path("/home/me/stock/own.yaml")
    assert (stock.resources_inherited, stock.config_inherited) == (False, False)


def test_ports_and_command() -> None:
    """Ports that are not given are -1."""
    orders, stock = read(FULL).apps
    assert (orders.app_port, orders.http_port, orders.grpc_port) == (8001, -1, -1)
    assert (stock.http_port, stock.grpc_port, stock.internal_port) == (3555, 3556, 3557)
    assert (stock.metrics_port, stock.profile_port, stock.app_port) == (3558, 3559, -1)
    assert (orders.command, stock.command) == (("python3", "app.py"), ())


def test_the_default_id_is_the_name_of_the_folder() -> None:
    """Also when the folder is that of the run file itself."""
    assert read("version: 1\napps: [{appDirPath: ./}]").apps[0].app_id == "proj"


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "dapr.yaml: is empty"),
        ("apps: []", "dapr.yaml:1: version: the version is missing or zero (write version: 1)"),
        ("version: 0\napps: []", "dapr.yaml:1: version: the version is missing or zero (write version: 1)"),
        ("version: 1", "dapr.yaml:1: apps: there are no applications (list at least one under apps:)"),
        ("version: 1\napps:\n- appID: a", "dapr.yaml:3: apps[0].appDirPath: is missing"),
        ("version: 1\napps:\n- appDirPath: a\n  appPort: 99999", "dapr.yaml:4: apps[0].appPort: 99999 is no port"),
        ("version: 1\napps:\n- appDirPath: a\n  appPort: eighty", "dapr.yaml:4: apps[0].appPort: expected a whole"),
        (
            "version: 1\napps:\n- appDirPath: a\n  command: python app.py",
            'dapr.yaml:4: apps[0].command: expected a list, found a text (write command: ["python", "app.py"])',
        ),
        (
            "version: 1\napps:\n- appDirPath: a\n- appDirPath: b/a",
            "dapr.yaml:4: apps[1]: the id 'a' is taken already by the application at dapr.yaml:3: apps[0]",
        ),
        ("version: 1\ncommon: {appLogDestination: printer}", "'printer' is no destination"),
        ("version: 1\napps:\n  - [", "dapr.yaml:3: not YAML"),
        ("version: 1\napps: {}", "expected a list, found a mapping"),
    ],
)
def test_mistakes_name_file_line_and_field(text: str, said: str) -> None:
    """What is wrong and where, and where possible what to write instead."""
    assert said in wrong(text)


def test_unknown_keys_are_told() -> None:
    """Nothing that was written is ignored in silence."""
    run = read("version: 1\nnmae: x\ncommon:\n  logLevle: debug\napps:\n- appDirPath: a\n  flavour: mint\n")
    assert run.warnings == (
        "dapr.yaml:2: nmae: unknown key is ignored (did you mean name?)",
        "dapr.yaml:4: common.logLevle: unknown key is ignored (did you mean logLevel?)",
        "dapr.yaml:7: apps[0].flavour: unknown key is ignored",
    )
    (told,) = read("version: 1\napps:\n- appDirPath: a\n  runtimePath: /opt\n").warnings
    assert "PILLION_HOME" in told


def test_keys_for_kubernetes_mean_nothing_here() -> None:
    """A file shared with a cluster is read without complaint."""
    text = "version: 1\napps:\n- appDirPath: a\n  containerImage: x\n  containerImagePullPolicy: Never\n"
    assert read(text + "  createService: true\n").warnings == ()


def test_every_flag_is_one_of_the_sidecar() -> None:
    """The table of keys names flags that exist."""
    flags = {flag.name for flag in FLAGS}
    tables = (runfile._TEXTS, runfile._NUMBERS, runfile._TRUTHS, runfile._APP_TEXTS)
    assert {flag for table in tables for flag in table.values()} <= flags


def test_missing_paths(tmp_path: Path) -> None:
    """The first path that does not exist is named with the line that names it."""
    (tmp_path / "a").mkdir()

    def missing(keys: str) -> str:
        text = "version: 1\napps:\n- appDirPath: a\n" + keys
        return str(runfile.missing(parse(text, source="f.yaml", folder=tmp_path, home=tmp_path)))

    assert missing("") == "None"
    assert missing("  resourcesPath: r\n").startswith("f.yaml:4: apps[0].resourcesPath: the folder ")
    assert missing("  resourcesPaths: [., r]\n").startswith("f.yaml:4: apps[0].resourcesPaths[1]: the folder ")
    assert missing("  configFilePath: c\n").startswith("f.yaml:4: apps[0].configFilePath: the file ")
    assert "is not a file" in missing("  configFilePath: .\n")
    text = "version: 1\napps:\n- appDirPath: b\n"
    absent = runfile.missing(parse(text, source="f.yaml", folder=tmp_path, home=tmp_path))
    assert "f.yaml:3: apps[0].appDirPath: the folder" in str(absent)
