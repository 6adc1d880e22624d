"""A domainmgr's device as a fixture: `pytest_plugins = ("domainmgr_fixtures",)`."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from domainmgr_device import Device

from pillar.hypervisors import _cgroup


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    device = Device(tmp_path)
    yield device
    if device.manager is not None:
        device.kill()
    for pid in device.domains():
        os.kill(pid, signal.SIGKILL)
    for group in _cgroup.names(_cgroup.prefix(tmp_path, "qemu")):
        _cgroup.remove(group)
