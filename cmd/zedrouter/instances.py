"""Which network instances may exist, and what their status says. Pure.

All instances are judged together, each time anew: who is in service keeps its subnet and port, the others come in the
order of their UUIDs, and whoever clashes with an earlier one waits with an error that goes when the cause goes.

A type or port that changes is refused as in EVE. Addressing (family, subnet, gateway, range) changes once no app is on
the instance; until then the status shows the old one. Everything else is taken over at once.
"""

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any

import msgspec

from pillar.cmd.zedrouter.addresses import bridge_address
from pillar.cmd.zedrouter.names import bridge_mac, bridge_name
from pillar.types.enums import AddressType, ChangeInProgressType, DhcpType, NetworkInstanceType
from pillar.types.networkinstance import NetworkInstanceConfig, NetworkInstanceStatus, VifNameMac
from pillar.types.nim import DeviceNetworkStatus, NetworkPortStatus
from pillar.types.scalars import ZERO_TIME, IpAddr, Time, Uuid, ip_network, mac_text

UPLINK = "uplink"  # any management port
FREE_UPLINK = "freeuplink"  # any management port that costs nothing
_SUPPORTED = (
    NetworkInstanceType.SWITCH,
    NetworkInstanceType.LOCAL,
    NetworkInstanceType.CLOUD,
    NetworkInstanceType.MESH,
)
_FAMILIES = {
    AddressType.IPV4: 4,
    AddressType.IPV6: 6,
    AddressType.CRYPTO_IPV4: 4,
    AddressType.CRYPTO_IPV6: 6,
}
_CONFIG_FIELDS = NetworkInstanceConfig.__struct_fields__
_ADDRESSING = ("IpType", "Subnet", "Gateway", "DhcpRange")


@dataclass(frozen=True)
class Verdict:
    """What an instance should be now, and why it cannot ("" when it can)."""

    wanted: NetworkInstanceConfig
    error: str = ""
    held_back: bool = False  # a change of addressing waits until the last app has left
    moves: bool = False  # its addressing is to change now


@dataclass(frozen=True)
class VifUse:
    """One vif of an app on an instance, as the app's status has it."""

    vif: str
    mac: str
    app: Uuid
    address: IpAddr = ""


def judge(
    configs: Mapping[Uuid, NetworkInstanceConfig],
    statuses: Mapping[Uuid, NetworkInstanceStatus],
    in_use: Collection[Uuid],
    network: DeviceNetworkStatus | None,
) -> dict[Uuid, Verdict]:
    """A verdict for every configured instance. `in_use` are the instances with vifs of apps."""
    plans = {uuid: _wanted(config, statuses.get(uuid), uuid in in_use) for uuid, config in configs.items()}
    verdicts: dict[Uuid, Verdict] = {}
    accepted: dict[Uuid, _Claim] = {}
    for uuid in sorted(plans, key=lambda uuid: (not _in_service(statuses.get(uuid)), uuid)):
        verdict = plans[uuid]
        errors = [verdict.error] if verdict.error else []
        errors += own_errors(verdict.wanted, network)
        claim = _claim(verdict.wanted, network)
        if not errors:
            errors += _clashes(claim, accepted.values())
        if not errors or _in_service(statuses.get(uuid)):
            accepted[uuid] = claim  # in service with an error still has its bridge and its apps
        verdicts[uuid] = replace(verdict, error="; ".join(errors))
    # Who wants to move holds its old place until the new one is free: nobody is driven out.
    for uuid, verdict in verdicts.items():
        moved = configs[uuid]
        if verdict.moves and not verdict.error:
            claim = _claim(moved, network)
            others = [other for number, other in accepted.items() if number != uuid]
            errors = own_errors(moved, network) or _clashes(claim, others)
            if errors:
                verdicts[uuid] = replace(verdict, error=f"cannot change its addressing: {'; '.join(errors)}")
            else:
                verdicts[uuid] = Verdict(moved)
                accepted[uuid] = claim
    return verdicts


def own_errors(config: NetworkInstanceConfig, network: DeviceNetworkStatus | None) -> list[str]:
    """What is wrong with an instance whatever the others are."""
    if config.Type not in _SUPPORTED:
        return [f"network instance type {config.Type.name} ({int(config.Type)}) is not supported"]
    return [error for error in (_port_error(config, network), _addressing_error(config)) if error]


