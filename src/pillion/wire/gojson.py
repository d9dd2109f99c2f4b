"""JSON as Go's encoding/json writes it: compact, map keys sorted, `<`, `>`, `&`, U+2028 and U+2029 escaped.

Clients see these bytes (spec `http-api.md` 0), so a stored document must come back in exactly this form.
"""

from __future__ import annotations

import json
import re
from decimal import Decimal
from typing import TYPE_CHECKING, Any

import orjson

if TYPE_CHECKING:
    from collections.abc import Callable

_ODD = rb"(?:-0|-?[0-9]+[.eE]|-?[0-9]{19})"
"""What orjson and Go may write differently: fractions, exponents, minus zero, integers beyond 64 bits."""
_ODD_INSIDE = re.compile(rb"[:,\[ \t\r\n][-0-9](?:[0-9]*[.eE]|(?<=-)0|[0-9]{18})")
"""Numbers follow one of these characters; no branch is tried before a digit is there. Finds 18 negative digits, too."""
_ODD_ALONE = re.compile(_ODD)
_HALF = re.compile(rb"\\u[dD][89a-fA-F]")
"""What may be half of a surrogate pair: the escapes are the only way to write one."""


class TooNested(ValueError):
    """A document is nested deeper than it can be read or, at 254 levels already, written."""

    def __init__(self) -> None:
        super().__init__("exceeded max depth")


def escaped(text: bytes) -> bytes:
    """Escape a JSON text as Go does; the five characters occur inside strings only."""
    if b"<" in text:
        text = text.replace(b"<", b"\\u003c")
    if b">" in text:
        text = text.replace(b">", b"\\u003e")
    if b"&" in text:
        text = text.replace(b"&", b"\\u0026")
    if not text.isascii():
        text = text.replace(b"\xe2\x80\xa8", b"\\u2028").replace(b"\xe2\x80\xa9", b"\\u2029")
    return text


def _odd(text: bytes) -> bool:
    return _ODD_INSIDE.search(text) is not None or _ODD_ALONE.match(text) is not None


def loads(text: bytes) -> Any:
    """Parse the first JSON document of `text`; what follows it is ignored, as the reference's decoder does.

    Raises ValueError, its text `EOF` for an empty body and `unexpected EOF` for a truncated one, as clients know it.
    """
    try:
        return orjson.loads(text)
    except orjson.JSONDecodeError as error:
        return _first(text, error)


def loads_spelled(text: bytes) -> Any:
    """Like `loads`, with every number that orjson would spell otherwise than Go already spelled: for re-encoding."""
    value = loads(text)
    if _odd(text):
        return _paired(text, _decoded(_SPELLING, text.decode().lstrip(_SPACE)))
    return value


def loads_exact(text: bytes) -> Any:
    """Parse one whole document whose numbers keep their spelling when it is written again; raises ValueError."""
    value = orjson.loads(text)
    if _odd(text):
        value = _loads(text, _literal)
    return value


_SPACE = " \t\r\n"


def _first(text: bytes, error: ValueError) -> Any:
    try:
        decoded = text.decode()
    except UnicodeDecodeError:
        raise ValueError("invalid UTF-8 in JSON text") from error
    decoded = decoded.lstrip(_SPACE)
    if not decoded:
        raise ValueError("EOF") from error
    try:
        return _paired(text, _decoded(_PLAIN, decoded))
    except TooNested:
        raise
    except ValueError as second:
        at_end = getattr(second, "pos", 0) >= len(decoded) or "Unterminated string" in str(second)
        raise ValueError("unexpected EOF" if at_end else f"invalid JSON: {error}") from error


def _paired(text: bytes, value: Any) -> Any:
    """Return what was read with U+FFFD for each half of a pair that stands alone, as Go reads it. UTF-8 has none."""
    return _whole(value) if _HALF.search(text) is not None else value


def _whole(value: Any) -> Any:
    if isinstance(value, str):
        return value.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
    if isinstance(value, list):
        return [_whole(item) for item in value]
    if isinstance(value, dict):
        return {_whole(key): _whole(item) for key, item in value.items()}
    return value


