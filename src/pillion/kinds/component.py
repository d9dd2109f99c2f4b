"""What every component has in common: its settings, its context, its life.

A component is a frozen `Settings` dataclass, a class that satisfies a Protocol of this package, and a declared set of
features. `__init__(settings, context)` has no effects; `open`, `ping` and `close` do, and `close` works after half an
`open`. Knows: how metadata text becomes typed settings (spec `components.md` 1). Never knows: any technology.
"""

from __future__ import annotations

import dataclasses
import re
import types
import typing
from dataclasses import field
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from pillion.errors import ConfigError
from pillion.records import record
from pillion.wire.durations import go_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Mapping

TRUTHY = frozenset({"y", "yes", "true", "t", "on", "1"})


def truthy(text: str | None) -> bool:
    """The reference's meaning of yes, everywhere: trimmed, any case, one of `y yes true t on 1`."""
    return text is not None and text.strip().lower() in TRUTHY


def go_bool(text: str) -> bool:
    """Go's strconv.ParseBool: 1 t T TRUE true True, 0 f F FALSE false False; raises ValueError for anything else."""
    if text in ("1", "t", "T", "TRUE", "true", "True"):
        return True
    if text in ("0", "f", "F", "FALSE", "false", "False"):
        return False
    raise ValueError(f"not a boolean: {text!r}")


@record
class Context:
    """What a component may know of its surroundings."""

    name: str
    """The component's name, as in `metadata.name`."""
    app_id: str = ""
    namespace: str = ""
    """The raw value of the environment variable NAMESPACE; may be empty."""
    data_dir: str = ""
    """Where `pillion run` keeps its files; empty when the sidecar was started by itself."""
    read_only: bool = False


class Component(Protocol):
    """The life of a component."""

    async def open(self) -> None:
        """Connect and prepare; raises `ComponentError` or `ConfigError`."""
        ...

    async def ping(self) -> None:
        """Return when the server behind the component answers; raises `ComponentError`."""
        ...

    async def close(self) -> None:
        """Let go of everything, also after half an `open`; may be called twice."""
        ...


S = TypeVar("S")


def setting(
    default: Any = dataclasses.MISSING,
    *,
    key: str = "",
    aliases: tuple[str, ...] = (),
    secret: bool = False,
    parse: Callable[[str], Any] | None = None,
    choices: tuple[str, ...] = (),
    rest: bool = False,
    help: str = "",
) -> Any:
    """One field of a `Settings` dataclass.

    `key` is the wire spelling where it is not the lowerCamelCase of the field's name; `parse` turns the text into the
    value where the type alone does not say how and raises ValueError; without a default the field is required. `rest`:
    the field gets, as a mapping, every key that no other field has.
    """
    meta = {
        "key": key, "aliases": aliases, "secret": secret, "parse": parse, "choices": choices, "rest": rest,
        "help": help,
    }  # fmt: skip
    if default is dataclasses.MISSING:
        return field(metadata=meta)
    if isinstance(default, (list, dict, set)):
        return field(default_factory=lambda: type(default)(default), metadata=meta)
    return field(default=default, metadata=meta)


def whole(text: str) -> int:
    """Read a whole number; raises ValueError with a text for people."""
    try:
        return int(text.strip())
    except ValueError:
        raise ValueError(f"not a whole number: {text[:100]!r}") from None


def _number(text: str) -> float:
    try:
        return float(text.strip())
    except ValueError:
        raise ValueError(f"not a number: {text[:100]!r}") from None


def seconds(text: str) -> float:
    """Generic duration of component metadata: Go syntax, else an integer number of seconds; empty is 0."""
    return _duration(text, 1.0)


def milliseconds(text: str) -> float:
    """Duration of the Redis decoder and of `backOff*` keys, in seconds: Go syntax, else integer milliseconds."""
    return _duration(text, 0.001)


