"""What the engines of one sidecar stand on: actors, workflows, or what refuses both (`engines_off.py`).

Knows: what there is when the surface is built. Never knows: what is built on it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pillion.records import record

if TYPE_CHECKING:
    from pillion.app.channel import AppChannel
    from pillion.blocks.health import Readiness
    from pillion.kinds.config import Configuration
    from pillion.kinds.jobs import Scheduler
    from pillion.observe.meters import Meters
    from pillion.observe.tracing import Tracer
    from pillion.peers.pool import Pool
    from pillion.resiliency.current import CurrentPolicies
    from pillion.sidecar.components import Components
    from pillion.sidecar.flags import Options
    from pillion.sidecar.scheduling import Scheduling


@record(kw_only=True)
class Ground:
    """The parts that all engines are given. `address` is that of the internal server, `host:port`, as far as it is
    known by now; `channel` None: there is no application.
    """

    options: Options
    config: Configuration
    namespace: str
    channel: AppChannel | None
    components: Components
    policies: CurrentPolicies
    scheduler: Scheduler
    scheduling: Scheduling
    pool: Pool
    readiness: Readiness
    meters: Meters
    tracer: Tracer | None
    address: str