def sorted_bytes(value: Any) -> bytes:
    """Write a parsed document sorted and compact, without the escapes. Raises `TooNested`."""
    try:
        return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    except orjson.JSONEncodeError as error:
        raise TooNested from error


def dumps(value: Any) -> bytes:
    """Write `value` compact, sorted and escaped. Raises `TooNested`."""
    return escaped(sorted_bytes(value))


def canonical(text: bytes, *, exact: bool = False) -> bytes:
    """Return the document in Go's form without the escapes (a store or an envelope adds them with `escaped`).

    Numbers pass through a double as in Go, so `1.0` is `1` and `1e21` is `1e+21`, but integers keep every digit (the
    reference rounds those above 2^53). With `exact` every number keeps its spelling. Raises ValueError for what is not
    JSON, `TooNested` among them.
    """
    value = orjson.loads(text)
    if _odd(text):
        value = _loads(text, _literal if exact else _float)
    return sorted_bytes(value)


def dumps_canonical(value: Any) -> bytes:
    """Write a parsed document sorted and compact, without the escapes, its doubles as Go spells them. Raises
    `TooNested`.
    """
    text = sorted_bytes(value)
    if _odd(text):
        text = sorted_bytes(_loads(text, _float))
    return text


def spelled(text: bytes) -> bytes:
    """Return what orjson wrote with its doubles as Go spells them, in the order that it has."""
    if _odd(text):
        text = orjson.dumps(_loads(text, _float))
    return text


def _loads(text: bytes, spelled: Callable[[str], Any]) -> Any:
    """Parse one whole document with its numbers as `spelled` has them; raises `TooNested`."""
    try:
        return json.loads(text, parse_float=spelled, parse_int=_integer)
    except RecursionError as error:
        raise TooNested from error


def _decoded(decoder: json.JSONDecoder, text: str) -> Any:
    """Parse the first document; raises ValueError, `TooNested` among them."""
    try:
        return decoder.raw_decode(text)[0]
    except RecursionError as error:
        raise TooNested from error


def _literal(text: str) -> orjson.Fragment:
    return orjson.Fragment(text.encode())


def _integer(text: str) -> int | orjson.Fragment:
    number = int(text) if len(text) < 20 else 1 << 80
    if text == "-0" or not -(2**63) <= number < 2**64:
        return orjson.Fragment(text.encode())
    return number


def _float(text: str) -> orjson.Fragment:
    return orjson.Fragment(spell(float(text)).encode())


def _finite(text: str) -> float:
    number = float(text)
    if number in (_INFINITE, -_INFINITE):
        raise ValueError(f"the number {text} is out of range")
    return number


def _no_constant(text: str) -> Any:
    raise ValueError(f"invalid character in literal {text}")


def spell(number: float) -> str:
    """Return a double as Go spells it in JSON: shortest digits, exponent below 1e-6 and from 1e21."""
    size = abs(number)
    if size != 0 and (size < 1e-6 or size >= 1e21):
        digits, _, exponent = f"{number!r}".partition("e")
        if not exponent:
            digits, _, exponent = f"{number:.17e}".partition("e")
            digits = digits.rstrip("0").rstrip(".")
        return f"{digits.removesuffix('.0')}e{exponent[0]}{exponent[1:].lstrip('0')}"
    if number.is_integer():
        if size >= _EXACT:
            return f"{Decimal(repr(number)).to_integral_value():f}"  # the shortest digits, then zeros
        return "-0" if number == 0 and str(number)[0] == "-" else str(int(number))
    text = repr(number)
    if "e" in text:
        text = f"{number:.20f}".rstrip("0")
    return text


_INFINITE = float("inf")
_EXACT = 2.0**53
"""From here on integers have more digits than a double can tell apart."""
_PLAIN = json.JSONDecoder(parse_float=_finite, parse_constant=_no_constant)
_SPELLING = json.JSONDecoder(parse_float=_float, parse_int=_integer, parse_constant=_no_constant)
