"""Components written as a `.py` file beside the YAML (docs/python-components.md).

Knows: which file a resource means, which class in it, and how mistakes are told with file and line. Never knows: what
the class does. The file is code that runs with all the rights of the sidecar: it is read from the directory of the
resource and from nowhere else, so that who may not write resources may not bring code either.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import sys
import types
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pillion.errors import ComponentError, ConfigError
from pillion.kinds.bindings import InputBinding, OutputBinding
from pillion.kinds.component import decode
from pillion.kinds.configuration import ConfigurationStore
from pillion.kinds.conversation import ConversationModel
from pillion.kinds.crypto import CryptoProvider
from pillion.kinds.lock import LockStore
from pillion.kinds.pubsub import PubSub
from pillion.kinds.secrets import SecretStore
from pillion.kinds.state import StateStore
from pillion.net.middleware import Middleware
from pillion.records import record

if TYPE_CHECKING:
    from collections.abc import Mapping

    from pillion.kinds.component import Context
    from pillion.kinds.resources import ComponentResource

FILE, CLASS = "pillion.file", "pillion.class"
MAX_FILE = 4 << 20
"""Bytes of one file of code."""

KINDS: Mapping[str, tuple[type, ...]] = {
    "state.python": (StateStore,),
    "pubsub.python": (PubSub,),
    "bindings.python": (OutputBinding, InputBinding),
    "secretstores.python": (SecretStore,),
    "configuration.python": (ConfigurationStore,),
    "crypto.python": (CryptoProvider,),
    "lock.python": (LockStore,),
    "conversation.python": (ConversationModel,),
    "middleware.http.python": (Middleware,),
}
"""Component types, and the Protocols of which their class satisfies one at least."""


@record
class _Source:
    """A file that was read. `digest` tells this component's use of it from others."""

    path: Path
    tree: ast.Module
    digest: str

    def at(self, name: str) -> str:
        """Return `file:line` of a class, the file alone for one that came by import."""
        lines = [node.lineno for node in self.tree.body if isinstance(node, ast.ClassDef) and node.name == name]
        return f"{self.path}:{lines[-1]}" if lines else str(self.path)


def means(resource: ComponentResource) -> bool:
    """Whether the resource's type is one of those whose class is in a file."""
    return resource.type.lower() in KINDS and resource.version.lower() in ("", "v0", "v1")


def construct(resource: ComponentResource, metadata: Mapping[str, str], context: Context) -> Any:
    """Run the file and return the component, not opened. Raises `ConfigError` naming file and line.

    A class with `Settings` gets them, decoded from the metadata; one without gets the metadata themselves.
    """
    kinds = KINDS[resource.type.lower()]
    folded = {key.lower(): value for key, value in metadata.items()}
    rest = {key: value for key, value in metadata.items() if key.lower() not in (FILE, CLASS)}
    path = _path(resource, folded.get(FILE, ""))
    source = _read(path, resource)
    made = _chosen(_run(source, resource), source, kinds, folded.get(CLASS, ""), resource)
    settings = decode(made.Settings, rest, where=resource.where) if hasattr(made, "Settings") else rest
    try:
        component = made(settings, context)
    except (ConfigError, ComponentError):
        raise
    except Exception as error:
        raise ConfigError(_told(error), where=_place(error, source, source.at(made.__name__))) from error
    if not any(_lacks(component, kind, instance=True) == [] for kind in kinds):
        raise _unfit(made, component, kinds, source.at(made.__name__), instance=True)
    return component


def _path(resource: ComponentResource, name: str) -> Path:
    if not name:
        raise ConfigError(f"metadata field {FILE!r} is missing", where=resource.where, mend="name the .py file")
    home = Path(resource.where.rpartition(":")[0]).parent
    if not resource.where or not home.is_dir():
        raise ConfigError(f"{FILE} is for resources that come from a directory", where=resource.where)
    # Mounted volumes are full of links: what counts is where both end.
    try:
        path, home = Path(home, name).resolve(strict=True), home.resolve(strict=True)
    except (OSError, RuntimeError, ValueError) as error:
        what = getattr(error, "strerror", None) or str(error)
        raise ConfigError(f"{FILE} {name!r} cannot be read: {what}", where=resource.where) from error
    if not path.is_relative_to(home):
        mend = f"put it into {home}"
        raise ConfigError(f"{FILE} {name!r} is outside the directory of the resource", where=resource.where, mend=mend)
    if not path.is_file() or path.suffix != ".py":
        raise ConfigError(f"{FILE} {name!r} is not a .py file", where=resource.where)
    return path


