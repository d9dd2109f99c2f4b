"""Texts that UTF-8 cannot say: half of a surrogate pair, which JSON and the names of files may bring."""

from __future__ import annotations


def writable(text: str) -> str:
    """Return what UTF-8 can say of a text: half of a surrogate pair becomes `?`."""
    return text if text.isascii() else text.encode("utf-8", "replace").decode()
