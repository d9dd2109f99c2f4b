"""What the pages show works: YAML that can be copied is YAML that can be read."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

import pillion
from pillion.kinds.component import decode
from pillion.sidecar import configuration, load
from pillion.sidecar.catalogue import Catalogue, implementation
from pillion.sidecar.environment import Environment

ROOT = Path(pillion.__file__).parents[2]
BLOCK = re.compile(r"^```ya?ml\n(.*?)^```", re.DOTALL | re.MULTILINE)
BLOCKS = [
    pytest.param(text, id=f"{page.relative_to(ROOT)}-{number}")
    for page in [ROOT / "README.md", *sorted(ROOT.glob("docs/**/*.md"))]
    for number, text in enumerate(BLOCK.findall(page.read_text()))
]
SCOPED = re.compile(r"^scopes:.*$", re.MULTILINE)
CONFIGURATION = re.compile(r"^kind: Configuration$", re.MULTILINE)


@pytest.mark.parametrize("text", BLOCKS)
def test_yaml_of_a_page_can_be_read(text: str, tmp_path: Path) -> None:
    """Whole resources are loaded, without a warning, and their metadata fit the component."""
    documents = [document for document in yaml.safe_load_all(text) if document is not None]
    assert documents
    kinds = {str(document.get("kind", "")) for document in documents if isinstance(document, dict)}
    if "Configuration" in kinds:
        for number, part in enumerate(re.split(r"^---.*\n", text, flags=re.MULTILINE)):
            path = tmp_path / f"{number}.yaml"
            path.write_text(part)
            if CONFIGURATION.search(part):
                assert configuration.read([str(path)], Environment()).warnings == ()
        return
    if kinds <= {""}:
        return  # a part of one
    (tmp_path / "page.yaml").write_text(SCOPED.sub("", text))
    found = load.load([str(tmp_path)], app_id="orders")
    assert found.warnings == ()
    for component in found.components:
        entry = Catalogue.installed().find(component.type, component.version)
        if entry is not None:  # else one of the reader's own
            metadata = {item.name: item.value or "1" for item in component.metadata}
            decode(implementation(entry).Settings, metadata, where=component.name)
