"""A domainmgr's device as a fixture: `pytest_plugins = ("domainmgr_fixtures",)`."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from domainmgr_device import Device


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    device = Device(tmp_path)
    yield device
    if device.manager is not None:
        device.kill()
    for pid in device.domains():
        os.kill(pid, signal.SIGKILL)
