"""Bindings that are other processes: `OutputBinding` and `InputBinding` of components.v1.

Knows: that events of one stream are handled at the same time and answered in any order, by their ids.
"""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING, Any

from google.protobuf.message import DecodeError

from pillion.components.pluggable import Patience, Plug, PluggableSettings
from pillion.kinds.bindings import Event, Request, Response
from pillion.net.exchange import RpcError
from pillion.tasks import Tasks
from pillion.wire.messages import components as m

if TYPE_CHECKING:
    from collections.abc import Sequence

    from pillion.kinds.bindings import Handler
    from pillion.kinds.component import Context
    from pillion.net.grpc_streams import StreamCall

log = logging.getLogger("pillion.components.pluggable")
INPUT, OUTPUT = "InputBinding", "OutputBinding"
AT_ONCE = 100
"""Events of one binding that are with the application at the same time; the next ones wait in the component."""


class _Binding:
    """What both directions share. The first service answers pings."""

    Settings = PluggableSettings
    services: Sequence[tuple[str, type[Any]]]

    def __init__(self, settings: PluggableSettings, context: Context) -> None:
        self.name = context.name
        self.plug = Plug(settings, context, self.services)

    async def open(self) -> None:
        await self.ping()

    async def ping(self) -> None:
        for service, _ in self.services:
            await self.plug.ping(service)

    async def close(self) -> None:
        await self.plug.close()

    def __repr__(self) -> str:
        return f"<{type(self).__name__}: {self.plug!r}>"


class PluggableOutput(_Binding):
    """An output binding behind a socket. What it can do is known when it is open."""

    services: Sequence[tuple[str, type[Any]]] = ((OUTPUT, m.OutputBindingInitRequest),)
    operations: tuple[str, ...] = ()

    async def open(self) -> None:
        await super().open()
        answer = await self.plug.ask(OUTPUT, "ListOperations", m.ListOperationsRequest(), m.ListOperationsResponse)
        self.operations = tuple(answer.operations)

    async def invoke(self, request: Request) -> Response | None:
        message = m.InvokeRequest(data=request.data, metadata=request.metadata, operation=request.operation)
        answer = await self.plug.ask(OUTPUT, "Invoke", message, m.InvokeResponse)
        return Response(answer.data, dict(answer.metadata))


class PluggableInput(_Binding):
    """An input binding behind a socket."""

    services: Sequence[tuple[str, type[Any]]] = ((INPUT, m.InputBindingInitRequest),)

    def __init__(self, settings: PluggableSettings, context: Context) -> None:
        super().__init__(settings, context)
        self._readings: set[_Reading] = set()

    async def read(self, handler: Handler) -> _Reading:
        try:
            stream = await self.plug.stream(INPUT, "Read")
        except RpcError as error:
            raise self.plug.failure(error) from error
        reading = _Reading(self.plug, handler, stream)
        self._readings.add(reading)
        return reading

    async def close(self) -> None:
        for reading in self._readings:
            await reading.close(0)
        self._readings.clear()
        await super().close()


class PluggableBinding(PluggableInput, PluggableOutput):
    """Both directions of one socket."""

    services = ((INPUT, m.InputBindingInitRequest), (OUTPUT, m.OutputBindingInitRequest))


class _Reading:
    """The events of one `read`, across restarts of the component."""

    def __init__(self, plug: Plug, handler: Handler, stream: StreamCall) -> None:
        self._plug, self._handler = plug, handler
        self._patience = Patience()
        self._turns = asyncio.Semaphore(AT_ONCE)
        self._events = Tasks(f"events of {plug.name}")
        self._stream: StreamCall | None = stream
        self._reader = Tasks(f"input binding {plug.name}")
        self._reader.keep(self._run, "reading")

    async def _run(self) -> None:
        while True:
            try:
                if self._stream is None:
                    self._stream = await self._plug.stream(INPUT, "Read")
                await self._follow(self._stream)
                why = "the component ended it"
            except (RpcError, DecodeError) as error:
                why = str(error)
            except Exception:
                self._hang_up()
                raise
            self._hang_up()
            log.warning("the events of %s are interrupted: %s", self._plug.name, why)
            await self._patience.wait()

    def _hang_up(self) -> None:
        stream, self._stream = self._stream, None
        if stream is not None:
            stream.cancel()

    async def _follow(self, stream: StreamCall) -> None:
        while True:
            await self._turns.acquire()
            message = m.ReadResponse()
            try:
                data = await stream.receive()
                if data is None:
                    self._turns.release()
                    return
                message.ParseFromString(data)
            except BaseException:
                self._turns.release()
                raise
            self._patience.renew()
            self._events.start(self._handle(stream, message), "event")

    async def _handle(self, stream: StreamCall, message: m.ReadResponse) -> None:
        answer = m.ReadRequest(message_id=message.message_id)
        try:
            answer.response_data = await self._handler(Event(message.data, dict(message.metadata)))
        except Exception as error:
            answer.response_error.message = str(error) or type(error).__name__
        finally:
            self._turns.release()
        try:
            await stream.send(answer.SerializeToString())
        except RpcError as error:
            log.warning("an event of %s was handled, but its answer is lost: %s", self._plug.name, error)

    async def close(self, grace_s: float) -> None:
        await self._reader.close()
        if grace_s > 0:
            await self._events.drain(grace_s)
        await self._events.close()
        if self._stream is not None:
            stream, self._stream = self._stream, None
            try:
                # Answers that were sent arrive before the end does; a cancelled stream would drop them.
                await stream.half_close()
                async with asyncio.timeout(min(grace_s, 1.0)):
                    while await stream.receive() is not None:
                        continue
            except (RpcError, TimeoutError) as error:
                log.debug("the stream of %s did not end by itself: %s", self._plug.name, error)
            finally:
                stream.cancel()
