"""How fast, and in which order, a subscription wants its messages: metadata of the subscription.

`pillion.concurrency` is how many of its messages (bulks) may be with the application at the same time.
`pillion.orderedBy` names what tells related messages: a metadata key of the message such as `partitionKey`, or
`event.<name>`, an attribute of its CloudEvent. Knows: the text. Never knows: messages on their way.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pillion.records import record

if TYPE_CHECKING:
    from collections.abc import Mapping

CONCURRENCY = "pillion.concurrency"
ORDERED_BY = "pillion.orderedBy"
MOST = 10_000
ORDERED_CONCURRENCY = 10
"""How many messages an ordered subscription has with the application at the same time when it does not say."""
_EVENT = "event."


@record
class Pacing:
    """`concurrency` 0: as the broker's component says. `key` is a metadata key, `attribute` one of the event; at most
    one of them is not empty."""

    concurrency: int = 0
    key: str = ""
    attribute: str = ""

    @classmethod
    def of(cls, metadata: Mapping[str, str]) -> Pacing:
        """Read the metadata of a subscription; raises ValueError."""
        concurrency, key = 0, ""
        for name, value in metadata.items():
            match name.lower():
                case "pillion.concurrency" if text := value.strip():
                    if not re.fullmatch(r"[0-9]{1,5}", text) or not 1 <= int(text) <= MOST:
                        raise ValueError(f"{CONCURRENCY} must be a number from 1 to {MOST}: {text[:64]!r}")
                    concurrency = int(text)
                case "pillion.orderedby":
                    key = value.strip()
                case _:
                    pass
        if not key.startswith(_EVENT):
            return cls(concurrency, key)
        attribute = key.removeprefix(_EVENT)
        if not attribute:
            raise ValueError(f"{ORDERED_BY} names no attribute of the event")
        return cls(concurrency, "", attribute)

    @property
    def ordered(self) -> bool:
        return bool(self.key or self.attribute)

    @property
    def slots(self) -> int:
        """How many messages may be with the application at the same time, 0 for any number."""
        return self.concurrency or (ORDERED_CONCURRENCY if self.ordered else 0)

    def handlers(self, concurrency: int, depth: int) -> int:
        """How many handlers a broker starts that by itself would start `concurrency` and holds up to `depth` messages.

        In an ordered subscription a message may wait for its predecessor: that shall take nobody's place.
        """
        return max(1, depth, concurrency) if self.ordered else self.concurrency or concurrency
