"""What the kernel's network should be, from zedrouter's statuses and nim's ports. Pure.

A network instance that ever was without error (it has a bridge number) has its bridge; an error that came later does
not take the bridge away from its apps. Without `Activate` it leads nowhere. An app's vifs count while it is Activated.
A way out that has no carrier now is none: guests are told "unreachable" until it is back or another one is chosen.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Collection, Iterable, Mapping
from typing import Final

from pillar.netplan.acl import host_names, host_set
from pillar.netplan.state import Bridge, Dhcp, NetState, Route, Vif
from pillar.types.enums import AddressType, NetworkInstanceType
from pillar.types.networkinstance import NetworkInstanceStatus
from pillar.types.nim import DeviceNetworkStatus, NetworkPortStatus
from pillar.types.scalars import Uuid, ip_network
from pillar.types.zedrouter import ACE, AppNetworkStatus

MESH_ROUTER: Final = "fe80::1/64"  # what the guests of a mesh of IPv6 EIDs send to
_LABELS = ("uplink", "freeuplink")


def desired(
    mark: str,
    instances: Mapping[Uuid, NetworkInstanceStatus],
    apps: Mapping[Uuid, AppNetworkStatus],
    network: DeviceNetworkStatus | None,
    dead: Collection[str] = (),
) -> NetState:
    """`dead` are interfaces that lead nowhere now."""
    ports = tuple(network.Ports or ()) if network is not None else ()
    made = {uuid: status for uuid, status in instances.items() if status.BridgeNum and status.BridgeName}
    vifs = tuple(sorted(_vifs(made, apps, ports, dead), key=lambda vif: vif.name))
    by_bridge: dict[str, list[Vif]] = {}
    for vif in vifs:
        by_bridge.setdefault(vif.bridge, []).append(vif)
    bridges: dict[str, Bridge] = {}
    dhcp: dict[str, Dhcp] = {}
    for status in made.values():
        members = by_bridge.get(status.BridgeName, [])
        bridge = bridges[status.BridgeName] = _bridge(status, members, apps, ports, dead)
        if bridge.address and bridge.address != MESH_ROUTER and not status.Ipv4Eid:
            dhcp[bridge.name] = _dhcp(status, bridge, members, ports)
    return NetState(mark, dict(sorted(bridges.items())), vifs, dhcp, _sysctls(bridges.values()))


def uplink_of(status: NetworkInstanceStatus, dead: Collection[str]) -> str:
    """The interface by which this instance's guests leave the device now, "" for none."""
    uplink = status.CurrentUplinkIntf
    return uplink if status.Activate and uplink not in dead else ""


def _bridge(
    status: NetworkInstanceStatus,
    vifs: Iterable[Vif],
    apps: Mapping[Uuid, AppNetworkStatus],
    ports: tuple[NetworkPortStatus, ...],
    dead: Collection[str],
) -> Bridge:
    switch = status.Type == NetworkInstanceType.SWITCH
    uplink = uplink_of(status, dead)
    named = {vif.Name for vif in status.Vifs or ()} | {vif.name for vif in vifs}
    if switch and status.Activate and status.CurrentUplinkIntf:
        named.add(status.CurrentUplinkIntf)  # a pulled cable does not take the port out of its bridge
    address = MESH_ROUTER if status.IpType == AddressType.CRYPTO_IPV6 and not switch else ""
    network = ip_network(status.Subnet) if status.IpType != AddressType.NONE else None
    if status.BridgeIPAddr and network is not None and not switch:
        address = f"{status.BridgeIPAddr}/{network.prefixlen}"
    return Bridge(
        owner=status.UUID,
        name=status.BridgeName,
        mac=status.BridgeMac,
        display=status.DisplayName,
        switch=switch,
        address=address,
        ports=tuple(sorted(named)),
        released=status.CurrentUplinkIntf if switch and not status.Activate else "",
        uplink=uplink,
        routes=frozenset() if switch else frozenset(_routes(status, address, uplink, apps, ports)),
        eids=frozenset(_eids(status, apps)),
        helper=status.HasEncap,
    )


def _routes(
    status: NetworkInstanceStatus,
    address: str,
    uplink: str,
    apps: Mapping[Uuid, AppNetworkStatus],
    ports: tuple[NetworkPortStatus, ...],
) -> Iterable[Route]:
    """Of the table that guests of this bridge are routed by: their own network, and one way out or none."""
    if address and address != MESH_ROUTER:
        network = ipaddress.ip_interface(address).network
        yield Route(str(network), dev=status.BridgeName)
        port = next((port for port in ports if port.IfName == uplink), None)
        beside = ip_network(port.Subnet) if port is not None else None
        if port is not None and beside is not None and beside.version == network.version:
            yield Route(str(beside), dev=uplink)
        suffix = "" if network.version == 4 else "6"
        if port is not None and port.Gateway and ipaddress.ip_address(port.Gateway).version == network.version:
            yield Route(f"default{suffix}", port.Gateway, uplink)
        else:
            yield Route(f"default{suffix}")
    yield from _eids(status, apps)


def _eids(status: NetworkInstanceStatus, apps: Mapping[Uuid, AppNetworkStatus]) -> Iterable[Route]:
    """A host route to each guest of a mesh: EIDs are in no subnet."""
    if status.Type == NetworkInstanceType.MESH:
        for app in apps.values():
            for overlay in app.OverlayNetworkList or () if app.Activated else ():
                if overlay.Network == status.UUID and overlay.EID:
                    yield Route(str(ipaddress.ip_network(overlay.EID)), dev=status.BridgeName)


