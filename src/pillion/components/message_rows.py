"""Messages in the rows of our tables; their metadata are a JSON object of texts.

Knows: what somebody else's hand may have written into a row. Never knows: which database it is in.
"""

from __future__ import annotations

import logging

import orjson

from pillion.kinds.holding import HeldMessage, Leased

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


def leased(id: int, attempts: int, topic: str, data: bytes, content_type: str, metadata: str, due: float) -> Leased:
    """Make a leased message of the row of a held one; `attempts` has this lease counted."""
    known = read_metadata(metadata, f"held message {id} of topic {topic}")
    return Leased(id, attempts, HeldMessage(topic, data, content_type, known, due))
