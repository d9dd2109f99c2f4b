"""The workflow engine of one sidecar, put together: its ports, its rows, the policies of the moment.

Knows: who is told what. Never knows: instances, turns, workers.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING

from pillion.blocks.metadata import WorkflowFacts
from pillion.blocks.taskhub import TaskHubBlock
from pillion.blocks.workflow import WorkflowBlock
from pillion.blocks.workflow_admin import WorkflowAdminBlock
from pillion.clock import SystemClock
from pillion.observe.workflow_meters import WorkflowAccessMeter, WorkflowMeter
from pillion.sidecar.workflow_policies import policies_of
from pillion.workflow.service import Hub
from pillion.workflow.surroundings import Bounds, Names, Surroundings, Uncounted

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillion.api.operation import Operation
    from pillion.kinds.resources import WorkflowAccessPolicyResource
    from pillion.sidecar.actors import ActorRuntime
    from pillion.sidecar.ground import Ground

UNBOUNDED = 1 << 30
"""Bytes of the largest message when `--max-body-size` sets no limit."""


class WorkflowRuntime:
    """`actors` is the runtime in which workflows live: while it is switched off, so are they."""

    def __init__(self, ground: Ground, actors: ActorRuntime) -> None:
        options, namespace = ground.options, ground.namespace
        self._app_id, self._namespace = options.app_id, namespace
        registry = ground.meters.registry
        self._count_access = None if registry is None else WorkflowAccessMeter(registry).decided
        self._policies = policies_of((), self._app_id, namespace)
        self._named: tuple[str, ...] = ()
        size = options.max_body_size if options.max_body_size > 0 else UNBOUNDED
        self.hub = Hub(
            Surroundings(
                Names(namespace, options.app_id),
                SystemClock(),
                random.Random(),
                actors.store.find,
                actors.host,
                ground.scheduler,
                ground.config.workflow,
                Bounds(max_body=size),
                WorkflowMeter(registry) if registry is not None else Uncounted(),
                lambda: self._policies,
                ground.address,
                tracer=ground.tracer,
                rank=actors.rank,
            )
        )
        self._gate = actors.gate

    def operations(self) -> list[Operation]:
        """The rows of the API, of the SDKs' service and of the operators' routes."""
        hub, gate = self.hub, self._gate
        return [
            *WorkflowBlock(hub, gate).operations(),
            *TaskHubBlock(hub, gate).operations(),
            *WorkflowAdminBlock(hub, gate).operations(),
        ]

    def declare(self, resources: Sequence[WorkflowAccessPolicyResource]) -> None:
        """Use these policies from now on, all at once."""
        self._policies = policies_of(resources, self._app_id, self._namespace, self._count_access)
        self._named = tuple(resource.name for resource in resources)

    def facts(self) -> WorkflowFacts:
        return WorkflowFacts(self.hub.workers, self._named)

    async def close(self) -> None:
        """End the workers' streams; turns that are not saved will be taken again."""
        await self.hub.close()
