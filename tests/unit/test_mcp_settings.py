"""What an MCPServer may say (spec `runtime.md` 2.6): read with file, line and field."""

from __future__ import annotations

import textwrap
from pathlib import Path

import pytest

from pillion.errors import ConfigError
from pillion.kinds.fields import Fields
from pillion.kinds.mcp import Hook, Hooks, McpSettings, OAuth2, Spiffe, ignores_errors, read
from pillion.kinds.resources import KINDS, Item, MCPServerResource, SecretRef
from pillion.wire import yamltext

HEAD = "apiVersion: dapr.io/v1alpha1\nkind: MCPServer\nmetadata:\n  name: tools\nspec:\n"
WORKING = Path("/srv/work")


def resource(spec: str) -> MCPServerResource:
    node = yamltext.parse(HEAD + textwrap.indent(textwrap.dedent(spec), "  "), source="tools.yaml")
    made = KINDS["dapr.io/v1alpha1", "MCPServer"](Fields(node))
    assert isinstance(made, MCPServerResource)
    return made


def settings(spec: str, *, kubernetes: bool = False, folder: Path = WORKING) -> McpSettings:
    made, notes = read(resource(spec), kubernetes=kubernetes, folder=folder)
    assert not notes
    return made


def test_everything_over_http() -> None:
    spec = """
        ignoreErrors: true
        catalog: {displayName: x, description: y, owner: {team: t, contact: c}, tags: [a], links: {docs: d}}
        endpoint:
          streamableHTTP:
            url: https://tools.example/mcp
            protocolVersion: 2025-03-26
            timeout: 1m30s
            headers:
            - {name: X-One, value: 1}
            - {name: X-Two, secretKeyRef: {name: s, key: k}}
            auth:
              secretStore: vault
              oauth2:
                issuer: https://id.example/token
                clientID: me
                audience: them
                scopes: [a, b]
                secretKeyRef: {name: s, key: k}
              spiffe: {jwt: {header: Authorization, headerValuePrefix: "Bearer ", audience: them}}
        middleware:
          beforeCallTool: [{workflow: {workflowName: w, appID: other}, mutate: true}, {workflow: {workflowName: v}}]
          afterCallTool: [{workflow: {workflowName: w}, mutate: true}]
          beforeListTools: [{workflow: {workflowName: w}}]
          afterListTools: [{workflow: {workflowName: w}, mutate: false}]
        """
    assert settings(spec) == McpSettings(
        "tools", "streamableHTTP", url="https://tools.example/mcp", timeout_s=90.0, secret_store="vault",
        items=(Item("X-One", "1"), Item("X-Two", secret=SecretRef("s", "k"))),
        oauth2=OAuth2("https://id.example/token", "me", "them", ("a", "b"), SecretRef("s", "k")),
        spiffe=Spiffe("Authorization", "them", "Bearer "),
        hooks=Hooks((Hook("w", "other", True), Hook("v")), (Hook("w", "", True),), (Hook("w"),), (Hook("w"),)),
    )  # fmt: skip
    assert ignores_errors(resource(spec))


def test_what_holds_when_nothing_is_said() -> None:
    made = settings("endpoint: {sse: {url: 'http://h/sse'}}")
    assert (made.timeout_s, made.secret_store, made.items) == (30.0, "", ())
    assert settings("endpoint: {sse: {url: 'http://h/sse'}}", kubernetes=True).secret_store == "kubernetes"
    assert settings("endpoint: {sse: {url: 'http://h/sse', timeout: 0s}}").timeout_s is None
    assert not ignores_errors(resource("endpoint: {}"))
    assert not ignores_errors(resource("ignoreErrors: 'yes'"))


