"""Kubernetes resource quantities: `4Mi`, `1k`, `1e3`, `512`.

Knows: the notation of k8s.io/apimachinery's `resource.Quantity`. Never knows: what is being measured.
"""

from __future__ import annotations

import re
from decimal import ROUND_CEILING, Decimal

_BINARY = {suffix: 1024**power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)}
_DECIMAL = {"n": -9, "u": -6, "m": -3, "": 0, "k": 3, "M": 6, "G": 9, "T": 12, "P": 15, "E": 18}
_SHAPE = re.compile(r"([+-]?(?:[0-9]+\.?[0-9]*|\.[0-9]+))(?:([eE][+-]?[0-9]{1,3})|([KMGTPE]i|[numkMGTPE]?))", re.ASCII)
_LARGEST = 2**63 - 1
_LONGEST = 64


def quantity(text: str) -> int:
    """Return the whole number that `text` means, rounded up as Kubernetes does; bytes, where bytes are measured.

    Raises ValueError for anything that is not a quantity, or that does not fit 63 bits.
    """
    match = _SHAPE.fullmatch(text) if len(text) <= _LONGEST else None
    if match is None:
        raise ValueError(f"not a quantity: {text[:_LONGEST]!r} (write it like 4Mi, 512Ki, 1k or 4194304)")
    number, exponent, suffix = Decimal(match[1]), match[2], match[3]
    if exponent:
        number = number.scaleb(int(exponent[1:]))
    elif suffix in _BINARY:
        number *= _BINARY[suffix]
    else:
        number = number.scaleb(_DECIMAL[suffix])
    if abs(number) > _LARGEST:
        raise ValueError(f"too large a quantity: {text!r}")
    return int(number.to_integral_value(ROUND_CEILING))
