"""From Component resources to open components (spec `runtime.md` 2.3, `components.md` 1)."""

from __future__ import annotations

import asyncio
import json
import logging
import re
import sys
import types
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar

import pytest

from pillion.components.catalog import COMPONENTS, Entry
from pillion.errors import ComponentError, ConfigError, MissingExtra
from pillion.kinds.component import Context, setting
from pillion.kinds.resources import ComponentResource, Item, SecretRef
from pillion.kinds.state import Feature
from pillion.sidecar import environment
from pillion.sidecar.catalogue import Catalogue, construct, implementation
from pillion.sidecar.components import Components, InitError, Loaded
from pillion.sidecar.metadata import Resolver, unquoted

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping
    from pathlib import Path


class Probe:
    """A component that tells what happens to it."""

    @dataclass(frozen=True)
    class Settings:
        fail: str = setting("")
        word: str = setting("")

    features = frozenset({Feature.TTL, Feature.ETAG})
    told: ClassVar[list[str]] = []

    def __init__(self, settings: Settings, context: Context) -> None:
        self.settings, self.context = settings, context

    async def open(self) -> None:
        self.told.append(f"open {self.context.name}")
        match self.settings.fail:
            case "open":
                raise ComponentError("no route to host")
            case "odd":
                raise KeyError
            case "hang":
                await asyncio.Event().wait()

    async def ping(self) -> None:
        pass

    async def close(self) -> None:
        self.told.append(f"close {self.context.name}")
        if self.settings.fail == "close":
            raise ComponentError("stuck")


class Vault(Probe):
    """A secret store with one secret; it counts how often it is asked."""

    async def get(self, name: str, metadata: Mapping[str, str]) -> dict[str, str]:
        self.told.append(f"get {name} in {metadata['namespace']}")
        if name == "gone":
            raise ComponentError("no such secret")
        return {name: '"hush"', "key": "pass", "empty": ""}


