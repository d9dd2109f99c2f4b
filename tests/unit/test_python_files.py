"""Python components beside the YAML: which class is taken, and how mistakes are told."""

from __future__ import annotations

import os
import sys
import textwrap
from typing import TYPE_CHECKING, Any

import pytest

from pillion.errors import ConfigError
from pillion.kinds.component import Context
from pillion.kinds.resources import ComponentResource
from pillion.sidecar import python_files

if TYPE_CHECKING:
    from pathlib import Path

BASE = """
    class _Base:
        def __init__(self, settings, context): self.settings = settings
        async def open(self): ...
        async def ping(self): ...
        async def close(self): ...
"""
LOCK = """
    class Lock(_Base):
        async def try_lock(self, key, owner, expiry_s): return True
        async def unlock(self, key, owner): return 0
"""


def made(folder: Path, code: str, type: str = "lock.python", **metadata: str) -> Any:
    (folder / "c.py").write_text(textwrap.dedent(code))
    resource = ComponentResource(name="c", type=type, version="v1", where=f"{folder}/c.yaml:3")
    return python_files.construct(resource, {"pillion.file": "c.py", **metadata}, Context("c"))


def mistake(folder: Path, code: str, type: str = "lock.python", **metadata: str) -> str:
    with pytest.raises(ConfigError) as caught:
        made(folder, code, type, **metadata)
    return str(caught.value).replace(str(folder), "")


def test_the_class_that_fits_is_taken(tmp_path: Path) -> None:
    """What does not fit, is private or was imported does not count."""
    other = "\nfrom collections import OrderedDict\nclass Other: pass\n"
    found = made(tmp_path, textwrap.dedent(BASE + LOCK) + other, colour="blue")
    assert type(found).__name__ == "Lock"
    assert found.settings == {"colour": "blue"}
    assert sys.modules[type(found).__module__].__file__ == str(tmp_path / "c.py")


def test_a_changed_file_is_executed_anew(tmp_path: Path) -> None:
    before = made(tmp_path, BASE + LOCK)
    after = made(tmp_path, BASE + LOCK.replace("Lock", "Bolt"))
    assert (type(before).__name__, type(after).__name__) == ("Lock", "Bolt")
    good = sys.modules[type(after).__module__]
    assert mistake(tmp_path, "1 / 0")
    assert sys.modules[type(after).__module__] is good


def test_one_of_several(tmp_path: Path) -> None:
    two = BASE + LOCK + LOCK.replace("Lock", "Bolt")
    assert type(made(tmp_path, two, **{"pillion.class": "Bolt"})).__name__ == "Bolt"
    several = "/c.yaml:3: /c.py has several classes that fit: Lock, Bolt (name one with pillion.class)"
    assert mistake(tmp_path, two) == several
    assert mistake(tmp_path, two, **{"pillion.class": "Nut"}) == "/c.yaml:3: /c.py has no class 'Nut'"
    assert mistake(tmp_path, two, **{"pillion.class": "_Base"}) == (
        "/c.py:2: _Base is no LockStore: it has no try_lock, unlock"
    )


def test_settings_are_decoded(tmp_path: Path) -> None:
    code = f"""
    from __future__ import annotations
    from dataclasses import dataclass
    from pillion.kinds.component import setting
    {BASE}
    @dataclass(frozen=True)
    class Given:
        most_locks: int
        eager: bool = False
    {LOCK}
        Settings = Given
    """
    code = "\n".join(line.removeprefix("    ") for line in code.splitlines())
    found = made(tmp_path, code, mostLocks="3", EAGER="yes")
    assert (found.settings.most_locks, found.settings.eager) == (3, True)
    assert mistake(tmp_path, code) == "/c.yaml:3: metadata field 'mostLocks' is missing"


