"""A WebAssembly guest of the http-wasm handler ABI on wasmtime: memory, host functions, sandbox.

An instance handles one exchange at a time and keeps its state from one to the next. Its calls block: they belong on a
worker thread, and end when their fuel is used up.
"""

from __future__ import annotations

import random
from typing import TYPE_CHECKING, Any

from wasmtime import Config, Engine, ExitTrap, Func, FuncType, Linker, Memory, Module, Store, ValType, WasiConfig

from pillion.components.wasm_exchange import END, Trap
from pillion.errors import ComponentError

if TYPE_CHECKING:
    from collections.abc import Callable

    from pillion.components.wasm_exchange import Exchange

FUEL = 2_000_000_000
"""What one call may use up: about as many instructions, a second or two."""
MOST_MEMORY = 256 << 20
MILLISECOND_NS = 1_000_000
_I32, _I64 = ValType.i32(), ValType.i64()
_WASI = "wasi_snapshot_preview1"


class Program:
    """A compiled guest. Blocks. Raises `ComponentError` for what is no guest."""

    def __init__(self, code: bytes, *, strict: bool) -> None:
        config = Config()
        config.consume_fuel = True
        self.engine = Engine(config)
        self.strict = strict
        try:
            self.module = Module(self.engine, code)
        except Exception as error:
            raise ComponentError(f"no WebAssembly module: {error}") from error


class Guest:
    """One instance. `exchange` is set while it handles one. Blocks."""

    def __init__(self, program: Program, exchange: Exchange) -> None:
        """Instantiate and initialize; features asked for meanwhile are those of `exchange`. Raises `ComponentError`."""
        self.exchange = exchange
        self._store = Store(program.engine)
        self._store.set_limits(memory_size=MOST_MEMORY)
        self._store.set_fuel(FUEL)
        self._store.set_wasi(WasiConfig())
        linker = Linker(program.engine)
        linker.allow_shadowing = True
        linker.define_wasi()
        if program.strict:
            _confine(linker)
        for name, (parameters, results, function) in self._functions().items():
            linker.define_func("http_handler", name, FuncType(parameters, results), function, access_caller=True)
        try:
            exports = linker.instantiate(self._store, program.module).exports(self._store)
            self._handle_request = _function(exports, "handle_request")
            self._handle_response = _function(exports, "handle_response")
            if not isinstance(exports.get("memory"), Memory):
                raise ComponentError("the guest does not export memory")
            for name in ("_initialize", "_start"):
                begin = exports.get(name)
                if isinstance(begin, Func):
                    _begin(begin, self._store)
                    break
        except ComponentError:
            raise
        except Exception as error:
            raise ComponentError(f"the guest cannot be instantiated: {error}") from error

    def handle_request(self, exchange: Exchange) -> tuple[bool, int]:
        """Return whether to pass the request on, and the number the guest wants back. Raises what it trapped with."""
        self.exchange = exchange
        self._store.set_fuel(FUEL)
        out = int(self._handle_request(self._store)) & 0xFFFF_FFFF_FFFF_FFFF
        exchange.settle()
        return out & 0xFFFF_FFFF != 0, out >> 32

    def handle_response(self, context: int, failed: bool) -> None:
        self._store.set_fuel(FUEL)
        self._handle_response(self._store, _signed(context), int(failed))
        self.exchange.settle()

    # -- host functions

    def _functions(self) -> dict[str, tuple[list[ValType], list[ValType], Callable[..., Any]]]:
        """The functions of the module `http_handler`; each finds the exchange of the time it is called."""
        found: dict[str, tuple[list[ValType], list[ValType], Callable[..., Any]]] = {}

        def take(name: str) -> None:  # bytes in: a pointer and a length
            def function(caller: Any, pointer: int, length: int) -> None:
                getattr(self.exchange, name)(_read(caller, pointer, length))

            found[name] = [_I32, _I32], [], function

        def give(name: str) -> None:  # bytes out: a buffer and its size
            def function(caller: Any, buffer: int, limit: int) -> int:
                return _write(caller, getattr(self.exchange, name)(), buffer, limit)

            found[name] = [_I32, _I32], [_I32], function

        for name in ("get_config", "get_method", "get_uri", "get_protocol_version", "get_source_addr"):
            give(name)
        for name in ("set_method", "set_uri"):
            take(name)

        def set_value(name: str) -> None:
            def function(caller: Any, kind: int, key: int, key_size: int, value: int, size: int) -> None:
                getattr(self.exchange, name)(kind, _read(caller, key, key_size), _read(caller, value, size))

            found[name] = [_I32] * 5, [], function

        set_value("set_header_value")
        set_value("add_header_value")

        def get_header_names(caller: Any, kind: int, buffer: int, limit: int) -> int:
            return _write_list(caller, self.exchange.get_header_names(kind), buffer, limit)

        def get_header_values(caller: Any, kind: int, key: int, key_size: int, buffer: int, limit: int) -> int:
            values = self.exchange.get_header_values(kind, _read(caller, key, key_size))
            return _write_list(caller, values, buffer, limit)

        def read_body(caller: Any, kind: int, buffer: int, limit: int) -> int:
            data, end = self.exchange.read_body(kind, limit & 0xFFFF_FFFF)
            _write(caller, data, buffer, limit)
            return len(data) | (END if end else 0)

        found["get_header_names"] = [_I32] * 3, [_I64], get_header_names
        found["get_header_values"] = [_I32] * 5, [_I64], get_header_values
        found["read_body"] = [_I32] * 3, [_I64], read_body
        found["remove_header"] = (
            [_I32] * 3, [], lambda caller, kind, key, size: self.exchange.remove_header(kind, _read(caller, key, size)),
        )  # fmt: skip
        found["write_body"] = (
            [_I32] * 3, [], lambda caller, kind, data, size: self.exchange.write_body(kind, _read(caller, data, size)),
        )  # fmt: skip
        found["log"] = (
            [_I32] * 3, [], lambda caller, level, text, size: self.exchange.log(level, _read(caller, text, size)),
        )  # fmt: skip
        found["log_enabled"] = [_I32], [_I32], lambda caller, level: self.exchange.log_enabled(level)
        found["enable_features"] = [_I32], [_I32], lambda caller, bits: self.exchange.enable_features(bits)
        found["get_status_code"] = [], [_I32], lambda caller: self.exchange.get_status_code()
        found["set_status_code"] = [_I32], [], lambda caller, status: self.exchange.set_status_code(status)
        return found


