"""What a host remembers of its actors: claims, instances, and the instances of one type in the order of their last use.

An idle instance is one small object and one place in a table, about half a kilobyte; nothing is armed for it alone.
Knows: claims, whose turn it is, who was idle for how long. Never knows: applications, placement.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict
from typing import TYPE_CHECKING, Any

from pillion.actors.turns import UNBOUNDED, Place, Turns
from pillion.kinds.actors import ActorClosed

if TYPE_CHECKING:
    from pillion.actors.fence import Fence
    from pillion.kinds.actors import ActorError, Hosted

SOON_S = 0.05
"""The least time between two looks for idle instances of a type, however short its timeout is."""


class Claim(Place):
    """One call that holds an instance, or waits for it. The task that runs it may be cut short by the host.

    `cut` is why; None while nobody has cut it.
    """

    __slots__ = ("_cancelling", "cut", "task", "wake")

    def __init__(self, chain: str, task: asyncio.Task[Any]) -> None:
        self.chain = chain
        self.task = task
        self._cancelling = task.cancelling()
        self.cut: ActorError | None = None
        self.wake: asyncio.Future[ActorError | None] | None = None

    def end(self, error: ActorError) -> None:
        """Cut the call short: its caller sees `error`."""
        if self.cut is None:
            self.cut = error
            self.task.cancel()

    def was_cut(self) -> bool:
        """Take the host's cancellation back; whether it was that, and nothing else, that cancelled the task."""
        return self.cut is not None and self.task.uncancel() <= self._cancelling


class Closing:
    """The end of an instance: `quiet` when no turn runs any more, `gone` when it is deactivated."""

    __slots__ = ("gone", "quiet")

    def __init__(self, *, quiet: bool) -> None:
        self.gone = asyncio.Event()
        self.quiet = asyncio.Event()
        if quiet:
            self.quiet.set()


class Instance(Turns[Claim]):
    """One active actor. `used` is the loop's time of the last use, `epoch` the version of placement's table when it was
    activated. `leaving`: to be forgotten when no claim is left.
    """

    __slots__ = ("actor_id", "closing", "epoch", "fence", "leaving", "used")

    def __init__(self, actor_id: str, epoch: int, now: float) -> None:
        super().__init__()
        self.actor_id = actor_id
        self.epoch = epoch
        self.used = now
        self.leaving = False
        self.closing: Closing | None = None
        self.fence: Fence | None = None

    def begin_to_close(self) -> bool:
        """No turn begins any more, those who wait are told; False when that had been done before."""
        if self.closing is not None:
            return False
        self.closing = Closing(quiet=not self.running)
        for claim in self.close():
            assert claim.wake is not None
            if not claim.wake.done():
                claim.wake.set_result(ActorClosed("actor is closed"))
        return True

    def __repr__(self) -> str:
        return f"<Instance {self.actor_id} {super().__repr__()}>"


class Kind:
    """The instances of one type. `hosted` None: the type is not hosted any more, its last instances are ending."""

    __slots__ = ("_loop", "actor_type", "depth", "hosted", "instances")

    def __init__(self, actor_type: str) -> None:
        self.actor_type = actor_type
        self.hosted: Hosted | None = None
        self.depth = 1
        self.instances: OrderedDict[str, Instance] = OrderedDict()
        self._loop = asyncio.get_running_loop()

    def host(self, hosted: Hosted | None) -> None:
        """Take the settings that apply from now on."""
        self.hosted = hosted
        if hosted is not None:
            reentrancy = hosted.reentrancy
            self.depth = UNBOUNDED if not hosted.locked else 1 if reentrancy is None else reentrancy.max_depth

    def activate(self, actor_id: str, epoch: int) -> Instance:
        instance = self.instances[actor_id] = Instance(actor_id, epoch, self._loop.time())
        return instance

    def leave(self, instance: Instance, claim: Claim) -> None:
        """The claim is over: the next turn begins, or the instance is idle from now on."""
        for following in instance.leave(claim):
            assert following.wake is not None
            if not following.wake.done():
                following.wake.set_result(None)
        if instance.running:
            return
        instance.used = self._loop.time()
        if instance.closing is not None:
            instance.closing.quiet.set()
        elif instance.leaving:
            del self.instances[instance.actor_id]
        else:
            self.instances.move_to_end(instance.actor_id)

    def forget(self, instance: Instance) -> None:
        """The instance is deactivated: another of this name may come."""
        if self.instances.get(instance.actor_id) is instance:
            del self.instances[instance.actor_id]
        if instance.closing is not None:
            instance.closing.gone.set()

    def next_check(self) -> float | None:
        """Return the loop's time at which the first instance may have been idle for long enough, None without one."""
        if self.hosted is None or not self.instances:
            return None
        first = next(iter(self.instances.values()))
        return max(first.used + self.hosted.idle_timeout_s, self._loop.time() + SOON_S)

    def take_idle(self) -> Instance | None:
        """Return an instance that was idle for too long, no turn begins at it any more; None when there is none."""
        if self.hosted is None:
            return None
        now = self._loop.time()
        for _ in range(len(self.instances)):
            instance = next(iter(self.instances.values()))
            if instance.used + self.hosted.idle_timeout_s > now:
                return None
            instance.used = now  # Busy ones, and those that are ending, are looked at again much later.
            self.instances.move_to_end(instance.actor_id)
            if not instance.running and instance.begin_to_close():
                return instance
        return None

    def __repr__(self) -> str:
        return f"<Kind {self.actor_type}: {len(self.instances)} active{'' if self.hosted else ', not hosted'}>"
