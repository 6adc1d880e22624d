"""The fixtures of `servers`, apart so that pytest can load them as a plugin."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from servers import FaultServer, Nginx


@pytest.fixture
def fault_server() -> Iterator[FaultServer]:
    server = FaultServer()
    yield server
    server.close()


@pytest.fixture
def nginx(tmp_path: Path) -> Iterator[Callable[..., Nginx]]:
    """Start an nginx: nginx(extra="...", tls=(certificate, key)); it ends with the test."""
    servers: list[Nginx] = []

    def start(**arguments: Any) -> Nginx:
        directory = tmp_path / f"nginx{len(servers)}"
        directory.mkdir()
        servers.append(Nginx(directory, **arguments))
        return servers[-1]

    yield start
    for server in servers:
        server.close()
