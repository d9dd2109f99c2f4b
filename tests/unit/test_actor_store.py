"""The store of actors' state: the same object for the same component, with everything that it can, or none."""

from __future__ import annotations

import asyncio
from typing import TYPE_CHECKING, Any, cast

from pillion.components.memory import MemoryState
from pillion.kinds.component import Context
from pillion.kinds.state import Feature, Get, KeysStore, Set, TransactionalStore, VersionedStore
from pillion.observe.meters import untimed
from pillion.resiliency.current import CurrentPolicies
from pillion.resiliency.policies import Policies
from pillion.sidecar.actor_store import ActorStore

if TYPE_CHECKING:
    from pillion.sidecar.components import Loaded


class Named:
    """As much of a loaded component as is looked at."""

    def __init__(self, component: Any, name: str = "store") -> None:
        self.component, self.name = component, name


def loaded(**changed: Any) -> Loaded:
    component = MemoryState(MemoryState.Settings(), Context("store", "app", "default", ""))
    for name, value in changed.items():
        setattr(component, name, value)
    return cast("Loaded", Named(component))


def test_it_can_what_the_component_can() -> None:
    store = ActorStore(CurrentPolicies(Policies.of([])), untimed)
    assert store.find() is None
    one = loaded()
    store.use(one)
    found = store.find()
    assert isinstance(found, TransactionalStore)
    assert isinstance(found, VersionedStore) == isinstance(one.component, VersionedStore)
    assert isinstance(found, KeysStore) == isinstance(one.component, KeysStore)
    store.use(one)  # new policies
    assert store.find() is found
    assert store.is_of(one)
    store.use(loaded())
    assert store.find() is not found
    store.use(None)
    assert store.find() is None


def test_calls_pass() -> None:
    async def main() -> None:
        store = ActorStore(CurrentPolicies(Policies.of([])), untimed)
        store.use(loaded())
        found = store.find()
        assert found is not None
        await found.open()
        await found.transact([Set("k", b"1")], {})
        assert (await found.get(Get("k"))).value == b"1"
        await found.set(Set("k", b"2"))
        assert (await found.get(Get("k"))).value == b"2"
        await found.close()

    asyncio.run(main())


def test_a_store_that_lacks_something_is_none() -> None:
    store = ActorStore(CurrentPolicies(Policies.of([])), untimed)
    store.use(loaded(features=frozenset({Feature.ETAG})))
    assert store.find() is None
