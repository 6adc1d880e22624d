"""The guest of vm_images and the machine of vm_machine as fixtures: `pytest_plugins = ("vm_fixtures",)`."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from servers import needs
from vm_images import Guest
from vm_machine import Machine

from pillar.demo import guest as demo_guest


@pytest.fixture(scope="session")
def guest(tmp_path_factory: pytest.TempPathFactory) -> Guest:
    needs("qemu-system-x86_64", "qemu-system-x86")
    needs("qemu-img", "qemu-utils")
    needs("busybox", "busybox-static")
    try:
        kernel = demo_guest.kernel(demo_guest.default_cache())
        ramdisk = demo_guest.initramfs(kernel)
    except demo_guest.GuestError as error:
        if os.environ.get("CI") == "true":
            pytest.fail(str(error))
        pytest.skip(str(error))
    path = tmp_path_factory.mktemp("guest") / "initrd"
    path.write_bytes(ramdisk)
    return Guest(kernel.vmlinuz, path)


@pytest.fixture
def machine(root: Path) -> Iterator[Machine]:
    machine = Machine(root)
    yield machine
    machine.end()
