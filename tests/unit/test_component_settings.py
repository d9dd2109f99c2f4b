"""How metadata become settings (`pillion.kinds.component.decode`; spec `components.md` 1)."""

from __future__ import annotations

from dataclasses import dataclass

import pytest

from pillion.errors import ConfigError
from pillion.kinds.component import decode, seconds, setting


@dataclass(frozen=True)
class Settings:
    count: int = setting(7)
    share: float = setting(0.5)
    port: int | None = setting(None)
    kind: str = setting("node", choices=("node", "cluster"))
    style: str = setting("a", choices=("", "a"))
    name: str = setting("x")
    wait: float = setting(3.0, parse=seconds)
    strict: bool = setting(True)


@pytest.mark.parametrize("empty", ["", "  "])
def test_an_empty_number_or_choice_is_the_default(empty: str) -> None:
    """What `envRef` gives for a variable that is not set keeps no component from starting."""
    assert decode(Settings, dict.fromkeys(("count", "share", "port", "kind"), empty), where="w") == Settings()


def test_an_empty_text_duration_or_truth_value_is_a_value() -> None:
    """Durations: 0 (`components.md` 1); truth values: false."""
    read = decode(Settings, dict.fromkeys(("style", "name", "wait", "strict"), ""), where="w")
    assert (read.style, read.name, read.wait, read.strict) == ("", "", 0.0, False)


@pytest.mark.parametrize(
    ("key", "text", "said"),
    [
        ("count", "x", "not a whole number: 'x'"),
        ("share", "half", "not a number: 'half'"),
        ("port", "1.5", "not a whole number: '1.5'"),
        ("kind", "star", "use one of: node, cluster"),
        ("style", "b", "use one of: a"),
    ],
)
def test_what_cannot_be_read_names_its_field(key: str, text: str, said: str) -> None:
    """In words for people, not in those of Python."""
    with pytest.raises(ConfigError, match=f"component c: metadata field '{key}'.*{said}"):
        decode(Settings, {key: text}, where="component c")
