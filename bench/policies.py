"""What a policy costs a call that succeeds at once: timeout, retry and breaker, without sockets.

python bench/policies.py
"""

from __future__ import annotations

import asyncio
import time
from typing import TYPE_CHECKING, Any

from pillion.kinds.fields import Fields
from pillion.kinds.resources import KINDS
from pillion.resiliency.policies import Flow, Kind, Policies
from pillion.wire import yamltext

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable

ROUNDS, REPEATS = 50_000, 7
RULES = """
apiVersion: dapr.io/v1alpha1
kind: Resiliency
metadata: {name: rules}
spec:
  policies:
    timeouts: {t: 5s}
    retries: {r: {maxRetries: 3}}
    circuitBreakers: {c: {interval: 10s}}
  targets:
    apps: {full: {timeout: t, retry: r, circuitBreaker: c}}
    components:
      full: {outbound: {timeout: t, retry: r, circuitBreaker: c}}
      timeout: {outbound: {timeout: t}}
      retry: {outbound: {retry: r}}
      breaker: {outbound: {circuitBreaker: c}}
"""


async def cost_us(call: Callable[[], Awaitable[Any]]) -> float:
    """Return the best of several rounds."""
    best = float("inf")
    for _ in range(REPEATS):
        began = time.perf_counter()
        for _ in range(ROUNDS):
            await call()
        best = min(best, time.perf_counter() - began)
    return best / ROUNDS * 1e6


async def main() -> None:
    policies = Policies.of([KINDS["dapr.io/v1alpha1", "Resiliency"](Fields(yamltext.parse(RULES)))])  # type: ignore[list-item]

    async def operation() -> None: ...

    bare = await cost_us(operation)
    print(f"{'bare call':24} {bare:6.2f} us")
    for name in ("timeout", "retry", "breaker", "full"):
        policy = policies.component(name, Kind.STATESTORE, Flow.OUTBOUND)
        assert policy is not None
        found = await cost_us(lambda policy=policy: policy(operation))  # type: ignore[misc]
        print(f"{'component, ' + name:24} {found - bare:6.2f} us more")

    def invoke() -> Awaitable[None]:
        policy, _ = policies.find("full", "cart/add")
        assert policy is not None
        return policy(operation)

    print(f"{'invocation, full':24} {await cost_us(invoke) - bare:6.2f} us more")


if __name__ == "__main__":
    try:
        import uvloop
    except ImportError:
        asyncio.run(main())
    else:
        uvloop.run(main())
