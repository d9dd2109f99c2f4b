"""A world in which real drivers run on invented time: many hosts, one seed, every fault on purpose.

    world = World(seed=7)
    one, two = world.host("one"), world.host("two")
    one.start(driver_of_host_one())                    # any coroutine: it sees an asyncio loop of its own
    world.run(until=lambda: done())                    # raises `Stuck` with the story when nothing is left to happen

Each host has an event loop whose time is the world's, bent by the host's own clock error. Whatever could happen next is
chosen by the seed alone, so a seed is a story that can be told again. A killed host stops between two callbacks and
never runs another; a paused one runs late, as after SIGSTOP. Hosts meet only through `Wire` (messages that come late,
out of order, or never) and `Disk` (a store that is slow, fails before or after it acted).

Knows: asyncio's contract of a loop (docs.python.org/3/library/asyncio-eventloop.html), virtual time. Never knows: what
the hosts do.
"""

from __future__ import annotations

import asyncio
import gc
import heapq
import inspect
import math
import random
import sys
import weakref
from collections import deque
from typing import TYPE_CHECKING, Any, TypeVar, TypeVarTuple, Unpack

from pillion.errors import ComponentError

if TYPE_CHECKING:
    from collections.abc import Awaitable, Callable, Coroutine
    from contextvars import Context

T = TypeVar("T")
Ts = TypeVarTuple("Ts")
EPOCH = 1_767_225_600.0
"""Wall-clock time at the beginning of every world: 2026-01-01."""
TICK_S = 1e-9
"""What a timer takes at least: time must move where somebody waits for a moment that rounding puts just ahead."""
STORY_LENGTH = 4000
"""How many lines of the story are kept."""


class Stuck(AssertionError):
    """Nothing is left that could happen, or too much happened, before the world got to where it should."""


class Broken(ComponentError):
    """A message was lost, or the other end is gone: the caller cannot know whether it was heard."""


def tell(story: Callable[[], T]) -> T:
    """Run a story - a function that makes its world - and forget that world afterwards.

    What still waits in it never goes on: the `finally` blocks of those coroutines run when they are forgotten, on no
    host, and whatever they do then comes to nothing. A failure is raised anew, without the world that it would hold.
    """
    hook, sys.unraisablehook = sys.unraisablehook, lambda _: None
    collecting, failure = gc.isenabled(), ""
    gc.disable()  # a world is small, and what is forgotten in the middle of it is forgotten at its end as well
    gc.freeze()  # what was there before the world is none of its garbage
    known = set(_worlds)
    try:
        result = story()
    except AssertionError as error:
        failure = str(error)
    finally:
        _end_others(known)
        for _ in range(3):  # what a `finally` block lets go of is found by the next look
            gc.collect()
        gc.unfreeze()
        if collecting:
            gc.enable()
        sys.unraisablehook = hook
    if failure:
        raise AssertionError(failure)
    return result


_worlds: weakref.WeakSet[World] = weakref.WeakSet()


def _end_others(known: set[World]) -> None:
    for world in set(_worlds) - known:
        world.end()