@pytest.fixture(autouse=True)
def probes(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    module = types.ModuleType("pillion_probes")
    module.Probe, module.Vault = Probe, Vault  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pillion_probes", module)
    Probe.told.clear()
    yield
    Probe.told.clear()


CATALOGUE = Catalogue(
    (
        *COMPONENTS,
        Entry("state.probe", "v1", "pillion_probes:Probe"),
        Entry("state.probe", "v2", "pillion_probes:Probe"),
        Entry("pubsub.probe", "v1", "pillion_probes:Probe"),
        Entry("lock.probe", "v1", "pillion_probes:Probe"),
        Entry("bindings.wasm", "v1", "pillion_probes:Probe"),
        Entry("secretstores.vault", "v1", "pillion_probes:Vault"),
        Entry("state.absent", "v1", "pillion_no_such_module:X"),
        Entry("state.needy", "v1", "pillion_needy:X", "redis"),
        Entry("state.lonely", "v1", "pillion_needy:X"),
    )
)


def component(name: str, type: str = "state.probe", version: str = "v1", **metadata: str) -> ComponentResource:
    items = tuple(Item(key, value) for key, value in metadata.items())
    return ComponentResource(name=name, type=type, version=version, metadata=items, where=f"{name}.yaml:1")


def registry(environ: Mapping[str, str] | None = None, **around: Any) -> Components:
    return Components(app_id="app", environment=environment.read(environ or {}), catalogue=CATALOGUE, **around)


def opened(*resources: ComponentResource, **around: Any) -> Components:
    components = registry(**around)
    asyncio.run(components.open(resources))
    return components


def failure(*resources: ComponentResource, **around: Any) -> str:
    with pytest.raises(InitError) as caught:
        opened(*resources, **around)
    return str(caught.value)


def test_registry(caplog: pytest.LogCaptureFixture) -> None:
    """Secret stores open first, the rest in order; each is found by its kind and tells its features."""
    with caplog.at_level(logging.INFO):
        components = opened(
            component("s"),
            component("p", "pubsub.probe"),
            component("v", "secretstores.vault"),
            component("l", "lock.probe"),
        )
    assert Probe.told == ["open v", "open s", "open p", "open l"]
    assert list(components.states) == ["s"]
    assert list(components.pubsubs) == ["p"]
    assert list(components.secrets) == ["v"]
    assert list(components.locks) == ["l"]
    loaded = components.all["s"]
    assert (loaded.name, loaded.type, loaded.version) == ("s", "state.probe", "v1")
    assert loaded.capabilities == ("ETAG", "TTL")
    assert loaded.prefix.apply("k") == "app||k"
    assert components.locks["l"].prefix.apply("k") == "lock||app||k"
    assert loaded.component.context == Context("s", "app", "", "")
    assert "Component loaded: s (state.probe/v1)" in caplog.text


@pytest.mark.parametrize(
    ("type", "version", "path"),
    [
        ("state.probe", "", "Probe"), ("STATE.Probe", "V1", "Probe"), ("state.probe", "v0", "Probe"),
        ("state.probe", "v2", "Probe"), ("state.probe", "v3", None), ("state.other", "v1", None),
    ],
)  # fmt: skip
def test_lookup(type: str, version: str, path: str | None) -> None:
    """`""`, `v0` and `v1` match the unversioned registration, in any case."""
    entry = CATALOGUE.find(type, version)
    assert (entry.path.partition(":")[2] if entry else None) == path


@pytest.mark.parametrize(
    ("resource", "text"),
    [
        (
            component("x", "state.prob"),
            "[CREATE_COMPONENT_FAILURE]: initialization error occurred for x (state.prob/v1): ",
        ),
        (component("x", "state.prob"), "couldn't find state prob/v1 (did you mean state.probe"),
        (component("x", "state.probe", "v9"), "known versions of state.probe: v1, v2"),
        (component("x", "state.zzzzzzzzz"), "known: state.absent, "),
        (
            component("x", "queue.fast"),
            "[INIT_COMPONENT_FAILURE]: initialization error occurred for x (queue.fast/v1): ",
        ),
        (component("x", ""), "incorrect type"),
        (
            component("x", fail="open"),
            "[INIT_COMPONENT_FAILURE]: initialization error occurred for x (state.probe/v1): no route",
        ),
        (component("x", fail="odd"), "KeyError"),
        (component("x", "state.absent"), "is not part of this installation"),
        (component("x", word="1", WORD="2"), "x.yaml:1: metadata key 'WORD' is given twice"),
        (component("x", keyPrefix="a||b"), "can't contain '||'"),
        (component("x", word="{podName}"), "POD_NAME is not set"),
        (
            replace(component("x", fail="hang"), init_timeout_s=0.01),
            "init timeout for component x exceeded after 0.01s",
        ),
    ],
)
def test_failures(resource: ComponentResource, text: str) -> None:
    """The texts of 2.3; what was half open is closed again."""
    assert text in failure(resource)
    assert Probe.told in ([], ["open x", "close x"], ["close x"])


def test_a_missing_library(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """A library that is not installed is named by the command that brings it."""
    (tmp_path / "pillion_needy.py").write_text("import pillion_library_that_is_not_there\n")
    monkeypatch.syspath_prepend(tmp_path)
    assert "pip install 'pillion[redis]'" in failure(component("x", "state.needy"))
    assert "pip install pillion_library_that_is_not_there" in failure(component("x", "state.lonely"))
    with pytest.raises(MissingExtra):
        implementation(CATALOGUE.find("state.needy", ""))  # type: ignore[arg-type]


def test_names_are_unique() -> None:
    """Across all kinds; the same resource again is nothing."""
    assert "component x already exists" in failure(component("x"), component("x", "pubsub.probe"))
    Probe.told.clear()
    assert list(opened(component("x"), component("x")).all) == ["x"]
    assert Probe.told == ["open x"]


def test_ignored_errors(caplog: pytest.LogCaptureFixture) -> None:
    """`ignoreErrors`: logged, and the others load."""
    components = opened(replace(component("bad", fail="open"), ignore_errors=True), component("good"))
    assert list(components.all) == ["good"]
    assert "no route to host" in caplog.text


@pytest.mark.parametrize(
    ("deny", "loaded"),
    [((), {"x", "y", "z"}), (("state.probe",), set()), (("state.probe/v2",), {"x"}), (("State.probe",), {"x", "y"})],
)
def test_deny_list(deny: tuple[str, ...], loaded: set[str]) -> None:
    """Case-sensitive, type or type and version; with a list, an empty version is denied."""
    resources = (component("x"), component("y", version="v2"), component("z", version=""))
    assert set(opened(*resources, deny=deny).all) == loaded


SECRET = Item("word", "plain", SecretRef("cred", "key"))


def test_secrets_and_parking() -> None:
    """A component waits for its secret store however late it comes, and in a chain too."""
    needy = replace(component("x"), metadata=(SECRET,), secret_store="v", namespace="ns")
    chained = replace(component("v", "secretstores.vault"), metadata=(SECRET,), secret_store="w")

    async def scenario() -> None:
        components = registry()
        await components.open([needy, chained])
        assert components.all == {}
        assert list(components.parked) == ["w", "v"]
        assert "parked ['v', 'x']" in repr(components)
        await components.add(needy)
        await components.add(component("w", "secretstores.vault"))
        assert list(components.all) == ["w", "v", "x"]
        assert components.parked == {}
        assert components.states["x"].component.settings.word == "pass"

    asyncio.run(scenario())
    assert Probe.told == ["open w", "get cred in ", "open v", "get cred in ns", "open x"]


@pytest.mark.parametrize(
    ("item", "value"),
    [
        (SECRET, "pass"),
        (Item("word", "plain", SecretRef("cred")), "hush"),
        (Item("word", "plain", SecretRef("cred", "none")), "plain"),
        (Item("word", "plain", SecretRef("cred", "empty")), "plain"),
        (Item("word", "plain", SecretRef("gone")), "plain"),
        (Item("word", None, None, "QUOTED"), "a b"),
        (Item("word", "own", None, "QUOTED"), "own"),
        (Item("word", '"own"'), '"own"'),
        (Item("word", None, None, "UNSET"), ""),
        (Item("word", None, None, "DAPR_SECRET"), ""),
        (Item("word", "{appID}-{namespace}"), "app-default.app"),
        (Item("word", "{podName}"), "pod"),
    ],
)
def test_values(item: Item, value: str) -> None:
    """2.3: variables, secrets, quotes, templates."""
    environ = {"QUOTED": '"a b"', "POD_NAME": "pod", "DAPR_SECRET": "x"}
    resource = replace(component("x"), metadata=(item,), secret_store="v")

    async def scenario() -> str:
        components = registry(environ)
        await components.open([component("v", "secretstores.vault"), resource])
        word: str = components.all["x"].component.settings.word
        return word

    assert asyncio.run(scenario()) == value


def test_each_secret_is_read_once() -> None:
    items = (replace(SECRET, name="a"), replace(SECRET, name="b"), Item("c", None, SecretRef("other")))
    opened(component("v", "secretstores.vault"), replace(component("x"), metadata=items, secret_store="v"))
    assert [line for line in Probe.told if line.startswith("get")] == ["get cred in ", "get other in "]


def test_a_secret_without_a_store(caplog: pytest.LogCaptureFixture) -> None:
    """`secretKeyRef` without `auth.secretStore`: the value stays, and the author hears of it."""
    components = opened(replace(component("x"), metadata=(SECRET,)))
    assert components.all["x"].component.settings.word == "plain"
    assert "auth.secretStore names no store" in caplog.text


def test_uuids_differ() -> None:
    filled = Resolver("app", environment.read({})).fill("{uuid} {uuid}").split()
    assert len(set(filled)) == 2
    assert all(
        re.fullmatch(r"[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}", one) for one in filled
    )


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('"a"', "a"), ('"a\\n\\"b\\""', 'a\n"b"'), ('"\\u00e4\\xc3\\xa4\\101"', "ääA"), ("'x'", "x"),
        ("`a\\n`", "a\\n"),
        ("'xy'", "'xy'"), ('"a', '"a'), ('"a"b"', '"a"b"'), ('"\\q"', '"\\q"'), ("a", "a"), ("", ""), ('"', '"'),
        ('"\\xff"', '"\\xff"'), ('"\\U00110000"', '"\\U00110000"'), ("`a`b`", "`a`b`"), ('"a\nb"', '"a\nb"'),
    ],
)  # fmt: skip
def test_unquoting(text: str, value: str) -> None:
    assert unquoted(text) == value