def instance_status(
    verdict: Verdict,
    bridge_num: int,
    previous: NetworkInstanceStatus | None,
    uses: Iterable[VifUse],
    network: DeviceNetworkStatus | None,
    now: Time,
    dead: Collection[str] = (),
) -> NetworkInstanceStatus:
    """The status of one instance. `bridge_num` is 0 while it has never been without error, `dead` are ports without
    carrier.
    """
    wanted = verdict.wanted
    uses = sorted(uses, key=lambda use: (use.app, use.vif))
    mac = mac_text(bridge_mac(bridge_num)) if bridge_num else ""
    before = previous if previous is not None and not _differs(wanted, previous) else None
    current = before.CurrentUplinkIntf if before is not None else ""
    uplink = choose_uplink(wanted.Port, network, current, dead)
    assignments: dict[str, IpAddr] = {}
    address = ""
    if bridge_num:
        taken = frozenset(use.address for use in uses if use.address)
        address = bridge_address(wanted, before.BridgeIPAddr if before is not None else "", taken)
        if address:
            assignments[mac] = address
        assignments |= {use.mac: use.address for use in uses if use.address}
    error_time = ZERO_TIME
    if verdict.error:
        error_time = previous.ErrorTime if previous is not None and previous.Error == verdict.error else now
    return NetworkInstanceStatus(
        **_fields(wanted),
        ChangeInProgress=ChangeInProgressType.NONE,
        Activated=wanted.Activate and not verdict.error,
        BridgeNum=bridge_num,
        BridgeName=bridge_name(bridge_num) if bridge_num else "",
        BridgeIPAddr=address,
        BridgeMac=mac,
        IfNameList=(uplink,) if uplink else (),
        IPAssignments=dict(sorted(assignments.items())),
        Vifs=tuple(VifNameMac(Name=use.vif, MacAddr=use.mac, AppID=use.app) for use in uses),
        Ipv4Eid=wanted.Type == NetworkInstanceType.MESH and wanted.IpType == AddressType.CRYPTO_IPV4,
        Error=verdict.error,
        ErrorTime=error_time,
        CurrentUplinkIntf=uplink,
    )


def leaving_status(previous: NetworkInstanceStatus, uses: Iterable[VifUse]) -> NetworkInstanceStatus:
    """An instance whose config is gone while apps are still on it: it keeps its bridge and numbers until they leave."""
    uses = sorted(uses, key=lambda use: (use.app, use.vif))
    assignments = {use.mac: use.address for use in uses if use.address}
    if previous.BridgeIPAddr:
        assignments[previous.BridgeMac] = previous.BridgeIPAddr
    return msgspec.structs.replace(
        previous,
        ChangeInProgress=ChangeInProgressType.DELETE,
        Activated=False,
        IPAssignments=dict(sorted(assignments.items())),
        Vifs=tuple(VifNameMac(Name=use.vif, MacAddr=use.mac, AppID=use.app) for use in uses),
    )


def choose_uplink(port: str, network: DeviceNetworkStatus | None, current: str, dead: Collection[str] = ()) -> str:
    """The interface that leads out: the named port's; for a label one with a usable address, `current` if it has.

    Of those that a label means, one in `dead` (without carrier) is only taken when all are.
    """
    ports = network.Ports or () if network is not None else ()
    if port not in (UPLINK, FREE_UPLINK):
        found = find_port(port, network) if port else None
        return found.IfName if found is not None else ""
    fit = [p.IfName for p in ports if p.IsMgmt and (p.Free or port == UPLINK) and _has_way_out(p)]
    fit = [name for name in fit if name not in dead] or fit
    if current in fit:
        return current
    return fit[0] if fit else ""


def find_port(name: str, network: DeviceNetworkStatus | None) -> NetworkPortStatus | None:
    """The device port of this logical or interface name."""
    ports = network.Ports or () if network is not None else ()
    by_name = next((port for port in ports if port.Name == name), None)
    return by_name or next((port for port in ports if port.IfName == name), None)


def _has_way_out(port: NetworkPortStatus) -> bool:
    addresses = [ipaddress.ip_address(info.Addr) for info in port.AddrInfoList or () if info.Addr]
    return any(not address.is_link_local for address in addresses)


def _fields(config: NetworkInstanceConfig | NetworkInstanceStatus) -> dict[str, Any]:
    return {name: getattr(config, name) for name in _CONFIG_FIELDS}


def _in_service(status: NetworkInstanceStatus | None) -> bool:
    return status is not None and status.BridgeNum > 0


def _differs(config: NetworkInstanceConfig, status: NetworkInstanceStatus | None) -> bool:
    return status is None or any(getattr(config, name) != getattr(status, name) for name in ("Port", *_ADDRESSING))


