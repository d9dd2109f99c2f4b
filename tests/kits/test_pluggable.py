"""Components that are other processes, under the kits of the built-in ones: official gRPC servers on unix sockets."""

from __future__ import annotations

import asyncio
import contextlib
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, ClassVar, cast

import pytest

from pillion import tasks
from pillion.components import pluggable_bindings
from pillion.components.pluggable import PluggableSettings
from pillion.components.pluggable_bindings import PluggableBinding
from pillion.components.pluggable_pubsub import PluggablePubSub
from pillion.components.pluggable_secrets import PluggableSecrets
from pillion.components.pluggable_state import PluggableState
from pillion.errors import ComponentError, EtagInvalid
from pillion.kinds.bindings import Event, Request
from pillion.kinds.component import Context
from pillion.kinds.pubsub import Feature, Publish
from pillion.kinds.state import Get, Set
from pillion.testing import state_kit
from pillion.testing.binding_kit import PATIENCE_S, InputBindingKit, OutputBindingKit
from pillion.testing.pubsub_kit import Inbox, PubSubKit
from pillion.testing.secret_kit import SecretKit
from pillion.wire.messages import components as m

if TYPE_CHECKING:
    from collections.abc import AsyncIterator, Iterator

PROGRAM = Path(__file__).parents[1] / "pluggable_process.py"