def test_a_process(tmp_path: Path) -> None:
    """A relative command is looked at as the system will: through symbolic links."""
    made = settings("endpoint: {stdio: {command: uvx, args: [server, 5], env: [{name: A, value: b}]}}")
    assert (made.command, made.arguments, made.items, made.timeout_s) == (
        "uvx", ("server", "5"), (Item("A", "b"),), 30.0
    )  # fmt: skip
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    (inside / "link").symlink_to(outside)
    assert settings("endpoint: {stdio: {command: ./run}}", folder=inside).command == "./run"
    assert settings("endpoint: {stdio: {command: /bin/run}}", folder=inside).command == "/bin/run"
    for command in ("../outside/run", "./a/../../run", "link/run"):
        with pytest.raises(ConfigError, match="leads out of"):
            settings(f"endpoint: {{stdio: {{command: {command}}}}}", folder=inside)


@pytest.mark.parametrize(
    ("spec", "said"),
    [
        ("ignoreErrors: true", "tools.yaml:6: spec.endpoint: is missing (write exactly one of"),
        ("endpoint: {}", "tools.yaml:6: spec.endpoint: is missing"),
        ("endpoint: {sse: {url: 'http://h'}, stdio: {command: x}}", "spec.endpoint: has sse and stdio"),
        ("endpoint:\n  sse: {}", "tools.yaml:7: spec.endpoint.sse.url: is missing"),
        ("endpoint:\n  sse:\n    url: ftp://h", "tools.yaml:8: spec.endpoint.sse.url: is 'ftp://h'"),
        ("endpoint: {sse: {url: 'http:///path'}}", "spec.endpoint.sse.url: is"),
        ("endpoint: {sse: {url: 'http://h:70000'}}", "spec.endpoint.sse.url: is"),
        ("endpoint: {sse: {url: [a]}}", "spec.endpoint.sse.url: expected text, found a list"),
        ("endpoint: {sse: {url: 'http://h', timeout: soon}}", "spec.endpoint.sse.timeout:"),
        ("endpoint: {sse: {url: 'http://h', timeout: -1s}}", "spec.endpoint.sse.timeout: '-1s' is negative"),
        ("endpoint: {sse: {url: 'http://h', headers: [{name: 'a b', value: c}]}}", "'a b' is no name of a header"),
        ("endpoint: {sse: {url: 'http://h', auth: {oauth2: {}}}}", "auth.oauth2.issuer: is missing"),
        (
            "endpoint: {sse: {url: 'http://h', auth: {oauth2: {issuer: 'http://i', secretKeyRef: {name: s}}}}}",
            "auth.oauth2.secretKeyRef.key: is missing",
        ),
        ("endpoint: {sse: {url: 'http://h', auth: {spiffe: {jwt: {header: a}}}}}", "spiffe.jwt.audience: is missing"),
        ("endpoint: {stdio: {command: ''}}", "spec.endpoint.stdio.command: is missing or empty"),
        ("endpoint: {stdio: {command: x, env: [{name: 'a=b', value: c}]}}", "'a=b' is no name of a variable"),
        ("endpoint: {stdio: {command: x, env: [{name: \"a\\nb\", value: c}]}}", "is no name of a variable"),
        ("endpoint: {stdio: {command: x}}\nmiddleware: {beforeCallTool: [{mutate: true}]}", "workflowName: is missing"),
        ("endpoint: {stdio: {command: x}}\nmiddleware: {beforeCallTool: {}}", "expected a list, found a mapping"),
        ("endpoint: {stdio: {command: x}}\ncatalog: {tags: x}", "spec.catalog.tags: expected a list"),
        ("ignoreErrors: 'true'\nendpoint: {stdio: {command: x}}", "spec.ignoreErrors: expected true or false"),
    ],
)  # fmt: skip
def test_what_cannot_be_meant(spec: str, said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        settings(spec)
    assert said in str(caught.value)
    assert str(caught.value).startswith("tools.yaml:")


def test_no_processes_in_kubernetes() -> None:
    with pytest.raises(ConfigError, match="stdio is not offered in Kubernetes"):
        settings("endpoint: {stdio: {command: x}}", kubernetes=True)


def test_what_nearly_is_a_field() -> None:
    _, notes = read(resource("endpoint: {sse: {url: 'http://h', timeoutt: 5s}}"), kubernetes=False, folder=WORKING)
    assert notes == ["tools.yaml:6: spec.endpoint.sse.timeoutt: unknown field is ignored (did you mean timeout?)"]
