"""Resource documents and the loader of directories (spec `runtime.md` 2)."""

from __future__ import annotations

import contextlib
from typing import TYPE_CHECKING

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pillion.errors import ConfigError
from pillion.kinds.fields import Fields
from pillion.kinds.resources import BulkOptions, Item, Route, SecretRef
from pillion.sidecar.load import Resources, load
from pillion.wire import yamltext
from pillion.wire.yamltext import YamlError, go_float, json_text, parse, split

if TYPE_CHECKING:
    from pathlib import Path


def text_of(yaml: str) -> str:
    node = parse(yaml)
    assert node is not None
    return json_text(node)


@pytest.mark.parametrize(
    ("yaml", "json"),
    [
        ("true", "true"), ("Yes", "true"), ("off", "false"), ("~", "null"), ("3", "3"), ("1.10", "1.1"),
        ("'1.10'", '"1.10"'), ("1.0", "1"), ("0x1F", "31"), ("0b11", "3"), ("010", "8"), ("0o10", "8"), ("08", "8"),
        ("1_000", "1000"), ("-5", "-5"), ("1e3", "1000"), ("1e21", "1e+21"), ("1.5e-7", "1.5e-7"),
        ("0.000001", "0.000001"), ("y", "true"), ("N", "false"),
        ("123456789012345678901", "123456789012345680000"), ("18446744073709551615", "18446744073709551615"),
        ("1:30", '"1:30"'), ("2026-01-02", '"2026-01-02"'), ("5Mi", '"5Mi"'), (".", '"."'), ("-", "[null]"),
        ("!!str 5", '"5"'), ("!!int '5'", "5"), ("!!binary aGk=", '"hi"'), ("!own 5", '"5"'),
        ("{b: 1, a: [x, 2.50]}", '{"a":["x",2.5],"b":1}'), ("'<a&b>'", '"\\u003ca\\u0026b\\u003e"'),
        ("{1: a, true: b, ~: c}", '{"1":"a","null":"c","true":"b"}'), ("-0.0", "-0"),
        ("{a: &x {p: 1, q: 2}, b: {<<: *x, q: 3}}", '{"a":{"p":1,"q":2},"b":{"p":1,"q":3}}'),
        ("{a: &x [1], b: [*x, *x]}", '{"a":[1],"b":[[1],[1]]}'), ("'<<'", '"\\u003c\\u003c"'),
    ],
)  # fmt: skip
def test_values(yaml: str, json: str) -> None:
    """Trap 6: what is no string keeps its JSON text, numbers and truths as the files' own parser reads them."""
    assert text_of(yaml) == json


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_floats_return(number: float) -> None:
    assert float(go_float(number)) == number


@pytest.mark.parametrize(
    ("yaml", "line", "text"),
    [
        ("a: 1\nb: [", 2, "did not find expected node"),
        ("a: b: c", 1, "mapping values"),
        ("a: 1\nb: *x", 2, "alias \\*x has no complete anchor"),
        ("a: &x [*x]", 1, "no complete anchor"),
        ("? [a]\n: b", 1, "cannot be a key"),
        ("<<: 5", 1, "merges mappings"),
        ("!!binary '*'", 1, "base64"),
        ("[" * 5000, 1, "deeper than 100"),
        ("- " * 5000, 1, "deeper than 100"),
        ("a: \x07", 1, "not YAML"),
    ],
)
def test_yaml_errors(yaml: str, line: int, text: str) -> None:
    """An error knows its line; nesting is bounded before it costs anything."""
    with pytest.raises(YamlError, match=text) as caught:
        parse(yaml)
    if line:
        assert caught.value.line == line


def test_laughing_aliases() -> None:
    """A billion laughs is refused by counting, not by expanding."""
    lines = ["a0: &a0 [x, x, x, x, x, x, x, x, x, x]"]
    lines += [f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]" for n in range(1, 10)]
    with pytest.raises(YamlError, match="more than 250000 values"):
        parse("\n".join(lines))


def test_infinity_has_no_json() -> None:
    with pytest.raises(YamlError, match="no infinity"):
        text_of("[.inf]")


