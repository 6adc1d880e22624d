"""System adapters and the device's physical I/O -> DevicePortConfig and PhysicalIOAdapterList.

An adapter that cannot be used stays in the list with a ParseError, which nim shows as the port's error. The texts
are EVE's.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pillar.controller import config_pb2 as wire
from pillar.controller.notation import Malformed, enum_value, mask_length, read_ip
from pillar.types.adapters import PhyIOUsagePolicy, PhysicalAddress, PhysicalIOAdapter, PhysicalIOAdapterList
from pillar.types.enums import DevicePortConfigVersion, DhcpType, PhyIoMemberUsage, PhyIoType
from pillar.types.nim import DevicePortConfig, NetworkPortConfig, NetworkXObjectConfig
from pillar.types.scalars import NIL_UUID, Time

_ADDRESSES = {"pcilong": "PciLong", "ifname": "Ifname", "serial": "Serial", "irq": "Irq", "ioports": "Ioports"}


class _Wrong(Exception):
    """The port cannot be used; args are the text for people and the time of an error that is older than this one."""


def parse_physical(device_io: Iterable[wire.PhysicalIO]) -> PhysicalIOAdapterList:
    """The inventory, also when it is empty: domainmgr waits for the record."""
    return PhysicalIOAdapterList(Initialized=True, AdapterList=tuple(_parse_adapter(entry) for entry in device_io))


def _parse_adapter(entry: wire.PhysicalIO) -> PhysicalIOAdapter:
    addresses: dict[str, str] = {}
    for key in sorted(entry.phyaddrs):  # a map has no order on the wire; the last unknown key wins
        addresses[_ADDRESSES.get(key.lower(), "UnknownType")] = entry.phyaddrs[key]
    return PhysicalIOAdapter(
        Ptype=enum_value(PhyIoType, entry.ptype),
        Phylabel=entry.phylabel,
        Phyaddr=PhysicalAddress(**addresses),
        Logicallabel=entry.logicallabel,
        Assigngrp=entry.assigngrp,
        Usage=enum_value(PhyIoMemberUsage, entry.usage),
        UsagePolicy=PhyIOUsagePolicy(FreeUplink=entry.usagePolicy.freeUplink),
    )


def parse_ports(
    adapters: Sequence[wire.SystemAdapter],
    physical: PhysicalIOAdapterList,
    networks: Mapping[str, NetworkXObjectConfig],
    now: Time,
) -> DevicePortConfig | None:
    """The ports in the adapters' order; None without any, and then the device keeps the ports it has.

    When no adapter at all is an uplink, every one is taken for a free management port (an old controller).
    """
    if not adapters:
        return None
    by_phylabel = {entry.Phylabel: entry for entry in physical.AdapterList or ()}
    free: dict[str, bool] = {}
    for entry in by_phylabel.values():
        free.setdefault(entry.Logicallabel, entry.UsagePolicy.FreeUplink)
    says_uplink = any(adapter.uplink for adapter in adapters)
    ports: list[NetworkPortConfig] = []
    for adapter in adapters:
        read: dict[str, Any] = {"IfName": adapter.name, "Name": adapter.name}
        try:
            _read_port(adapter, free, networks, says_uplink, read)
        except _Wrong as wrong:
            text, since = wrong.args
            read |= {"ParseError": text, "ParseErrorTime": since or now}
        ports.append(NetworkPortConfig(**read))
    version = DevicePortConfigVersion(1 if says_uplink else 0)
    return DevicePortConfig(Version=version, TimePriority=now, Ports=tuple(ports))


def _read_port(
    adapter: wire.SystemAdapter,
    free: Mapping[str, bool],
    networks: Mapping[str, NetworkXObjectConfig],
    says_uplink: bool,
    read: dict[str, Any],
) -> None:
    if adapter.name not in free:
        raise _Wrong(f"Missing phyio for {adapter.name}; ignored", None)
    port = f"parseSystemAdapterConfig: Port {adapter.name}"
    management = read["IsMgmt"] = adapter.uplink or not says_uplink
    read["Free"] = free[adapter.name] or adapter.freeUplink or not says_uplink
    read["Dhcp"] = DhcpType(wire.DHCPNone)
    read["AccessPoint"] = adapter.accessPoint
    address = ""
    if adapter.addr:
        try:
            address = read_ip(adapter.addr)
        except Malformed as why:
            raise _Wrong(f"{port} has Bad sysAdapter.Addr {adapter.addr} - ignored", None) from why
    if adapter.networkUUID in ("", NIL_UUID):
        if management:
            raise _Wrong(f"{port} isMgmt without networkUUID not supported", None)
        return
    network = networks.get(adapter.networkUUID)
    if network is None:
        raise _Wrong(f"{port} Network with UUID {adapter.networkUUID} not found: not in the config's networks", None)
    if network.Error:
        raise _Wrong(f"{port} Network error: {network.Error}", network.ErrorTime)
    _read_addressing(port, address, network, management, read)


def _read_addressing(
    port: str, address: str, network: NetworkXObjectConfig, management: bool, read: dict[str, Any]
) -> None:
    if address and network.Subnet.Mask:
        read["AddrSubnet"] = f"{address}/{mask_length(network.Subnet.Mask)}"
    for member in ("Gateway", "DomainName", "NtpServer", "DnsServers", "Dhcp"):
        read[member] = getattr(network, member)
    match int(network.Dhcp):
        case wire.Static:
            if "AddrSubnet" not in read:
                raise _Wrong(f"{port} DT_STATIC but missing subnet address in {read}; ignored", None)
        case wire.Client:
            pass
        case wire.DHCPNone:
            if management:
                raise _Wrong(f"{port}: isMgmt with DT_NONE not supported", None)
        case other:
            raise _Wrong(f"{port}: ignore unsupported dhcp type {other}", None)
    if network.Proxy is not None:
        for member in network.Proxy.__struct_fields__:
            read[member] = getattr(network.Proxy, member)
