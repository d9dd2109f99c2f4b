"""Records behave as the dataclasses they replace, for all that does not assign to them."""

from __future__ import annotations

import copy
import pickle
from dataclasses import dataclass, field, fields, replace

import pytest

from pillion.records import record


@record
class Point:
    """Two numbers and what nobody compares."""

    x: int
    y: int = 2
    secret: str = field(default="", repr=False)
    note: str = field(default="", compare=False)


@record(kw_only=True)
class Named:
    name: str
    tags: list[str] = field(default_factory=list)


@record
class Deep(Point):
    z: int = 3

    def __repr__(self) -> str:
        return "deep"


@record
class Nothing:
    """Has no fields."""


@dataclass(frozen=True, slots=True)
class Standard:
    x: int
    y: int = 2


def test_equal_values_are_equal_and_hash_alike() -> None:
    assert Point(1) == Point(1, note="else") != Point(2)
    assert hash(Point(1)) == hash(Point(1, note="else"))
    assert {Point(1): "found"}[Point(1)] == "found"
    assert Nothing() == Nothing()
    assert hash(Nothing()) == hash(Nothing())


def test_other_classes_are_never_equal() -> None:
    standard: object = Standard(1)
    assert Point(1) != standard
    assert Point(1) != Deep(1)
    assert Deep(1) == Deep(1) != Deep(1, z=4)


def test_text_shows_what_may_be_shown() -> None:
    assert repr(Point(1, secret="s")) == "Point(x=1, y=2, note='')"
    assert repr(Deep(1)) == "deep"
    assert repr(Nothing()) == "Nothing()"


def test_it_is_a_dataclass_with_slots() -> None:
    assert [one.name for one in fields(Deep)] == ["x", "y", "secret", "note", "z"]
    assert replace(Point(1), y=5) == Point(1, 5)
    assert not hasattr(Point(1), "__dict__")
    assert Point.__match_args__ == ("x", "y", "secret", "note")
    for again in (copy.deepcopy(Point(1)), pickle.loads(pickle.dumps(Point(1)))):
        assert again == Point(1)


def test_keywords_only() -> None:
    assert Named(name="a") == Named(name="a", tags=[])
    with pytest.raises(TypeError, match="positional"):
        Named("a")  # type: ignore[call-arg]
    with pytest.raises(TypeError, match="unhashable"):
        hash(Named(name="a"))