def _vifs(
    instances: Mapping[Uuid, NetworkInstanceStatus],
    apps: Mapping[Uuid, AppNetworkStatus],
    ports: tuple[NetworkPortStatus, ...],
    dead: Collection[str],
) -> Iterable[Vif]:
    by_name = _port_names(ports)
    for uuid, app in apps.items():
        if not app.Activated or app.IsZedmanager:
            continue
        for position, overlay in enumerate(app.OverlayNetworkList or (), 1):
            if (status := instances.get(overlay.Network)) is not None and overlay.Bridge:
                yield _vif(
                    uuid, app, status, f"overlay {position}", overlay.Vif, overlay.Mac, overlay.EID,
                    tuple(overlay.ACLs or ()), by_name, dead,
                )  # fmt: skip
        for position, underlay in enumerate(app.UnderlayNetworkList or (), 1):
            if (status := instances.get(underlay.Network)) is not None and underlay.Bridge:
                yield _vif(
                    uuid, app, status, f"underlay {position}", underlay.Vif, underlay.Mac, underlay.AllocatedIPAddr,
                    tuple(underlay.ACLs or ()), by_name, dead,
                )  # fmt: skip


def _vif(
    uuid: Uuid, app: AppNetworkStatus, status: NetworkInstanceStatus, label: str, name: str, mac: str, address: str,
    rules: tuple[ACE, ...], by_name: Mapping[str, tuple[str, ...]], dead: Collection[str],
) -> Vif:  # fmt: skip
    listed = [(entry.HostName, tuple(entry.IPs or ())) for entry in status.DnsNameToIPList or ()]
    return Vif(
        owner=uuid,
        name=name,
        bridge=status.BridgeName,
        label=label,
        app_num=app.AppNum,
        mac=mac,
        address=address,
        switch=status.Type == NetworkInstanceType.SWITCH,
        rules=rules,
        eids=tuple(address for _, addresses in listed for address in addresses),
        hosts={name.lower().rstrip("."): addresses for name, addresses in listed},
        ports=by_name,
        uplink=uplink_of(status, dead),
    )


def _port_names(ports: tuple[NetworkPortStatus, ...]) -> dict[str, tuple[str, ...]]:
    found: dict[str, tuple[str, ...]] = {
        "uplink": tuple(port.IfName for port in ports if port.IsMgmt),
        "freeuplink": tuple(port.IfName for port in ports if port.IsMgmt and port.Free),
    }
    for port in ports:
        found[port.IfName] = (port.IfName,)
    for port in ports:
        if port.Name and port.Name not in _LABELS:
            found[port.Name] = (port.IfName,)
    return found


def _dhcp(
    status: NetworkInstanceStatus, bridge: Bridge, vifs: Iterable[Vif], ports: tuple[NetworkPortStatus, ...]
) -> Dhcp:
    own = bridge.address.partition("/")[0]
    vifs = [vif for vif in vifs if vif.address]
    servers = tuple(status.DnsServers or ())
    port = next((port for port in ports if port.IfName == bridge.uplink), None)
    upstream = tuple((server, port.IfName) for server in port.DnsServers or ()) if port is not None else ()
    sets = {
        (name, version, host_set(bridge.name, name, int(version)))
        for vif in vifs
        for version in ("6" if ":" in vif.address else "4",)
        for rule in vif.rules
        for name in host_names(rule, vif)
    }
    listed = [
        (address, entry.HostName) for entry in status.DnsNameToIPList or () for address in entry.IPs or () if address
    ]
    return Dhcp(
        bridge=bridge.name,
        address=own,
        network=str(ipaddress.ip_interface(bridge.address).network),
        domain=status.DomainName,
        router=(status.Gateway or own) if status.Port else "",
        ntp=status.NtpServer,
        dns=servers,
        upstream=upstream,
        leases=tuple((vif.mac, vif.address, vif.owner) for vif in vifs),
        hosts=((own, "router"), *listed),
        sets=tuple(sorted(sets)),
    )


def _sysctls(bridges: Iterable[Bridge]) -> dict[str, str]:
    bridges = list(bridges)
    if not bridges:
        return {}
    wanted = {
        # Frames between guests of one bridge are judged like packets that are routed.
        "bridge/bridge-nf-call-iptables": "1",
        "bridge/bridge-nf-call-ip6tables": "1",
        "netfilter/nf_conntrack_acct": "1",  # the flow log tells bytes
        "netfilter/nf_conntrack_timestamp": "1",
    }
    for bridge in bridges:
        if ":" not in bridge.address and not any(":" in route.to for route in bridge.routes):
            wanted[f"ipv6/conf/{bridge.name}/disable_ipv6"] = "1"  # no guest talks to the device past its rules
        if bridge.switch:
            continue
        if ":" in bridge.address:
            wanted["ipv6/conf/all/forwarding"] = "1"  # for IPv6 the kernel has one switch only (before Linux 6.17)
            continue
        # Of these interfaces only: `ip_forward` would make a router of all the others too.
        wanted[f"ipv4/conf/{bridge.name}/forwarding"] = "1"
        if bridge.uplink:
            wanted[f"ipv4/conf/{bridge.uplink}/forwarding"] = "1"
    return dict(sorted(wanted.items()))
