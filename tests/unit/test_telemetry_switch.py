"""Metrics are counted where somebody can read them."""

from __future__ import annotations

import pytest

from pillion.kinds.config import Configuration, Metric
from pillion.sidecar.environment import read
from pillion.sidecar.flags import parse
from pillion.sidecar.telemetry import Telemetry


@pytest.mark.parametrize("port", [True, False])
@pytest.mark.parametrize("enabled", [True, False])
def test_the_port_and_the_configuration_both_decide(port: bool, enabled: bool) -> None:
    options = parse(["--app-id", "a", f"--enable-metrics={str(port).lower()}"], {})
    meters = Telemetry(options, Configuration(metric=Metric(enabled=enabled)), read({})).meters
    assert (meters.registry is not None) is (port and enabled)
    assert (meters.grpc_server is not None) is (port and enabled)
