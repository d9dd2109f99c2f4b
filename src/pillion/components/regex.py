"""Regular expressions that operators write and strangers feed: RE2, the syntax of the reference, in linear time."""

from __future__ import annotations

from typing import Any

import re2


def compiled(pattern: str) -> Any:
    """Return a compiled pattern for bytes, with `search`, `fullmatch` and `groups`.

    Raises `ValueError` for a text that is no pattern.
    """
    options = re2.Options()
    options.log_errors = False
    try:
        return re2.compile(pattern.encode(), options)
    except re2.error as error:
        text = error.args[0].decode("utf-8", "replace") if isinstance(error.args[0], bytes) else str(error)
        raise ValueError(f"{pattern!r} is no regular expression: {text}") from error
