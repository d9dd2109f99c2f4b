"""The house keeps its own rules: what is listed is complete, what is promised is documented."""

from __future__ import annotations

import dataclasses
import importlib
import pkgutil
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import TYPE_CHECKING, cast

import pytest

import pillion
from pillion import blocks
from pillion.api.render import http_error, rpc_error
from pillion.blocks import reserved
from pillion.blocks.actor_access import ActorAccess, Gate
from pillion.blocks.actors import ActorsBlock
from pillion.blocks.workflow import WorkflowBlock
from pillion.components.catalog import COMPONENTS, Entry
from pillion.errors import ApiError, Fault
from pillion.kinds.component import wire_key
from pillion.sidecar.catalogue import implementation
from pillion.wire import gojson
from pillion.wire.messages import services
from rows import offered

if TYPE_CHECKING:
    from collections.abc import Iterable

    from pillion.api.operation import Operation
    from pillion.workflow.hub import Workflows

ROOT = Path(pillion.__file__).parents[2]
FORBIDDEN = re.compile(
    r"(?<![\w.-])/(?:work|farm)/|bash_jobs|\b(?:claude(?!-sonnet-4-2)|anthropic model|chatgpt|copilot)\b|as an ai\b",
    re.IGNORECASE,  # the default model of a component may be named
)


def faults() -> list[tuple[str, Fault]]:
    found = []
    for info in pkgutil.iter_modules(blocks.__path__, "pillion.blocks."):
        module = importlib.import_module(info.name)
        found += [(f"{info.name}.{name}", value) for name, value in vars(module).items() if isinstance(value, Fault)]
    return found


@pytest.mark.parametrize(("name", "fault"), faults(), ids=lambda value: value if isinstance(value, str) else "")
def test_every_fault_is_rendered_in_both_protocols(name: str, fault: Fault) -> None:
    """A fault has the fields of its text, an error code, and statuses that exist."""
    fields = dict.fromkeys(re.findall(r"{(\w+)", fault.text), "x")
    error = ApiError(fault, metadata={}, resource="r", fields=[("f", "d")], **fields)  # type: ignore[arg-type]
    answer = http_error(error)
    assert isinstance(answer.body, bytes)
    body = gojson.loads(answer.body)
    assert body["errorCode"]
    assert answer.status >= 400
    assert ("details" in body) == fault.http_details
    status = rpc_error(error)
    assert 0 < status.code <= 16
    assert bool(status.details) == bool(fault.shape)


