"""A real domainmgr and a real QEMU with adapters of a recorded machine, which no test machine has."""

from __future__ import annotations

import os
import shutil
import signal
import stat
from pathlib import Path

import pytest
import recorded_hardware
from domainmgr_device import OTHER, UUID, Device, but, eco
from recorded_hardware import machine, snapshot
from servers import needs
from support import wait_for
from vm_images import HALT, boot_disk, seed_kvm_answer

from pillar.hardware import Hardware
from pillar.types.adapters import (
    AssignableAdapters,
    IoBundle,
    PhysicalAddress,
    PhysicalIOAdapter,
    PhysicalIOAdapterList,
)
from pillar.types.common import IoAdapter
from pillar.types.domainmgr import DomainConfig, DomainStatus
from pillar.types.enums import PhyIoType, SwState

pytest_plugins = ("domainmgr_fixtures",)
PATIENCE_S = 60.0
CARD = ("0000:01:00.0", "0000:01:00.1")
# QEMU as this machine would have it that has the devices: the guest has something else in each one's place.
STAND_IN = """\
#!/bin/sh
printf '%%s\\n' "$@" >arguments
for word; do
    shift
    case $word in
    vfio-pci,*) set -- "$@" virtio-rng-pci ;;
    *) set -- "$@" "$word" ;;
    esac
done
exec %s "$@"
"""


@pytest.fixture(autouse=True)
def _qemu(device: Device) -> None:
    needs("qemu-system-x86_64", "qemu-system-x86")
    needs("qemu-img", "qemu-utils")
    seed_kvm_answer(device.where.root)
    device.program = [recorded_hardware.__file__]