def _wanted(config: NetworkInstanceConfig, status: NetworkInstanceStatus | None, has_vifs: bool) -> Verdict:
    if status is None or not _in_service(status):
        return Verdict(config)
    if config.Type != status.Type or config.Port != status.Port:
        what = [
            f"{name} from {old!r} to {new!r}"
            for name, old, new in (
                ("type", status.Type.name, config.Type.name),
                ("port", status.Port, config.Port),
            )
            if old != new
        ]
        kept = msgspec.structs.replace(config, **{n: getattr(status, n) for n in ("Type", "Port", *_ADDRESSING)})
        return Verdict(
            kept, f"cannot change the {' and the '.join(what)}: delete the network instance and make it anew"
        )
    if any(getattr(config, name) != getattr(status, name) for name in _ADDRESSING):
        kept = msgspec.structs.replace(config, **{name: getattr(status, name) for name in _ADDRESSING})
        return Verdict(kept, held_back=has_vifs, moves=not has_vifs)
    return Verdict(config)


def _port_error(config: NetworkInstanceConfig, network: DeviceNetworkStatus | None) -> str:
    switch = config.Type == NetworkInstanceType.SWITCH
    if not config.Port:
        return ""
    if config.Port in (UPLINK, FREE_UPLINK):
        return f"a switch needs a port of its own, not the label {config.Port!r}" if switch else ""
    port = find_port(config.Port, network)
    if port is None:
        if network is None:
            return f"port {config.Port!r} is not known: nim has not published a DeviceNetworkStatus yet"
        known = ", ".join(repr(p.Name) for p in network.Ports or ()) or "none"
        return f"port {config.Port!r} is not a port of this device (its ports: {known})"
    if switch and port.Dhcp != DhcpType.NONE:
        return f"port {config.Port!r} has Dhcp {port.Dhcp.name}: a switch needs a port with Dhcp NONE"
    if not switch and port.Dhcp == DhcpType.NONE:
        return f"port {config.Port!r} has Dhcp NONE: only a switch can use it"
    return ""


def _addressing_error(config: NetworkInstanceConfig) -> str:
    if config.IpType == AddressType.NONE:
        return ""
    family = _FAMILIES.get(config.IpType)
    if family is None:
        return f"IP type {config.IpType.name} ({int(config.IpType)}) is not supported"
    if config.IpType == AddressType.CRYPTO_IPV6:
        return ""  # its addresses are the EIDs
    try:
        subnet = ip_network(config.Subnet)
    except ValueError as err:
        return f"subnet: {err}"
    if subnet is None or subnet.network_address.is_unspecified:
        return "no subnet is given"
    if subnet.version != family:
        return f"subnet {subnet} is not IPv{family}, as IP type {config.IpType.name} needs"
    if config.Gateway and ipaddress.ip_address(config.Gateway).is_unspecified:
        return f"gateway {config.Gateway} is no address"
    start, end = config.DhcpRange.Start, config.DhcpRange.End
    if not start or not end:
        return "no DHCP range is given: both its start and its end are needed"
    for what, text in (("starts", start), ("ends", end)):
        if ipaddress.ip_address(text) not in subnet:
            return f"the DHCP range {what} at {text}, outside the subnet {subnet}"
    if int(ipaddress.ip_address(start)) > int(ipaddress.ip_address(end)):
        return f"the DHCP range ends at {end}, before its start {start}"
    return ""


@dataclass(frozen=True)
class _Claim:
    """What an instance takes for itself."""

    name: str
    switch: bool
    port: str  # the interface, "" for none or a label
    subnet: tuple[int, int, int] | None  # family, first and last address


def _claim(config: NetworkInstanceConfig, network: DeviceNetworkStatus | None) -> _Claim:
    port = find_port(config.Port, network) if config.Port else None
    try:
        net = ip_network(config.Subnet) if config.IpType != AddressType.NONE else None
    except ValueError:
        net = None  # own_errors says so
    subnet = (net.version, int(net.network_address), int(net.broadcast_address)) if net is not None else None
    return _Claim(
        f"{config.DisplayName or 'unnamed'} ({config.UUID})",
        config.Type == NetworkInstanceType.SWITCH,
        port.IfName if port is not None else "",
        subnet,
    )


def _clashes(claim: _Claim, accepted: Iterable[_Claim]) -> list[str]:
    errors = []
    for other in accepted:
        if claim.port and claim.port == other.port and (claim.switch or other.switch):
            if claim.switch:
                errors.append(f"a switch needs port {claim.port} for itself, but network instance {other.name} uses it")
            else:
                errors.append(f"port {claim.port} belongs to the switch {other.name}")
        if claim.subnet and other.subnet and claim.subnet[0] == other.subnet[0]:
            _, first, last = claim.subnet
            if first <= other.subnet[2] and other.subnet[1] <= last:
                errors.append(f"the subnet overlaps that of network instance {other.name}")
    return errors