def test_splitting() -> None:
    """Newline and three dashes separate; the rest of that line is gone; lines are counted through."""
    assert [(text.strip(), line) for text, line in split("---\na\n--- # x\nb\n---c\nd\n---")] == [
        ("---\na", 1),
        ("b", 3),
        ("d", 5),
        ("", 7),
    ]
    last = list(split("x: 1\n---\n\nz: 2"))[1]
    node = parse(last[0], first_line=last[1])
    assert node is not None
    assert node.value["z"].line == 4


@given(st.text(alphabet=st.sampled_from("ab:-[]{}&*<!'\"|>%@#,?~ \n\t01."), max_size=60))
@settings(max_examples=300)
def test_hostile_yaml(text: str) -> None:
    """Whatever the text: a value with a line, nothing, or `YamlError`."""
    for piece, line in split(text):
        with contextlib.suppress(YamlError):
            node = parse(piece, first_line=line)
            if node is not None:
                assert line <= node.line <= text.count("\n") + 1
                json_text(node)


COMPONENT = """apiVersion: dapr.io/v1alpha1
kind: Component
metadata:
  name: store
  namespace: prod
spec:
  type: state.redis
  version: v1
  initTimeout: 1m
  ignoreErrors: true
  metadata:
  - name: redisHost
    value: localhost:6379
  - name: enableTLS
    value: false
  - name: limits
    value: {b: 1.50, a: null}
  - name: redisPassword
    secretKeyRef: {name: redis, key: password}
  - name: user
    envRef: REDIS_USER
auth:
  secretStore: vault
scopes: [a, b]
"""


def read(folder: Path, *texts: str, app_id: str = "a", namespace: str = "") -> Resources:
    for index, text in enumerate(texts):
        (folder / f"{index}.yaml").write_text(text)
    return load([str(folder)], app_id=app_id, namespace=namespace)


def test_component(tmp_path: Path) -> None:
    """2.3: every field, and the three forms of a metadata item."""
    (found,) = read(tmp_path, COMPONENT).components
    assert (found.name, found.namespace, found.type, found.version) == ("store", "prod", "state.redis", "v1")
    assert (found.init_timeout_s, found.ignore_errors, found.secret_store) == (60.0, True, "vault")
    assert found.scopes == ("a", "b")
    assert found.where == f"{tmp_path}/0.yaml:1"
    assert found.label == "store (state.redis/v1)"
    assert found.metadata == (
        Item("redisHost", "localhost:6379"),
        Item("enableTLS", "false"),
        Item("limits", '{"a":null,"b":1.5}'),
        Item("redisPassword", None, SecretRef("redis", "password")),
        Item("user", None, None, "REDIS_USER"),
    )


def minimal(kind: str, name: str, extra: str = "", spec: str = "{type: state.in-memory, version: v1}") -> str:
    return f"apiVersion: dapr.io/v1alpha1\nkind: {kind}\nmetadata: {{name: {name}}}\n{extra}\nspec: {spec}\n"


def test_fields_in_any_case(tmp_path: Path) -> None:
    """2.1: field names are case-insensitive; an exact spelling wins over another."""
    text = "APIVERSION: dapr.io/v1alpha1\nKind: Component\nMetaData: {NAME: x, name: z}\nSPEC: {TYPE: t.u}\n"
    (found,) = read(tmp_path, text).components
    assert (found.name, found.type) == ("z", "t.u")


def test_near_misses(tmp_path: Path) -> None:
    """Unknown fields pass; one that nearly spells a known one is told, with file, line and field."""
    text = minimal("Component", "x", spec="\n  type: state.in-memory\n  meadata: []\n  comment: hello\n  versoon: v1\n")
    found = read(tmp_path, text)
    assert [component.name for component in found.components] == ["x"]
    assert found.warnings == (
        f"{tmp_path}/0.yaml:7: spec.meadata: unknown field is ignored (did you mean metadata?)",
        f"{tmp_path}/0.yaml:9: spec.versoon: unknown field is ignored (did you mean version?)",
    )