@pytest.fixture
def _passing_qemu(device: Device, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in = tmp_path / "bin" / "qemu-system-x86_64"
    stand_in.parent.mkdir()
    stand_in.write_text(STAND_IN % shutil.which("qemu-system-x86_64"))
    stand_in.chmod(stat.S_IRWXU)
    monkeypatch.setenv("PATH", f"{stand_in.parent}:{os.environ['PATH']}")
    seed_kvm_answer(device.where.root)


def adapter(label: str, group: str, **address: str) -> PhysicalIOAdapter:
    return PhysicalIOAdapter(Ptype=PhyIoType.ETH, Phylabel=label, Assigngrp=group, Phyaddr=PhysicalAddress(**address))


LISTED = (
    adapter("left", "card", PciLong=CARD[0]),
    adapter("right", "card", Ifname="eth3"),
    adapter("keyboard", "input", UnknownType="1:2"),
)


def box(device: Device, name: str = "q35", adapters: tuple[PhysicalIOAdapter, ...] = LISTED) -> Path:
    """The recorded machine that this device is, with what the controller lists."""
    device.write(
        "zedagent", "PhysicalIOAdapterList", "zedagent", PhysicalIOAdapterList(Initialized=True, AdapterList=adapters)
    )
    return machine(device.where.root / "hardware", name)


def vm(device: Device, *groups: str, uuid: str = UUID) -> DomainConfig:
    config = eco(device.image(boot_disk("up", HALT)), uuid)
    adapters = tuple(IoAdapter(Name=group) for group in groups)
    return but(config, Memory=16 * 1024, VCpus=1, IoAdapterList=adapters or None)


def reached(device: Device, state: SwState, uuid: str = UUID) -> DomainStatus:
    return device.until(lambda status: status.State == state, state.name, uuid, PATIENCE_S)


def shown(device: Device, name: str, *, away: bool) -> IoBundle:
    """Wait until the table has this adapter so: handed over, or here."""

    def look() -> IoBundle | None:
        table = device.read(AssignableAdapters, "global")
        bundles = (table.IoBundleList if table is not None else None) or ()
        return next((one for one in bundles if one.Name == name and one.IsPCIBack == away), None)

    found = wait_for(look, f"the table to show {name} {'handed over' if away else 'here'}", PATIENCE_S)
    assert found is not None
    return found


def drivers(root: Path) -> list[str]:
    found = Hardware(root).pci()
    return [found[address].driver for address in CARD]


@pytest.mark.usefixtures("_passing_qemu")
def test_a_guest_has_its_adapters_from_boot_to_halt_whatever_happens_to_domainmgr(device: Device) -> None:
    root = box(device)
    before = snapshot(root)
    options = ("--hardware", str(root), "--stop-grace", "0.2")
    config = device.want(vm(device, "card", "input"))
    device.start(*options)
    pid = reached(device, SwState.RUNNING).DomainId
    arguments = (device.where.persist / "qemu" / UUID / "arguments").read_text().splitlines()
    assert [word for word in arguments if word.startswith(("vfio-pci", "usb-host", "qemu-xhci"))] == [
        f"vfio-pci,host={CARD[0]}",
        f"vfio-pci,host={CARD[1]}",
        "qemu-xhci,id=usb",
        "usb-host,bus=usb.0,hostbus=1,hostport=2",
    ]
    assert drivers(root) == ["vfio-pci"] * 2
    right = shown(device, "right", away=True)
    assert (right.Ifname, right.PciLong, right.UsedByUUID) == ("eth3", CARD[1], UUID)

    device.kill()
    device.start_ready(*options)
    assert reached(device, SwState.RUNNING).DomainId == pid
    assert drivers(root) == ["vfio-pci"] * 2

    device.want(but(config, Activate=False))
    reached(device, SwState.HALTED)
    assert snapshot(root) == before
    shown(device, "right", away=False)


@pytest.mark.usefixtures("_passing_qemu")
@pytest.mark.parametrize("config_goes", [False, True], ids=["kept", "withdrawn"])
def test_what_a_dead_guest_had_is_given_back_by_the_next_domainmgr(device: Device, config_goes: bool) -> None:
    root = box(device)
    before = snapshot(root)
    device.want(vm(device, "card"))
    device.start("--hardware", str(root))
    pid = reached(device, SwState.RUNNING).DomainId
    device.kill()
    os.kill(pid, signal.SIGKILL)
    if config_goes:
        device.unwant()
        (device.where.agent_dir("domainmgr") / "DomainStatus" / f"{UUID}.json").unlink()  # /run was emptied, too
    assert snapshot(root) != before
    device.start("--hardware", str(root))
    wait_for(lambda: snapshot(root) == before, "the devices to be back", PATIENCE_S)
    if not config_goes:
        assert "stopped by itself" in reached(device, SwState.HALTED).LastErr


def test_when_qemu_cannot_open_a_device_the_machine_gets_it_back(device: Device) -> None:
    root = box(device)
    before = snapshot(root)
    device.want(vm(device, "card"))
    device.start("--hardware", str(root))
    failed = device.until(lambda status: status.BootFailed, "BootFailed", seconds=PATIENCE_S)
    assert f"QEMU ended at once: -device vfio-pci,host={CARD[0]}: vfio" in failed.LastErr
    assert "no such host device" in failed.LastErr
    wait_for(lambda: snapshot(root) == before, "the devices to be back", PATIENCE_S)


def test_a_machine_without_iommu_says_so_and_other_apps_go_on(device: Device) -> None:
    root = box(device, "pc", (adapter("card", "card", PciLong="0000:00:04.0"),))
    device.want(vm(device, "card"))
    device.want(vm(device, uuid=OTHER))
    device.start("--hardware", str(root))
    failed = device.until(lambda status: status.BootFailed, "BootFailed", seconds=PATIENCE_S)
    assert "PCI device 0000:00:04.0 cannot be passed through: this machine has no IOMMU in use" in failed.LastErr
    assert reached(device, SwState.RUNNING, OTHER).LastErr == ""


def test_a_serial_port_is_refused_by_name(device: Device) -> None:
    root = box(device, "pc", (adapter("com1", "com", Serial="/dev/ttyS1"),))
    device.want(vm(device, "com"))
    device.start("--hardware", str(root))
    failed = device.until(lambda status: status.BootFailed, "BootFailed", seconds=PATIENCE_S)
    assert "adapter 'com1' of group 'com' cannot be passed through" in failed.LastErr