class Process:
    """The component process; `socket` is the same for each of its lives."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.socket = folder, folder / "kit.sock"
        self.subscriptions = 0
        self.start()

    def start(self) -> None:
        self.socket.unlink(missing_ok=True)
        command = [sys.executable, str(PROGRAM), str(self.folder), str(self.folder / "messages.db"), "kit.sock"]
        self.process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self.said() == "listening"

    def said(self) -> str:
        """Wait for its next line."""
        assert self.process.stdout is not None
        return self.process.stdout.readline().strip()

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()
        assert self.process.stdout is not None
        self.process.stdout.close()

    def make(self, kind: Any, name: str = "kit", **properties: str) -> Any:
        return kind(PluggableSettings(str(self.socket), properties), Context(name))


@pytest.fixture(scope="module")
def shared() -> Iterator[Process]:
    with tempfile.TemporaryDirectory(prefix="p-") as folder:  # socket paths are short
        process = Process(Path(folder))
        yield process
        process.kill()


@pytest.fixture
def own() -> Iterator[Process]:
    """A process that the test may kill."""
    with tempfile.TemporaryDirectory(prefix="p-") as folder:
        process = Process(Path(folder))
        yield process
        process.kill()


@pytest.mark.parametrize("check", state_kit.CHECKS, ids=repr)
def test_state(check: state_kit.Check, shared: Process) -> None:
    @contextlib.asynccontextmanager
    async def opened() -> AsyncIterator[Any]:
        store = shared.make(PluggableState)
        try:
            await store.open()
            yield store
        finally:
            await store.close()

    try:
        asyncio.run(check.run(opened))
    except state_kit.Skipped as reason:
        pytest.skip(str(reason))


class _Shared:
    process: Process

    @pytest.fixture(autouse=True)
    def _process(self, shared: Process) -> None:
        self.process = shared


class Settled(PluggablePubSub):
    """A broker that says when the component has begun a subscription: the protocol has no word for it."""

    def __init__(self, process: Process, group: str) -> None:
        super().__init__(PluggableSettings(str(process.socket), {"consumerID": group}), Context(f"kit-{group}"))
        self._process = process

    async def subscribe(self, topic: str, metadata: Any, handler: Any) -> Any:
        subscription = await super().subscribe(topic, metadata, handler)
        self._process.subscriptions += 1
        await tell(self._process, Request("subscribed", str(self._process.subscriptions).encode()))
        return subscription


class TestPubSub(_Shared, PubSubKit):
    @contextlib.asynccontextmanager
    async def broker(self, app_id: str) -> AsyncIterator[Any]:
        yield Settled(self.process, app_id)


class TestOutput(_Shared, OutputBindingKit):
    examples: ClassVar = [(Request("create", b"x", {"key": "k"}), None), (Request("get", b"", {"key": "k"}), b"x")]
    refused: ClassVar = [Request("get"), Request("create", b"x")]

    @contextlib.asynccontextmanager
    async def binding(self) -> AsyncIterator[Any]:
        yield self.process.make(PluggableBinding)

    def test_it_is_an_output_binding_and_says_what_it_can_do(self) -> None:
        """Differs from built-in ones: what it can do is known when it is open."""

        async def run() -> None:
            async with self.binding() as binding:
                assert binding.operations == ()
                await binding.open()
                assert binding.operations == ("create", "get", "happen", "subscribed")
                await binding.close()

        asyncio.run(run())


class TestInput(InputBindingKit):
    """A process for each test: events of one test are not those of the next."""

    process: Process

    @pytest.fixture(autouse=True)
    def _process(self, own: Process) -> None:
        self.process = own

    @contextlib.asynccontextmanager
    async def binding(self) -> AsyncIterator[Any]:
        yield self.process.make(PluggableBinding)

    async def happen(self) -> None:
        await happen(self.process)


async def happen(process: Process, data: bytes = b"now") -> None:
    await tell(process, Request("happen", data))


async def tell(process: Process, request: Request) -> None:
    outside = process.make(PluggableBinding, "outside")
    await outside.invoke(request)
    await outside.close()


class TestSecrets(_Shared, SecretKit):
    known: ClassVar = {"password": {"password": "12345"}, "user": {"user": "me"}}

    @contextlib.asynccontextmanager
    async def store(self) -> AsyncIterator[Any]:
        yield self.process.make(PluggableSecrets)


def test_features_and_sizes_are_the_components_own(shared: Process) -> None:
    """Those that the API of components cannot carry are not taken over."""

    async def run() -> None:
        store, broker = shared.make(PluggableState), shared.make(PluggablePubSub, consumerID="c")
        await store.open()
        await broker.open()
        assert store.features == {"ETAG", "TRANSACTIONAL", "TTL"}
        assert store.max_operations == 250
        assert broker.features == {Feature.BULK_PUBLISH, Feature.MESSAGE_TTL}
        with pytest.raises(EtagInvalid, match="not an etag"):
            await store.set(Set("k", b"v", etag="invalid"))
        await store.close()
        await broker.close()
        refused = shared.make(PluggableState, refuse="no room")
        with pytest.raises(ComponentError, match="no room"):
            await refused.open()
        await refused.close()

    asyncio.run(run())


def test_a_restarted_component_is_initialised_again(own: Process) -> None:
    """While it is away calls fail at once; then the first call calls `Init` before it."""

    async def run() -> None:
        store = own.make(PluggableState)
        await store.open()
        await store.set(Set("k", b"v"))
        own.kill()
        with pytest.raises(ComponentError):
            await store.get(Get("k"))
        await asyncio.to_thread(own.start)
        async with asyncio.timeout(PATIENCE_S):
            while True:  # the connection is tried again after a pause of its own
                with contextlib.suppress(ComponentError):
                    found = await store.get(Get("k"))
                    break
                await asyncio.sleep(0.05)
        assert found.value is None, "the process keeps its state in memory"
        await store.set(Set("k", b"again"))
        assert (await store.bulk_get([Get("k"), Get("none")]))[0].value == b"again"
        await store.close()

    asyncio.run(run())


def test_subscriptions_come_back_with_the_component(own: Process) -> None:
    """Messages published before and after a crash arrive; the one in the handler comes again."""

    async def run() -> None:
        broker = own.make(PluggablePubSub, consumerID="c")
        await broker.open()
        inbox, gate = Inbox(), asyncio.Event()
        inbox._gate = gate
        await broker.subscribe("t", {}, inbox)
        for number in range(5):
            await broker.publish(Publish("t", str(number).encode()))
        await inbox.until(lambda one: one.begun > 0)
        own.kill()
        gate.set()
        await asyncio.to_thread(own.start)
        await inbox.all_of([str(number).encode() for number in range(5)])
        await broker.publish(Publish("t", b"after"))
        await inbox.all_of([b"after"])
        await broker.close()

    asyncio.run(run())


def test_events_are_answered_and_come_back_with_the_component(own: Process) -> None:
    """Two events are with the application at the same time; their answers carry their ids, in any order."""

    async def run() -> None:
        binding = own.make(PluggableBinding)
        await binding.open()
        arrived: asyncio.Queue[Event] = asyncio.Queue()
        gates = {b"first": asyncio.Event(), b"second": asyncio.Event(), b"third": asyncio.Event()}

        async def handler(event: Event) -> bytes:
            arrived.put_nowait(event)
            await gates[event.data].wait()
            if event.data == b"first":
                raise ComponentError("no")
            return b"done " + event.data

        reading = await binding.read(handler)
        async with asyncio.timeout(PATIENCE_S):
            await happen(own, b"first")
            await happen(own, b"second")
            assert {(await arrived.get()).data, (await arrived.get()).data} == {b"first", b"second"}
            gates[b"second"].set()
            assert await asyncio.to_thread(own.said) == "answer 2 b'done second'"
            gates[b"first"].set()
            assert await asyncio.to_thread(own.said) == "answer 1 b'' no"
            own.kill()
            await asyncio.to_thread(own.start)
            await happen(own, b"third")
            assert (await arrived.get()).data == b"third"
            gates[b"third"].set()
            await reading.close(PATIENCE_S)
            assert await asyncio.to_thread(own.said) == "answer 1 b'done third'"
        await binding.close()

    asyncio.run(run())


def test_a_component_that_hangs_does_not_keep_the_sidecar(own: Process, monkeypatch: pytest.MonkeyPatch) -> None:
    """Closing waits for a stopped process's last words for a bounded time."""
    monkeypatch.setattr("pillion.components.pluggable_pubsub.PAUSE_S", 0.1)
    monkeypatch.setattr("pillion.components.pluggable_pubsub.PARTING_S", 0.1)

    async def run() -> None:
        broker, binding = own.make(PluggablePubSub, consumerID="c"), own.make(PluggableBinding)
        await broker.open()
        await binding.open()
        await broker.subscribe("t", {}, Inbox())

        async def handler(event: Event) -> bytes:
            return b""

        reading = await binding.read(handler)
        own.process.send_signal(signal.SIGSTOP)
        async with asyncio.timeout(PATIENCE_S):
            await reading.close(0.1)
            await binding.close()
            await broker.close()

    asyncio.run(run())