def _function(exports: Any, name: str) -> Func:
    found = exports.get(name)
    if not isinstance(found, Func):
        raise ComponentError(f"the guest does not export {name}")
    return found


def _begin(function: Func, store: Store) -> None:
    try:
        function(store)
    except ExitTrap as error:
        if error.code != 0:
            raise


def _read(caller: Any, pointer: int, length: int) -> bytes:
    pointer, length = pointer & 0xFFFF_FFFF, length & 0xFFFF_FFFF
    memory = caller["memory"]
    if pointer + length > memory.data_len(caller):
        raise Trap("out of the guest's memory")
    return bytes(memory.read(caller, pointer, pointer + length))


def _write(caller: Any, data: bytes, buffer: int, limit: int) -> int:
    """Write what fits as a whole; return its length in any case, so that a guest can come back with a larger buffer."""
    buffer, limit = buffer & 0xFFFF_FFFF, limit & 0xFFFF_FFFF
    if data and len(data) <= limit:
        memory = caller["memory"]
        if buffer + len(data) > memory.data_len(caller):
            raise Trap("out of the guest's memory")
        memory.write(caller, data, buffer)
    return len(data)


def _write_list(caller: Any, items: list[bytes], buffer: int, limit: int) -> int:
    return len(items) << 32 | _write(caller, b"".join(item + b"\0" for item in items), buffer, limit)


def _signed(number: int) -> int:
    return number - (1 << 32) if number >= 1 << 31 else number


def _confine(linker: Linker) -> None:
    """Let every run see the same: random numbers from a fixed seed, a clock that moves a millisecond a reading, and
    sleep that does not wait.
    """
    numbers, now = random.Random(0), [0]

    def random_get(caller: Any, buffer: int, size: int) -> int:
        for at in range(0, size & 0xFFFF_FFFF, 4096):
            piece = numbers.randbytes(min(4096, (size & 0xFFFF_FFFF) - at))
            _write(caller, piece, buffer + at, len(piece))
        return 0

    def clock_time_get(caller: Any, clock: int, precision: int, result: int) -> int:
        now[0] += MILLISECOND_NS
        _write(caller, now[0].to_bytes(8, "little"), result, 8)
        return 0

    def poll_oneoff(caller: Any, subscriptions: int, events: int, count: int, result: int) -> int:
        """Every subscription is over at once: its event repeats its user data (WASI preview 1, `event`)."""
        for number in range(min(count & 0xFFFF_FFFF, 1024)):
            asked = _read(caller, subscriptions + 48 * number, 48)
            _write(caller, asked[:8] + b"\0\0" + asked[8:9] + bytes(21), events + 32 * number, 32)
        _write(caller, count.to_bytes(4, "little"), result, 4)
        return 0

    linker.define_func(_WASI, "random_get", FuncType([_I32] * 2, [_I32]), random_get, access_caller=True)
    linker.define_func(
        _WASI, "clock_time_get", FuncType([_I32, _I64, _I32], [_I32]), clock_time_get, access_caller=True
    )
    linker.define_func(_WASI, "poll_oneoff", FuncType([_I32] * 4, [_I32]), poll_oneoff, access_caller=True)
