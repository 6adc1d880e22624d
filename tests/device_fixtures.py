"""A whole device and a server for its images as fixtures: `pytest_plugins = ("device_fixtures",)`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from device import Device

from pillar.demo.images import ImageServer


@pytest.fixture
def server() -> Iterator[ImageServer]:
    server = ImageServer()
    yield server
    server.close()


@pytest.fixture
def device(root: Path) -> Iterator[Device]:
    with Device(root) as device:
        yield device