@pytest.mark.parametrize(
    ("code", "says"),
    [
        ("x = 1\nclass A(:\n", "/c.py:2: SyntaxError: invalid syntax"),
        ("x = 1\nimport no_such_module", "/c.py:2: ModuleNotFoundError: No module named 'no_such_module'"),
        ("def f():\n    return 1 / 0\n\nf()", "/c.py:2: ZeroDivisionError: division by zero"),
        ("import sys\nsys.exit(3)", "/c.py:2: SystemExit: 3"),
        ("x = 1", "/c.py: no class here is a LockStore"),
        ("\nclass A:\n    pass", "/c.py:2: A is no LockStore: it has no try_lock, unlock, open, ping, close"),
        (BASE + LOCK.replace("_Base", "_Base, int"), "/c.py:8: TypeError:"),
        (BASE + LOCK + "\n        def __init__(self): ...", "/c.py:8: TypeError: Lock.__init__() takes 1 positional"),
        (BASE + LOCK + "\n        def __init__(self, s, c):\n            s['x']", "/c.py:13: KeyError: 'x'"),
        ("\0", "/c.py"),
    ],
    ids=["syntax", "import", "raise", "exit", "empty", "unfit", "metaclass", "arguments", "constructor", "nul"],
)
def test_mistakes_are_told_with_file_and_line(tmp_path: Path, code: str, says: str) -> None:
    assert mistake(tmp_path, code).startswith(says)


def test_data_members_may_come_with_the_constructor_but_must_come(tmp_path: Path) -> None:
    """`operations` and `features` are asked of the object, methods of the class."""
    code = BASE + "\n    class Out(_Base):\n        async def invoke(self, request): ...\n"
    says = mistake(tmp_path, code, "bindings.python")
    assert says == "/c.py:8: Out is no OutputBinding: it has no operations"
    code += "        def __init__(self, settings, context): self.operations = ('x',)\n"
    assert made(tmp_path, code, "bindings.python").operations == ("x",)


def test_middleware_must_be_callable(tmp_path: Path) -> None:
    """Every class can be called; its objects only when it says so."""
    assert mistake(tmp_path, BASE + "\n    class M(_Base): pass", "middleware.http.python") == (
        "/c.py:8: M is no Middleware: it has no __call__"
    )
    code = BASE + "\n    class M(_Base):\n        async def __call__(self, request, next): return await next(request)"
    assert callable(made(tmp_path, code, "middleware.http.python"))


@pytest.mark.parametrize(
    ("file", "says"),
    [
        ("", "metadata field 'pillion.file' is missing (name the .py file)"),
        ("../outside.py", "pillion.file '../outside.py' is outside the directory of the resource"),
        ("link.py", "pillion.file 'link.py' is outside the directory of the resource"),
        ("none.py", "pillion.file 'none.py' cannot be read: No such file or directory"),
        ("sub", "pillion.file 'sub' is not a .py file"),
        ("c.txt", "pillion.file 'c.txt' is not a .py file"),
        ("a\0b", "pillion.file 'a\\x00b' cannot be read: embedded null"),
    ],
)
def test_the_file_stays_inside(tmp_path: Path, file: str, says: str) -> None:
    """Nothing outside the directory of the resource is executed."""
    home = tmp_path / "resources"
    (home / "sub").mkdir(parents=True)
    (tmp_path / "outside.py").write_text("raise SystemExit('executed')")
    os.symlink("../outside.py", home / "link.py")
    (home / "c.txt").touch()
    resource = ComponentResource(name="c", type="lock.python", version="v1", where=f"{home}/c.yaml:3")
    with pytest.raises(ConfigError) as caught:
        python_files.construct(resource, {"pillion.file": file}, Context("c"))
    assert str(caught.value).startswith(f"{home}/c.yaml:3: {says}")


def test_a_resource_from_elsewhere_has_no_directory() -> None:
    resource = ComponentResource(name="c", type="lock.python", version="v1")
    with pytest.raises(ConfigError, match="is for resources that come from a directory"):
        python_files.construct(resource, {"pillion.file": "c.py"}, Context("c"))


@pytest.mark.parametrize("type", python_files.KINDS)
def test_every_kind_tells_what_a_class_lacks(tmp_path: Path, type: str) -> None:
    """The members come from the Protocols: a kind that gains a method asks for it here too."""
    says = mistake(tmp_path, BASE + "\n    class Mine(_Base): pass", type)
    assert says.startswith("/c.py:8: Mine is no ")
    names = says.partition("it has no ")[2].split(", ")
    code = BASE + "\n    class Mine(_Base):\n        operations, features, max_operations = ('x',), frozenset(), 0\n"
    code += "".join(f"        async def {name}(self, *_, **__): ...\n" for name in names)
    assert made(tmp_path, code, type)
