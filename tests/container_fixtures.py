"""The fixtures of the container tests: a registry with two images, and a device with downloader and verifier."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from container_images import ContainerDevice, make_layout
from remote_servers import Registry


@pytest.fixture(scope="module")
def layout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_layout(tmp_path_factory.mktemp("images"))


@pytest.fixture(scope="module")
def registry(layout: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Registry]:
    """Without login and TLS, with both images."""
    server = Registry(tmp_path_factory.mktemp("registry") / "d")
    server.push(layout, "one", "apps/one:v1")
    server.push(layout, "two", "apps/two:v1")
    yield server
    server.close()


@pytest.fixture
def device(root: Path) -> Iterator[ContainerDevice]:
    device = ContainerDevice(root)
    yield device
    device.downloader.kill()
    device.verifier.kill()
