"""What nim knows about the machine at one moment, as plain values: links, addresses, gateways, name servers.

Read from the kernel by `pillar.cmd.nim.kernel`; the decisions take these and never ask themselves.
"""

import ipaddress
import re
import stat
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pillar.cmd.nim.leases import Lease
from pillar.cmd.nim.wpad import PacFile
from pillar.types.enums import DhcpType
from pillar.types.nim import NetworkPortConfig
from pillar.types.scalars import IpAddr

# More is not a resolver's configuration but somebody else's file.
_MAX_RESOLV_CONF_BYTES = 64 * 1024

# Made for guests, tunnels or tests; never a way out of the box by itself. A tap is of kind "tun".
_NO_PORT_KINDS = frozenset({"bridge", "dummy", "ifb", "tun", "wireguard", "vxlan", "geneve", "gretap", "ip6gretap"})

# zedrouter's bridges and the vifs of apps, also in the moment before a vif is on its bridge.
_OURS = re.compile(r"bn\d+|nb[uo]\d+x\d+|dbo\d+x\d+")


@dataclass(frozen=True)
class Link:
    """One interface of the kernel."""

    index: int
    name: str
    ethernet: bool = False  # ARPHRD_ETHER and not the loopback
    kind: str = ""  # the rtnetlink kind; "" for hardware
    up: bool = False  # administratively
    carrier: bool = False  # up, and something answers at the other end
    master: int = 0  # index of the bridge or bond it belongs to, 0 for none


@dataclass(frozen=True)
class Address:
    """One usable address: tentative ones and those that lost duplicate detection are left out by the reader."""

    index: int  # of the link
    address: str
    prefix_len: int
    dynamic: bool = field(default=False, compare=False)  # the kernel made it and will take it away


@dataclass(frozen=True)
class Facts:
    """Everything a status is computed from, besides the port configs."""

    links: tuple[Link, ...] = ()
    addresses: tuple[Address, ...] = ()
    gateways: tuple[tuple[int, str], ...] = ()  # (link index, next hop) of the default routes, best metric first
    dns_servers: tuple[str, ...] = ()
    domain: str = ""
    managed: bool = False  # nim sets the ports up itself
    leases: Mapping[str, Lease] = field(default_factory=dict)  # by interface name; managed only
    problems: Mapping[str, str] = field(default_factory=dict)  # by interface name: why it is not set up
    pacs: Mapping[str, PacFile] = field(default_factory=dict)  # by interface name: of those that look for one

    def link(self, name: str) -> Link | None:
        return next((link for link in self.links if link.name == name), None)


def name_service(port: NetworkPortConfig, facts: Facts) -> tuple[tuple[IpAddr, ...] | None, str]:
    """(name servers, domain) of a port: its own, else those of its lease.

    Where nim only observes, the machine's resolver answers for every port that did not get name servers of its own.
    """
    servers, domain = port.DnsServers, port.DomainName
    lease = facts.leases.get(port.IfName)
    if lease is not None:
        return servers or lease.dns_servers, domain or lease.domain
    observed = not facts.managed and port.Dhcp == DhcpType.CLIENT and facts.link(port.IfName) is not None
    return (facts.dns_servers, domain or facts.domain) if observed and not servers else (servers, domain)


def could_be_port(link: Link) -> bool:
    """Is this an interface that could lead out of the box?

    Ethernet-like, hardware or what stands for hardware in a container (veth, macvlan, vlan, bond), and not a member of
    a bridge or bond: then the master is the way out, or it is the host's end of somebody's guest.
    """
    if _OURS.fullmatch(link.name):
        return False
    return link.ethernet and link.master == 0 and link.kind not in _NO_PORT_KINDS


def read_resolv_conf(path: Path) -> tuple[tuple[str, ...], str]:
    """Name servers and domain of a resolv.conf; nothing from a file that is missing or is no regular text file."""
    try:
        # A FIFO would block the agent; a link to a regular file is how most systems provide this one.
        if not stat.S_ISREG(path.stat().st_mode):
            return (), ""
        with path.open("rb") as file:
            text = file.read(_MAX_RESOLV_CONF_BYTES).decode(errors="replace")
    except OSError:
        return (), ""
    return parse_resolv_conf(text)


def parse_resolv_conf(text: str) -> tuple[tuple[str, ...], str]:
    """(name servers in their order, domain or first search entry); lines that make no sense are skipped, as libc does.

    A scope (`fe80::1%eth0`) is cut off: EVE's records hold bare addresses.
    """
    servers: list[str] = []
    domain = ""
    for line in text.splitlines():
        words = line.split()
        if len(words) < 2:
            continue
        if words[0] == "nameserver":
            try:
                server = str(ipaddress.ip_address(words[1].partition("%")[0]))
            except ValueError:
                continue
            if server not in servers:
                servers.append(server)
        elif words[0] in ("domain", "search"):
            domain = words[1]
    return tuple(servers), domain