def _duration(text: str, unit_s: float) -> float:
    text = text.strip()
    if not text:
        return 0.0
    if re.fullmatch(r"[+-]?\d+", text):
        return int(text) * unit_s
    return go_duration(text)


def wire_key(name: str) -> str:
    """lowerCamelCase of a field name: `redis_host` is `redisHost`."""
    head, *tail = name.split("_")
    return head + "".join(part.title() for part in tail)


def decode(settings: type[S], metadata: Mapping[str, str], *, where: str) -> S:
    """Build `settings` from metadata as strictly as the reference does.

    Keys match in any case, two keys equal but for case are an error, unknown keys are ignored; an empty number or
    choice is the default. `where` names the component in the error. Raises `ConfigError` naming the field.
    """
    folded: dict[str, str] = {}
    for key, value in metadata.items():
        low = key.lower()
        if low in folded:
            raise ConfigError(f"metadata key {key!r} is given twice", where=where, mend="keep one of them")
        folded[low] = value
    hints = typing.get_type_hints(settings)
    values: dict[str, Any] = {}
    for item in dataclasses.fields(settings):  # type: ignore[arg-type]
        if not item.init:
            continue
        meta = item.metadata
        if meta.get("rest"):
            values[item.name] = _unclaimed(settings, metadata)
            continue
        key = meta.get("key") or wire_key(item.name)
        text = next((folded[k.lower()] for k in (key, *meta.get("aliases", ())) if k.lower() in folded), None)
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        if text is None or (text == "" and required):
            if required:
                raise ConfigError(f"metadata field {key!r} is missing", where=where, mend=meta.get("help", ""))
            continue
        choices = meta.get("choices", ())
        if not text.strip() and _says_nothing(hints[item.name], meta.get("parse"), choices):
            continue
        try:
            values[item.name] = _convert(hints[item.name], meta.get("parse"), text)
        except ValueError as error:
            raise ConfigError(f"metadata field {key!r}: {error}", where=where) from error
        if choices and values[item.name] not in choices:
            known = ", ".join(filter(None, choices))
            raise ConfigError(f"metadata field {key!r} is {text!r}", where=where, mend=f"use one of: {known}")
    return settings(**values)


def _says_nothing(hint: Any, parse: Callable[[str], Any] | None, choices: tuple[str, ...]) -> bool:
    """Whether an empty text, as a variable leaves it that is not set, means the default: no number and no choice is
    spelled so. Empty texts, durations and truth values are values.
    """
    return parse is None and (_plain(hint) in (int, float) or (bool(choices) and "" not in choices))


def _plain(hint: Any) -> Any:
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        return next(arg for arg in typing.get_args(hint) if arg is not type(None))
    return hint


def _unclaimed(settings: type[Any], metadata: Mapping[str, str]) -> dict[str, str]:
    claimed = {
        key.lower()
        for item in dataclasses.fields(settings)
        for key in (item.metadata.get("key") or wire_key(item.name), *item.metadata.get("aliases", ()))
    }
    return {key: value for key, value in metadata.items() if key.lower() not in claimed}


def _convert(hint: Any, parse: Callable[[str], Any] | None, text: str) -> Any:
    if parse is not None:
        return parse(text)
    hint = _plain(hint)
    if hint is bool:
        return truthy(text)
    if hint is int:
        return whole(text)
    if hint is float:
        return _number(text)
    if typing.get_origin(hint) is tuple:
        return tuple(text.split(",")) if text else ()
    return text


def describe(settings: type[Any]) -> list[tuple[str, str, str, str]]:
    """Return (key, type, default, help) of every field: the rows of a component's page in the documentation."""
    rows = []
    for item in dataclasses.fields(settings):
        meta = item.metadata
        required = item.default is dataclasses.MISSING and item.default_factory is dataclasses.MISSING
        default = "required" if required else ""
        if item.default is not dataclasses.MISSING and item.default is not None:
            default = str(item.default)
        rows.append((meta.get("key") or wire_key(item.name), str(item.type), default, meta.get("help", "")))
    return rows