@pytest.mark.parametrize(
    ("metadata", "consumer"), [({}, "app"), ({"consumerID": "  "}, "app"), ({"ConsumerId": " mine "}, "mine")]
)
def test_consumer_id(metadata: dict[str, str], consumer: str) -> None:
    """A broker's consumer group is the application unless it says otherwise."""
    loaded = opened(component("p", "pubsub.probe", **metadata)).pubsubs["p"]
    assert {key: value for key, value in loaded.metadata.items() if key.lower() == "consumerid"} == {
        "consumerID": consumer
    }


def test_topic_scopes(caplog: pytest.LogCaptureFixture) -> None:
    loaded = opened(component("p", "pubsub.probe", publishingScopes="app=t;odd")).pubsubs["p"]
    assert loaded.scopes.may_publish("t")
    assert not loaded.scopes.may_publish("u")
    assert "the scope 'odd' restricts nobody" in caplog.text


def test_actor_store() -> None:
    """The state store marked as the actors' own: one, and only where actors are."""
    one, two = component("a", ActorStateStore="yes"), component("b", actorStateStore="true")
    assert opened(one, component("c")).actor_store is None
    found = opened(one, component("c"), actors=True).actor_store
    assert found is not None
    assert found.name == "a"
    assert "detected duplicate actor state store: a and b" in failure(one, two, actors=True)