class World:
    """All hosts, their time and everything on its way between them."""

    def __init__(self, seed: int) -> None:
        self.seed = seed
        self.random = random.Random(seed)
        self.now = 0.0
        self.events = 0
        self.hosts: dict[str, Host] = {}
        self.checks: list[Callable[[], None]] = []
        """Called after every event; they raise `AssertionError` when an invariant does not hold."""
        self.story: deque[str] = deque(maxlen=STORY_LENGTH)
        self._queue: list[tuple[float, int, Host | None, asyncio.Handle | _Happening]] = []
        self._order = 0
        self._runnable: list[Host] = []
        self._all: list[Host] = []
        """Dead ones too: what a dead machine had begun is not to be ended by the garbage collector."""
        _worlds.add(self)

    def host(self, name: str, *, offset_s: float = 0.0, rate: float = 1.0) -> Host:
        """Add a host whose wall clock is `offset_s` ahead and whose clocks run `rate` times as fast. A name that was
        killed before may come again: as a new machine without memory."""
        host = self.hosts[name] = Host(self, name, offset_s, rate)
        self._all.append(host)
        return host

    def end(self) -> None:
        """Let nothing begin any more. Python complains of a coroutine that never began when it is forgotten, and that
        may be long after the story: the record of a log that names an error holds the world in which that happened.
        """
        for host in self._all:
            for task in host.loop.tasks:
                work = task.get_coro()
                if inspect.iscoroutine(work) and inspect.getcoroutinestate(work) == inspect.CORO_CREATED:
                    work.close()

    def tell(self, line: str) -> None:
        """Add a line to the story."""
        self.story.append(f"{self.now:12.4f} {line}")

    def later(self, delay_s: float, act: Callable[..., object], *arguments: Any) -> None:
        """Let something happen in the world itself, outside of any host."""
        self._push(self.now + delay_s, None, _Happening(act, arguments))

    def run(self, until: Callable[[], bool], *, seconds: float = 3600.0, events: int = 1_000_000) -> None:
        """Let things happen until `until()` holds. Raises `Stuck` after `seconds` of the world's time or `events`."""
        end, most = self.now + seconds, self.events + events
        while not until():
            if self.events >= most or not self._step(end):
                raise Stuck(self.told(f"not there after {self.events} events"))

    def run_for(self, seconds: float) -> None:
        """Let `seconds` of the world's time pass."""
        end = self.now + seconds
        while self._step(end):
            pass
        self.now = end

    def told(self, why: str, lines: int = 60) -> str:
        """Return the end of the story, for a failure's message."""
        last = list(self.story)[-lines:]
        return "\n".join((f"seed {self.seed}, time {self.now:.3f}: {why}", *last))

    def _step(self, end: float) -> bool:
        """Do one thing; False when nothing is left to do before `end`."""
        if not self._runnable:
            while True:
                if not self._queue or self._queue[0][0] > end:
                    return False
                self._next_moment()
                if self._runnable:
                    break
        index = int(self.random.random() * len(self._runnable))
        host = self._runnable[index]
        handle = host.ready.popleft()
        if not host.ready:
            self._forget(host)
        self.events += 1
        if not handle.cancelled():
            host.enter(handle)
            for check in self.checks:
                check()
        return True

    def _next_moment(self) -> None:
        """Go to the earliest thing in the queue, and make it runnable."""
        when, _, host, handle = heapq.heappop(self._queue)
        if when > self.now:
            self.now = when
        if isinstance(handle, _Happening):
            handle.act(*handle.arguments)
        elif host is not None and host.alive and not handle.cancelled():
            host.wake(handle)

    def _push(self, when: float, host: Host | None, handle: asyncio.Handle | _Happening) -> None:
        self._order += 1
        heapq.heappush(self._queue, (when, self._order, host, handle))

    def _forget(self, host: Host) -> None:
        if host.queued:
            host.queued = False
            self._runnable.remove(host)

    def _runs(self, host: Host) -> None:
        if not host.queued and host.alive and not host.paused:
            host.queued = True
            self._runnable.append(host)


