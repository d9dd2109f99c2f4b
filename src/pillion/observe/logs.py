"""Log lines in the three forms that tools of the reference read (spec `runtime.md` 1.6).

Knows: fields, their order and their quoting. Never knows: who logs. Modules use the standard library's `logging`;
what is switched off costs the level check and nothing else.
"""

from __future__ import annotations

import contextlib
import logging
import re
import socket
import sys
import time
from contextvars import ContextVar
from functools import cache
from typing import TYPE_CHECKING, Any, TextIO

import orjson

from pillion import REFERENCE_VERSION
from pillion.wire.texts import writable

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping

app_id: ContextVar[str] = ContextVar("app_id", default="")
"""The application whose sidecar logs: several sidecars can share a process."""
_component: ContextVar[str] = ContextVar("component", default="")

LEVELS = {
    "debug": logging.DEBUG, "info": logging.INFO, "warn": logging.WARNING, "error": logging.ERROR,
    "fatal": logging.CRITICAL,
}  # fmt: skip
_NAMES = {10: "debug", 20: "info", 30: "warning", 40: "error", 50: "fatal"}
_COLOURS = {10: 37, 20: 36, 30: 33, 40: 31, 50: 31}
_BARE = re.compile(r"[A-Za-z0-9\-._/@^+]*", re.ASCII)
_SCOPES = (
    ("pillion.api.http", "dapr.runtime.http-info"),
    ("pillion.api.grpc", "dapr.runtime.grpc-info"),
    ("pillion.components", "dapr.contrib"),
    ("pillion.sidecar", "dapr.runtime"),
    ("pillion.serve", "dapr.runtime"),
    ("pillion.blocks", "dapr.runtime"),
    ("pillion.observe.trace", "dapr.runtime.trace"),
    ("pillion", "dapr.runtime"),
)
FATAL = logging.CRITICAL


@contextlib.contextmanager
def of_app(application: str) -> Iterator[None]:
    """Name the application in lines logged here and in tasks started here."""
    token = app_id.set(application)
    try:
        yield
    finally:
        app_id.reset(token)


@contextlib.contextmanager
def component(label: str) -> Iterator[None]:
    """Name the component, `name (type/version)`, in lines logged here and in tasks started here."""
    token = _component.set(label)
    try:
        yield
    finally:
        _component.reset(token)


@cache
def scope_of(logger: str) -> str:
    """Return the scope that a logger's name stands for; other libraries are `dapr.contrib`."""
    for prefix, scope in _SCOPES:
        if logger == prefix:
            return scope
        if logger.startswith(prefix + "."):
            rest = logger[len(prefix) + 1 :]
            return scope if scope == "dapr.contrib" else f"{scope}.{rest}"
    return "dapr.contrib"


def fields_of(record: logging.LogRecord, instance: str) -> dict[str, Any]:
    """Return all fields of a line but time, level and message."""
    fields: dict[str, Any] = {
        "instance": instance, "scope": scope_of(record.name), "type": "log", "ver": REFERENCE_VERSION,
    }  # fmt: skip
    if application := app_id.get():
        fields["app_id"] = application
    if label := _component.get():
        fields["component"] = label
    fields.update(getattr(record, "fields", None) or {})
    if record.exc_info and record.exc_info[0] is not None:
        fields["error"] = f"{record.exc_info[0].__name__}: {record.exc_info[1]}"
        fields["stack"] = logging.Formatter().formatException(record.exc_info)
    return fields


def stamp(seconds: float) -> str:
    """Return RFC 3339 in the local zone, with as many digits of a second as there are."""
    whole, nanos = divmod(round(seconds * 1e9), 1_000_000_000)
    local = time.localtime(whole)
    zone = local.tm_gmtoff
    offset = "Z" if zone == 0 else f"{'-' if zone < 0 else '+'}{abs(zone) // 3600:02d}:{abs(zone) // 60 % 60:02d}"
    digits = f".{nanos:09d}".rstrip("0") if nanos else ""
    return time.strftime("%Y-%m-%dT%H:%M:%S", local) + digits + offset


def _level(record: logging.LogRecord) -> str:
    return _NAMES.get(record.levelno) or record.levelname.lower()


def quoted(value: object) -> str:
    """Return a value as the text form has it: bare when it is plain, else in quotes with escapes."""
    text = value if isinstance(value, str) else str(value)
    return text if _BARE.fullmatch(text) else orjson.dumps(writable(text)).decode()


class TextFormatter(logging.Formatter):
    """`time="…" level=info msg="…"`, then the other fields in alphabetical order."""

    def __init__(self, instance: str) -> None:
        super().__init__()
        self._instance = instance

    def format(self, record: logging.LogRecord) -> str:
        head = (("time", stamp(record.created)), ("level", _level(record)), ("msg", record.getMessage()))
        pairs = [*head, *sorted(fields_of(record, self._instance).items())]
        return " ".join(f"{name}={quoted(value)}" for name, value in pairs)


