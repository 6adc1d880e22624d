"""A real domainmgr with virtual machines: boot sectors where that is enough, a Linux where it has to take part."""

from __future__ import annotations

import base64
import os
import signal
from pathlib import Path

import pytest
from domainmgr_device import OTHER, UUID, Device, but, eco
from servers import needs
from vm_images import BOOT_S, ECHO, HALT, MEMORY_KIB, PANIC, SWITCH_OFF, Guest, boot_disk, qemu_img, seed_kvm_answer

from pillar.types.common import UUIDandVersion
from pillar.types.domainmgr import DiskConfig, DomainConfig, DomainStatus
from pillar.types.enums import SwState

pytest_plugins = ("domainmgr_fixtures", "vm_fixtures")
PATIENCE_S = 60.0


@pytest.fixture(autouse=True)
def _qemu(device: Device) -> None:
    needs("qemu-system-x86_64", "qemu-system-x86")
    needs("qemu-img", "qemu-utils")
    seed_kvm_answer(device.where.root)


def vm(device: Device, says: str, then: bytes = HALT, uuid: str = UUID, **disk: object) -> DomainConfig:
    """A machine that boots from one disk of its own."""
    config = eco(device.image(boot_disk(says, then)), uuid, **({"ReadOnly": False} | disk))
    return but(config, Memory=16 * 1024, VCpus=1)


def running(device: Device, uuid: str = UUID) -> DomainStatus:
    return device.until(lambda status: status.State == SwState.RUNNING, "RUNNING", uuid, PATIENCE_S)


def halted(device: Device, uuid: str = UUID) -> DomainStatus:
    return device.until(lambda status: status.State == SwState.HALTED, "HALTED", uuid, PATIENCE_S)


@pytest.mark.timeout(400)  # a guest's kernel boots in three seconds, and in a minute on a busy machine
def test_a_linux_guest_gets_its_user_data_outlives_domainmgr_and_goes_down_in_order(
    device: Device, guest: Guest
) -> None:
    script = b"#!/bin/sh\necho USER-DATA on $(sed -n 's/local-hostname: //p' /seed/meta-data)\n"
    config = DomainConfig(
        UUIDandVersion=UUIDandVersion(UUID=UUID, Version="1"),
        DisplayName="My VM",
        Activate=True,
        AppNum=3,
        Memory=MEMORY_KIB,
        VCpus=1,
        Kernel=str(guest.kernel),
        Ramdisk=str(guest.ramdisk),
        ExtraArgs="quiet",
        CloudInitUserData=base64.b64encode(script).decode(),
    )
    device.want(config)
    device.start("--stop-grace", str(BOOT_S))
    running(device)
    device.says("USER-DATA on my-vm", seconds=BOOT_S)

    device.kill()
    device.start("--stop-grace", str(BOOT_S))
    running(device)
    device.want(but(config, Activate=False))
    down = device.until(lambda status: status.State == SwState.HALTED, "HALTED", seconds=BOOT_S)
    assert down.LastErr == ""
    assert "GUEST-POWERDOWN" in device.output()
    assert device.output().count("GUEST-READY") == 1
    assert device.domains() == []


def test_a_vm_is_adopted_with_its_id_and_one_that_ended_meanwhile_is_told(device: Device) -> None:
    device.want(vm(device, "up"))
    device.want(vm(device, "up", uuid=OTHER))
    device.start()
    before = [running(device, uuid) for uuid in (UUID, OTHER)]
    device.says("up", seconds=PATIENCE_S)
    device.kill()
    os.kill(before[1].DomainId, signal.SIGKILL)
    device.start()
    gone = halted(device, OTHER)
    assert "stopped by itself: QEMU ended without a word" in gone.LastErr
    assert running(device).DomainId == before[0].DomainId
    assert device.domains() == [before[0].DomainId]


def test_the_display_that_was_chosen_is_in_the_status_also_of_an_adopted_vm(device: Device) -> None:
    config = device.want(but(vm(device, "up"), EnableVnc=True))
    device.start("--stop-grace", "0")
    chosen = running(device).VncDisplay
    assert 1 <= chosen <= 99
    device.kill()
    device.start("--stop-grace", "0")
    assert running(device).VncDisplay == chosen
    device.want(but(config, Activate=False))
    halted(device)