class Host:
    """A machine: a loop, a clock, and the life of both."""

    def __init__(self, world: World, name: str, offset_s: float, rate: float) -> None:
        self.world = world
        self.name = name
        self.loop = _Loop(self)  # type: ignore[abstract]  # the rest needs an operating system
        self.clock = HostClock(self)
        self.random = random.Random(world.random.random())
        self.alive = True
        self.paused = False
        self.offset_s = offset_s
        self.rate = rate
        self.born = world.now
        self.still_since: float | None = None
        """Since when it has not run, in the world's time: dead or paused."""
        self.went_on = -math.inf
        """When it last went on after a pause."""
        self.ready: deque[asyncio.Handle] = deque()
        self.queued = False

    def start(self, work: Coroutine[Any, Any, T]) -> asyncio.Task[T]:
        """Run a coroutine on this host. A failure of it ends the world: nobody else would see it."""
        task: asyncio.Task[T] = self.loop.create_task(work)
        task.add_done_callback(_surfaced)
        return task

    def call(self, act: Callable[..., object], *arguments: Any) -> None:
        """Let a plain function run on this host, soon."""
        self.loop.call_soon(act, *arguments)

    def kill(self) -> None:
        """End the host between two callbacks, as `kill -9` does: nothing of it runs any more."""
        self.world.tell(f"{self.name} is killed")
        self.alive = False
        self.still_since = self.world.now
        self.ready.clear()
        self.world._forget(self)

    def pause(self) -> None:
        """Stop the host, as SIGSTOP does; what comes meanwhile waits."""
        self.world.tell(f"{self.name} is paused")
        self.paused = True
        self.still_since = self.world.now
        self.world._forget(self)

    def resume(self) -> None:
        self.world.tell(f"{self.name} goes on")
        self.paused = False
        self.still_since, self.went_on = None, self.world.now
        if self.ready:
            self.world._runs(self)

    def wake(self, handle: asyncio.Handle) -> None:
        self.ready.append(handle)
        self.world._runs(self)

    def local_time(self) -> float:
        return self.born + (self.world.now - self.born) * self.rate

    def world_time(self, local: float) -> float:
        return self.born + (local - self.born) / self.rate

    def enter(self, handle: asyncio.Handle) -> None:
        """Run one callback with this host's loop as the running one."""
        around = asyncio._get_running_loop()  # a test's own, where it has one
        asyncio._set_running_loop(self.loop)
        try:
            handle._run()
        finally:
            asyncio._set_running_loop(around)
        if self.loop.failure is not None:
            failure, self.loop.failure = self.loop.failure, None
            raise AssertionError(self.world.told(f"{self.name} failed: {failure!r}")) from failure

    def __repr__(self) -> str:
        state = "paused" if self.paused else "alive" if self.alive else "dead"
        return f"<Host {self.name}, {state}>"


class HostClock:
    """The clocks of a host (a `Clock`): the wall clock may be wrong, both may run fast or slow."""

    def __init__(self, host: Host) -> None:
        self._host = host

    def now(self) -> float:
        return EPOCH + self._host.local_time() + self._host.offset_s

    def monotonic(self) -> float:
        return self._host.local_time()


class Wire:
    """Calls between hosts: each way takes a while, and either may be lost.

    `loss` is the chance that a way loses its message; `delay_s` the range of a way's time. Cut pairs lose everything.
    """

    def __init__(self, world: World, *, loss: float = 0.0, delay_s: tuple[float, float] = (0.0002, 0.02)) -> None:
        self.world = world
        self.loss = loss
        self.delay_s = delay_s
        self.cut: set[frozenset[str]] = set()
        self.loss_noticed_s = 2.0

    async def call(self, source: Host, target: Host, act: Callable[[], Awaitable[T]]) -> T:
        """Run `act()` on `target` and return what it returns, or raise what it raises, on `source`.

        Raises `Broken` when a message was lost or `target` died: by then `act` may or may not have run.
        """
        answer: asyncio.Future[T] = source.loop.create_future()
        self.send(source, target, lambda: self._act(source, target, act, answer), lambda: _break(answer))
        return await answer

    def send(
        self, source: Host, target: Host, act: Callable[[], object], lost: Callable[[], object] | None = None
    ) -> None:
        """Let `act()` run on `target` a while later; `lost()` on `source` when the message does not arrive."""
        world = self.world
        delay = world.random.uniform(*self.delay_s)
        gone = world.random.random() < self.loss or frozenset((source.name, target.name)) in self.cut

        def arrive() -> None:
            if gone or not target.alive:
                if lost is not None:
                    world.later(self.loss_noticed_s, lambda: source.call(lost) if source.alive else None)
                return
            target.call(act)

        world.later(delay, arrive)

    def _act(self, source: Host, target: Host, act: Callable[[], Awaitable[T]], answer: asyncio.Future[T]) -> None:
        async def run() -> None:
            try:
                result, error = await act(), None
            except asyncio.CancelledError:
                raise
            except Exception as failure:  # carried to the caller, as a real connection would
                result, error = None, failure
            self.send(target, source, lambda: _settle(answer, result, error), None)

        task = target.loop.create_task(run())
        self._watch(source, target, task, answer)

    def _watch(self, source: Host, target: Host, task: asyncio.Task[None], answer: asyncio.Future[Any]) -> None:
        """A caller notices after a while that its peer is dead, or that the answer was lost."""

        def look() -> None:
            if answer.done() or not source.alive:
                return
            if not target.alive or task.done():
                source.call(_break, answer)
                return
            self.world.later(self.loss_noticed_s, look)

        self.world.later(self.loss_noticed_s, look)