class JsonFormatter(logging.Formatter):
    """One JSON object a line, keys in alphabetical order."""

    def __init__(self, instance: str) -> None:
        super().__init__()
        self._instance = instance

    def format(self, record: logging.LogRecord) -> str:
        line = fields_of(record, self._instance)
        line.update(time=stamp(record.created), level=_level(record), msg=record.getMessage())
        try:
            return orjson.dumps(line, option=orjson.OPT_SORT_KEYS, default=str).decode()
        except orjson.JSONEncodeError:  # lone surrogates, integers beyond 64 bits
            plain = {name: writable(str(value)) for name, value in line.items()}
            return orjson.dumps(plain, option=orjson.OPT_SORT_KEYS).decode()


class ColourFormatter(logging.Formatter):
    """For people: `INFO[0000] message   key=value`, coloured by level; the number is seconds since the start."""

    def __init__(self, instance: str, started: float | None = None) -> None:
        super().__init__()
        self._instance = instance
        self._started = time.time() if started is None else started

    def format(self, record: logging.LogRecord) -> str:
        colour = _COLOURS.get(record.levelno, 36)
        name = _level(record).upper()[:4]
        seconds = max(0, int(record.created - self._started))
        fields = fields_of(record, self._instance)
        stack = fields.pop("stack", "")
        tail = "".join(f" \x1b[{colour}m{key}\x1b[0m={quoted(value)}" for key, value in sorted(fields.items()))
        line = f"\x1b[{colour}m{name}\x1b[0m[{seconds:04d}] {record.getMessage():<44}{tail}"
        return writable(f"{line}\n{stack}" if stack else line)


class _Handler(logging.StreamHandler[TextIO]):
    """Writes lines; a reader that went away is no reason to stop serving, and there is nowhere left to tell it."""

    def handleError(self, record: logging.LogRecord) -> None:
        if not isinstance(sys.exc_info()[1], OSError):
            super().handleError(record)


def setup(
    *, level: str = "info", as_json: bool = False, file: str = "", stream: TextIO | None = None, instance: str = ""
) -> logging.Handler:
    """Send the log of this process to `stream` (standard output), or append it to `file`; return the handler.

    May be called again: the former handler is closed. Raises OSError when the file cannot be opened. Foreign libraries
    are heard from `warning` on, and from `level` on when that is higher.
    """
    instance = instance or socket.gethostname()
    out = open(file, "a", encoding="utf-8", opener=_open_log) if file else stream or sys.stdout  # noqa: SIM115
    handler = _Handler(out)
    if as_json:
        handler.setFormatter(JsonFormatter(instance))
    elif out.isatty():
        handler.setFormatter(ColourFormatter(instance))
    else:
        handler.setFormatter(TextFormatter(instance))
    root = logging.getLogger()
    for old in [old for old in root.handlers if isinstance(old, _Handler)]:
        root.removeHandler(old)
        old.close()
        if old.stream not in (sys.stdout, sys.stderr, stream):
            old.stream.close()
    root.addHandler(handler)
    root.setLevel(max(LEVELS[level], logging.WARNING))
    logging.getLogger("pillion").setLevel(LEVELS[level])
    for name in ("pillion.api.http", "pillion.api.grpc"):
        logging.getLogger(name).setLevel(logging.INFO)  # API logs are a switch of their own, whatever the level
    return handler


def _open_log(path: str, flags: int) -> int:
    import os

    return os.open(path, flags, 0o644)


class ApiLog:
    """Lines about API calls. Whoever serves keeps one of these, or None when they are off.

    `obfuscates`: operations are named instead of paths.
    """

    def __init__(self, *, obfuscate_urls: bool = False, omit_health_checks: bool = False) -> None:
        self.obfuscates = obfuscate_urls
        self._omit_health = omit_health_checks
        self._http = logging.getLogger("pillion.api.http")
        self._grpc = logging.getLogger("pillion.api.grpc")

    def http(
        self, method: str, path: str, endpoint: str, *, agent: str, code: int, size: int, elapsed_s: float
    ) -> None:
        """Log one HTTP call. `endpoint` is the operation's name, shown instead of the path when URLs are hidden."""
        if self._omit_health and path.startswith("/v1.0/healthz"):
            return
        called = endpoint if self.obfuscates else f"{method} {path}"
        self._say(
            self._http,
            "HTTP API Called",
            {"method": called, "useragent": agent, "code": code, "size": size, "duration": _ms(elapsed_s)},
        )

    def grpc(self, method: str, *, agent: str, code: int, elapsed_s: float) -> None:
        """Log one gRPC call; `method` is the full method."""
        if self._omit_health and method.startswith("/grpc.health."):
            return
        fields = {"method": method, "useragent": agent, "code": code, "duration": _ms(elapsed_s)}
        self._say(self._grpc, "gRPC API Called", fields)

    @staticmethod
    def _say(logger: logging.Logger, text: str, fields: Mapping[str, object]) -> None:
        logger.info(text, extra={"fields": fields})


def _ms(seconds: float) -> int:
    return int(seconds * 1000)
