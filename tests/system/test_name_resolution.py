"""Sidecars that find each other by resolvers named in the Configuration (spec `components.md` 9)."""

from __future__ import annotations

from typing import TYPE_CHECKING

from apps import HttpApp
from consul_agent import Agent
from ports import free_ports
from sidecars import SidecarProcess, sidecars

if TYPE_CHECKING:
    from pathlib import Path


def configured(folder: Path, component: str, configuration: str) -> list[str]:
    """Arguments that name a resolver; `configuration` is YAML in one line."""
    path = folder / f"{component}.config.yaml"
    path.write_text(
        "apiVersion: dapr.io/v1alpha1\nkind: Configuration\nmetadata:\n  name: c\nspec:\n  nameResolution:\n"
        f"    component: {component}\n    version: v1\n    configuration: {configuration}\n"
    )
    return ["--config", str(path)]


def test_through_consul(tmp_path: Path) -> None:
    """One registers, the other finds it; the registration is taken back at the end."""
    with Agent() as agent, HttpApp(answer=lambda call: (200, {}, b"found")) as app:
        nested = f"{{client: {{address: '{agent.address}'}}, selfRegister: true, selfDeregister: true}}"
        arguments = configured(tmp_path, "hashicorp.consul", nested)
        callee = SidecarProcess(tmp_path, "callee", app_port=app.port, arguments=arguments)
        caller = SidecarProcess(tmp_path, "caller", arguments=configured(tmp_path, "consul", nested))
        with sidecars(callee, caller):
            (service,) = agent.services.values()
            assert service["Meta"]["DAPR_PORT"] == str(callee.internal_port)
            assert "this sidecar cannot be announced" in caller.log()  # it has no application
            assert caller.request("GET", "/v1.0/invoke/callee/method/m").body == b"found"
            assert callee.stop() == 0
            assert agent.services == {}


def test_through_a_format(tmp_path: Path) -> None:
    """The app id is part of a host's name."""
    with HttpApp(answer=lambda call: (200, {}, b"found")) as app:
        caller = SidecarProcess(tmp_path, "caller")
        # There is no name that every machine has but localhost: it is the application's.
        callee = SidecarProcess(tmp_path, "localhost", app_port=app.port)
        text = f'{{format: "{{appid}}:{callee.internal_port}"}}'
        caller.command += configured(tmp_path, "nameformat", text)
        with sidecars(callee, caller):
            assert caller.request("GET", "/v1.0/invoke/localhost/method/m").body == b"found"


def test_instances_whose_applications_do_not_listen_yet(tmp_path: Path) -> None:
    """No call fails because one of two applications takes its time: the other answers. Then both are called."""
    arguments = configured(tmp_path, "sqlite", f"{{connectionString: '{tmp_path / 'names.db'}'}}")
    (late,) = free_ports(1)

    def call(caller: SidecarProcess) -> bytes:
        reply = caller.request("GET", "/v1.0/invoke/callee/method/m")
        assert reply.status == 200, (reply, caller.log())
        return reply.body

    with HttpApp(answer=lambda call: (200, {}, b"1")) as app:
        first = SidecarProcess(tmp_path, "callee", app_port=app.port, arguments=arguments)
        second = SidecarProcess(tmp_path, "callee", app_port=late, arguments=arguments)
        with sidecars(first, second):
            with SidecarProcess(tmp_path, "caller", arguments=arguments) as caller:
                assert {call(caller) for _ in range(10)} == {b"1"}
            with HttpApp(answer=lambda call: (200, {}, b"2"), port=late):
                second.wait("/v1.0/healthz")
                with SidecarProcess(tmp_path, "caller", arguments=arguments) as caller:
                    assert {call(caller) for _ in range(10)} == {b"1", b"2"}
