"""The consistent hash: vectors of the reference, agreement, movement of few."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pillion.actors.ring import MOST_POINTS, Ring, hash64, is_local, points
from pillion.actors.table import Reader, Table
from pillion.wire.messages import placement as m


def test_the_hash_is_that_of_the_reference() -> None:
    """Spec 1.3, vectors."""
    assert points("192.168.1.83:60992", 5) == (
        11414427053803968138, 6110756290993384529, 13876541546109691082, 12165331075625862737, 9528020266818944582,
    )  # fmt: skip
    assert hash64("actor1") == 6419490174526540734
    assert hash64("") == 241225442164632184


def test_owners_are_those_of_the_reference() -> None:
    """Spec 1.3, ring of three."""
    ring = Ring({f"10.0.0.{number}:50002": number for number in (1, 2, 3)})
    ids = ["1", "2", "3", "a", "myactor", "order-42", "wf-0001", "wf-0002"]
    assert [ring.owner(actor_id) for actor_id in ids] == [3, 3, 2, 2, 1, 1, 3, 2]


@given(st.sets(st.integers(1, 40), min_size=1, max_size=8), st.text(max_size=12), st.integers(41, 50))
def test_a_host_that_joins_takes_from_others_and_moves_nothing_else(hosts: set[int], actor: str, new: int) -> None:
    names = {f"10.0.0.{number}:1": number for number in hosts}
    before = Ring(names).owner(actor)
    after = Ring({**names, f"10.0.0.{new}:1": new}).owner(actor)
    assert after in (before, new)
    assert Ring(dict(reversed(names.items()))).owner(actor) == before


def test_an_empty_ring_has_no_owner_and_an_endless_one_is_refused() -> None:
    assert Ring[int]({}).owner("x") is None
    with pytest.raises(ValueError, match="make no ring"):
        Ring({"a": 1, "b": 2}, MOST_POINTS)


@pytest.mark.parametrize(
    ("name", "own", "local"),
    [
        ("10.0.0.1:5", "10.0.0.1:5", True),
        ("localhost:5", "127.0.0.1:5", True),
        ("[::1]:5", "localhost:5", True),
        ("127.0.0.1:6", "localhost:5", False),
        ("10.0.0.1:5", "127.0.0.1:5", False),
    ],
)
def test_what_is_local(name: str, own: str, local: bool) -> None:
    assert is_local(name, own) is local


def test_rings_that_stay_are_the_same_objects() -> None:
    """Types with equal members share one ring; what did not change costs nothing."""
    hosts = {f"10.1.0.{number}:50002": m.Host(name=f"10.1.0.{number}:50002", id="app") for number in range(100)}
    tables = m.PlacementTables(replication_factor=100)
    for actor_type in ("A", "B"):
        for name, host in hosts.items():
            tables.entries[actor_type].load_map[name].CopyFrom(host)
    reader = Reader("10.1.0.7:50002", "default")
    first = reader.read(tables, 1)
    assert first.rings["A"] is first.rings["B"]
    tables.entries["C"].load_map["x:1"].CopyFrom(m.Host(name="x:1", id="other"))
    del tables.entries["B"].load_map["10.1.0.3:50002"]
    second = reader.read(tables, 2, first)
    assert second.rings["A"] is first.rings["A"]
    assert first.changed(second) == {"B", "C"}
    assert Table().changed(first) == {"A", "B"}
    owner = first.rings["A"].members["10.1.0.7:50002"]
    assert owner.local
    assert owner.app_id == "app"
