"""From what the namespace has to what it should have: the steps, and what stands in their way. Pure.

The steps of one instance are in an order in which each finds what it needs; those of different instances do not depend
on one another, so one that fails holds up its own instance only. Every step may be done twice.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final

from pillar.netplan import RULE_PRIORITY, TABLE_BASE
from pillar.netplan.state import Actual, Bridge, Link, NetState, Route, alias_of, is_ours
from pillar.types.scalars import Uuid

MAIN: Final = 254  # the kernel's table
_VIF_KINDS = ("tun", "veth", "macvlan", "")  # what a hypervisor makes, or hardware


@dataclass(frozen=True)
class AddBridge:
    owner: Uuid
    name: str
    mac: str

    def __str__(self) -> str:
        return f"ip link add {self.name} address {self.mac} type bridge"


@dataclass(frozen=True)
class AddDummy:
    owner: Uuid
    name: str
    mac: str

    def __str__(self) -> str:
        return f"ip link add {self.name} address {self.mac} mtu 1280 type dummy"


@dataclass(frozen=True)
class SetAlias:
    owner: Uuid
    name: str
    alias: str

    def __str__(self) -> str:
        return f"ip link set {self.name} alias '{self.alias}'"


@dataclass(frozen=True)
class SetMac:
    owner: Uuid
    name: str
    mac: str

    def __str__(self) -> str:
        return f"ip link set {self.name} address {self.mac}"


@dataclass(frozen=True)
class SetUp:
    owner: Uuid
    name: str

    def __str__(self) -> str:
        return f"ip link set {self.name} up"


@dataclass(frozen=True)
class DeleteLink:
    owner: Uuid
    name: str

    def __str__(self) -> str:
        return f"ip link delete {self.name}"


@dataclass(frozen=True)
class SetMaster:
    owner: Uuid
    name: str
    master: str  # "" for none

    def __str__(self) -> str:
        return (
            f"ip link set {self.name} master {self.master} up" if self.master else f"ip link set {self.name} nomaster"
        )


@dataclass(frozen=True)
class AddAddress:
    owner: Uuid
    dev: str
    address: str

    def __str__(self) -> str:
        return f"ip address add {self.address} dev {self.dev}"


@dataclass(frozen=True)
class DeleteAddress:
    owner: Uuid
    dev: str
    address: str

    def __str__(self) -> str:
        return f"ip address delete {self.address} dev {self.dev}"


@dataclass(frozen=True)
class ReplaceRoute:
    owner: Uuid
    bridge: str  # whose table it is
    route: Route
    table: int = 0  # another one

    def __str__(self) -> str:
        return f"ip route replace {self.route} table {self.table or f'<{self.bridge}>'}"


@dataclass(frozen=True)
class DeleteRoute:
    owner: Uuid
    table: int
    route: Route

    def __str__(self) -> str:
        return f"ip route delete {self.route} table {self.table}"


@dataclass(frozen=True)
class AddRule:
    owner: Uuid
    bridge: str
    version: int

    def __str__(self) -> str:
        return f"ip -{self.version} rule add iif {self.bridge} table <{self.bridge}> priority {RULE_PRIORITY}"


@dataclass(frozen=True)
class DeleteRule:
    owner: Uuid
    bridge: str
    table: int
    version: int

    def __str__(self) -> str:
        return f"ip -{self.version} rule delete iif {self.bridge} table {self.table} priority {RULE_PRIORITY}"


@dataclass(frozen=True)
class SetSysctl:
    owner: Uuid
    path: str
    value: str

    def __str__(self) -> str:
        return f"sysctl net/{self.path}={self.value}"


Step = (
    AddBridge
    | AddDummy
    | SetAlias
    | SetMac
    | SetUp
    | DeleteLink
    | SetMaster
    | AddAddress
    | DeleteAddress
    | ReplaceRoute
    | DeleteRoute
    | AddRule
    | DeleteRule
    | SetSysctl
)


def difference(state: NetState, actual: Actual) -> tuple[list[Step], dict[Uuid, str]]:
    """(steps, what is in the way by network instance)."""
    steps: list[Step] = []
    blocked: dict[Uuid, str] = {}
    tables: dict[int, Bridge] = {}
    for bridge in state.bridges.values():
        link = actual.links.get(bridge.name)
        if link is not None and not is_ours(link, state.mark):
            blocked[bridge.owner] = _foreign(link)
            continue
        if link is not None:
            tables[TABLE_BASE + link.index] = bridge
        steps += _link_steps(bridge, link, state.mark, actual)
        steps += _port_steps(bridge, link, actual)
        steps += _route_steps(bridge, link, actual)
        steps += _helper_steps(bridge, state.mark, actual)
        if (text := _port_in_the_way(bridge, link, actual)) is not None:
            blocked[bridge.owner] = text
    steps += _sysctl_steps(state, actual, blocked)
    return [*_leftovers(state, actual, tables), *steps], blocked


def _foreign(link: Link) -> str:
    told = f" ({link.alias})" if link.alias else ""
    return f"there is an interface {link.name} that is not ours: {link.kind or 'hardware'}{told}; rename or delete it"


def _link_steps(bridge: Bridge, link: Link | None, mark: str, actual: Actual) -> Iterator[Step]:
    owner, name = bridge.owner, bridge.name
    if link is None:
        yield AddBridge(owner, name, bridge.mac)
    elif link.mac != bridge.mac:
        yield SetMac(owner, name, bridge.mac)
    if link is None or link.alias != alias_of(mark, bridge):
        yield SetAlias(owner, name, alias_of(mark, bridge))
    if link is None or not link.up:
        yield SetUp(owner, name)
    has = actual.addresses.get(link.index, frozenset()) if link is not None else frozenset()
    for address in sorted(has - {bridge.address}):
        yield DeleteAddress(owner, name, address)
    if bridge.address and bridge.address not in has:
        yield AddAddress(owner, name, bridge.address)


def _helper_steps(bridge: Bridge, mark: str, actual: Actual) -> Iterator[Step]:
    """Last, because most kernels that lack dummies have everything else."""
    name, mac = f"s{bridge.name}", bridge.mac.split(":")
    if not bridge.helper:
        return
    dummy = actual.links.get(name)
    if dummy is None:
        yield AddDummy(bridge.owner, name, ":".join([*mac[:4], "01", mac[5]]))
    if dummy is None or dummy.alias != alias_of(mark, bridge):
        yield SetAlias(bridge.owner, name, alias_of(mark, bridge))
    if dummy is None or not dummy.up:
        yield SetUp(bridge.owner, name)


def _port_steps(bridge: Bridge, link: Link | None, actual: Actual) -> Iterator[Step]:
    for name in bridge.ports:
        port = actual.links.get(name)
        if port is None or port.kind not in _VIF_KINDS or _held_by(port, bridge, actual):
            continue
        if link is None or port.master != link.index or not port.up:
            yield SetMaster(bridge.owner, name, bridge.name)
    released = actual.links.get(bridge.released)
    if released is not None and link is not None and released.master == link.index:
        yield SetMaster(bridge.owner, bridge.released, "")


def _held_by(port: Link, bridge: Bridge, actual: Actual) -> str:
    """The bridge of somebody else that has our switch's uplink; "" for none. A vif is taken from wherever it is."""
    if port.name != bridge.uplink or not port.master:
        return ""
    master = next((link for link in actual.links.values() if link.index == port.master), None)
    return master.name if master is not None and master.name != bridge.name else ""


