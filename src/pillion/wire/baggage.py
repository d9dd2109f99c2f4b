"""W3C baggage, as far as a sidecar needs it: is this header well-formed (w3.org/TR/baggage)."""

from __future__ import annotations

import re

MAX_BYTES = 8192
MAX_MEMBERS = 180
_TOKEN = r"[!#$%&'*+\-.^_`|~0-9A-Za-z]+"
_VALUE = r"[\x21\x23-\x2b\x2d-\x3a\x3c-\x5b\x5d-\x7e]*"
_PROPERTY = rf"\s*{_TOKEN}\s*(?:=\s*{_VALUE}\s*)?"
_MEMBER = re.compile(rf"\s*{_TOKEN}\s*=\s*{_VALUE}\s*(?:;{_PROPERTY})*")


def check(header: str) -> None:
    """Raise ValueError naming the first list member that is not `key=value`; an empty header is fine."""
    if len(header) > MAX_BYTES:
        raise ValueError(f"longer than {MAX_BYTES} bytes")
    if not header.strip():
        return
    members = header.split(",")
    if len(members) > MAX_MEMBERS:
        raise ValueError(f"more than {MAX_MEMBERS} members")
    for member in members:
        if _MEMBER.fullmatch(member) is None:
            raise ValueError(f"invalid member {member.strip()!r}")
