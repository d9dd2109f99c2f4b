"""An application of the official Python SDK that hosts actors: over HTTP (`http PORT`), or by dialling its sidecar
(`grpc PORT`, where it listens on PORT for nothing but the sidecar's comfort)."""

from __future__ import annotations

import asyncio
import os
import sys
from datetime import timedelta
from typing import TYPE_CHECKING, Any, TypeVar

from dapr.actor import Actor, ActorId, ActorInterface, ActorProxy, Remindable, actormethod
from dapr.actor.runtime.config import ActorReentrancyConfig, ActorRuntimeConfig, ActorTypeConfig
from dapr.actor.runtime.runtime import ActorRuntime

if TYPE_CHECKING:
    from collections.abc import Callable

F = TypeVar("F")


def method(name: str) -> Callable[[F], F]:
    """The SDK's decorator, with a type."""
    named: Callable[[F], F] = actormethod(name=name)
    return named


class CartInterface(ActorInterface):
    """What can be asked of a cart."""

    @method("Add")
    async def add(self, amount: object) -> object: ...

    @method("Forget")
    async def forget(self) -> None: ...

    @method("Clock")
    async def clock(self, kind: object) -> None: ...

    @method("Seen")
    async def seen(self) -> object: ...

    @method("Break")
    async def fail(self) -> None: ...

    @method("Around")
    async def around(self, depth: object) -> object: ...

    @method("Slow")
    async def slow(self) -> object: ...


class Cart(Actor, CartInterface, Remindable):
    """Keeps a total in its state, and what fired in its memory."""

    def __init__(self, ctx: Any, actor_id: ActorId) -> None:
        super().__init__(ctx, actor_id)
        self._fired: list[str] = []
        self._inside = self._most = 0

    async def add(self, amount: object) -> object:
        there, before = await self._state_manager.try_get_state("total")
        total = (int(str(before)) if there else 0) + int(str(amount))
        await self._state_manager.set_state("total", total)
        return total

    async def forget(self) -> None:
        await self._state_manager.remove_state("total")

    async def clock(self, kind: object) -> None:
        match kind:
            case "timer":
                await self.register_timer("t", self.rung, {"a": 1}, timedelta(), timedelta(milliseconds=100))
            case "timer off":
                await self.unregister_timer("t")
            case "reminder":
                await self.register_reminder("r", b"tell me", timedelta(), timedelta(seconds=1))
            case "reminder off":
                await self.unregister_reminder("r")

    async def rung(self, state: object) -> None:
        self._fired.append(f"timer {state}")

    async def receive_reminder(
        self, name: str, state: bytes, due_time: timedelta, period: timedelta, ttl: timedelta | None = None
    ) -> None:
        self._fired.append(f"reminder {name} {state.decode()}")

    async def seen(self) -> object:
        return self._fired

    async def fail(self) -> None:
        raise ValueError("no money")

    async def around(self, depth: object) -> object:
        left = int(str(depth))
        if not left:
            return 0
        other = ActorProxy.create("Cart", self.id, CartInterface)
        return await other.Around(left - 1) + 1

    async def slow(self) -> object:
        """Say how many turns ran at once, at most."""
        self._inside += 1
        self._most = max(self._most, self._inside)
        await asyncio.sleep(0.01)
        self._inside -= 1
        return self._most


def configure() -> None:
    """Chains of calls may come back, four deep."""
    settings = ActorRuntimeConfig(actor_idle_timeout=timedelta(hours=1))
    reentrancy = ActorReentrancyConfig(enabled=True, maxStackDepth=4)
    settings.update_actor_type_configs([ActorTypeConfig("Cart", reentrancy=reentrancy)])
    ActorRuntime.set_actor_config(settings)


async def http(port: int) -> None:
    import uvicorn
    from dapr.ext.fastapi import DaprActor
    from fastapi import FastAPI

    app = FastAPI()
    await DaprActor(app).register_actor(Cart)
    await uvicorn.Server(uvicorn.Config(app, "127.0.0.1", port, log_level="warning")).serve()


async def grpc(port: int) -> None:
    from dapr.actor.runtime.grpc_host import ActorGrpcHost

    host = ActorGrpcHost(f"127.0.0.1:{os.environ['DAPR_GRPC_PORT']}", app_port=port)
    await host.register_actor(Cart)
    await host.run_forever()


if __name__ == "__main__":
    configure()
    asyncio.run({"http": http, "grpc": grpc}[sys.argv[1]](int(sys.argv[2])))
