"""From a wish to what is started: flags of the sidecar, variables of the application, ports, resources."""

from __future__ import annotations

import logging
import socket
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import pytest

from pillion.cli import places as places_of
from pillion.cli import plan
from pillion.cli.places import Places
from pillion.cli.runfile import App, Destination, Place
from pillion.errors import ConfigError
from pillion.sidecar.presence import Record

if TYPE_CHECKING:
    from pathlib import Path


def app_in(folder: Path, **fields: Any) -> App:
    base = App(where="f.yaml:3: apps[0]", app_id="orders", folder=Place(folder, "f"), http_port=1501, grpc_port=1502,
               internal_port=1503, metrics_port=1504, profile_port=1505)  # fmt: skip
    return replace(base, **fields)


def launch(
    folder: Path, *, single: bool = False, environ: dict[str, str] | None = None, **fields: object
) -> plan.Launch:
    return plan.launch(
        app_in(folder, **fields), places=Places(folder / "home"), environ=environ or {}, single=single, now=0.0
    )


def test_what_the_application_finds_in_its_environment(tmp_path: Path) -> None:
    """Exactly the variables of spec 8.2, and its own last."""
    assert launch(tmp_path).variables == {
        "APP_ID": "orders",
        "APP_CHANNEL_ADDRESS": "127.0.0.1",
        "DAPR_HTTP_PORT": "1501",
        "DAPR_GRPC_PORT": "1502",
        "DAPR_METRICS_PORT": "1504",
        "APP_PROTOCOL": "http",
    }
    found = launch(tmp_path, app_port=8000, environment={"APP_ID": "mine", "X": "1"}).variables
    assert (found["APP_PORT"], found["APP_ID"], found["X"]) == ("8000", "mine", "1")


def test_flags_reach_the_sidecar(tmp_path: Path) -> None:
    """Under the same names, read as the sidecar reads them."""
    flags = {"app-protocol": "grpc", "max-body-size": "8Mi", "enable-api-logging": "false", "app-ssl": "true"}
    options = launch(tmp_path, flags=flags, app_port=8000).options
    assert (options.app_protocol, options.max_body_size, options.enable_api_logging) == ("grpcs", 8 << 20, False)
    assert (options.dapr_http_port, options.dapr_internal_grpc_port, options.app_port) == (1501, 1503, 8000)


def test_nobody_else_reaches_a_development_sidecar(tmp_path: Path) -> None:
    """APIs listen on loopback, unless addresses are given or the host's address is."""
    found = launch(tmp_path)
    assert found.options.dapr_listen_addresses[0] == "127.0.0.1"
    assert found.options.dapr_internal_grpc_listen_address == "127.0.0.1"
    assert found.environment.host_ip == "127.0.0.1"
    opened = launch(tmp_path, single=True, flags={"dapr-listen-addresses": "0.0.0.0"})
    assert opened.options.dapr_listen_addresses == ("0.0.0.0",)
    assert opened.options.dapr_internal_grpc_listen_address == ""
    assert opened.environment.host_ip == ""
    told = launch(tmp_path, environ={"DAPR_HOST_IP": "10.0.0.9"})
    assert told.options.dapr_listen_addresses == ()
    assert told.environment.host_ip == "10.0.0.9"


def test_where_resources_come_from(tmp_path: Path) -> None:
    """Own, then the folder's `.dapr/resources`, then the common ones, then those of `init`, then the packaged."""
    common, own = Place(tmp_path / "common", "c"), Place(tmp_path / "own", "o")
    for folder in ("common", "own", ".dapr/resources", "home/components"):
        (tmp_path / folder).mkdir(parents=True)
    assert launch(tmp_path, resources=(own,)).options.resources_path == (str(own.path),)
    inherited: dict[str, Any] = {"resources": (common,), "resources_inherited": True}
    assert launch(tmp_path, **inherited).options.resources_path == (str(tmp_path / ".dapr" / "resources"),)
    (tmp_path / ".dapr" / "resources").rmdir()
    assert launch(tmp_path, **inherited).options.resources_path == (str(common.path),)
    assert launch(tmp_path).options.resources_path == (str(tmp_path / "home" / "components"),)
    (tmp_path / "home" / "components").rmdir()
    packaged = launch(tmp_path)
    assert packaged.options.resources_path == ()
    assert {item.name: item.type for item in packaged.components} == {
        "statestore": "state.sqlite",
        "pubsub": "pubsub.sqlite",
        "secretstore": "secretstores.local.env",
    }


def test_where_the_configuration_comes_from(tmp_path: Path) -> None:
    """The same order, with files."""
    common, own = Place(tmp_path / "common.yaml", "c"), Place(tmp_path / "own.yaml", "o")
    (tmp_path / ".dapr").mkdir()
    (tmp_path / "home").mkdir()
    for path in (tmp_path / ".dapr" / "config.yaml", tmp_path / "home" / "config.yaml"):
        path.write_text("")
    assert launch(tmp_path, config=own).options.config == (str(own.path),)
    inherited: dict[str, Any] = {"config": common, "config_inherited": True}
    assert launch(tmp_path, **inherited).options.config == (str(tmp_path / ".dapr" / "config.yaml"),)
    (tmp_path / ".dapr" / "config.yaml").unlink()
    assert launch(tmp_path, **inherited).options.config == (str(common.path),)
    assert launch(tmp_path).options.config == (str(tmp_path / "home" / "config.yaml"),)
    (tmp_path / "home" / "config.yaml").unlink()
    assert launch(tmp_path).options.config == (str(places_of.DEFAULTS / "config.yaml"),)