class Stream:
    """One that gives what it is told, raises a failure among it, and waits for ever after that."""

    def __init__(self, *gives: bytes | Exception) -> None:
        self.gives = list(gives)
        self.sent: list[bytes] = []
        self.cancelled = False

    async def send(self, message: bytes) -> None:
        self.sent.append(message)

    async def half_close(self) -> None:
        pass

    async def receive(self) -> bytes | None:
        if not self.gives:
            if self.cancelled:
                return None
            await asyncio.Event().wait()
        given = self.gives.pop(0)
        if isinstance(given, Exception):
            raise given
        return given

    def cancel(self) -> None:
        self.cancelled = True


def test_streams_are_asked_for_again_after_what_nobody_expects(monkeypatch: pytest.MonkeyPatch) -> None:
    """Each is left before the next one, and none is used twice."""
    monkeypatch.setattr(tasks, "FIRST_PAUSE_S", 0.001)

    async def run(kind: str, messages: list[bytes]) -> None:
        streams = [Stream(RuntimeError("nobody expects this")), Stream(RuntimeError("nor this")), Stream(*messages)]
        left = iter(streams)
        plug = SimpleNamespace(name="things", stream=lambda *_: ready(next(left)))
        arrived = asyncio.Event()

        async def handler(given: object) -> bytes:
            arrived.set()
            return b""

        async with asyncio.timeout(PATIENCE_S):
            if kind == "messages":
                broker = PluggablePubSub(PluggableSettings(socket="/nowhere", properties={}), Context("things"))
                monkeypatch.setattr(broker, "plug", plug)
                subscription = await broker.subscribe("t", {}, cast("Any", handler))
                await arrived.wait()
                subscription.hang_up()
                await broker._tasks.close()
            else:
                reading = pluggable_bindings._Reading(cast("Any", plug), handler, await plug.stream())
                await arrived.wait()
                await reading.close(0)
        assert [one.cancelled for one in streams] == [True, True, True]

    async def ready(stream: Stream) -> Stream:
        return stream

    asyncio.run(run("messages", [m.PullMessagesResponse(data=b"x").SerializeToString()]))
    asyncio.run(run("events", [m.ReadResponse(data=b"x").SerializeToString()]))
