"""Jobs as people name them, and as files keep them. Pure.

Knows: short names (`app/<app id>/<job>`, spec `runtime.md` 8.4), the document of a job. Never knows: schedulers.
"""

from __future__ import annotations

import base64
import re
from dataclasses import replace
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from google.protobuf import json_format

from pillion.errors import ConfigError
from pillion.jobs.protocol import job_of, message_of
from pillion.kinds.jobs import CatchUp, Job, JobKey
from pillion.wire.durations import go_duration
from pillion.wire.messages import pool
from pillion.wire.messages import scheduler as m

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pillion.kinds.jobs import Stored

FILTERS = ("all", "app", "actor", "workflow", "activity")
_INTERNAL = re.compile(r"dapr\.internal\.([^.]+)\.(.+)\.(workflow|activity)")
_FORMS = {
    "app": "app/<app id>/<job>",
    "actor": "actor/<type>/<id>/<reminder>",
    "workflow": "workflow/<app id>/<instance>/<reminder>",
    "activity": "activity/<app id>/<activity id>",
}
_RUN_ACTIVITY = "run-activity"


def kind_of(key: JobKey) -> str:
    """Return what a job is for: one of `FILTERS` but "all"."""
    if not key.actor_type:
        return "app"
    found = _INTERNAL.fullmatch(key.actor_type)
    return found[3] if found is not None else "actor"


def short_name(key: JobKey) -> str:
    """Return the name that people type; the namespace is not part of it."""
    if not key.actor_type:
        return f"app/{key.app_id}/{key.name}"
    found = _INTERNAL.fullmatch(key.actor_type)
    if found is None:
        return f"actor/{key.actor_type}/{key.actor_id}/{key.name}"
    if found[3] == "activity" and key.name == _RUN_ACTIVITY:
        return f"activity/{found[2]}/{key.actor_id}"
    return f"{found[3]}/{found[2]}/{key.actor_id}/{key.name}"


def composed_key(name: str, namespace: str) -> str:
    """Return the composed key for a short name, or for one that is composed already. Raises `ConfigError`."""
    if name.startswith(("app||", "actorreminder||")):
        return name
    kind, _, rest = name.partition("/")
    parts = rest.split("/")
    match kind, parts:
        case "app", [app_id, job]:
            return JobKey(namespace, job, app_id).text
        case "actor", [actor_type, actor_id, reminder]:
            return JobKey(namespace, reminder, "", actor_type, actor_id).text
        case "workflow", [app_id, instance, reminder]:
            return JobKey(namespace, reminder, "", _type(namespace, app_id, kind), instance).text
        case "activity", [app_id, activity]:
            return JobKey(namespace, _RUN_ACTIVITY, "", _type(namespace, app_id, kind), activity).text
        case "activity", [app_id, activity, reminder]:
            return JobKey(namespace, reminder, "", _type(namespace, app_id, kind), activity).text
    form = _FORMS.get(kind)
    if form is not None:
        raise ConfigError(f"{name!r} is not {form}")
    raise ConfigError(f"{name!r} is not the name of a job", mend="write " + " or ".join(_FORMS.values()))


def _type(namespace: str, app_id: str, kind: str) -> str:
    return f"dapr.internal.{namespace}.{app_id}.{kind}"


def prefix_of(chosen: str, namespace: str) -> str:
    """Return the prefix of composed keys among which the jobs of a filter are; "" for all namespaces and kinds."""
    if chosen == "all":
        return ""
    if chosen == "app":
        return f"app||{namespace}||"
    tail = "" if chosen == "actor" else f"dapr.internal.{namespace}."
    return f"actorreminder||{namespace}||{tail}"


def instant(text: str, now: float) -> float:
    """Read a point in time: RFC 3339, or how long ago (`2h30m`). Raises ValueError."""
    try:
        return now - go_duration(text.removeprefix("-"))
    except ValueError:
        moment = datetime.fromisoformat(text)
    if moment.tzinfo is None:
        raise ValueError(f"{text!r} has no time zone: write Z or an offset after it")
    return moment.timestamp()


def rfc3339(seconds: float | None) -> str:
    """Return seconds since 1970 as RFC 3339 in UTC, with as many digits as there are; "" for None."""
    if seconds is None:
        return ""
    text = datetime.fromtimestamp(seconds, UTC).strftime("%Y-%m-%dT%H:%M:%S.%f")
    return text.rstrip("0").rstrip(".") + "Z"


# --- documents -----------------------------------------------------------------------------------------------------


def document_of(stored: Stored) -> dict[str, Any]:
    """Return a job and where it stands. `payload` is its data as it is kept, `data` the same to be read by people."""
    key, job = stored.key, stored.job
    found: dict[str, Any] = {"key": key.text, "namespace": key.namespace, "name": key.name, "appId": key.app_id}
    if key.actor_type:
        found |= {"actorType": key.actor_type, "actorId": key.actor_id}
    message = message_of(job)
    if job.payload:
        found |= {"payload": base64.b64encode(job.payload).decode(), "data": _readable(message)}
        message.ClearField("data")
    found["job"] = json_format.MessageToDict(message)
    if job.concurrency_key:
        found["concurrencyKey"] = job.concurrency_key
    if job.catch_up is not CatchUp.ALL:
        found["catchUp"] = job.catch_up.value
    if job.catch_up_per_second:
        found["catchUpPerSecond"] = job.catch_up_per_second
    times = {"anchor": stored.anchor, "expires": stored.expires, "next": stored.next, "last": stored.last}
    found |= {name: rfc3339(seconds) for name, seconds in times.items() if seconds is not None}
    return {**found, "count": stored.count, "attempts": stored.attempts, "paused": stored.paused}


def exported(stored: Stored) -> dict[str, Any]:
    """Return the document from which another scheduler goes on where this one stands.

    Times that counted from the day the job was put become points in time, ticks that are done are taken off.
    """
    document = document_of(stored)
    job = document["job"]
    if stored.next is not None:
        job["dueTime"] = rfc3339(stored.next)
    if stored.expires is not None:
        job["ttl"] = rfc3339(stored.expires)
    if stored.job.repeats is not None:
        job["repeats"] = max(stored.job.repeats - stored.count, 1)
    for name in ("key", "data", "anchor", "expires", "next", "last", "count", "attempts"):
        document.pop(name, None)
    return document


def imported(document: Mapping[str, Any]) -> tuple[JobKey, Job, bool]:
    """Return the key and the job of a document, and whether it is paused. Raises ValueError, `JobInvalid`."""
    try:
        key = JobKey(
            document["namespace"],
            document["name"],
            document.get("appId", ""),
            document.get("actorType", ""),
            document.get("actorId", ""),
        )
        message = json_format.ParseDict(document["job"], m.Job())
        catch_up = CatchUp(document.get("catchUp", CatchUp.ALL))
        rate = float(document.get("catchUpPerSecond", 0.0))
        job = job_of(message, document.get("concurrencyKey", ""), catch_up, rate)
        payload = base64.b64decode(document.get("payload", ""), validate=True)
        return key, replace(job, payload=payload), bool(document.get("paused", False))
    except (KeyError, TypeError, AttributeError, json_format.ParseError) as error:
        raise ValueError(f"not the document of a job: {error}") from error


def _readable(message: m.Job) -> object:
    """Return the data of a job as JSON; None for a type that is not known here."""
    try:
        return json_format.MessageToDict(message.data, descriptor_pool=pool)
    except (TypeError, KeyError, ValueError, json_format.Error):
        return None