def _port_in_the_way(bridge: Bridge, link: Link | None, actual: Actual) -> str | None:
    if not bridge.switch or not bridge.uplink:
        return None
    port = actual.links.get(bridge.uplink)
    if port is None:
        return f"its port {bridge.uplink} does not exist"
    if master := _held_by(port, bridge, actual):
        return f"its port {bridge.uplink} belongs to the bridge {master}; take it out of there"
    return None


def _route_steps(bridge: Bridge, link: Link | None, actual: Actual) -> Iterator[Step]:
    table = TABLE_BASE + link.index if link is not None else 0
    has = actual.routes.get(table, frozenset())
    wanted = bridge.routes
    kept_places = {route.to for route in wanted}
    for route in sorted(has - wanted):
        if route.to not in kept_places or not route.dev:
            yield DeleteRoute(bridge.owner, table, route)
    for route in sorted(wanted - has, key=lambda route: (bool(route.via), route)):
        yield ReplaceRoute(bridge.owner, bridge.name, route)
    for route in sorted(bridge.eids - actual.routes.get(MAIN, frozenset())):
        yield ReplaceRoute(bridge.owner, bridge.name, route, MAIN)
    for version in sorted({_version(route) for route in wanted}):
        if link is None or (bridge.name, table, version) not in actual.rules:
            yield AddRule(bridge.owner, bridge.name, version)


def _version(route: Route) -> int:
    if route.to.startswith("default"):
        return 6 if route.to == "default6" else 4
    return ipaddress.ip_network(route.to).version


def _leftovers(state: NetState, actual: Actual, tables: dict[int, Bridge]) -> Iterator[Step]:
    """What is ours and not wanted any more."""
    for name, table, version in sorted(actual.rules):
        bridge = tables.get(table)
        if bridge is None or bridge.name != name or version not in {_version(route) for route in bridge.routes}:
            if name in actual.links and not is_ours(actual.links[name], state.mark):
                continue  # another device's in this namespace
            yield DeleteRule("", name, table, version)
    for table, routes in sorted(actual.routes.items()):
        if table == MAIN:
            wanted_here = {route for bridge in state.bridges.values() for route in bridge.eids}
            foreign = {link.name for link in actual.links.values() if not is_ours(link, state.mark)}
            for route in sorted(routes - wanted_here):
                if route.dev not in foreign:
                    yield DeleteRoute("", table, route)
        elif table not in tables and not _of_another(table, state, actual):
            for route in sorted(routes):
                yield DeleteRoute("", table, route)
    wanted = {*state.bridges, *(f"s{name}" for name, bridge in state.bridges.items() if bridge.helper)}
    for name, link in sorted(actual.links.items()):
        if name not in wanted and link.alias and is_ours(link, state.mark):
            yield DeleteLink("", name)


def _of_another(table: int, state: NetState, actual: Actual) -> bool:
    """Is this the table of a bridge that another device made?"""
    link = next((link for link in actual.links.values() if link.index == table - TABLE_BASE), None)
    return link is not None and not is_ours(link, state.mark)


def _sysctl_steps(state: NetState, actual: Actual, blocked: dict[Uuid, str]) -> Iterator[Step]:
    owners = {bridge.name: bridge.owner for bridge in state.bridges.values()}
    for path, value in state.sysctls.items():
        part = path.split("/")
        owner = owners.get(part[2], "") if len(part) == 4 else ""
        if owner not in blocked and actual.sysctls.get(path) != value:
            yield SetSysctl(owner, path, value)
