"""What the kernel should have for the ports of a config, and what has to be done about the difference. Pure.

    wiring       config, links and leases in; addresses, routes and rules out
    difference   those and what the kernel has; the changes to make, in their order

Per port: its address; a route table of its own, which whatever is sent from that address uses, so that a source address
decides the port; and a default route in the main table while there is a carrier, free ports before the others.

Routes and rules carry PROTOCOL, by which nim knows its own; all others stay, but for default routes that someone else
put on a port. On its ports nim keeps no permanent address besides the wanted ones; what the kernel makes itself
(link-local, autoconfiguration) stays, and an address that a router advertised gets a table and a rule like any other.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Final

from pillar.cmd.nim.facts import Address, Link
from pillar.cmd.nim.leases import Lease
from pillar.types.enums import DhcpType
from pillar.types.nim import DevicePortConfig, NetworkPortConfig

PROTOCOL: Final = 178  # of routes and rules, as `ip route` shows it: nobody's else in /etc/iproute2/rt_protos
FIRST_TABLE: Final = 500  # EVE: a port's table is 500 and its interface's index
RULE_PRIORITY: Final = 15000
MAIN_TABLE: Final = 254
FIRST_METRIC: Final = 100


@dataclass(frozen=True)
class Route:
    """A route through an interface; to `destination`, or everywhere of its family."""

    index: int
    destination: str  # 192.0.2.0/24, 0.0.0.0/0
    gateway: str = ""
    table: int = MAIN_TABLE
    metric: int = 0
    protocol: int = PROTOCOL


@dataclass(frozen=True)
class Rule:
    """What is sent from `source` uses `table`."""

    source: str  # with its length: 192.0.2.7/32
    table: int
    priority: int = RULE_PRIORITY


@dataclass(frozen=True)
class Wiring:
    """Addresses, routes and rules: what should be, or what is. `ports` are the indices of the links nim owns."""

    ports: frozenset[int] = frozenset()
    addresses: frozenset[Address] = frozenset()
    routes: frozenset[Route] = frozenset()
    rules: frozenset[Rule] = frozenset()


@dataclass(frozen=True)
class Change:
    """One thing to do in the kernel; `index` is the link it is about, for its errors (0: none)."""

    action: str  # "add" or "del", "up" for a link
    thing: Address | Route | Rule | None
    index: int = 0


@dataclass(frozen=True)
class Plan:
    """The wiring of a config, which of its ports need a DHCP client, and what is wrong with the others."""

    wiring: Wiring
    dhcp: tuple[str, ...] = ()  # interface names
    problems: Mapping[str, str] = field(default_factory=dict)  # interface name: why it cannot be set up


def plan(
    config: DevicePortConfig | None,
    links: tuple[Link, ...],
    leases: Mapping[str, Lease],
    advertised: Iterable[Address] = (),
    gateways: Iterable[tuple[int, str]] = (),
) -> Plan:
    """What `config` asks for on these links. A port that cannot be set up is a problem; the others are set up.

    `advertised` are addresses that the kernel has now; those of IPv6 that it made itself from a router's advertisement
    are its own, as are their routes in the main table: here they get what makes a source address decide the port.
    `gateways` are the default routes' (link, next hop).
    """
    by_name = {link.name: link for link in links}
    ports = tuple(port for port in (config.Ports if config is not None else None) or () if managed(port))
    metrics = {port.IfName: FIRST_METRIC + place for place, port in enumerate(free_first(ports))}
    owned: set[int] = set()
    addresses: set[Address] = set()
    routes: set[Route] = set()
    rules: set[Rule] = set()
    problems: dict[str, str] = {}
    dhcp: list[str] = []
    for port in ports:
        link = by_name.get(port.IfName)
        if link is None or link.index in owned:
            continue  # the status says so
        if link.master:
            problems[port.IfName] = f"port {port.IfName} belongs to a bridge or bond, and cannot have an address"
            continue
        owned.add(link.index)
        if port.Dhcp == DhcpType.CLIENT:
            dhcp.append(port.IfName)
        try:
            given = _addressing(port, leases.get(port.IfName))
        except ValueError as err:
            problems[port.IfName] = str(err)
            continue
        if given is None:
            continue
        address, gateway = given
        metric = metrics[port.IfName] if link.carrier else None
        addresses.add(Address(link.index, str(address.ip), address.network.prefixlen))
        routes |= _routes(link.index, address, gateway, metric)
        rules.add(Rule(f"{address.ip}/{address.max_prefixlen}", FIRST_TABLE + link.index))
    for found in advertised:
        address = ipaddress.ip_interface(f"{found.address}/{found.prefix_len}")
        if found.index in owned and found.dynamic and address.version == 6 and not address.is_link_local:
            gateway = next((hop for index, hop in gateways if index == found.index and ":" in hop), "")
            routes |= _routes(found.index, address, gateway, None)
            rules.add(Rule(f"{address.ip}/128", FIRST_TABLE + found.index))
    wiring = Wiring(frozenset(owned), frozenset(addresses), frozenset(routes), frozenset(rules))
    return Plan(wiring, tuple(dhcp), problems)


def managed(port: NetworkPortConfig) -> bool:
    """Is this a port whose addresses are nim's affair? The others are for switches, or wrong."""
    return port.Dhcp in (DhcpType.CLIENT, DhcpType.STATIC) and not port.ParseError and bool(port.IfName)


