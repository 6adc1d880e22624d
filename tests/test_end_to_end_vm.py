"""The whole device with a virtual machine: from a device config to RUNNING, through kills, and back."""

from __future__ import annotations

import hashlib
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from device import Device
from support import wait_for
from vm_images import BOOT_S, Guest, seed_kvm_answer

from pillar.demo import device as demo
from pillar.demo.eco import Image
from pillar.demo.images import ImageServer
from pillar.types.enums import SwState

pytest_plugins = ("vm_fixtures",)
SCRIPT = b"#!/bin/sh\necho the app is up\n"


@pytest.fixture
def server() -> Iterator[ImageServer]:
    server = ImageServer()
    yield server
    server.close()


@pytest.fixture
def device(root: Path, guest: Guest) -> Iterator[Device]:
    seed_kvm_answer(root)
    with Device(root) as device:
        yield device


def image(path: Path) -> Image:
    content = path.read_bytes()
    return Image(path.name, content, hashlib.sha256(content).hexdigest())


def vm_config(server: ImageServer, guest: Guest) -> tuple[dict[str, Any], str]:
    """A config with one VM that is on no network, and the app's UUID."""
    kernel, ramdisk = image(guest.kernel), image(guest.ramdisk)
    server.images |= {kernel.name: kernel, ramdisk.name: ramdisk}
    app = str(uuid.uuid4())
    config = demo.vm_config(kernel, ramdisk, server.url, app, user_data=SCRIPT)
    config["apps"][0]["interfaces"] = []
    return config, app


def says(device: Device, app: str, text: str, count: int = 1) -> None:
    log = device.where.log(app)
    wait_for(lambda: log.exists() and log.read_bytes().count(text.encode()) >= count, f"{text!r} in {log}", BOOT_S)


@pytest.mark.timeout(400)  # a guest's kernel boots in three seconds, and in a minute on a busy machine
def test_a_vm_goes_from_config_to_running_survives_domainmgr_and_is_undeployed(
    device: Device, server: ImageServer, guest: Guest
) -> None:
    config, app = vm_config(server, guest)
    device.deploy(config)
    device.wait_running(app, seconds=BOOT_S)
    before = device.domain(app).DomainId
    device.kill("domainmgr")
    device.wait_back("domainmgr")
    device.wait_running(app)
    assert device.domain(app).DomainId == before
    says(device, app, "the app is up")
    assert device.app(app).State == SwState.RUNNING

    device.deploy({**config, "apps": []})
    device.wait_gone(app, seconds=BOOT_S)  # a guest shuts down no faster than it boots
    assert not list((device.where.persist / "qemu").glob("*.lock"))