def test_renegotiation_of_tls_has_no_effect(tmp_path: Path) -> None:
    """The endpoint is loaded, and the wish is told."""
    text = minimal("HTTPEndpoint", "x", spec="{baseUrl: 'https://h', clientTLS: {renegotiation: OnceAsClient}}")
    found = read(tmp_path, text)
    assert [endpoint.name for endpoint in found.http_endpoints] == ["x"]
    assert found.warnings == (f"{tmp_path}/0.yaml:5: spec.clientTLS.renegotiation: has no effect: TLS 1.3 has none",)


@pytest.mark.parametrize(
    ("text", "warning"),
    [
        (minimal("Component", "a/b"), "0.yaml:3: metadata.name: the name 'a/b' contains '/' (rename the resource)"),
        (minimal("Component", "a%b"), "contains '%'"),
        (minimal("Component", "'..'"), "the name cannot be '..'"),
        (
            minimal("Component", "x", spec="{ignoreErrors: 'yes'}"),
            "0.yaml:5: spec.ignoreErrors: expected true or false",
        ),
        (minimal("Component", "x", spec="{metadata: {a: b}}"), "spec.metadata: expected a list, found a mapping"),
        (minimal("Component", "x", spec="{metadata: [5]}"), "spec.metadata[0]: expected a mapping, found 5"),
        (minimal("Component", "x", spec="{metadata: [{name: [a]}]}"), "spec.metadata[0].name: expected text"),
        (minimal("Component", "x", spec="{metadata: [{name: a, value: .nan}]}"), "JSON has no infinity"),
        (minimal("Component", "x", spec="hello"), "spec: expected a mapping, found the text 'hello'"),
        (minimal("Component", "x", "scopes: a"), "scopes: expected a list"),
        (minimal("Subscription", "x", spec="{topic: t}"), "spec.pubsubname: is missing"),
        (minimal("HTTPEndpoint", "x", spec="{}"), "spec.baseUrl: is missing"),
        (minimal("HTTPEndpoint", "x", spec="{baseUrl: u, clientTLS: {renegotiation: x}}"), "use one of: Never"),
        (minimal("Componnt", "x"), "(did you mean dapr.io/v1alpha1 Component?)"),
        (minimal("Configuration", "x"), "name its file with --config"),
        ("kind: [", "0.yaml:1: did not find"),
        ("- a\n- b\n", "0.yaml:1: expected a mapping, found a list"),
        ("5", "expected a mapping, found 5"),
    ],
)
def test_bad_documents(tmp_path: Path, text: str, warning: str) -> None:
    """A bad document is told and harms no other, in its own file or elsewhere."""
    found = read(tmp_path, text + "\n---\n" + minimal("Component", "good"), minimal("Component", "better"))
    assert [component.name for component in found.components] == ["good", "better"]
    assert len(found.warnings) == 1
    assert warning in found.warnings[0]
    assert found.warnings[0].endswith("the document is ignored")


def test_files(tmp_path: Path) -> None:
    """Files in name order, `.yaml` and `.yml` in any case; others, unreadable text and folders do no harm."""
    for name, text in (
        ("b.YML", minimal("Component", "b")),
        ("a.yaml", minimal("Component", "a")),
        ("notes.txt", "hello"),
        ("empty.yaml", ""),
        ("comment.yaml", "# nothing\n---\n# here\n"),
        ("other.yaml", "apiVersion: v1\nkind: ConfigMap\nmetadata: {name: x}\n"),
        ("bom.yaml", "\ufeff" + minimal("Component", "c")),
    ):
        (tmp_path / name).write_text(text, encoding="utf-8")
    (tmp_path / "bad.yaml").write_bytes(b"a: \xff\xfe")
    (tmp_path / "folder.yaml").mkdir()
    found = load([str(tmp_path)], app_id="a")
    assert [component.name for component in found.components] == ["a", "b", "c"]
    assert len(found.warnings) == 2
    assert "bad.yaml: cannot be read" in found.warnings[0] or "bad.yaml: cannot be read" in found.warnings[1]
    assert any("notes.txt: is not a .yaml or .yml file" in warning for warning in found.warnings)