def free_first(ports: Iterable[NetworkPortConfig]) -> list[NetworkPortConfig]:
    """Management ports that cost nothing, then the others for management, then the rest, each in their order."""
    return sorted(ports, key=lambda port: (not port.IsMgmt, not port.Free))


def difference(wanted: Wiring, actual: Wiring, ports: tuple[Link, ...]) -> list[Change]:
    """What to do, in this order. `actual` has nim's own rules, and of routes nim's own and every default route.

    Those of the `ports` that are down are set up. Addresses go before others come: with the first of a subnet the
    kernel takes its secondary ones, and with the last of a link all its routes; the next difference puts them back.
    """
    changes = [Change("up", None, link.index) for link in ports if not link.up]
    foreign = {
        route
        for route in actual.routes
        if route.protocol != PROTOCOL and not (route.table == MAIN_TABLE and route.index in wanted.ports)
    }
    going = sorted(actual.routes - wanted.routes - foreign, key=repr)
    changes += [Change("del", rule) for rule in sorted(actual.rules - wanted.rules, key=repr)]
    changes += [Change("del", route, route.index) for route in going]
    mine = {address for address in actual.addresses if address.index in wanted.ports and _removable(address)}
    gone = sorted(mine - wanted.addresses, key=repr)
    changes += [Change("del", address, address.index) for address in gone]
    coming = sorted(wanted.addresses - actual.addresses, key=repr)
    changes += [Change("add", address, address.index) for address in coming]
    # A gateway is reached by the route to its subnet: that one first.
    new = sorted(wanted.routes - actual.routes, key=lambda route: (bool(route.gateway), repr(route)))
    changes += [Change("add", route, route.index) for route in new]
    changes += [Change("add", rule) for rule in sorted(wanted.rules - actual.rules, key=repr)]
    return changes


def _removable(address: Address) -> bool:
    return not address.dynamic and not ipaddress.ip_address(address.address).is_link_local


def _addressing(
    port: NetworkPortConfig, lease: Lease | None
) -> tuple[ipaddress.IPv4Interface | ipaddress.IPv6Interface, str] | None:
    """(address with its subnet, gateway or ""); None while there is no lease. Raises ValueError for a wrong config."""
    if port.Dhcp == DhcpType.CLIENT:
        if lease is None:
            return None
        return ipaddress.ip_interface(f"{lease.address}/{lease.prefix_len}"), lease.gateway
    try:
        address = ipaddress.ip_interface(port.AddrSubnet)
    except ValueError as err:
        raise ValueError(
            f"AddrSubnet is {port.AddrSubnet!r}, expected an address with its prefix like 10.1.0.2/24"
        ) from err
    if address.network.prefixlen < address.max_prefixlen - 1 and address.ip == address.network.network_address:
        raise ValueError(f"AddrSubnet is {port.AddrSubnet!r}, which is the subnet and no address in it")
    gateway = port.Gateway
    if gateway and ipaddress.ip_address(gateway).is_unspecified:
        gateway = ""
    if gateway and ipaddress.ip_address(gateway) not in address.network:
        raise ValueError(f"Gateway {gateway} is not in the port's subnet {address.network}")
    return address, gateway


def _routes(
    index: int, address: ipaddress.IPv4Interface | ipaddress.IPv6Interface, gateway: str, metric: int | None
) -> set[Route]:
    """The port's own table, and with a `metric` its default route in the main one."""
    own = FIRST_TABLE + index
    found = {Route(index, str(address.network), table=own)}
    if gateway:
        everywhere = "0.0.0.0/0" if address.version == 4 else "::/0"
        found.add(Route(index, everywhere, gateway, own))
        if metric is not None:
            found.add(Route(index, everywhere, gateway, MAIN_TABLE, metric))
    return found
