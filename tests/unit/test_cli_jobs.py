"""Names of jobs as people type them, and jobs in files."""

from __future__ import annotations

import pytest

from pillion.cli import jobs
from pillion.errors import ConfigError
from pillion.kinds.jobs import CatchUp, Constant, Drop, Job, JobKey, Stored
from pillion.wire.messages import wellknown

NOW = 1_767_225_600.0
WORKFLOW, ACTIVITY = "dapr.internal.ns.shop.workflow", "dapr.internal.ns.shop.activity"
NAMES = [
    ("app/shop/nightly", "app||ns||shop||nightly", "app"),
    ("actor/Cat/tom/feed", "actorreminder||ns||Cat||tom||feed", "actor"),
    ("workflow/shop/w1/wake", f"actorreminder||ns||{WORKFLOW}||w1||wake", "workflow"),
    ("activity/shop/w1::0::1", f"actorreminder||ns||{ACTIVITY}||w1::0::1||run-activity", "activity"),
    ("activity/shop/w1::0::1/other", f"actorreminder||ns||{ACTIVITY}||w1::0::1||other", "activity"),
]


@pytest.mark.parametrize(("short", "key", "kind"), NAMES)
def test_names(short: str, key: str, kind: str) -> None:
    """A short name and a composed key say the same, both ways."""
    assert jobs.composed_key(short, "ns") == key
    assert jobs.composed_key(key, "elsewhere") == key
    parts = key.split("||")
    found = JobKey("ns", parts[3], parts[2]) if parts[0] == "app" else JobKey("ns", parts[4], "x", parts[2], parts[3])
    assert (found.text, jobs.short_name(found), jobs.kind_of(found)) == (key, short, kind)
    assert key.startswith(jobs.prefix_of(kind, "ns"))


def test_names_with_separators_of_keys() -> None:
    """What `list` shows can be typed, whatever a job is called."""
    key = JobKey("ns", "a||b", "x", "Cat", "t||m")
    assert jobs.composed_key(jobs.short_name(key), "ns") == key.text


@pytest.mark.parametrize("name", ["nightly", "app/shop", "app/shop/a/b", "actor/Cat/tom", "job/a/b", ""])
def test_names_that_are_none(name: str) -> None:
    """The error says how names are written."""
    with pytest.raises(ConfigError, match=r"app/<app id>/<job>|actor/<type>"):
        jobs.composed_key(name, "ns")


def test_instants() -> None:
    """RFC 3339, or how long ago; a time without a zone is an error, not a guess."""
    assert jobs.instant("2h", NOW) == NOW - 7200
    assert jobs.instant("0s", NOW) == NOW
    assert jobs.instant("2026-01-01T01:00:00+01:00", 0) == NOW
    for text in ("2026-01-01T00:00:00", "yesterday", ""):
        with pytest.raises(ValueError, match=r".+"):
            jobs.instant(text, NOW)


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (NOW, "2026-01-01T00:00:00Z"),
        (NOW + 0.5, "2026-01-01T00:00:00.5Z"),
        (NOW + 0.123456, "2026-01-01T00:00:00.123456Z"),
        (NOW + 10, "2026-01-01T00:00:10Z"),
        (None, ""),
    ],
)
def test_rfc3339(seconds: float | None, text: str) -> None:
    assert jobs.rfc3339(seconds) == text


def test_an_exported_job_goes_on_where_it_stands() -> None:
    """Ticks that are done are taken off, times become points in time; data come back byte for byte."""
    data = wellknown.Any(type_url="unknown/type.of.Mine", value=b"\x00\xff").SerializeToString()
    job = Job("@every 1h", "5s", "10h", 5, data, Constant(2.0, None), "gate", CatchUp.LAST, 3.0)
    stored = Stored(JobKey("ns", "j", "shop"), job, 7, NOW, NOW + 36000, NOW + 7205, NOW + 7205, 2, NOW + 3605, 1, True)
    key, taken, paused = jobs.imported(jobs.exported(stored))
    assert (key, key.app_id, paused) == (stored.key, "shop", True)
    assert taken == Job(
        "@every 1h", "2026-01-01T02:00:05Z", "2026-01-01T10:00:00Z", 3, data, Constant(2.0, None), "gate",
        CatchUp.LAST, 3.0,
    )  # fmt: skip


def test_an_exported_reminder() -> None:
    """Whoever registered it comes along."""
    stored = Stored(JobKey("ns", "r", "shop", "T", "1"), Job(due_time="1h", failure_policy=Drop()), 1, NOW, next=NOW)
    key, job, paused = jobs.imported(jobs.exported(stored))
    assert (key, key.app_id, paused) == (stored.key, "shop", False)
    assert job == Job(due_time="2026-01-01T00:00:00Z", failure_policy=Drop())


@pytest.mark.parametrize("document", [{}, [], {"namespace": "n", "name": "j", "job": {"repeats": "x"}}])
def test_a_document_that_is_none(document: object) -> None:
    with pytest.raises(ValueError, match="not the document of a job"):
        jobs.imported(document)  # type: ignore[arg-type]