@pytest.mark.parametrize(
    ("then", "reason"),
    [(SWITCH_OFF, "the guest switched itself off"), (PANIC, "the guest's kernel panicked")],
    ids=["off", "panic"],
)
def test_a_guest_that_stops_by_itself_is_halted_with_its_reason_and_can_be_started_again(
    device: Device, then: bytes, reason: str
) -> None:
    config = device.want(vm(device, "up", then))
    device.start()
    assert halted(device).LastErr == f"the domain stopped by itself: {reason}"
    device.want(but(config, Activate=False))
    device.until(lambda status: not status.LastErr, "the error to go", seconds=PATIENCE_S)
    better = vm(device, "better")
    device.want(
        but(config, UUIDandVersion=UUIDandVersion(UUID=UUID, Version="2"), DiskConfigList=better.DiskConfigList)
    )
    running(device)
    device.says("better", seconds=PATIENCE_S)


def test_a_preserved_disk_keeps_its_bytes_and_another_starts_from_the_image(device: Device) -> None:
    config = vm(device, "up", Preserve=True)
    extra = DiskConfig(ImageSha256=device.image(bytes(1 << 20)), Format="raw")
    config = device.want(but(config, DiskConfigList=(*(config.DiskConfigList or ()), extra)))
    device.start("--stop-grace", "0.2")
    disks = running(device).DiskStatusList or ()
    device.want(but(config, Activate=False))
    halted(device)
    kept, other = (Path(disk.ActiveFileLocation) for disk in disks)
    assert not other.exists()
    with kept.open("r+b") as file:
        file.seek(600)
        file.write(b"written by the guest")
    device.want(config)
    running(device)
    assert b"written by the guest" in kept.read_bytes()
    assert other.exists()


def test_a_corrupt_image_is_said_and_a_better_one_runs(device: Device) -> None:
    raw, image = device.where.root / "raw", device.where.root / "image.qcow2"
    raw.write_bytes(boot_disk("up"))
    qemu_img("convert", "-O", "qcow2", raw, image)
    whole = image.read_bytes()
    config = but(eco(device.image(whole[:3000]), ReadOnly=False, Format="qcow2"), Memory=16 * 1024, VCpus=1)
    device.want(config)
    device.start()
    failed = device.until(lambda status: status.BootFailed, "BootFailed", seconds=PATIENCE_S)
    assert "corrupt qcow2 image" in failed.LastErr
    better = eco(device.image(whole), version="2", ReadOnly=False, Format="qcow2", Maxsizebytes=4 << 20)
    device.want(but(config, UUIDandVersion=better.UUIDandVersion, DiskConfigList=better.DiskConfigList))
    (disk,) = running(device).DiskStatusList or ()
    assert '"virtual-size": 4194304' in qemu_img("info", "-U", "--output=json", disk.ActiveFileLocation)


def test_more_memory_than_the_machine_has_is_an_error_of_this_app_only(device: Device) -> None:
    device.want(but(vm(device, "up"), Memory=1 << 40))
    device.want(vm(device, "up", uuid=OTHER))
    device.start()
    status = device.until(lambda status: status.BootFailed, "BootFailed", seconds=PATIENCE_S)
    assert "more than this machine has" in status.LastErr
    running(device, OTHER)


def test_each_image_goes_to_the_backend_for_its_kind(device: Device) -> None:
    device.want(vm(device, "up"))
    device.want(eco(device.image("#!/bin/sh\necho a program\nexec sleep 600\n"), OTHER))
    device.start()
    for uuid in (UUID, OTHER):
        running(device, uuid)
    kept = {name: {path.stem for path in (device.where.persist / name).glob("*.lock")} for name in ("qemu", "process")}
    assert kept == {"qemu": {UUID}, "process": {OTHER}}


def test_everything_a_vm_had_is_gone_with_its_configuration(device: Device) -> None:
    device.want(vm(device, "up", ECHO, Preserve=True))
    device.start("--stop-grace", "0.2")
    running(device)
    device.unwant()
    device.until(lambda status: status == DomainStatus(), "the status to go", seconds=PATIENCE_S)
    assert device.domains() == []
    assert [path.name for path in (device.where.persist / "qemu").iterdir()] == ["kvm.json"]
    assert list(device.where.images.iterdir()) == []
