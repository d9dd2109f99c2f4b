"""Real MCP servers for tests: `mcp_program.py` as a process."""

from __future__ import annotations

import json
import socket
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from servers import Server

if TYPE_CHECKING:
    from collections.abc import Sequence


class McpProcess(Server):
    """A server over HTTP or SSE on a free port; `arguments` are further words for the program."""

    def __init__(self, transport: str = "http", *arguments: str) -> None:
        super().__init__()
        self.transport, self.arguments = transport, arguments
        self.url = f"http://{self.address}/{'mcp' if transport == 'http' else 'sse'}"

    def command(self) -> Sequence[str]:
        return [*program(self.folder, self.transport, str(self.port)), *self.arguments]

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex((self.host, self.port)) == 0

    def journal(self) -> list[dict[str, Any]]:
        return journal(self.folder)


def program(folder: Path, *arguments: str) -> list[str]:
    """The command of the program."""
    return [sys.executable, str(Path(__file__).with_name("mcp_program.py")), str(folder), *arguments]


def journal(folder: Path) -> list[dict[str, Any]]:
    """What the program has written down."""
    path = folder / "journal"
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def document(name: str, endpoint: object, **spec: object) -> str:
    """An MCPServer; JSON is YAML."""
    made = {
        "apiVersion": "dapr.io/v1alpha1", "kind": "MCPServer", "metadata": {"name": name},
        "spec": {"endpoint": endpoint, **spec},
    }  # fmt: skip
    return json.dumps(made, indent=1)
