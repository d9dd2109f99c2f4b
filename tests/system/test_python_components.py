"""Components that users write in Python, in a real sidecar: a file beside the YAML, and an installed package."""

from __future__ import annotations

import subprocess
import sys
import textwrap
from pathlib import Path
from typing import Any

import pytest

from sidecars import SidecarProcess, component

EXAMPLES = Path(__file__).parents[2] / "examples"
DOC = Path(__file__).parents[2] / "docs" / "python-components.md"


def blocks() -> list[str]:
    """Return the Python code blocks of the page, in order: the file, the rows of a package, the test."""
    return [part.split("\n```", 1)[0] for part in DOC.read_text().split("```python\n")[1:]]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "resources").mkdir()
    (tmp_path / "resources" / "folder_store.py").write_text(blocks()[0])
    return tmp_path


def test_the_example_of_the_page_passes_the_kit(folder: Path) -> None:
    """The page's own test, run as the page says."""
    (folder / "resources" / "test_folder_store.py").write_text(blocks()[2])
    run = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", "--rootdir", ".", "."],
        cwd=folder / "resources", capture_output=True, text=True, check=False, timeout=120,
    )  # fmt: skip
    assert run.returncode == 0, run.stdout + run.stderr
    assert " passed" in run.stdout


def test_a_file_beside_the_yaml(folder: Path) -> None:
    """The page's store serves state, is told in metadata, and keeps its values when the sidecar starts again."""
    metadata = {"pillion.file": "folder_store.py", "folder": str(folder / "notes")}
    resources = {"notes.yaml": component("notes", "state.python", **metadata)}
    for first in (True, False):
        with SidecarProcess(folder, resources=resources, resources_path=folder / "resources") as sidecar:
            if first:
                assert sidecar.post_json("/v1.0/state/notes", [{"key": "k", "value": {"n": 1}}]).status == 204
            answer = sidecar.request("GET", "/v1.0/state/notes/k")
            assert (answer.status, answer.json()) == (200, {"n": 1})
            stale = [{"key": "k", "value": 2, "etag": "00" * 16}]
            assert sidecar.post_json("/v1.0/state/notes", stale).status == 409
            told = sidecar.request("GET", "/v1.0/metadata").json()["components"]
            assert {"name": "notes", "type": "state.python", "version": "v1", "capabilities": ["ETAG"]} in told
            assert "folder_store.py: is not" not in sidecar.log()
    assert sorted(path.name for path in (folder / "resources").iterdir()) == ["folder_store.py", "notes.yaml"]


@pytest.fixture
def installed(folder: Path) -> Path:
    """A package with an entry point, as `pip install --target` leaves it."""
    site = folder / "site"
    (site / "notes_store").mkdir(parents=True)
    (site / "notes_store" / "__init__.py").touch()
    (site / "notes_store" / "folder.py").write_text(blocks()[0])
    (site / "notes_store" / "rows.py").write_text(blocks()[1])
    about = site / "notes_store-1.0.dist-info"
    about.mkdir()
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: notes-store\nVersion: 1.0\n")
    (about / "entry_points.txt").write_text("[pillion.components]\nnotes = notes_store.rows:COMPONENTS\n")
    return site


def test_a_class_of_an_installed_package(folder: Path, installed: Path) -> None:
    """A type that only the package knows is found by its entry point."""
    resources = {"notes.yaml": component("notes", "state.notes", folder=str(folder / "notes"))}
    with SidecarProcess(folder, resources=resources, env={"PYTHONPATH": str(installed)}) as sidecar:
        assert sidecar.post_json("/v1.0/state/notes", [{"key": "k", "value": "v"}]).status == 204
        assert sidecar.request("GET", "/v1.0/state/notes/k").body == b'"v"'
        assert sidecar.request("GET", "/v1.0/metadata").json()["components"][0]["type"] == "state.notes"


def test_several_kinds_from_one_file(folder: Path) -> None:
    """Each type takes the class that fits it; the metadata are the settings of a class that has none."""
    code = """
        from pillion.errors import ComponentError
        from pillion.kinds.bindings import Response

        class Base:
            def __init__(self, settings, context):
                self.settings, self.context = settings, context
            async def open(self): pass
            async def ping(self): pass
            async def close(self): pass

        class Vault(Base):
            features = frozenset()
            async def get(self, name, metadata):
                if name not in self.settings:
                    raise ComponentError(f"no secret {name}")
                return {name: self.settings[name]}
            async def bulk_get(self, metadata):
                return {name: {name: value} for name, value in self.settings.items()}

        class Echo(Base):
            operations = ("echo",)
            async def invoke(self, request):
                return Response(request.data, {"by": self.context.name})
    """
    (folder / "resources" / "many.py").write_text(textwrap.dedent(code))
    resources = {
        "v.yaml": component("vault", "secretstores.python", **{"pillion.file": "many.py", "door": "open"}),
        "e.yaml": component("echo", "bindings.python", **{"pillion.file": "many.py"}),
    }
    with SidecarProcess(folder, resources=resources, resources_path=folder / "resources") as sidecar:
        assert sidecar.request("GET", "/v1.0/secrets/vault/door").json() == {"door": "open"}
        assert sidecar.request("GET", "/v1.0/secrets/vault/bulk").json() == {"door": {"door": "open"}}
        answer = sidecar.post_json("/v1.0/bindings/echo", {"operation": "echo", "data": 17})
        assert (answer.status, answer.body, answer.headers["metadata.by"]) == (200, b"17", "echo")


def test_the_example_that_converses(tmp_path: Path) -> None:
    """`examples/conversation` as it is: rules, a tool, a form, and its settings from the YAML."""

    def said(text: str, **more: object) -> Any:
        asked = {"inputs": [{"messages": [{"ofUser": {"content": [{"text": text}]}}]}], **more}
        answer = sidecar.post_json("/v1.0-alpha2/conversation/stand-in/converse", asked)
        assert answer.status == 200, answer
        return answer.json()["outputs"][0]["choices"][0]

    with SidecarProcess(tmp_path, resources_path=EXAMPLES / "conversation") as sidecar:
        assert said("how is the weather?")["message"]["content"] == "It is sunny."
        assert said("what now?")["message"]["content"] == "what now?"
        tool = {"function": {"name": "clock", "description": "d", "parameters": {"type": "object"}}}
        called = said("tell me", tools=[tool], toolChoice="required")
        assert called["finishReason"] == "tool_calls"
        assert called["message"]["toolCalls"][0]["function"]["name"] == "clock"
    text = (EXAMPLES / "conversation/stand-in.yaml").read_text()
    broken = text.replace('{"weather"', "{weather").replace("stand_in.py", "broken.py")
    folder = tmp_path / "broken"
    folder.mkdir()
    (folder / "broken.py").write_text((EXAMPLES / "conversation/stand_in.py").read_text())
    (folder / "broken.yaml").write_text(broken)
    wrong = SidecarProcess(tmp_path, "wrong", resources_path=folder).start(ready=False)
    assert wrong.process is not None
    assert wrong.process.wait(60) == 1
    assert "stand-in (conversation.python/v1): answers: " in wrong.log()
