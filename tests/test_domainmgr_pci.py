"""Which adapters can only move together, on trees of sysfs as real boxes have them."""

from __future__ import annotations

from pathlib import Path

import pytest

from pillar.cmd.domainmgr import adapters, pci
from pillar.types.adapters import PhysicalAddress, PhysicalIOAdapter, PhysicalIOAdapterList
from pillar.types.common import IoAdapter
from pillar.types.enums import PhyIoType

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
        device = tmp_path / "bus" / "pci" / "devices" / address
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
    found = pci.devices(sysfs)
    shown = adapters.assignable(table, {}, frozenset(), {}, found)
    return adapters.reservation_error(shown, {}, "app", (IoAdapter(Name=group),), found)


def test_the_kernel_adds_the_address_of_an_interface_and_who_has_it(sysfs: Path) -> None:
    table = listed(("lan", "a", "", "eth1"), ("wan", "b", "0000:01:00.0", ""), ("given", "c", "0000:03:00.0", ""))
    shown = adapters.assignable(table, {}, frozenset({"eth0"}), {"eth0": "02:00:00:00:00:01"}, pci.devices(sysfs))
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
    assert pci.devices(tmp_path) == {}
    assert refusal(tmp_path, listed(("a", "a", "0000:09:00.0", "")), "a") == ""
    assert "are functions of one controller" in refusal(
        tmp_path, listed(("a", "a", "0000:09:00.0", ""), ("b", "b", "0000:09:00.1", "")), "a"
    )


def test_a_domain_gets_every_member_of_its_groups(sysfs: Path) -> None:
    table = listed(("l", "a", "0000:01:00.0", ""), ("r", "A", "0000:01:00.1", ""), ("u", "u", "0000:00:14.0", ""))
    shown = adapters.assignable(table, {}, frozenset(), {}, pci.devices(sysfs))
    got = adapters.bundles_of(shown, (IoAdapter(Name="a"),))
    assert [bundle.Name for bundle in got] == ["l", "r"]
