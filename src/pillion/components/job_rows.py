"""A job as storage has it: what never changes after it was put as one JSON text, the rest as columns.

Knows: the text. Never knows: tables, databases.
"""

from __future__ import annotations

from base64 import b64decode, b64encode
from typing import Any

import orjson

from pillion.errors import ComponentError
from pillion.kinds.jobs import CatchUp, Constant, Drop, FailurePolicy, Job, JobKey


def encode_job(key: JobKey, job: Job) -> str:
    """Return the text of a job; what is as it is by default is left out."""
    row: dict[str, Any] = {"key": [key.namespace, key.name, key.app_id, key.actor_type, key.actor_id]}
    if job.schedule:
        row["schedule"] = job.schedule
    if job.due_time:
        row["due"] = job.due_time
    if job.ttl:
        row["ttl"] = job.ttl
    if job.repeats is not None:
        row["repeats"] = job.repeats
    if job.payload:
        row["payload"] = b64encode(job.payload).decode("ascii")
    if isinstance(job.failure_policy, Drop):
        row["policy"] = "drop"
    elif job.failure_policy is not None:
        row["policy"] = [job.failure_policy.interval_s, job.failure_policy.max_retries]
    if job.concurrency_key:
        row["gate"] = job.concurrency_key
    if job.catch_up is not CatchUp.ALL:
        row["catch_up"] = job.catch_up.value
    if job.catch_up_per_second:
        row["per_second"] = job.catch_up_per_second
    return orjson.dumps(row).decode()


def decode_job(text: str) -> tuple[JobKey, Job]:
    """Raises `ComponentError` for what `encode_job` has not written."""
    try:
        row = orjson.loads(text)
        namespace, name, app_id, actor_type, actor_id = row["key"]
        job = Job(
            row.get("schedule", ""),
            row.get("due", ""),
            row.get("ttl", ""),
            row.get("repeats"),
            b64decode(row["payload"]) if "payload" in row else b"",
            _policy(row.get("policy")),
            row.get("gate", ""),
            CatchUp(row.get("catch_up", "all")),
            row.get("per_second", 0.0),
        )
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise ComponentError(f"a stored job cannot be read: {error}") from error
    return JobKey(namespace, name, app_id, actor_type, actor_id), job


def _policy(written: Any) -> FailurePolicy | None:
    if written is None:
        return None
    return Drop() if written == "drop" else Constant(float(written[0]), written[1])
