"""Adapters: what the box has to give to ECOs, and who has it. Pure.

AssignableAdapters is computed from the controller's list, the domains' reservations and nim's ports each time; it is
nobody's memory, but for one thing: a device that a guest has shows no interface, and what was published of it before
stays. Adapters of one assignment group move together, and so do those that the hardware binds to one another (`bonds`).
How a guest gets them: `passthrough`. With the `process` backend a reservation only keeps two ECOs from claiming one
group.
"""

import re
from collections.abc import Iterable, Mapping

import msgspec

from pillar.cmd.domainmgr import bonds
from pillar.hardware import Devices
from pillar.types.adapters import AssignableAdapters, IoBundle, PhysicalIOAdapter, PhysicalIOAdapterList
from pillar.types.common import IoAdapter
from pillar.types.enums import IoType
from pillar.types.scalars import NIL_UUID

_USB_PLACE = re.compile(r"[1-9][0-9]*:[1-9][0-9]*(\.[1-9][0-9]*)*")


def owners(reservations: Mapping[str, Iterable[IoAdapter]]) -> dict[str, str]:
    """Which app has which group: lower-case group name -> app UUID. The first in key order wins."""
    found: dict[str, str] = {}
    for uuid in sorted(reservations):
        for adapter in reservations[uuid]:
            found.setdefault(adapter.Name.lower(), uuid)
    return found


def usb_places(listed: PhysicalIOAdapterList | None) -> dict[str, str]:
    """Where each USB adapter that is listed singly is plugged in: name -> bus and ports, as 1:2.3.

    EVE of 2019 has no address for one; the address that its later versions call `usbaddr` arrives as an unknown one.
    """
    return {
        adapter.Phylabel: adapter.Phyaddr.UnknownType
        for adapter in (listed.AdapterList if listed is not None else None) or ()
        if not adapter.Phyaddr.PciLong and _USB_PLACE.fullmatch(adapter.Phyaddr.UnknownType)
    }


def assignable(
    listed: PhysicalIOAdapterList | None,
    owned: Mapping[str, str],
    ports: frozenset[str],
    macs: Mapping[str, str],
    devices: Devices,
    before: AssignableAdapters | None = None,
) -> AssignableAdapters:
    """The published table. No list means no adapters, and is an answer: nobody has to wait for one.

    `ports` are the kernel interfaces that nim uses, `macs` the hardware address of each interface. `devices` add the
    address of an interface that was listed by name, and the other way round. `before` is the table published last.
    """
    if listed is None:
        return AssignableAdapters(Initialized=True)
    places = usb_places(listed)
    last = {bundle.Name: bundle for bundle in (before.IoBundleList if before is not None else None) or ()}
    bundles = []
    for adapter in listed.AdapterList or ():
        known = last.get(adapter.Phylabel)
        bundle = bonds.completed(_bundle(adapter, owned), devices, places.get(adapter.Phylabel, ""), known)
        mac = macs.get(bundle.Ifname, "") or (known.MacAddr if known is not None and bundle.IsPCIBack else "")
        is_port = bool(bundle.Ifname) and bundle.Ifname in ports
        bundles.append(msgspec.structs.replace(bundle, MacAddr=mac, IsPort=is_port))
    return AssignableAdapters(Initialized=True, IoBundleList=tuple(bundles))


def reservation_error(
    adapters: AssignableAdapters,
    owned: Mapping[str, str],
    uuid: str,
    wanted: Iterable[IoAdapter],
    devices: Devices,
    places: Mapping[str, str],
) -> str:
    """Why an app cannot have the groups it wants; "" when it can (or already has them)."""
    for adapter in wanted:
        group = adapter.Name.lower()
        members = [
            bundle for bundle in adapters.IoBundleList or () if group and bundle.AssignmentGroup.lower() == group
        ]
        if not members:
            return f"adapter group {adapter.Name!r} is unknown on this device"
        owner = owned.get(group, uuid)
        if owner != uuid:
            return f"adapter group {adapter.Name!r} is used by app {owner}"
        port = next((bundle for bundle in members if bundle.IsPort), None)
        if port is not None:
            return f"adapter group {adapter.Name!r} is part of the device port {port.Ifname}"
        conflict = bonds.conflict(members, adapters.IoBundleList or (), devices, places)
        if conflict:
            return f"adapter group {adapter.Name!r} cannot be assigned: {conflict}"
    return ""


def bundles_of(adapters: AssignableAdapters, wanted: Iterable[IoAdapter]) -> tuple[IoBundle, ...]:
    """Every member of the groups that an app has."""
    groups = {adapter.Name.lower() for adapter in wanted}
    return tuple(bundle for bundle in adapters.IoBundleList or () if bundle.AssignmentGroup.lower() in groups - {""})


def not_passable(members: Iterable[IoBundle], places: Mapping[str, str]) -> str:
    """Why a virtual machine cannot have all of these; "" when it can."""
    for bundle in members:
        if bundle.PciLong or bundle.Name in places:
            continue
        if bundle.Ifname:
            what = f"its interface {bundle.Ifname} is no PCI or USB device here"
        else:
            what = "it has neither a PCI address (pcilong) nor a USB one (usbaddr)"
        return f"adapter {bundle.Name!r} of group {bundle.AssignmentGroup!r} cannot be passed through: {what}"
    return ""


def _bundle(adapter: PhysicalIOAdapter, owned: Mapping[str, str]) -> IoBundle:
    address = adapter.Phyaddr
    return IoBundle(
        Type=IoType(adapter.Ptype),
        Name=adapter.Phylabel,
        Logicallabel=adapter.Logicallabel,
        AssignmentGroup=adapter.Assigngrp,
        Usage=adapter.Usage,
        FreeUplink=adapter.UsagePolicy.FreeUplink,
        Ifname=address.Ifname,
        PciLong=address.PciLong,
        Irq=address.Irq,
        Ioports=address.Ioports,
        Serial=address.Serial,
        UsedByUUID=owned.get(adapter.Assigngrp.lower(), NIL_UUID) if adapter.Assigngrp else NIL_UUID,
    )