def test_strict_sandbox() -> None:
    components = opened(component("w", "bindings.wasm", StrictSandbox="false"), strict_sandbox=True)
    assert components.all["w"].metadata == {"strictSandbox": "true"}


def test_changes() -> None:
    """The new one opens before the old one closes; remove forgets; both are told to who wants to know."""
    seen: list[tuple[str, bool]] = []

    def changed(loaded: Loaded, here: bool) -> None:
        seen.append((loaded.name, here))

    async def scenario() -> None:
        components = registry(actors=True, changed=changed)
        await components.open([component("x", word="1", actorStateStore="true")])
        await components.update(component("x", word="1", actorStateStore="true"))
        assert Probe.told == ["open x"]
        await components.update(component("x", word="2"))
        assert components.actor_store is None
        assert components.states["x"].component.settings.word == "2"
        await components.remove("x")
        await components.remove("x")
        assert components.all == {}
        assert components.states == {}

    asyncio.run(scenario())
    assert Probe.told == ["open x", "open x", "close x", "close x"]
    assert seen == [("x", True), ("x", False), ("x", True), ("x", False)]


def test_close(caplog: pytest.LogCaptureFixture) -> None:
    """All close, whatever one of them does; the failure is logged and reported."""

    async def scenario(*resources: ComponentResource) -> bool:
        components = registry()
        await components.open(resources)
        clean = await components.close()
        assert await components.close()
        return clean

    assert asyncio.run(scenario(component("x"), component("z")))
    assert not asyncio.run(scenario(component("x", fail="close"), component("z")))
    assert Probe.told[-2:] == ["close x", "close z"]
    assert "component x (state.probe/v1) could not be closed" in caplog.text


def test_counting() -> None:
    """What is counted: loads, and failures by whether the making or the opening failed."""
    counted: list[str] = []

    class Witness:
        def loaded(self, resource: ComponentResource) -> None:
            counted.append(f"loaded {resource.name}")

        def failed(self, resource: ComponentResource, reason: str) -> None:
            counted.append(f"{reason} {resource.name}")

    async def scenario() -> None:
        components = registry(witness=Witness())
        for resource in (component("a"), component("b", "state.none"), component("c", fail="open")):
            await components.add(replace(resource, ignore_errors=True))

    asyncio.run(scenario())
    assert counted == ["loaded a", "creation b", "init c"]


def test_real_components(tmp_path: Path) -> None:
    """The shipped ones by the shipped catalogue: a secret file feeds a store."""
    (tmp_path / "secrets.json").write_text(json.dumps({"db": "file.sqlite"}))

    async def scenario() -> None:
        components = Components(app_id="app", environment=environment.read({}))
        store = component("files", "secretstores.local.file", secretsFile=str(tmp_path / "secrets.json"))
        state = replace(
            component("state", "state.in-memory"), metadata=(Item("x", None, SecretRef("db")),), secret_store="files"
        )
        await components.open([state, store, component("broker", "pubsub.in-memory", "")])
        assert components.states["state"].metadata == {"x": "file.sqlite"}
        assert "file.sqlite" not in repr(components.states["state"])
        assert await components.close()

    asyncio.run(scenario())


def test_foreign_catalogue_entries(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path
) -> None:
    """Other packages add components by entry point; a broken one is logged and harms nobody."""
    module = sys.modules["pillion_probes"]
    module.ROWS = (Entry("state.foreign", "v1", "pillion_probes:Probe"), Entry("state.in-memory", "v1", "x:Y"))  # type: ignore[attr-defined]
    installed = tmp_path / "probes-1.0.dist-info"
    installed.mkdir()
    (installed / "METADATA").write_text("Metadata-Version: 2.1\nName: probes\nVersion: 1.0\n")
    (installed / "entry_points.txt").write_text(
        "[pillion.components]\ngood = pillion_probes:ROWS\nbad = pillion_probes:NONE\n"
    )
    monkeypatch.syspath_prepend(tmp_path)
    catalogue = Catalogue.installed()
    entry = catalogue.find("state.foreign", "")
    assert entry is not None
    assert isinstance(construct(entry, {}, Context("x"), where="x"), Probe)
    assert "the components of entry point bad" in caplog.text
    assert "the first is used" in caplog.text
    with pytest.raises(ConfigError):
        construct(entry, {"a": "", "A": ""}, Context("x"), where="x")
