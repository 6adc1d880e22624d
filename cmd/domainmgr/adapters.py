"""Adapters: what the box has to give to ECOs, and who has it. Pure.

AssignableAdapters is computed from the controller's list, the domains' reservations and nim's ports each time; it is
nobody's memory. Adapters of one assignment group move together, and so do those that the hardware binds to one another
(`pci`). Passing devices through is the hypervisor's work; the `process` backend has none, so there a reservation only
keeps two ECOs from claiming one group.
"""

from collections.abc import Iterable, Mapping

from pillar.cmd.domainmgr import pci
from pillar.cmd.domainmgr.pci import PciDevice
from pillar.types.adapters import AssignableAdapters, IoBundle, PhysicalIOAdapter, PhysicalIOAdapterList
from pillar.types.common import IoAdapter
from pillar.types.enums import IoType
from pillar.types.scalars import NIL_UUID


def owners(reservations: Mapping[str, Iterable[IoAdapter]]) -> dict[str, str]:
    """Which app has which group: lower-case group name -> app UUID. The first in key order wins."""
    found: dict[str, str] = {}
    for uuid in sorted(reservations):
        for adapter in reservations[uuid]:
            found.setdefault(adapter.Name.lower(), uuid)
    return found


def assignable(
    listed: PhysicalIOAdapterList | None,
    owned: Mapping[str, str],
    ports: frozenset[str],
    macs: Mapping[str, str],
    found: Mapping[str, PciDevice],
) -> AssignableAdapters:
    """The published table. No list means no adapters, and is an answer: nobody has to wait for one.

    `ports` are the kernel interfaces that nim uses, `macs` the hardware address of each interface, `found` the PCI
    devices of the machine: they add the address of an interface that was listed by name, and the other way round.
    """
    if listed is None:
        return AssignableAdapters(Initialized=True)
    return AssignableAdapters(
        Initialized=True,
        IoBundleList=tuple(_bundle(adapter, owned, ports, macs, found) for adapter in listed.AdapterList or ()),
    )


def reservation_error(
    adapters: AssignableAdapters,
    owned: Mapping[str, str],
    uuid: str,
    wanted: Iterable[IoAdapter],
    found: Mapping[str, PciDevice],
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
        conflict = pci.conflict(members, adapters.IoBundleList or (), found)
        if conflict:
            return f"adapter group {adapter.Name!r} cannot be assigned: {conflict}"
    return ""


def bundles_of(adapters: AssignableAdapters, wanted: Iterable[IoAdapter]) -> tuple[IoBundle, ...]:
    """Every member of the groups that an app has."""
    groups = {adapter.Name.lower() for adapter in wanted}
    return tuple(bundle for bundle in adapters.IoBundleList or () if bundle.AssignmentGroup.lower() in groups - {""})


def _bundle(
    adapter: PhysicalIOAdapter,
    owned: Mapping[str, str],
    ports: frozenset[str],
    macs: Mapping[str, str],
    found: Mapping[str, PciDevice],
) -> IoBundle:
    address = adapter.Phyaddr
    pci_long, interface, handed_over = pci.completed(IoBundle(PciLong=address.PciLong, Ifname=address.Ifname), found)
    return IoBundle(
        Type=IoType(adapter.Ptype),
        Name=adapter.Phylabel,
        Logicallabel=adapter.Logicallabel,
        AssignmentGroup=adapter.Assigngrp,
        Usage=adapter.Usage,
        FreeUplink=adapter.UsagePolicy.FreeUplink,
        Ifname=interface,
        PciLong=pci_long,
        Irq=address.Irq,
        Ioports=address.Ioports,
        Serial=address.Serial,
        MacAddr=macs.get(interface, ""),
        UsedByUUID=owned.get(adapter.Assigngrp.lower(), NIL_UUID) if adapter.Assigngrp else NIL_UUID,
        IsPCIBack=handed_over,
        IsPort=bool(interface) and interface in ports,
    )
