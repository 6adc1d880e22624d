"""`wired`, a device in a lab for all tests of a module: `pytest_plugins = ("wired_fixtures",)`."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from conftest import short_root
from containers import needs_runc
from netlab import NetLab
from servers import needs
from wired_device import WiredDevice


@pytest.fixture(scope="module")
def wired(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[WiredDevice]:
    """Without a config. A module's `OPTIONS` are further ones of `pillar up`."""
    needs_runc()
    needs("nft", "nftables")
    needs("udhcpc", "udhcpc")
    needs("qemu-system-x86_64", "qemu-system-x86")
    options = getattr(request.module, "OPTIONS", ())
    directory: Path = tmp_path_factory.mktemp("netlab")
    with short_root() as root, NetLab(directory) as lab, WiredDevice(lab, root, *options) as device:
        yield device