def test_missing_directory(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="create the directory"):
        load([str(tmp_path / "none")], app_id="a")
    assert load([], app_id="a") == Resources()


def test_a_long_document(tmp_path: Path) -> None:
    """The reference spins forever on a document over 64 KiB; here there is no such limit."""
    spec = "{type: t.u, metadata: [{name: big, value: '" + "x" * 300_000 + "'}]}"
    (found,) = read(tmp_path, minimal("Component", "big", spec=spec)).components
    assert len(found.metadata[0].value or "") == 300_000


def test_filters(tmp_path: Path) -> None:
    """2.1: namespace first, then duplicates, then scopes."""
    one = minimal("Component", "x").replace("{name: x}", "{name: x, namespace: one}")
    two = minimal("Component", "x").replace("{name: x}", "{name: x, namespace: two}")
    assert [c.namespace for c in read(tmp_path, one, two, namespace="two").components] == ["two"]
    with pytest.raises(ConfigError, match="duplicate definition of Component name x"):
        load([str(tmp_path)], app_id="a")


def test_scopes(tmp_path: Path) -> None:
    """A manifest for others is dropped in silence, but as a duplicate of an accepted one it still ends the load."""
    mine, others = minimal("Component", "x"), minimal("Component", "x", "scopes: [b]")
    assert read(tmp_path, others, mine).components[0].scopes == ()
    with pytest.raises(ConfigError, match=r"1\.yaml:1: duplicate definition.*0\.yaml:1.*rename or remove"):
        read(tmp_path, mine, others)


def test_duplicate_endpoints_are_told(tmp_path: Path) -> None:
    """HTTPEndpoint: duplicates are warned, none is loaded; the rest is."""
    endpoint = minimal("HTTPEndpoint", "x", spec="{baseUrl: http://x}")
    found = read(tmp_path, endpoint, endpoint, minimal("Component", "z"))
    assert found.http_endpoints == ()
    assert [c.name for c in found.components] == ["z"]
    assert "no HTTPEndpoint is loaded" in found.warnings[0]


@pytest.mark.parametrize("kind", ["MCPServer", "WorkflowAccessPolicy"])
def test_fatal_duplicates(tmp_path: Path, kind: str) -> None:
    with pytest.raises(ConfigError, match=f"duplicate definition of {kind} name x"):
        read(tmp_path, minimal(kind, "x"), minimal(kind, "x"))


def test_empty_names(tmp_path: Path) -> None:
    found = read(tmp_path, "apiVersion: dapr.io/v1alpha1\nkind: Component\nspec: {type: t.u}\n")
    assert found.components == ()
    assert "metadata.name: is missing" in found.warnings[0]


SUBSCRIPTION = """apiVersion: dapr.io/v2alpha1
kind: Subscription
metadata: {name: orders}
spec:
  pubsubname: broker
  topic: orders
  routes:
    rules:
    - match: event.type == "new"
      path: /new
    default: /orders
  metadata: {rawPayload: true, size: 1.50}
  deadLetterTopic: dead
  bulkSubscribe: {enabled: true, maxMessagesCount: 10, maxAwaitDurationMs: 250}
"""


def test_subscriptions(tmp_path: Path) -> None:
    """2.4: both versions become one shape; a later one takes an earlier one's name and place."""
    old = minimal("Subscription", "first", spec="{pubsubname: b, topic: t, route: /old}")
    found = read(tmp_path, old, SUBSCRIPTION, old.replace("/old", "/newer")).subscriptions
    assert [(s.name, s.rules[-1].path) for s in found] == [("first", "/newer"), ("orders", "/orders")]
    assert found[1].rules == (Route('event.type == "new"', "/new"), Route("", "/orders"))
    assert found[1].metadata == {"rawPayload": "true", "size": "1.5"}
    assert found[1].dead_letter_topic == "dead"
    assert found[1].bulk == BulkOptions(True, 10, 250)
    assert found[0].bulk == BulkOptions()