def test_the_page_of_errors_is_fresh() -> None:
    """Every fault is documented: `docs/errors.md` is what the rows say."""
    script = ROOT / "scripts/errors_page.py"
    ran = subprocess.run([sys.executable, script, "--check"], capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stdout + ran.stderr


def test_every_code_of_an_error_is_named_by_a_test() -> None:
    """A code that no test can provoke is a row that nobody needs."""
    folder = ROOT / "tests"
    texts = [path.read_text() for kind in ("py", "txt", "go", "js", "java") for path in folder.rglob(f"*.{kind}")]
    named = set(re.findall(r"\b(?:ERR|DAPR|PILLION)_[A-Z_]+", "\n".join(texts)))
    assert {code for _, fault in faults() for code in (fault.http_code, fault.grpc_reason)} - {"", "ERROR"} <= named


def test_every_method_of_the_contract_has_a_row() -> None:
    """What no block offers is reserved: it answers UNIMPLEMENTED, never a proxy attempt."""
    rows = reserved.operations([])
    served = {(row.rpc.service, method) for row in rows if row.rpc for method in row.rpc.methods}
    for service in ("dapr.proto.runtime.v1.Dapr", "TaskHubSidecarService"):
        assert {(service, name) for name in services.methods(service)} <= served


def named(operations: Iterable[Operation]) -> dict[tuple[str, str], tuple[str, str, str]]:
    """Return name, group and version by verb and path, whatever the path's parameters are called."""
    return {
        (verb, re.sub(r"{\w+", "{", row.path)): (operation.name, operation.group, operation.version)
        for operation in operations
        for row in operation.http
        for verb in row.verbs
    }


def test_a_reserved_place_is_named_as_the_block_that_takes_it(tmp_path: Path) -> None:
    """Logs and rules of `spec.api` have one name for an operation, whether it is offered or not."""
    gate = Gate(enabled=False)
    engines = [
        *ActorsBlock(ActorAccess(gate, None)).operations(),
        *WorkflowBlock(cast("Workflows", None), gate).operations(),
    ]
    served = named([*offered(tmp_path), *engines])
    assert named(reserved.operations([])).items() <= served.items()


SAME_PAGE = {
    "consul": "hashicorp.consul", "local.env": "local", "local.file": "local", "postgres": "postgresql",
    "sqlite3": "sqlite",
}  # fmt: skip
"""Names of components that are told on the page of another."""
LINK = re.compile(r"\]\(([^)#:\s]+)(?:#[^)]*)?\)")


@pytest.mark.parametrize("entry", COMPONENTS, ids=lambda entry: f"{entry.type}/{entry.version}")
def test_every_component_exists_and_its_page_has_every_setting(entry: Entry) -> None:
    """What a family shares may stand on a page that its own refers to."""
    category, _, name = entry.type.partition(".")
    folder = ROOT / "docs/components"
    page = folder / f"{category}.{SAME_PAGE.get(name, name)}".replace(".", "-")
    text = page.with_name(page.name + ".md").read_text()
    text += "".join((folder / link).read_text() for link in LINK.findall(text) if (folder / link).parent == folder)
    settings = [item for item in dataclasses.fields(implementation(entry).Settings) if not item.metadata.get("rest")]
    keys = {item.metadata.get("key") or wire_key(item.name) for item in settings}
    assert {key for key in keys if f"`{key}`" not in text} == set()


BLOCKS = (
    "invocation", "state", "pubsub", "secrets", "bindings", "configuration", "lock", "crypto", "conversation", "actors",
    "workflow-engine", "jobs",
)  # fmt: skip


@pytest.mark.parametrize("block", BLOCKS)
def test_every_building_block_has_a_page_that_the_first_page_names(block: str) -> None:
    assert (ROOT / f"docs/{block}.md").is_file()
    assert f"docs/{block}.md" in (ROOT / "README.md").read_text()


PAGES = [ROOT / name for name in ("README.md", "ARCHITECTURE.md", "CONTRIBUTING.md")] + sorted(
    ROOT.glob("docs/**/*.md")
)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_between_pages_lead_somewhere(page: Path) -> None:
    links = [link for link in LINK.findall(page.read_text()) if not link.startswith("/")]
    assert [link for link in links if not (page.parent / link).exists()] == []


def dependencies() -> list[str]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    rows = [*project["dependencies"], *(row for group in project["optional-dependencies"].values() for row in group)]
    return sorted({re.split(r"[<>=~!;\[ ]", row)[0] for row in rows} - {"pillion"})


@pytest.mark.parametrize("name", dependencies())
def test_every_dependency_has_its_decision_and_bounds(name: str) -> None:
    decided = {page.stem: page.read_text().lower() for page in (ROOT / "docs/decisions").glob("*.md")}
    assert any(name.lower() in text for text in decided.values()), f"docs/decisions says nothing of {name}"
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    rows = [*project["dependencies"], *(row for group in project["optional-dependencies"].values() for row in group)]
    row = next(row for row in rows if re.split(r"[<>=~!;\[ ]", row)[0] == name)
    assert ">=" in row, f"{row} has no lower bound"
    assert "<" in row, f"{row} has no upper bound"


def test_the_project_speaks_of_itself_alone() -> None:
    """No path of one machine, no word of tools it was written with."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False)
    if listed.returncode != 0:
        pytest.skip("not a git checkout")
    for name in listed.stdout.decode().split("\0"):
        path = ROOT / name
        if not name or name == "tests/house/test_house.py" or not path.is_file() or path.stat().st_size > 1 << 20:
            continue
        try:
            text = path.read_text()
        except UnicodeDecodeError:
            continue
        match = FORBIDDEN.search(text)
        assert match is None, f"{name}: {match[0] if match else ''}"


def test_optional_libraries_are_imported_only_with_their_component() -> None:
    """A sidecar without Redis, PostgreSQL and CEL rules never loads their libraries."""
    code = (
        "import sys, pillion.sidecar.lifecycle, pillion.sidecar.main, pillion.sidecar.host\n"
        "heavy = {'redis', 'hiredis', 'asyncpg', 'cel_expr_python', 'click', 'rich', 'grpc', 'sqlite3'}\n"
        "print(sorted(heavy & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