class Disk:
    """What outlives hosts: operations take a while, and may fail before or after they took effect."""

    def __init__(self, world: World, *, failing: float = 0.0, delay_s: tuple[float, float] = (0.0001, 0.005)) -> None:
        self.world = world
        self.failing = failing
        self.delay_s = delay_s
        self.down = False
        """Whether no operation takes effect at present."""

    async def do(self, host: Host, act: Callable[[], T]) -> T:
        """Run the plain function `act` at one moment on its way there and back; what it raises reaches the caller."""
        world = self.world
        answer: asyncio.Future[T] = host.loop.create_future()
        fate = world.random.random()
        never, unheard = self.down or fate < self.failing / 2, self.failing / 2 <= fate < self.failing

        def take_effect() -> None:
            result: T | None = None
            error: Exception | None = None
            if never:
                error = Broken("the store did not answer")
            else:
                try:
                    result = act()
                except Exception as failure:  # the store's own refusal
                    error = failure
                if unheard:
                    error = Broken("the store's answer was lost")
            world.later(
                world.random.uniform(*self.delay_s),
                lambda: host.call(_settle, answer, result, error) if host.alive else None,
            )

        world.later(world.random.uniform(*self.delay_s), take_effect)
        return await answer


def _settle(answer: asyncio.Future[Any], result: object, error: BaseException | None) -> None:
    if answer.done():
        return
    if error is None:
        answer.set_result(result)
    else:
        answer.set_exception(error)


def _break(answer: asyncio.Future[Any]) -> None:
    if not answer.done():
        answer.set_exception(Broken("the connection broke"))


def _surfaced(task: asyncio.Task[Any]) -> None:
    if not task.cancelled() and (error := task.exception()) is not None:
        loop = task.get_loop()
        assert isinstance(loop, _Loop)
        loop.failure = error


class _Loop(asyncio.AbstractEventLoop):
    """The part of an event loop that needs no operating system."""

    def __init__(self, host: Host) -> None:
        self._host = host
        self.failure: BaseException | None = None
        self.tasks: set[asyncio.Task[Any]] = set()

    def time(self) -> float:
        return self._host.local_time()

    def call_soon(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        handle = asyncio.Handle(callback, args, self, context)
        if self._host.alive:
            self._host.wake(handle)
        return handle

    def call_soon_threadsafe(
        self, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.Handle:
        return self.call_soon(callback, *args, context=context)

    def call_later(
        self, delay: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        return self.call_at(self.time() + delay, callback, *args, context=context)

    def call_at(
        self, when: float, callback: Callable[[Unpack[Ts]], object], *args: *Ts, context: Context | None = None
    ) -> asyncio.TimerHandle:
        handle = asyncio.TimerHandle(when, callback, args, self, context)
        host = self._host
        host.world._push(max(host.world_time(when), host.world.now + TICK_S), host, handle)
        return handle

    def create_future(self) -> asyncio.Future[Any]:
        return asyncio.Future(loop=self)

    def create_task(self, coro: Any, *, name: str | None = None, context: Context | None = None) -> asyncio.Task[Any]:
        task: asyncio.Task[Any] = asyncio.Task(coro, loop=self, name=name, context=context)
        self.tasks.add(task)
        task.add_done_callback(self.tasks.discard)
        return task

    def get_debug(self) -> bool:
        return False

    def is_running(self) -> bool:
        return True

    def is_closed(self) -> bool:
        return False

    def _timer_handle_cancelled(self, handle: asyncio.TimerHandle) -> None:
        """The queue drops it when its time comes."""

    def call_exception_handler(self, context: dict[str, Any]) -> None:
        error = context.get("exception")
        self.failure = error if isinstance(error, BaseException) else RuntimeError(str(context.get("message")))

    def default_exception_handler(self, context: dict[str, Any]) -> None:
        self.call_exception_handler(context)


class _Happening:
    """What happens in the world itself."""

    __slots__ = ("act", "arguments")

    def __init__(self, act: Callable[..., object], arguments: tuple[Any, ...]) -> None:
        self.act = act
        self.arguments = arguments