def test_subscriptions_ignore_namespaces(tmp_path: Path) -> None:
    text = SUBSCRIPTION.replace("{name: orders}", "{name: orders, namespace: elsewhere}")
    assert len(read(tmp_path, text, namespace="here").subscriptions) == 1
    assert read(tmp_path, text + "scopes: [b]\n").subscriptions == ()


def test_http_endpoint(tmp_path: Path) -> None:
    spec = """
  baseUrl: https://example.org
  headers: [{name: x, value: 1}, {name: z, secretKeyRef: {name: s}}]
  clientTLS: {rootCA: {value: pem}, privateKey: {secretKeyRef: {name: tls, key: k}}, renegotiation: Never}
auth: {secretStore: vault}
"""
    (found,) = read(tmp_path, minimal("HTTPEndpoint", "x", spec=spec)).http_endpoints
    assert found.headers == (Item("x", "1"), Item("z", None, SecretRef("s")))
    assert found.tls == (Item("rootCA", "pem"), Item("privateKey", None, SecretRef("tls", "k")))
    assert (found.base_url, found.renegotiation, found.secret_store) == ("https://example.org", "Never", "vault")


def test_resiliency_documents(tmp_path: Path) -> None:
    """2.1: the first document of a file, any apiVersion, any namespace, duplicates welcome, scopes heeded."""
    one = minimal("Resiliency", "x", spec="{policies: {timeouts: {t: 5s}}}")
    odd = one.replace("v1alpha1", "v9")
    found = read(tmp_path, one, odd, minimal("Component", "c") + "---\n" + one, one + "scopes: [b]\n", namespace="n")
    assert [r.where.rpartition("/")[2] for r in found.resiliencies] == ["0.yaml:1", "1.yaml:1"]
    assert found.resiliencies[0].spec == {"policies": {"timeouts": {"t": "5s"}}}
    assert found.resiliencies[0].node is not None
    assert found.resiliencies[0].node.value["policies"].line == 5
    assert "must be the first document" in found.warnings[0]


def test_raw_kinds(tmp_path: Path) -> None:
    server = minimal("MCPServer", "m", spec="{endpoint: {sse: {url: http://x}}}")
    policy = minimal("WorkflowAccessPolicy", "p", spec="{rules: []}")
    found = read(tmp_path, server, policy)
    assert found.mcp_servers[0].spec == {"endpoint": {"sse": {"url": "http://x"}}}
    assert found.workflow_access_policies[0].spec == {"rules": []}


def test_equality_is_content(tmp_path: Path) -> None:
    """2.3: what only moved, or changed its namespace, has not changed."""
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    (one,) = read(tmp_path / "one", COMPONENT).components
    (two,) = read(tmp_path / "two", "\n\n" + COMPONENT.replace("prod", "test")).components
    assert one == two
    (three,) = read(tmp_path / "two", COMPONENT.replace("6379", "6380")).components
    assert one != three


def test_init_timeout_default(tmp_path: Path) -> None:
    found = read(tmp_path, minimal("Component", "x", spec="{type: t.u, initTimeout: soon}"))
    assert found.components[0].init_timeout_s == 5.0
    assert "spec.initTimeout: not a duration" in found.warnings[0]


YAML = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(
        ["apiVersion", "kind", "metadata", "spec", "name", "value", "scopes", "topic", "routes", "secretKeyRef", "type"]
    ), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip


@given(YAML, st.sampled_from(["Component", "Subscription", "HTTPEndpoint", "Resiliency", "MCPServer"]))
def test_hostile_documents(value: object, kind: str) -> None:
    """Whatever a document holds: a resource, or one of the two errors."""
    from pillion.kinds.resources import KINDS

    node = located(value)
    with contextlib.suppress(ConfigError, YamlError):
        fields = Fields(node)
        KINDS["dapr.io/v1alpha1", kind](fields)


def located(value: object) -> yamltext.Node:
    if isinstance(value, dict):
        return yamltext.Node({key: located(item) for key, item in value.items()}, 1, "f")
    if isinstance(value, list):
        return yamltext.Node([located(item) for item in value], 1, "f")
    return yamltext.Node(value, 1, "f")
