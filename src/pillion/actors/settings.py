"""How an application wants its actors to be hosted: the answer to `GET /dapr/config`, the first message of a callback
stream (spec `actors-workflows-jobs.md` 1.1 and 1.8).

    for one in from_json(body, disseminate_timeout_s=30, warn=log.warning):
        hosted = one.hosted(handler)

Knows: names, defaults and bounds of the settings. Never knows: how they came, who runs the actors.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

import orjson

from pillion.errors import ConfigError
from pillion.kinds.actors import RESERVED, Hosted, Reentrancy
from pillion.wire.durations import go_duration

if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Sequence

    from pillion.kinds.actors import Handler
    from pillion.wire.messages import runtime as m

    Warn = Callable[[str], None]

IDLE_S = 3600.0
DRAIN_S = 2.0
DEPTH = 32
MOST_TYPES = 10_000
_FORBIDDEN = re.compile(r"[#?\\/\x00-\x1f\x7f]")


@dataclass(frozen=True, slots=True)
class TypeSettings:
    """What an application says of one type of its actors."""

    actor_type: str
    idle_timeout_s: float = IDLE_S
    drain_timeout_s: float = DRAIN_S
    drain: bool = True
    reentrancy: Reentrancy | None = None

    def hosted(self, handler: Handler) -> Hosted:
        return Hosted(self.actor_type, handler, self.idle_timeout_s, self.drain_timeout_s, self.drain, self.reentrancy)


@dataclass(frozen=True, slots=True)
class _Said:
    """Settings as they were given, for all types or for some of them. None: not given."""

    entities: tuple[str, ...] = ()
    idle_timeout_s: float | None = None
    drain_timeout_s: float | None = None
    drain: bool | None = None
    reentrancy: Reentrancy | None = None


@dataclass(slots=True)
class _Reader:
    """Reads what was said; with `strict` a wrong duration is an error, otherwise a warning and the default."""

    warn: Warn
    strict: bool = True
    where: str = ""

    def duration(self, name: str, text: object) -> float | None:
        if text is None or text == "":
            return None
        try:
            if not isinstance(text, str):
                raise ValueError(f"not a duration: {text!r} (write it like 1h30m, 10s or 250ms)")
            return max(go_duration(text), 0.0)
        except ValueError as error:
            self.wrong(name, str(error))
            return None

    def wrong(self, name: str, what: str) -> None:
        if self.strict:
            raise ConfigError(what, where=f"{self.where}{name}")
        self.warn(f"actors: {self.where}{name}: {what}; the default applies")

    def typed(self, name: str, value: object, wanted: type) -> Any:
        """Return a value when it has the type; null is as good as nothing."""
        if value is None or type(value) is wanted:
            return value
        self.wrong(name, f"{value!r} is no {wanted.__name__}")
        return None


def from_json(document: bytes, *, disseminate_timeout_s: float, warn: Warn) -> list[TypeSettings]:
    """Read the answer to `GET /dapr/config`; an empty one says that there are no actors.

    Raises `ConfigError` for what is no JSON object, and for values at its top level that are none of their kind; what
    is wrong elsewhere is told to `warn` and left out.
    """
    if not document.strip():
        return []
    try:
        found = orjson.loads(document)
    except orjson.JSONDecodeError as error:
        raise ConfigError(f"no JSON: {error}", where="/dapr/config") from error
    if not isinstance(found, dict):
        raise ConfigError("not an object", where="/dapr/config")
    if found.get("remindersStoragePartitions"):
        warn("actors: remindersStoragePartitions has no effect: reminders are kept by the scheduler")
    top = _read(found, _Reader(warn))
    entries = []
    listed = found.get("entitiesConfig", [])
    listed = [] if listed is None else listed
    if not isinstance(listed, list):
        raise ConfigError("not a list", where="entitiesConfig")
    for number, entry in enumerate(listed[:MOST_TYPES]):
        reader = _Reader(warn, strict=False, where=f"entitiesConfig[{number}].")
        if isinstance(entry, dict):
            entries.append(_read(entry, reader))
        else:
            warn(f"actors: entitiesConfig[{number}] is no object; left out")
    return _combine(top, entries, disseminate_timeout_s, warn)


def from_stream(
    request: m.SubscribeActorEventsRequestInitialAlpha1, *, disseminate_timeout_s: float, warn: Warn
) -> list[TypeSettings]:
    """Read the first message of a callback stream: the same rules."""
    return _combine(_said(request), [_said(entry) for entry in request.entities_config], disseminate_timeout_s, warn)


def _read(found: dict[str, Any], reader: _Reader) -> _Said:
    entities = reader.typed("entities", found.get("entities"), list) or []
    reentrancy = reader.typed("reentrancy", found.get("reentrancy"), dict) or {}
    depth = reader.typed("reentrancy.maxStackDepth", reentrancy.get("maxStackDepth"), int)
    return _Said(
        tuple(one for one in entities if isinstance(one, str)),
        reader.duration("actorIdleTimeout", found.get("actorIdleTimeout")),
        reader.duration("drainOngoingCallTimeout", found.get("drainOngoingCallTimeout")),
        reader.typed("drainRebalancedActors", found.get("drainRebalancedActors"), bool),
        Reentrancy(DEPTH if depth is None else depth)
        if reader.typed("reentrancy.enabled", reentrancy.get("enabled"), bool)
        else None,
    )


def _said(message: m.SubscribeActorEventsRequestInitialAlpha1 | m.ActorEntityConfig) -> _Said:
    def seconds(name: str) -> float | None:
        if not message.HasField(name):  # type: ignore[arg-type]
            return None
        found = getattr(message, name)
        return max(float(found.seconds) + float(found.nanos) / 1e9, 0.0)

    depth = message.reentrancy.max_stack_depth if message.reentrancy.HasField("max_stack_depth") else DEPTH
    return _Said(
        tuple(message.entities),
        seconds("actor_idle_timeout"),
        seconds("drain_ongoing_call_timeout"),
        message.drain_rebalanced_actors if message.HasField("drain_rebalanced_actors") else None,
        Reentrancy(depth) if message.reentrancy.enabled else None,
    )


def _combine(top: _Said, entries: Sequence[_Said], disseminate_timeout_s: float, warn: Warn) -> list[TypeSettings]:
    """Put the settings of each type together: an entry of its own replaces what is said of all, it does not add to it.

    Two settings are an exception (1.1): whether calls are let finish is said for all; how long, for all unless the
    entry says so itself.
    """
    drain = top.drain is not False
    common = TypeSettings(
        "", _given(top.idle_timeout_s, IDLE_S), _given(top.drain_timeout_s, DRAIN_S), drain, top.reentrancy
    )
    found = {name: replace(common, actor_type=name) for name in _names(top.entities, warn)}
    for entry in entries:
        for name in entry.entities:
            if name not in found:
                warn(f"actors: entitiesConfig names the type {name!r}, which entities does not; left out")
                continue
            found[name] = TypeSettings(
                name,
                _given(entry.idle_timeout_s, IDLE_S),
                _given(entry.drain_timeout_s, common.drain_timeout_s),
                drain,
                entry.reentrancy,
            )
    return [_bounded(one, disseminate_timeout_s, warn) for one in found.values()]


def _given(value: float | None, default: float) -> float:
    return default if value is None else value


def _names(entities: Iterable[str], warn: Warn) -> list[str]:
    found: dict[str, None] = {}
    for name in entities:
        if not name or _FORBIDDEN.search(name) or name in (".", ".."):
            warn(f"actors: {name!r} cannot be the name of a type; left out")
        elif name.startswith(RESERVED):
            warn(f"actors: the type {name!r} is reserved; left out")
        elif len(found) >= MOST_TYPES:
            warn(f"actors: more than {MOST_TYPES} types; the rest is left out")
            break
        else:
            found[name] = None
    return list(found)


def _bounded(settings: TypeSettings, disseminate_timeout_s: float, warn: Warn) -> TypeSettings:
    """Keep a type from holding up a round of placement, and chains from being longer than none."""
    if settings.drain_timeout_s >= disseminate_timeout_s:
        limit_s = max(0.8 * disseminate_timeout_s, DRAIN_S)
        warn(
            f"actors: drainOngoingCallTimeout of {settings.actor_type} is {settings.drain_timeout_s:g} s, but a round"
            f" of placement takes {disseminate_timeout_s:g} s at most: {limit_s:g} s are used"
        )
        settings = replace(settings, drain_timeout_s=limit_s)
    if settings.reentrancy is not None and settings.reentrancy.max_depth < 1:
        warn(f"actors: reentrancy.maxStackDepth of {settings.actor_type} is not positive; {DEPTH} is used")
        settings = replace(settings, reentrancy=Reentrancy(DEPTH))
    return settings
