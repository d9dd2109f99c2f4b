"""JSON as Go's encoding/json writes it: compact, map keys sorted, `<`, `>`, `&`, U+2028 and U+2029 escaped.

Clients see these bytes (spec `http-api.md` 0), so a stored document must come back in exactly this form.
"""

from __future__ import annotations

import json
import re
from typing import Any

import orjson

_ESCAPES = (
    (b"<", b"\\u003c"),
    (b">", b"\\u003e"),
    (b"&", b"\\u0026"),
    (b"\xe2\x80\xa8", b"\\u2028"),
    (b"\xe2\x80\xa9", b"\\u2029"),
)
_NEEDS_ESCAPE = re.compile(rb"[<>&]|\xe2\x80[\xa8\xa9]")
_ODD_NUMBER = re.compile(rb"\d[.eE]|-0|\d{19}")
"""What orjson and Go may write differently: fractions, exponents, minus zero, integers beyond 64 bits."""


def escaped(text: bytes) -> bytes:
    """Escape a JSON text as Go does; the five characters occur inside strings only."""
    if _NEEDS_ESCAPE.search(text) is None:
        return text
    for plain, escape in _ESCAPES:
        text = text.replace(plain, escape)
    return text


def loads(text: bytes) -> Any:
    """Parse one JSON document; raises ValueError (orjson.JSONDecodeError)."""
    return orjson.loads(text)


def dumps(value: Any) -> bytes:
    """Write `value` compact, sorted and escaped."""
    return escaped(orjson.dumps(value, option=orjson.OPT_SORT_KEYS))


def canonical(text: bytes, *, exact: bool = False) -> bytes:
    """Return the document in Go's form without the escapes (a store or an envelope adds them with `escaped`).

    Numbers pass through a double as in Go, so `1.0` is `1` and `1e21` is `1e+21`, but integers keep every digit (the
    reference rounds those above 2^53). With `exact` every number keeps its spelling. Raises ValueError for what is not
    JSON.
    """
    value = orjson.loads(text)
    if _ODD_NUMBER.search(text) is not None:
        value = json.loads(text, parse_float=_literal if exact else _float, parse_int=_integer)
    return orjson.dumps(value, option=orjson.OPT_SORT_KEYS)


def dumps_canonical(value: Any) -> bytes:
    """Write a parsed document sorted and compact, without the escapes, its doubles as Go spells them."""
    text = orjson.dumps(value, option=orjson.OPT_SORT_KEYS)
    if _ODD_NUMBER.search(text) is not None:
        text = orjson.dumps(json.loads(text, parse_float=_float, parse_int=_integer), option=orjson.OPT_SORT_KEYS)
    return text


def _literal(text: str) -> orjson.Fragment:
    return orjson.Fragment(text.encode())


def _integer(text: str) -> int | orjson.Fragment:
    number = int(text) if len(text) < 20 else 1 << 80
    if text == "-0" or not -(2**63) <= number < 2**64:
        return orjson.Fragment(text.encode())
    return number


def _float(text: str) -> orjson.Fragment:
    return orjson.Fragment(spell(float(text)).encode())


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
        return "-0" if number == 0 and str(number)[0] == "-" else str(int(number))
    text = repr(number)
    if "e" in text:
        text = f"{number:.20f}".rstrip("0")
    return text
