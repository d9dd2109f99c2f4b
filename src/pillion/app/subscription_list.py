"""The answer to `GET /dapr/subscribe` (spec `http-api.md` 5.3): formats v1, v2 and their mixture.

Knows: the fields of an element; errors name the element at fault. Never knows: how the answer came.
"""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING, Any

from pillion.errors import ConfigError
from pillion.kinds.rules import Rule, compile_rule
from pillion.kinds.topics import TopicSubscription, bulk_of
from pillion.wire import gojson

if TYPE_CHECKING:
    from collections.abc import Mapping

log = logging.getLogger("pillion.app.topics")


def read_subscriptions(body: bytes) -> list[TopicSubscription]:
    """Parse the answer to `GET /dapr/subscribe`; an empty body asks for nothing.

    Raises `ConfigError` that names the element at fault.
    """
    if not body.strip():
        return []
    try:
        items = gojson.loads(body)
    except ValueError as error:
        raise ConfigError(f"not JSON: {error}", where="GET /dapr/subscribe") from error
    if items is None:
        return []
    if not isinstance(items, list):
        raise ConfigError("the answer must be a JSON array of subscriptions", where="GET /dapr/subscribe")
    found = []
    for position, item in enumerate(items):
        where = f"GET /dapr/subscribe, element {position}"
        try:
            subscription = _subscription(_object(item))
        except ConfigError as error:
            raise ConfigError(error.what, where=where, mend=error.mend) from error
        except ValueError as error:
            raise ConfigError(str(error), where=where) from error
        if subscription.rules:
            found.append(subscription)
        else:
            log.warning("%s: %s has no route and is left out", where, subscription)
    return found


def _subscription(fields: Mapping[str, Any]) -> TopicSubscription:
    routes = _object(fields.get("routes") or {})
    rows = routes.get("rules") or []
    if not isinstance(rows, list):
        raise ValueError("routes.rules must be an array")
    rules = [compile_rule(_text(row, "match"), _text(row, "path")) for row in map(_object, rows)]
    default = _text(routes, "default") or _text(fields, "route")
    if default:
        rules.append(Rule("", default))
    bulk = _object(fields.get("bulksubscribe") or {})
    metadata = fields.get("metadata") or {}
    if not isinstance(metadata, dict) or not all(isinstance(value, str) for value in metadata.values()):
        raise ValueError("metadata must be an object of strings")
    return TopicSubscription(
        pubsub=_text(fields, "pubsubname"),
        topic=_text(fields, "topic"),
        rules=tuple(rules),
        metadata=metadata,
        dead_letter=_text(fields, "deadlettertopic"),
        bulk=bulk_of(
            bulk.get("enabled") is True, _number(bulk, "maxmessagescount"), _number(bulk, "maxawaitdurationms")
        ),
    )


def _object(value: object) -> dict[str, Any]:
    if not isinstance(value, dict):
        raise ValueError("a JSON object is needed")
    return {key.lower(): item for key, item in value.items()}


def _text(fields: Mapping[str, Any], key: str) -> str:
    value = fields.get(key)
    if value is not None and not isinstance(value, str):
        raise ValueError(f"{key} must be a string")
    return value or ""


def _number(fields: Mapping[str, Any], key: str) -> int:
    value = fields.get(key) or 0
    if not isinstance(value, int):
        raise ValueError(f"{key} must be a whole number")
    return value
