"""What the kernel says about PCI devices, and which of them can only move together. Pure but for `devices`.

Two rules bind devices to one another whatever the controller's assignment groups say:

    one controller      the functions of one slot (0000:02:00.0, 0000:02:00.1): a reset takes all of them
    one IOMMU group     the hardware cannot tell their memory accesses apart; bridges do not count

A USB controller is a PCI device like any other: its ports follow it.
"""

import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from pillar.types.adapters import IoBundle

SYSFS = Path("/sys")
HANDED_OVER = ("vfio-pci", "pciback", "xen-pciback")  # drivers that hold a device for guests
_BRIDGE_CLASS = "0x0604"


@dataclass(frozen=True)
class PciDevice:
    """One function of a PCI device."""

    driver: str = ""  # "" when none is bound
    iommu_group: str = ""  # "" without an IOMMU
    interface: str = ""  # the network interface it is
    bridge: bool = False


def devices(sysfs: Path = SYSFS) -> dict[str, PciDevice]:
    """Every PCI device by its long address, as 0000:02:00.0; {} on a machine without."""
    try:
        names = sorted(os.listdir(sysfs / "bus" / "pci" / "devices"))
    except FileNotFoundError:
        return {}
    return {name: _device(sysfs / "bus" / "pci" / "devices" / name) for name in names}


def conflict(members: Iterable[IoBundle], listed: Iterable[IoBundle], found: Mapping[str, PciDevice]) -> str:
    """Why these members of an assignment group cannot move without others; "" when they can."""
    listed = [bundle for bundle in listed if bundle.PciLong]
    for member in members:
        if not member.PciLong:
            continue
        for other in listed:
            if other.AssignmentGroup.lower() == member.AssignmentGroup.lower():
                continue
            reason = _bond(member.PciLong, other.PciLong, found)
            if reason:
                return (
                    f"{member.Name} ({member.PciLong}) and {other.Name} ({other.PciLong}) {reason}, but their groups"
                    f" are {member.AssignmentGroup!r} and {other.AssignmentGroup!r}: both have to be in one group"
                )
        strangers = found.keys() - {other.PciLong for other in listed}
        for address in sorted(strangers):
            device = found[address]
            if device.driver and device.driver not in HANDED_OVER and _same_iommu(member.PciLong, address, found):
                return (
                    f"{member.Name} ({member.PciLong}) shares IOMMU group {device.iommu_group} with {address}, which is"
                    f" in no assignment group and used by this machine ({device.driver})"
                )
    return ""


def completed(bundle: IoBundle, found: Mapping[str, PciDevice]) -> tuple[str, str, bool]:
    """PCI address, interface name and whether a guest has it, with what the kernel adds to what was configured."""
    address, interface = bundle.PciLong, bundle.Ifname
    if not address and interface:
        address = next((name for name, device in found.items() if device.interface == interface), "")
    device = found.get(address, PciDevice())
    return address, interface or device.interface, device.driver in HANDED_OVER


def _bond(one: str, other: str, found: Mapping[str, PciDevice]) -> str:
    if one == other:
        return "are one device"
    if one.rpartition(".")[0] == other.rpartition(".")[0]:
        return "are functions of one controller"
    if _same_iommu(one, other, found):
        return f"share IOMMU group {found[one].iommu_group}"
    return ""


def _same_iommu(one: str, other: str, found: Mapping[str, PciDevice]) -> bool:
    first, second = found.get(one, PciDevice()), found.get(other, PciDevice())
    return bool(first.iommu_group) and first.iommu_group == second.iommu_group and not second.bridge and one != other


def _device(path: Path) -> PciDevice:
    return PciDevice(
        driver=_target(path / "driver"),
        iommu_group=_target(path / "iommu_group"),
        interface=_only_entry(path / "net"),
        bridge=_text(path / "class").startswith(_BRIDGE_CLASS),
    )


def _target(link: Path) -> str:
    try:
        return os.path.basename(os.readlink(link))
    except OSError:
        return ""


def _only_entry(directory: Path) -> str:
    try:
        return min(os.listdir(directory), default="")
    except OSError:
        return ""


def _text(file: Path) -> str:
    try:
        return file.read_text().strip()
    except OSError:
        return ""
