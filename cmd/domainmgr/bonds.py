"""Which adapters can only move together, from what the kernel says of the hardware. Pure.

Three rules bind devices to one another whatever the controller's assignment groups say:

    one controller      the functions of one slot (0000:02:00.0, 0000:02:00.1): a reset takes all of them
    one IOMMU group     the hardware cannot tell their memory accesses apart; bridges do not count
    a USB device        goes with its controller when that is an adapter itself

An adapter is a PCI device (PciLong, or the interface Ifname) or a USB device at its place, as 1:2.3: bus and ports.
"""

from collections.abc import Iterable, Mapping

from msgspec.structs import replace

from pillar.hardware import VFIO, Devices, PciDevice, UsbDevice
from pillar.types.adapters import IoBundle
from pillar.types.scalars import NIL_UUID

HANDED_OVER = (VFIO, "pciback", "xen-pciback")  # drivers that hold a PCI device for guests
_DETACHED = ("", "usbfs")  # what QEMU leaves to the interfaces of a USB device: no driver, or that for programs
Places = Mapping[str, str]  # name of a USB adapter -> its place


def conflict(members: Iterable[IoBundle], listed: Iterable[IoBundle], devices: Devices, places: Places) -> str:
    """Why these members of an assignment group cannot move without others; "" when they can."""
    listed = [bundle for bundle in listed if _where(bundle, places)]
    strangers = devices.pci.keys() - {bundle.PciLong for bundle in listed}
    for member in members:
        if not _where(member, places):
            continue
        for other in listed:
            if other.AssignmentGroup.lower() == member.AssignmentGroup.lower():
                continue
            reason = _bond(_where(member, places), _where(other, places), devices)
            if reason:
                return (
                    f"{member.Name} ({_where(member, places)}) and {other.Name} ({_where(other, places)}) {reason},"
                    f" but their groups are {member.AssignmentGroup!r} and {other.AssignmentGroup!r}: both have to be"
                    " in one group"
                )
        for address in sorted(strangers):
            device = devices.pci[address]
            if device.driver and device.driver not in HANDED_OVER and _same_iommu(member.PciLong, address, devices):
                return (
                    f"{member.Name} ({member.PciLong}) shares IOMMU group {device.iommu_group} with {address}, which is"
                    f" in no assignment group and used by this machine ({device.driver})"
                )
    return ""


def completed(bundle: IoBundle, devices: Devices, place: str, before: IoBundle | None) -> IoBundle:
    """The bundle with address, interface and whether a guest has it: what the kernel adds to what was configured.

    A device that a guest has shows no interface: what `before`, the bundle published last, knew of it stays.
    """
    if place:
        usb = devices.usb.get(place, UsbDevice(""))
        away = bundle.UsedByUUID != NIL_UUID and bool(usb.drivers) and {*usb.drivers.values()} <= {*_DETACHED}
        interface = bundle.Ifname or usb.interface or (before.Ifname if before is not None and away else "")
        return replace(bundle, Ifname=interface, IsPCIBack=away)
    address = bundle.PciLong
    if not address and bundle.Ifname:
        address = next((name for name, device in devices.pci.items() if device.interface == bundle.Ifname), "")
    if not address and before is not None and before.Ifname == bundle.Ifname:
        address = before.PciLong if devices.pci.get(before.PciLong, PciDevice()).driver in HANDED_OVER else ""
    device = devices.pci.get(address, PciDevice())
    away = device.driver in HANDED_OVER
    known = before.Ifname if before is not None and away and before.PciLong == address else ""
    return replace(bundle, PciLong=address, Ifname=bundle.Ifname or device.interface or known, IsPCIBack=away)


def _where(bundle: IoBundle, places: Places) -> str:
    return places.get(bundle.Name, "") or bundle.PciLong


def _bond(one: str, other: str, devices: Devices) -> str:
    """Why two devices, each a PCI address or the place of a USB device, move together; "" when they need not."""
    if one == other:
        return "are one device"
    for usb, controller in ((one, other), (other, one)):
        if controller and devices.usb.get(usb, UsbDevice("")).controller == controller:
            return "are a USB device and its controller"
    if one in devices.usb or other in devices.usb:
        return ""
    if one.rpartition(".")[0] == other.rpartition(".")[0] and one.count(":") == 2:
        return "are functions of one controller"
    if _same_iommu(one, other, devices):
        return f"share IOMMU group {devices.pci[one].iommu_group}"
    return ""


def _same_iommu(one: str, other: str, devices: Devices) -> bool:
    first, second = devices.pci.get(one, PciDevice()), devices.pci.get(other, PciDevice())
    return bool(first.iommu_group) and first.iommu_group == second.iommu_group and not second.bridge and one != other
