"""Configuration files: reading, expanding, merging (spec `runtime.md` 3.1 and the environment of 3.2).

Knows: how several files and the environment become one `Configuration`. Never knows: what the fields do.
"""

from __future__ import annotations

import urllib.parse
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from pillion.errors import ConfigError
from pillion.kinds.config_reading import configuration
from pillion.kinds.fields import Fields
from pillion.records import record
from pillion.wire import yamltext

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    from pillion.kinds.config import Configuration, Otel, Tracing
    from pillion.sidecar.environment import Environment

MAX_FILE = 16 << 20
_FREE_FORM = ("spec", "nameresolution", "configuration")


@record
class Read:
    """A configuration and what its author should hear."""

    configuration: Configuration
    warnings: tuple[str, ...] = ()


def read(paths: Sequence[str], environment: Environment) -> Read:
    """Read the files in order, each onto what came before. Raises `ConfigError`. Blocks: reads files.

    `$NAME` is expanded over the whole text. Scalars overwrite, mappings merge, lists are replaced.
    """
    merged: yamltext.Node | None = None
    warnings: list[str] = []
    for path in paths:
        node = _document(path, environment, warnings)
        if node is not None:
            merged = node if merged is None else _merge(merged, node, ())
    fields = Fields(merged)
    try:
        found = configuration(fields)
    except yamltext.YamlError as error:
        raise ConfigError(str(error), where=f"{merged.source if merged else ''}:{error.line}") from error
    tracing = with_environment(found.tracing, environment.variables)
    return Read(replace(found, tracing=tracing), (*warnings, *fields.notes))


def _document(path: str, environment: Environment, warnings: list[str]) -> yamltext.Node | None:
    try:
        if Path(path).stat().st_size > MAX_FILE:
            raise ConfigError(f"is longer than {MAX_FILE >> 20} MiB", where=path)
        text = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        mend = "correct --config or create the file"
        raise ConfigError(f"cannot be read: {error.strerror}", where=path, mend=mend) from error
    except UnicodeDecodeError as error:
        raise ConfigError("is not UTF-8 text", where=path) from error
    try:
        node = yamltext.parse(environment.expand(text), source=path)
    except yamltext.YamlError as error:
        raise ConfigError(str(error), where=f"{path}:{error.line}") from error
    kind = Fields(node).text("kind")
    if kind != "Configuration":
        warnings.append(f"{path}: kind is {kind!r}; it is read as a Configuration all the same")
    return node


def _merge(under: yamltext.Node, over: yamltext.Node, path: tuple[str, ...]) -> yamltext.Node:
    if over.value is None:
        return under
    if not isinstance(under.value, dict) or not isinstance(over.value, dict) or path == _FREE_FORM:
        return over
    pairs = dict(under.value)
    spelled = {key.lower(): key for key in pairs}
    for key, node in over.value.items():
        low = key.lower()
        if low in spelled:
            old = pairs.pop(spelled[low])
            pairs[key] = _merge(old, node, (*path, low))
        else:
            pairs[key] = node
        spelled[low] = key
    return yamltext.Node(pairs, over.line, over.source)


def with_environment(tracing: Tracing, variables: Mapping[str, str]) -> Tracing:
    """Let the OpenTelemetry variables speak where no file names an endpoint.

    `variables` is the whole environment. Raises `ConfigError` when one of them is malformed.
    """
    if tracing.otel.endpoint:
        return tracing

    def find(name: str) -> tuple[str, str]:
        for prefix in ("OTEL_EXPORTER_OTLP_TRACES_", "OTEL_EXPORTER_OTLP_"):
            if text := variables.get(prefix + name, ""):
                return prefix + name, text
        return "", ""

    otel, sampling = tracing.otel, tracing.sampling_rate
    endpoint = find("ENDPOINT")[1]
    if endpoint:
        sampling = sampling or "1"
        otel = replace(
            otel,
            endpoint=endpoint.removeprefix("http://").removeprefix("https://"),
            protocol="http" if find("PROTOCOL")[1].startswith("http") else "grpc",
            secure=otel.secure and variables.get("OTEL_EXPORTER_OTLP_INSECURE") != "true",
        )
    return replace(tracing, sampling_rate=sampling, otel=_extras(otel, find("HEADERS"), find("TIMEOUT")))


def _extras(otel: Otel, headers: tuple[str, str], timeout: tuple[str, str]) -> Otel:
    if headers[1]:
        otel = replace(otel, headers=tuple(_header(headers[0], pair) for pair in headers[1].split(",") if pair.strip()))
    if timeout[1]:
        try:
            otel = replace(otel, timeout_s=int(timeout[1]) / 1000)
        except ValueError:
            raise ConfigError(f"is {timeout[1]!r}", where=timeout[0], mend="write whole milliseconds") from None
    return otel


def _header(variable: str, pair: str) -> tuple[str, str]:
    name, equals, value = pair.partition("=")
    name = name.strip()
    try:
        text = urllib.parse.unquote(value.strip(), errors="strict")
    except UnicodeDecodeError:
        text, equals = "", ""
    if not equals or not name:
        raise ConfigError("a header is malformed", where=variable, mend="write name=value,name=value")
    return name, text