def test_paths_with_commas_and_quotes(tmp_path: Path) -> None:
    """A path is one path, whatever is in its name."""
    odd = tmp_path / 'a, "b" c'
    odd.mkdir()
    assert launch(tmp_path, resources=(Place(odd, "r"),)).options.resources_path == (str(odd),)
    (item,) = [item for item in places_of.default_components(Places(odd)) if item.name == "statestore"]
    assert item.metadata[0].value == str(odd / "state.sqlite")


def test_placement_and_scheduler(tmp_path: Path) -> None:
    """Addresses get the usual port; empty switches off; nothing said stays nothing said."""
    found = launch(tmp_path, placement="here, there:9,[::1]", scheduler="far")
    assert found.options.placement_host_address == ("here:50005", "there:9", "[::1]:50005")
    assert found.options.scheduler_host_address == ("far:50006",)
    off = launch(tmp_path, placement="")
    assert (off.placement, off.scheduler, off.options.placement_host_address) == ("", None, ())


def test_logs(tmp_path: Path) -> None:
    """A run file's applications log beside their code, one that runs alone keeps its terminal."""
    found = launch(tmp_path, command=("app",), sidecar_log=Destination.BOTH)
    assert found.app_log is not None
    assert found.sidecar_log is not None
    assert found.app_log.parent == tmp_path / ".dapr" / "logs"
    assert found.app_log.name.startswith("orders_app_19")
    assert found.sidecar_log.name.startswith("orders_daprd_19")
    assert (found.app_console, found.sidecar_console, found.console_level) == (True, True, logging.INFO)
    nothing = launch(tmp_path, command=("app",), sidecar_log=Destination.CONSOLE, app_log=Destination.CONSOLE)
    assert (nothing.app_log, nothing.sidecar_log) == (None, None)
    unwritten = launch(tmp_path, command=("app",), flags={"log-level": "debug"})
    assert unwritten.sidecar_log is not None
    assert (unwritten.sidecar_console, unwritten.console_level) == (True, logging.WARNING)
    alone = launch(tmp_path, single=True, command=("app",))
    assert alone.sidecar_console
    assert (alone.app_log, alone.console_level) == (None, logging.WARNING)
    assert alone.sidecar_log is not None
    assert alone.sidecar_log.parent == tmp_path / "home" / "logs"
    asked = launch(tmp_path, single=True, flags={"log-level": "debug"})
    assert asked.console_level == logging.DEBUG


def test_mistakes_name_the_place(tmp_path: Path) -> None:
    """What the sidecar would refuse is refused before anything starts, with the line of the run file."""
    with pytest.raises(ConfigError, match=r"^f.yaml:3: apps\[0\]: --log-level: unknown level 'loud'"):
        launch(tmp_path, flags={"log-level": "loud"})
    with pytest.raises(ConfigError, match=r"^f.yaml:3: apps\[0\]: invalid argument 'many' for --app-max-concurrency"):
        launch(tmp_path, flags={"app-max-concurrency": "many"})
    (tmp_path / "r").mkdir()
    document = "apiVersion: dapr.io/v1alpha1\nkind: Component\nmetadata: {name: x}\nspec: {type: state.in-memory}\n"
    (tmp_path / "r" / "a.yaml").write_text(f"{document}---\n{document}")
    with pytest.raises(ConfigError, match="duplicate definition of Component name x"):
        launch(tmp_path, resources=(Place(tmp_path / "r", "r"),))


def test_every_port_is_chosen_and_differs(tmp_path: Path) -> None:
    """Given ports stay, the others are free ones, and none is used twice."""
    none = {"http_port": -1, "grpc_port": -1, "internal_port": -1, "metrics_port": -1, "profile_port": -1}
    apps = [app_in(tmp_path, app_id=name, **none) for name in ("a", "b")]
    chosen = plan.with_ports(apps, [], usual=False)
    numbers = [
        port
        for app in chosen
        for port in (app.http_port, app.grpc_port, app.internal_port, app.metrics_port, app.profile_port)
    ]
    assert len(set(numbers)) == 10
    assert min(numbers) > 0


def test_a_taken_port_names_its_holder(tmp_path: Path) -> None:
    """A sidecar by its application's id, another process by its command."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        app = app_in(tmp_path, http_port=port)
        with pytest.raises(ConfigError, match=r"HTTP port \d+ of orders is taken by the sidecar of stock .*pillion s"):
            plan.with_ports([app], [Record("stock", http_port=port)], usual=False)
        with pytest.raises(ConfigError, match=r"HTTP port \d+ of orders is taken by .*choose another port"):
            plan.with_ports([app], [], usual=False)
        busy = app_in(tmp_path, app_port=port, command=("app",))
        with pytest.raises(ConfigError, match=r"app port \d+ of orders is taken by"):
            plan.with_ports([busy], [], usual=False)
        plan.with_ports([app_in(tmp_path, app_port=port)], [], usual=False)  # it may run already, in a debugger
    with pytest.raises(ConfigError, match="given twice"):
        plan.with_ports([app_in(tmp_path, http_port=15551, grpc_port=15551)], [], usual=False)


def test_defaults_are_written_once(tmp_path: Path) -> None:
    """`init` writes what a run would use, and never touches what exists."""
    home = Places(tmp_path / "home")
    assert all(written for _, written in places_of.write_defaults(home))
    (home.components / "pubsub.yaml").write_text("mine")
    assert not any(written for _, written in places_of.write_defaults(home))
    assert (home.components / "pubsub.yaml").read_text() == "mine"
    (home.components / "pubsub.yaml").unlink()
    assert [path.name for path, written in places_of.write_defaults(home) if written] == ["pubsub.yaml"]
    found = launch(tmp_path)
    assert found.options.resources_path == (str(home.components),)
    assert found.options.config == (str(home.config),)


def test_a_random_id_is_not_taken() -> None:
    """Two words with a hyphen."""
    assert plan.random_id(()).count("-") == 1
