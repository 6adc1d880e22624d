"""The guest of vm_images as a fixture: `pytest_plugins = ("vm_fixtures",)`."""

from __future__ import annotations

import os

import pytest
from servers import needs
from vm_images import Guest

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
