"""The values: what the kernel's network should be, and what it is. All frozen, all comparable."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from pillar.types.scalars import Uuid
from pillar.types.zedrouter import ACE


@dataclass(frozen=True, order=True)
class Route:
    """A route in an instance's own table. Without `dev`: unreachable."""

    to: str  # "default", "default6" or a network
    via: str = ""
    dev: str = ""

    def __str__(self) -> str:
        to = self.to.removesuffix("6")
        if not self.dev:
            return f"unreachable {to}"
        return f"{to}{f' via {self.via}' if self.via else ''} dev {self.dev}"


@dataclass(frozen=True)
class Bridge:
    """One network instance in the kernel."""

    owner: Uuid  # the network instance
    name: str
    mac: str
    display: str = ""  # the instance's name, for a person
    switch: bool = False
    address: str = ""  # with prefix length; "" for none
    ports: tuple[str, ...] = ()  # interfaces that belong on it, if they exist: vifs, and a switch's uplink
    released: str = ""  # a device port that must not be on it any more
    uplink: str = ""  # a way out that works now; a switch's is also one of `ports`
    routes: frozenset[Route] = frozenset()  # of its own table
    eids: frozenset[Route] = frozenset()  # to guests of a mesh, in the main table
    helper: bool = False  # a dummy `s<bridge>` with MTU 1280 beside it (HasEncap)


@dataclass(frozen=True)
class Vif:
    """One interface of an active app, as its access rules see it."""

    owner: Uuid  # the app
    name: str
    bridge: str
    label: str  # "underlay 1", for a person
    app_num: int
    mac: str
    address: str = ""  # of the guest; "" on a switch
    switch: bool = False
    rules: tuple[ACE, ...] = ()
    eids: tuple[str, ...] = ()  # addresses that an `eidset` match means
    hosts: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # of names that the config gives addresses to
    ports: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # interfaces by port name or label
    uplink: str = ""


@dataclass(frozen=True)
class Dhcp:
    """What one bridge's dnsmasq says; see `dnsmasq` for how."""

    bridge: str
    address: str
    network: str  # "10.1.0.0/24"
    domain: str = ""
    router: str = ""  # "" = guests get no default route
    ntp: str = ""
    dns: tuple[str, ...] = ()  # servers that guests are told to ask; () = the bridge
    upstream: tuple[tuple[str, str], ...] = ()  # (server, interface) that dnsmasq asks
    leases: tuple[tuple[str, str, str], ...] = ()  # (MAC, address, host name)
    hosts: tuple[tuple[str, str], ...] = ()  # (address, name)
    sets: tuple[tuple[str, str, str], ...] = ()  # (name looked up, version, nftables set its addresses go to)


@dataclass(frozen=True)
class NetState:
    """What the kernel's network should be."""

    mark: str
    bridges: Mapping[str, Bridge] = field(default_factory=dict)  # by name
    vifs: tuple[Vif, ...] = ()
    dhcp: Mapping[str, Dhcp] = field(default_factory=dict)  # by bridge
    sysctls: Mapping[str, str] = field(default_factory=dict)  # below /proc/sys/net


@dataclass(frozen=True)
class Link:
    """One interface of the namespace."""

    index: int
    name: str
    kind: str = ""
    mac: str = ""
    master: int = 0
    up: bool = False
    carrier: bool = False
    alias: str = ""
    stats: Mapping[str, Any] = field(default_factory=dict, compare=False)


@dataclass(frozen=True)
class Actual:
    """What the namespace has, as far as it matters here."""

    links: Mapping[str, Link] = field(default_factory=dict)
    addresses: Mapping[int, frozenset[str]] = field(default_factory=dict)  # by link index; IPv6 link-local ones not
    routes: Mapping[int, frozenset[Route]] = field(default_factory=dict)  # ours, by table
    rules: frozenset[tuple[str, int, int]] = frozenset()  # ours: (incoming interface, table, family)
    sysctls: Mapping[str, str] = field(default_factory=dict)  # those asked for that exist

    def dead(self) -> frozenset[str]:
        """Interfaces that lead nowhere: down, or with the cable pulled."""
        return frozenset(link.name for link in self.links.values() if not (link.up and link.carrier))


def mark_of(root: Path) -> str:
    """The name by which what a device made is known: `pillar`, and for a root below / a part of its hash.

    So several devices can share a namespace, each with things of its own.
    """
    if root == Path("/"):
        return "pillar"
    return f"pillar-{hashlib.sha256(os.fsencode(root)).hexdigest()[:8]}"


def alias_of(mark: str, bridge: Bridge) -> str:
    return f"{mark} {bridge.owner}"


def is_ours(link: Link, mark: str) -> bool:
    """Did this device make the link? The alias follows the creation, so a kill in between leaves one without."""
    if link.kind not in ("bridge", "dummy"):
        return False
    if link.alias:
        return link.alias.split(" ")[0] == mark
    return link.mac.startswith("00:16:3e:06:0") and link.name.lstrip("s").startswith("bn")