def _read(path: Path, resource: ComponentResource) -> _Source:
    try:
        with path.open("rb") as file:
            text = file.read(MAX_FILE + 1)
    except OSError as error:
        raise ConfigError(f"{path} cannot be read: {error.strerror}", where=resource.where) from error
    if len(text) > MAX_FILE:
        raise ConfigError(f"{path} is longer than {MAX_FILE >> 20} MiB", where=resource.where)
    try:
        tree = ast.parse(text, str(path))
    except SyntaxError as error:
        raise ConfigError(f"SyntaxError: {error.msg}", where=f"{path}:{error.lineno or 1}") from error
    except (ValueError, RecursionError, MemoryError) as error:
        raise ConfigError(f"no Python: {_told(error)}", where=str(path)) from error
    return _Source(path, tree, hashlib.sha256(f"{path}\0{resource.name}".encode()).hexdigest()[:16])


def _run(source: _Source, resource: ComponentResource) -> types.ModuleType:
    """Execute the file as a module of its own for this component; a changed file is executed anew.

    Without the import system's cache: compiled files in a directory of resources would be in everybody's way.
    """
    name = f"pillion_file_{source.digest}"
    module = types.ModuleType(name, f"The file of component {resource.name}.")
    module.__file__ = str(source.path)
    before = sys.modules.get(name)
    sys.modules[name] = module  # dataclasses and type hints look their module up
    try:
        exec(compile(source.tree, str(source.path), "exec"), vars(module))
    except BaseException as error:
        if before is None:
            del sys.modules[name]
        else:
            sys.modules[name] = before
        if isinstance(error, Exception | SystemExit):
            raise ConfigError(_told(error), where=_place(error, source, str(source.path))) from error
        raise
    return module


def _chosen(
    module: types.ModuleType, source: _Source, kinds: tuple[type, ...], name: str, resource: ComponentResource
) -> Any:
    """Return the class called `name`, or the only one of the file that has the methods of the kind."""
    if name:
        found = getattr(module, name, None)
        if not isinstance(found, type):
            raise ConfigError(f"{source.path} has no class {name!r}", where=resource.where)
        if not any(_lacks(found, kind) == [] for kind in kinds):
            raise _unfit(found, found, kinds, source.at(name))
        return found
    own = [
        value
        for key, value in vars(module).items()
        if isinstance(value, type) and value.__module__ == module.__name__ and not key.startswith("_")
    ]
    fit = [one for one in own if any(_lacks(one, kind) == [] for kind in kinds)]
    if len(fit) == 1:
        return fit[0]
    if fit:
        names = ", ".join(one.__name__ for one in fit)
        raise ConfigError(f"{source.path} has several classes that fit: {names}", where=resource.where,
                          mend=f"name one with {CLASS}")  # fmt: skip
    nearest = min(own, key=lambda one: min(len(_lacks(one, kind)) for kind in kinds), default=None)
    if nearest is None:
        wanted = " or ".join(kind.__name__ for kind in kinds)
        raise ConfigError(f"no class here is a {wanted}", where=str(source.path))
    raise _unfit(nearest, nearest, kinds, source.at(nearest.__name__))


def _lacks(value: Any, kind: type, *, instance: bool = False) -> list[str]:
    """Return the members of a Protocol that `value` has not. A class need not have its data members yet."""
    missing = []
    for base in kind.__mro__:
        if not getattr(base, "_is_protocol", False):
            continue
        methods = [key for key, member in vars(base).items() if isinstance(member, types.FunctionType)]
        missing += [
            key for key in methods
            if (not key.startswith("_") or key == "__call__") and not _has_method(value, key, instance=instance)
        ]  # fmt: skip
        if instance:
            missing += [key for key in inspect.get_annotations(base) if not hasattr(value, key)]
    return missing


def _has_method(value: Any, key: str, *, instance: bool) -> bool:
    # `__call__` of a class is found on its metaclass too: every class has one.
    holder = type(value) if instance else value
    if key == "__call__":
        return any(key in vars(base) for base in holder.__mro__)
    return callable(getattr(value, key, None))


def _unfit(made: type, value: Any, kinds: tuple[type, ...], where: str, *, instance: bool = False) -> ConfigError:
    kind, missing = min(
        ((kind, _lacks(value, kind, instance=instance)) for kind in kinds), key=lambda pair: len(pair[1])
    )
    return ConfigError(f"{made.__name__} is no {kind.__name__}: it has no {', '.join(missing)}", where=where)


def _told(error: BaseException) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__


def _place(error: BaseException, source: _Source, default: str) -> str:
    """Return `file:line` of the innermost frame that is in the file."""
    place, trace = default, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == str(source.path):
            place = f"{source.path}:{trace.tb_lineno}"
        trace = trace.tb_next
    return place
