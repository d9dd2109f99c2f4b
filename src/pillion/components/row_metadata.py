"""Metadata of a message, as our tables keep it: a JSON object of texts.

Knows: what somebody else's hand may have written into a row. Never knows: whose table it is.
"""

from __future__ import annotations

import logging

import orjson

log = logging.getLogger("pillion.components.rows")


def read_metadata(text: str, message: str) -> dict[str, str]:
    """Return the metadata of the message that `message` names. What cannot be read is told, and the message comes
    without: one row is not to keep others from their delivery.
    """
    try:
        found = orjson.loads(text)
    except ValueError:
        found = None
    if isinstance(found, dict) and all(isinstance(value, str) for value in found.values()):
        return found
    log.warning("%s: the metadata is no JSON object of texts", message)
    return {}
