"""Resources from directories (spec `runtime.md` 2.1).

Knows: which files and documents count, and which mistake ends the load, is told, or passes. Never knows: what the
resources do. One bad document harms itself alone; what an operator should hear is in `Resources.warnings`.
"""

from __future__ import annotations

import difflib
import os
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from pillion.errors import ConfigError
from pillion.kinds.fields import Fields
from pillion.kinds.resources import (
    KINDS,
    ComponentResource,
    FaultInjectionResource,
    HTTPEndpointResource,
    MCPServerResource,
    ResiliencyResource,
    Resource,
    SubscriptionResource,
    WorkflowAccessPolicyResource,
)
from pillion.records import record
from pillion.wire import yamltext

if TYPE_CHECKING:
    from collections.abc import Iterator, Sequence

MAX_FILE = 64 << 20
"""Bytes of one file; a longer one is no resource file but an accident."""
R = TypeVar("R", bound=Resource)


class Unreadable(ConfigError):
    """A directory of resources is not there, or cannot be listed."""


@record
class Resources:
    """All that one load found for one application, in the order of directories, files and documents."""

    components: tuple[ComponentResource, ...] = ()
    subscriptions: tuple[SubscriptionResource, ...] = ()
    http_endpoints: tuple[HTTPEndpointResource, ...] = ()
    resiliencies: tuple[ResiliencyResource, ...] = ()
    fault_injections: tuple[FaultInjectionResource, ...] = ()
    mcp_servers: tuple[MCPServerResource, ...] = ()
    workflow_access_policies: tuple[WorkflowAccessPolicyResource, ...] = ()
    warnings: tuple[str, ...] = ()


def load(directories: Sequence[str], *, app_id: str, namespace: str = "") -> Resources:
    """Read every resource meant for `app_id`. `namespace` is the raw NAMESPACE.

    Raises `Unreadable` for a missing directory, and `ConfigError` for two Components, MCPServers or
    WorkflowAccessPolicies of one name. Blocks: reads files.
    """
    found, warnings = read(directories)

    def chosen(kind: type[R]) -> list[R]:
        return [resource for resource in found if isinstance(resource, kind)]

    try:
        endpoints = _unique(chosen(HTTPEndpointResource), app_id, namespace)
    except ConfigError as error:
        warnings.append(f"no HTTPEndpoint is loaded: {error}")
        endpoints = []
    return Resources(
        components=tuple(_named(_unique(chosen(ComponentResource), app_id, namespace), warnings)),
        subscriptions=tuple(_last_of_name(chosen(SubscriptionResource), app_id)),
        http_endpoints=tuple(_named(endpoints, warnings)),
        resiliencies=tuple(r for r in chosen(ResiliencyResource) if r.in_scope(app_id)),
        fault_injections=tuple(r for r in chosen(FaultInjectionResource) if r.in_scope(app_id)),
        mcp_servers=tuple(_named(_unique(chosen(MCPServerResource), app_id, namespace), warnings)),
        workflow_access_policies=tuple(_unique(chosen(WorkflowAccessPolicyResource), app_id, namespace)),
        warnings=tuple(warnings),
    )


def read(directories: Sequence[str]) -> tuple[list[Resource], list[str]]:
    """Read every resource, whoever it is meant for; return them and what to warn of. Raises `Unreadable`. Blocks."""
    warnings: list[str] = []
    return list(_documents(directories, warnings)), warnings


def _unique(resources: Sequence[R], app_id: str, namespace: str) -> list[R]:
    """Drop other namespaces, refuse a second one of an accepted name, drop those scoped to others; in this order."""
    accepted: dict[str, R] = {}
    for resource in resources:
        if namespace and resource.namespace and resource.namespace != namespace:
            continue
        if resource.name in accepted:
            kind = type(resource).__name__.removesuffix("Resource")
            raise ConfigError(
                f"duplicate definition of {kind} name {resource.name} (also at {accepted[resource.name].where})",
                where=resource.where,
                mend="rename or remove one of them",
            )
        if resource.in_scope(app_id):
            accepted[resource.name] = resource
    return list(accepted.values())


def _last_of_name(resources: Sequence[SubscriptionResource], app_id: str) -> list[SubscriptionResource]:
    """Subscriptions know neither namespaces nor duplicates: the later of one name takes the earlier one's place."""
    named: dict[str, SubscriptionResource] = {}
    for resource in resources:
        if resource.in_scope(app_id):
            named[resource.name] = resource
    return list(named.values())


def _named(resources: Sequence[R], warnings: list[str]) -> list[R]:
    warnings.extend(
        f"{resource.where}: metadata.name: is missing; ignored" for resource in resources if not resource.name
    )
    return [resource for resource in resources if resource.name]


def _documents(directories: Sequence[str], warnings: list[str]) -> Iterator[Resource]:
    for directory in directories:
        for path in _files(directory, warnings):
            try:
                text = _text(path)
            except (OSError, ValueError) as error:
                warnings.append(f"{path}: cannot be read: {error}")
                continue
            yield from _of_file(str(path), text, warnings)


def _files(directory: str, warnings: list[str]) -> list[Path]:
    try:
        names = sorted(entry.name for entry in os.scandir(directory) if entry.is_file())
    except OSError as error:
        mend = "create the directory or correct --resources-path"
        raise Unreadable(f"cannot be read: {error.strerror}", where=directory, mend=mend) from error
    files = []
    for name in names:
        if name.lower().endswith((".yaml", ".yml")):
            files.append(Path(directory, name))
        elif not name.endswith(".py"):  # those belong to Python components
            warnings.append(f"{Path(directory, name)}: is not a .yaml or .yml file; ignored")
    return files


def _text(path: Path) -> str:
    if path.stat().st_size > MAX_FILE:
        raise ValueError(f"longer than {MAX_FILE >> 20} MiB")
    return path.read_text(encoding="utf-8-sig")


def _of_file(source: str, text: str, warnings: list[str]) -> Iterator[Resource]:
    first = True
    for document, line in yamltext.split(text):
        try:
            node = yamltext.parse(document, source=source, first_line=line)
            if node is None or node.value is None:
                continue
            resource = _resource(node, warnings)
        except yamltext.YamlError as error:
            warnings.append(f"{source}:{error.line}: {error}; the document is ignored")
        except ConfigError as error:
            warnings.append(f"{error}; the document is ignored")
        else:
            if isinstance(resource, ResiliencyResource) and not first:
                warnings.append(f"{resource.where}: a Resiliency must be the first document of its file; ignored")
            elif resource is not None:
                yield resource
        first = False


def _resource(node: yamltext.Node, warnings: list[str]) -> Resource | None:
    fields = Fields(node, notes=[])
    version, kind = fields.text("apiVersion"), fields.text("kind")
    read = KINDS.get((version, kind))
    if kind == "Resiliency":
        read = KINDS["dapr.io/v1alpha1", kind]  # its reader never looked at the version
    if read is None:
        if version.startswith(("dapr.io/", "pillion.dev/")) or not version:
            warnings.append(f"{node.source}:{node.line}: {_foreign(version, kind)}; the document is ignored")
        return None
    resource = read(fields)
    warnings.extend(fields.notes)
    return resource


def _foreign(version: str, kind: str) -> str:
    if kind == "Configuration":
        return "a Configuration is not read from here (name its file with --config)"
    near = difflib.get_close_matches(f"{version} {kind}", [" ".join(pair) for pair in KINDS], n=1, cutoff=0.6)
    meant = f" (did you mean {near[0]}?)" if near else ""
    return f"no resource: apiVersion {version!r}, kind {kind!r}{meant}"
