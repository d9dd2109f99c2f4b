"""What applications say of their actors, spec `actors-workflows-jobs.md` 1.1."""

from __future__ import annotations

import json

import pytest

from pillion.actors.settings import TypeSettings, from_json, from_stream
from pillion.errors import ConfigError
from pillion.kinds.actors import Reentrancy
from pillion.wire.messages import runtime as m
from pillion.wire.messages import wellknown


def read(document: object, notes: list[str] | None = None, limit_s: float = 30) -> dict[str, TypeSettings]:
    warned: list[str] = []
    found = from_json(json.dumps(document).encode(), disseminate_timeout_s=limit_s, warn=warned.append)
    if notes is None:
        assert not warned
    else:
        notes += warned
    return {one.actor_type: one for one in found}


def test_defaults() -> None:
    """An hour, two seconds, drained, not reentrant; unknown keys are nobody's concern."""
    assert read({"entities": ["A"], "actorScanInterval": "30s"}) == {"A": TypeSettings("A", 3600, 2, True, None)}
    assert read({}) == {}
    assert from_json(b"", disseminate_timeout_s=30, warn=print) == []


def test_what_is_said_for_all() -> None:
    found = read(
        {
            "entities": ["A", "B", "A"], "actorIdleTimeout": "1h30m", "drainOngoingCallTimeout": "10s",
            "drainRebalancedActors": False, "reentrancy": {"enabled": True},
        }
    )  # fmt: skip
    assert found == {name: TypeSettings(name, 5400, 10, False, Reentrancy(32)) for name in "AB"}


def test_an_entry_replaces_and_does_not_add() -> None:
    """No reentrancy in it: off, whatever is said for all; whether calls are drained is said for all alone."""
    notes: list[str] = []
    found = read(
        {
            "entities": ["A", "B"], "actorIdleTimeout": "10m", "drainOngoingCallTimeout": "9s",
            "drainRebalancedActors": False, "reentrancy": {"enabled": True, "maxStackDepth": 5},
            "entitiesConfig": [
                {"entities": ["A", "C"], "drainRebalancedActors": True, "actorIdleTimeout": "a while"},
            ],
        },
        notes,
    )  # fmt: skip
    assert found["A"] == TypeSettings("A", 3600, 9, False, None)
    assert found["B"] == TypeSettings("B", 600, 9, False, Reentrancy(5))
    assert "C" not in found
    assert len(notes) == 2
    assert "actorIdleTimeout" in notes[0]
    assert "'C'" in notes[1]


@pytest.mark.parametrize(
    "document",
    [
        b"nonsense", b"[]", b'{"actorIdleTimeout": "soon"}', b'{"drainOngoingCallTimeout": 5}', b'{"entities": "A"}',
        b'{"entitiesConfig": {}}',
    ],
)  # fmt: skip
def test_mistakes_at_the_top_level(document: bytes) -> None:
    """Registration fails."""
    with pytest.raises(ConfigError):
        from_json(document, disseminate_timeout_s=30, warn=print)


def test_a_drain_cannot_outlast_a_round_of_placement() -> None:
    notes: list[str] = []
    assert read({"entities": ["A"], "drainOngoingCallTimeout": "1m"}, notes)["A"].drain_timeout_s == 24
    assert read({"entities": ["A"], "drainOngoingCallTimeout": "1m"}, notes, 2)["A"].drain_timeout_s == 2
    assert len(notes) == 2


def test_names_that_cannot_be() -> None:
    notes: list[str] = []
    assert list(read({"entities": ["", "a/b", "dapr.internal.x.y.workflow", "ok", 7]}, notes)) == ["ok"]
    assert len(notes) == 3


def test_a_stream_follows_the_same_rules() -> None:
    request = m.SubscribeActorEventsRequestInitialAlpha1(
        entities=["A", "B"],
        actor_idle_timeout=wellknown.Duration(seconds=90),
        reentrancy=m.ActorReentrancyConfig(enabled=True, max_stack_depth=3),
        entities_config=[
            m.ActorEntityConfig(entities=["B"], drain_ongoing_call_timeout=wellknown.Duration(nanos=500_000_000))
        ],
    )
    found = from_stream(request, disseminate_timeout_s=30, warn=pytest.fail)
    assert found == [TypeSettings("A", 90, 2, True, Reentrancy(3)), TypeSettings("B", 3600, 0.5, True, None)]
