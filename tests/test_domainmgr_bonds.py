"""Which adapters can only move together: on a box described by hand, and on recorded machines."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
from recorded_hardware import RecordedHardware, machine

from pillar.cmd.domainmgr import adapters
from pillar.hardware import Devices, Hardware
from pillar.types.adapters import PhysicalAddress, PhysicalIOAdapter, PhysicalIOAdapterList
from pillar.types.common import IoAdapter
from pillar.types.enums import PhyIoType

UUID = "6f1c0a3e-0000-4000-8000-000000000001"
# address, class, driver, IOMMU group, network interface; an Intel box with two network cards of two ports each, the
# second one behind a switch that does not separate its ports from the sound chip.
BOX = """
0000:00:00.0 0x060000 -              0 -
0000:00:14.0 0x0c0330 xhci_hcd       1 -
0000:00:1c.0 0x060400 pcieport       2 -
0000:00:1f.0 0x060100 -              3 -
0000:00:1f.3 0x040300 snd_hda_intel  3 -
0000:01:00.0 0x020000 igb            4 eth0
0000:01:00.1 0x020000 igb            5 eth1
0000:02:00.0 0x020000 e1000e         2 eth2
0000:03:00.0 0x020000 vfio-pci       2 -
0000:04:00.0 0x020000 e1000e         3 eth4
"""


@pytest.fixture
def sysfs(tmp_path: Path) -> Path:
    for line in BOX.strip().splitlines():
        address, kind, driver, group, interface = line.split()
        device = tmp_path / "sys" / "bus" / "pci" / "devices" / address
        device.mkdir(parents=True)
        (device / "class").write_text(f"{kind}\n")
        (device / "iommu_group").symlink_to(f"../../../kernel/iommu_groups/{group}")
        if driver != "-":
            (device / "driver").symlink_to(f"../../../bus/pci/drivers/{driver}")
        if interface != "-":
            (device / "net" / interface).mkdir(parents=True)
    return tmp_path


def listed(*adapters_: tuple[str, str, str, str]) -> PhysicalIOAdapterList:
    """Label, group, PCI address, interface of each."""
    return PhysicalIOAdapterList(
        Initialized=True,
        AdapterList=tuple(
            PhysicalIOAdapter(
                Ptype=PhyIoType.ETH,
                Phylabel=label,
                Assigngrp=group,
                Phyaddr=PhysicalAddress(PciLong=address, Ifname=interface),
            )
            for label, group, address, interface in adapters_
        ),
    )


def refusal(sysfs: Path, table: PhysicalIOAdapterList, group: str) -> str:
    found = Hardware(sysfs).devices()
    shown = adapters.assignable(table, {}, frozenset(), {}, found)
    return adapters.reservation_error(shown, {}, "app", (IoAdapter(Name=group),), found, adapters.usb_places(table))


def test_the_kernel_adds_the_address_of_an_interface_and_who_has_it(sysfs: Path) -> None:
    table = listed(("lan", "a", "", "eth1"), ("wan", "b", "0000:01:00.0", ""), ("given", "c", "0000:03:00.0", ""))
    shown = adapters.assignable(
        table, {}, frozenset({"eth0"}), {"eth0": "02:00:00:00:00:01"}, Hardware(sysfs).devices()
    )
    lan, wan, given = shown.IoBundleList or ()
    assert (lan.PciLong, lan.Ifname) == ("0000:01:00.1", "eth1")
    assert (wan.Ifname, wan.MacAddr, wan.IsPort) == ("eth0", "02:00:00:00:00:01", True)
    assert (lan.IsPCIBack, given.IsPCIBack) == (False, True)


def test_functions_of_one_controller_have_to_be_in_one_group(sysfs: Path) -> None:
    apart = listed(("left", "a", "0000:01:00.0", ""), ("right", "b", "0000:01:00.1", ""))
    assert refusal(sysfs, apart, "a") == (
        "adapter group 'a' cannot be assigned: left (0000:01:00.0) and right (0000:01:00.1) are functions of one"
        " controller, but their groups are 'a' and 'b': both have to be in one group"
    )
    together = listed(("left", "a", "0000:01:00.0", ""), ("right", "A", "0000:01:00.1", ""))
    assert refusal(sysfs, together, "a") == ""


def test_devices_of_one_iommu_group_have_to_be_in_one_group_and_bridges_do_not_count(sysfs: Path) -> None:
    apart = listed(("one", "a", "0000:02:00.0", ""), ("two", "b", "0000:03:00.0", ""))
    assert "share IOMMU group 2, but their groups are 'a' and 'b'" in refusal(sysfs, apart, "a")
    together = listed(("one", "a", "0000:02:00.0", ""), ("two", "a", "0000:03:00.0", ""))
    assert refusal(sysfs, together, "a") == ""  # the port above them is a bridge, and its driver stays


def test_a_device_that_the_machine_itself_uses_holds_its_whole_iommu_group(sysfs: Path) -> None:
    reason = refusal(sysfs, listed(("four", "a", "0000:04:00.0", "")), "a")
    assert "shares IOMMU group 3 with 0000:00:1f.3, which is in no assignment group and used by" in reason


def test_a_usb_controller_follows_the_same_rules_and_can_be_listed_once_only(sysfs: Path) -> None:
    assert refusal(sysfs, listed(("usb", "u", "0000:00:14.0", "")), "u") == ""
    twice = listed(("front", "u", "0000:00:14.0", ""), ("back", "v", "0000:00:14.0", ""))
    assert "are one device" in refusal(sysfs, twice, "u")


def test_a_machine_without_pci_has_no_rules(tmp_path: Path) -> None:
    assert Hardware(tmp_path).devices() == Devices()
    assert refusal(tmp_path, listed(("a", "a", "0000:09:00.0", "")), "a") == ""
    assert "are functions of one controller" in refusal(
        tmp_path, listed(("a", "a", "0000:09:00.0", ""), ("b", "b", "0000:09:00.1", "")), "a"
    )


def test_a_domain_gets_every_member_of_its_groups(sysfs: Path) -> None:
    table = listed(("l", "a", "0000:01:00.0", ""), ("r", "A", "0000:01:00.1", ""), ("u", "u", "0000:00:14.0", ""))
    shown = adapters.assignable(table, {}, frozenset(), {}, Hardware(sysfs).devices())
    got = adapters.bundles_of(shown, (IoAdapter(Name="a"),))
    assert [bundle.Name for bundle in got] == ["l", "r"]


# Recorded machines.


@pytest.fixture
def q35(tmp_path: Path) -> Path:
    return machine(tmp_path / "hardware", "q35")


def with_usb(table: PhysicalIOAdapterList, *entries: tuple[str, str, str]) -> PhysicalIOAdapterList:
    """The list with USB devices: label, group, place."""
    usb = tuple(
        PhysicalIOAdapter(
            Ptype=PhyIoType.USB, Phylabel=label, Assigngrp=group, Phyaddr=PhysicalAddress(UnknownType=place)
        )
        for label, group, place in entries
    )
    return msgspec.structs.replace(table, AdapterList=(*(table.AdapterList or ()), *usb))


def test_a_recorded_machine_is_read_with_all_that_the_rules_need(q35: Path) -> None:
    devices = Hardware(q35).devices()
    assert {address for address, device in devices.pci.items() if device.bridge} == {
        "0000:00:1c.0", "0000:00:1c.1", "0000:00:1c.2", "0000:03:00.0",
    }  # fmt: skip
    card = devices.pci["0000:01:00.1"]
    assert (card.driver, card.iommu_group, card.interface, card.override) == ("e1000e", "8", "eth3", "")
    assert list(devices.usb) == ["1:1", "1:2", "1:3", "1:3.1"]
    stick = devices.usb["1:3.1"]
    assert (stick.name, stick.product, stick.controller) == ("1-3.1", "QEMU USB HARDDRIVE", "0000:02:00.0")
    assert stick.drivers == {"1-3.1:1.0": "usb-storage"}
    assert [device.hub for device in devices.usb.values()] == [False, False, True, False]


@pytest.mark.parametrize(
    ("entries", "group", "reason"),
    [
        ([("sound", "s", "0000:00:04.0", "")], "s", ""),
        ([("l", "a", "", "eth2"), ("r", "a", "", "eth3")], "a", ""),
        ([("l", "a", "", "eth2"), ("r", "b", "", "eth3")], "a", "are functions of one controller"),
        ([("l", "a", "", "eth2")], "a", "shares IOMMU group 8 with 0000:01:00.1, which is in no assignment group and"),
        ([("l", "a", "", "eth0"), ("r", "b", "", "eth1")], "a", "share IOMMU group 10, but their groups are 'a' and"),
        ([("l", "a", "", "eth0"), ("r", "a", "", "eth1")], "a", ""),  # the bridge above the two stays
        ([("disks", "d", "0000:00:1f.2", "")], "d", "with 0000:00:1f.0, which is in no assignment group and used by"),
    ],
)
def test_group_rules_on_a_recorded_machine(
    q35: Path, entries: list[tuple[str, str, str, str]], group: str, reason: str
) -> None:
    found = refusal(q35, listed(*entries), group)
    assert reason in found
    assert bool(reason) == bool(found)


def test_a_usb_device_goes_with_its_controller_when_that_is_an_adapter_too(q35: Path) -> None:
    keyboard, stick = ("keyboard", "k", "1:2"), ("stick", "s", "1:3.1")
    assert refusal(q35, with_usb(listed(), keyboard, stick), "k") == ""
    apart = with_usb(listed(("usb", "u", "0000:02:00.0", "")), keyboard)
    for group in ("u", "k"):
        assert "are a USB device and its controller, but their groups are" in refusal(q35, apart, group)
    assert "keyboard (1:2) and usb (0000:02:00.0)" in refusal(q35, apart, "k")
    together = with_usb(listed(("usb", "u", "0000:02:00.0", "")), ("keyboard", "U", "1:2"))
    assert refusal(q35, together, "u") == ""
    twice = with_usb(listed(), keyboard, ("again", "x", "1:2"))
    assert "are one device" in refusal(q35, twice, "x")


def test_what_a_guest_has_keeps_its_address_and_interface_in_the_table(q35: Path) -> None:
    box = RecordedHardware(q35)
    table = listed(("by name", "a", "", "eth2"), ("by address", "a", "0000:01:00.1", ""))
    macs = {"eth2": "52:54:00:12:34:56", "eth3": "52:54:00:12:34:57"}
    before = adapters.assignable(table, {}, frozenset(), macs, box.devices())
    for address in ("0000:01:00.0", "0000:01:00.1"):
        box.override(address, "vfio-pci")
        box.unbind(address)
        box.probe(address)
    during = adapters.assignable(table, {}, frozenset(), {}, box.devices(), before)
    for one, other in zip(before.IoBundleList or (), during.IoBundleList or (), strict=True):
        assert other == msgspec.structs.replace(one, IsPCIBack=True)
    assert (before.IoBundleList or ())[0].PciLong == "0000:01:00.0"
    forgotten = adapters.assignable(table, {}, frozenset(), {}, box.devices())
    assert (forgotten.IoBundleList or ())[0].PciLong == ""


def test_a_usb_device_is_away_when_its_drivers_were_taken_for_the_app_that_has_it(q35: Path) -> None:
    table, owned = with_usb(listed(), ("keyboard", "k", "1:2")), {"k": UUID}

    def is_away(owners: dict[str, str]) -> bool:
        (bundle,) = adapters.assignable(table, owners, frozenset(), {}, Hardware(q35).devices()).IoBundleList or ()
        return bundle.IsPCIBack

    driver = q35 / "sys/bus/usb/devices/1-2:1.0/driver"
    assert not is_away(owned)
    driver.unlink()
    assert (is_away(owned), is_away({})) == (True, False)
    driver.symlink_to("../../../bus/usb/drivers/usbfs")
    assert is_away(owned)


def test_an_address_that_is_no_place_of_a_usb_device_is_not_taken_for_one() -> None:
    for text in ("", "1", "1:", ":2", "1:2.", "0:1", "1-2", "usb:1", "1:2,x=y"):
        assert adapters.usb_places(with_usb(listed(), ("odd", "o", text))) == {}
    assert adapters.usb_places(with_usb(listed(), ("deep", "o", "2:1.4.3"))) == {"deep": "2:1.4.3"}


def test_what_has_no_address_on_this_machine_cannot_be_passed_through(q35: Path) -> None:
    table = with_usb(listed(("gone", "g", "", "eth9"), ("com1", "c", "", "")), ("keyboard", "k", "1:2"))
    shown = adapters.assignable(table, {}, frozenset(), {}, Hardware(q35).devices())
    gone, com1, keyboard = shown.IoBundleList or ()
    places = adapters.usb_places(table)
    assert "its interface eth9 is no PCI or USB device here" in adapters.not_passable([gone], places)
    assert "it has neither a PCI address (pcilong) nor a USB one" in adapters.not_passable([keyboard, com1], places)
    assert adapters.not_passable([keyboard], places) == ""
