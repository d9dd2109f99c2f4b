"""What an application may publish, receive and read (spec `runtime.md` 7.4 and 3.7).

Knows: the rules. Never knows: brokers and secret stores.
"""

from __future__ import annotations

from dataclasses import field
from typing import TYPE_CHECKING

from pillion.records import record

if TYPE_CHECKING:
    from collections.abc import Iterable, Mapping

    from pillion.kinds.config import SecretScope


@record
class TopicScopes:
    """The topics of one broker that one application may use.

    `publishing` and `subscribing` are None where no scope names the application; a scope that names it with nothing
    behind the `=` is the set of the empty topic, so that nothing is allowed.
    """

    allowed: frozenset[str] = frozenset()
    protected: frozenset[str] = frozenset()
    publishing: frozenset[str] | None = None
    subscribing: frozenset[str] | None = None
    ignored: tuple[str, ...] = ()
    """Entries without a `=`: they restrict nobody, and their author should hear of it."""

    @classmethod
    def parse(cls, metadata: Mapping[str, str], app_id: str) -> TopicScopes:
        """Read the four keys of a broker's metadata, in any case and with any spaces."""
        folded = {key.lower(): value.replace(" ", "") for key, value in metadata.items()}
        ignored: list[str] = []
        return cls(
            allowed=_topics(folded.get("allowedtopics", "")),
            protected=_topics(folded.get("protectedtopics", "")),
            publishing=_scoped(folded.get("publishingscopes", ""), app_id, ignored),
            subscribing=_scoped(folded.get("subscriptionscopes", ""), app_id, ignored),
            ignored=tuple(ignored),
        )

    def may_publish(self, topic: str) -> bool:
        return self._permits(topic, self.publishing)

    def may_subscribe(self, topic: str) -> bool:
        return self._permits(topic, self.subscribing)

    def _permits(self, topic: str, scoped: frozenset[str] | None) -> bool:
        if self.allowed and topic not in self.allowed:
            return False
        if scoped is None:
            return topic not in self.protected
        return topic in scoped


def _topics(text: str) -> frozenset[str]:
    return frozenset(text.split(",")) if text else frozenset()


def _scoped(text: str, app_id: str, ignored: list[str]) -> frozenset[str] | None:
    found: set[str] | None = None
    for entry in text.split(";"):
        app, equals, topics = entry.partition("=")
        if not equals or "=" in topics:
            if entry:
                ignored.append(entry)
        elif app == app_id:
            found = (found or set()) | set(topics.split(","))
    return None if found is None else frozenset(found)


@record
class SecretScopes:
    """The secrets that the application may read through the API; components' own references are not asked."""

    stores: Mapping[str, SecretScope] = field(default_factory=dict)

    @classmethod
    def of(cls, scopes: Iterable[SecretScope]) -> SecretScopes:
        """Index the scopes of a configuration, which has seen to it that no store is named twice."""
        return cls({scope.store: scope for scope in scopes})

    def allows(self, store: str, key: str) -> bool:
        """A non-empty list of allowed secrets decides alone; else the denied ones, else the default of the store."""
        scope = self.stores.get(store)
        if scope is None:
            return True
        if scope.allowed:
            return key in scope.allowed
        return key not in scope.denied and scope.allow_by_default
