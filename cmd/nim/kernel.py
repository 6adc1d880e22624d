"""The kernel's side of nim: what interfaces there are, a descriptor that tells when that changed, and changing it.

The only module that imports pyroute2 (about 0.27 s and 24 MiB: its package file imports all of it), so only nim pays.

An event says only "look again": its text is thrown away and everything is read anew (6 ms for a few interfaces).
So lost events (ENOBUFS when the queue was full), doubled and merged ones do no harm.
"""

import errno
import os
import socket
from pathlib import Path
from typing import Any, Final

from pyroute2.iproute import IPRoute
from pyroute2.netlink import rtnl
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError
from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_DADFAILED, IFA_F_PERMANENT, IFA_F_TENTATIVE
from pyroute2.netlink.rtnl.ifinfmsg import IFF_LOOPBACK, IFF_LOWER_UP, IFF_UP

from pillar.cmd.nim.facts import Address, Link
from pillar.cmd.nim.wiring import PROTOCOL, Change, Route, Rule, Wiring

_ARPHRD_ETHER = 1
_MAIN_TABLE = 254
_UNICAST = 1
_GROUPS = (
    rtnl.RTMGRP_LINK
    | rtnl.RTMGRP_IPV4_IFADDR
    | rtnl.RTMGRP_IPV6_IFADDR
    | rtnl.RTMGRP_IPV4_ROUTE
    | rtnl.RTMGRP_IPV6_ROUTE
)
_DUMP_TRIES = 5
_EVERYWHERE = {socket.AF_INET: "0.0.0.0/0", socket.AF_INET6: "::/0"}
_IPV6_METRIC = 1024
_SCOPE_LINK = 253
_RTPROT_RA = 9
_ALWAYS: Final = "2"  # of accept_ra; 1 is: unless it forwards
_DONE_ALREADY: Final = {
    "up": (errno.ENODEV,),
    "add": (errno.EEXIST, errno.ENODEV),
    "del": (errno.ESRCH, errno.EADDRNOTAVAIL, errno.ENOENT, errno.ENODEV),
}  # a link that is gone has an event of its own on its way


class Kernel:
    """The network of the namespace this process is in. `fileno` is readable when something changed."""

    def __init__(self) -> None:
        # Events first, then the first look: nothing can change unnoticed in between.
        self._events = socket.socket(
            socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE
        )
        self._events.bind((0, _GROUPS))
        self._route = IPRoute()

    def fileno(self) -> int:
        return self._events.fileno()

    def drain(self) -> int:
        """Throw away the events that wait; returns how many datagrams (an overflowed queue counts as one)."""
        count = 0
        while True:
            try:
                self._events.recv(1)  # the rest of the datagram is dropped by the kernel
            except BlockingIOError:
                return count
            except OSError as err:
                if err.errno != errno.ENOBUFS:
                    raise
            count += 1

    def read(self) -> tuple[tuple[Link, ...], tuple[Address, ...], tuple[tuple[int, str], ...]]:
        """Links, addresses and default gateways as they are now.

        The three are not one moment's picture; if they changed in between, an event waits and they are read again.
        Raises NetlinkDumpInterrupted when the kernel's tables changed during every one of a few tries.
        """
        for tries_left in reversed(range(_DUMP_TRIES)):
            try:
                links = tuple(_link(message) for message in self._route.get_links())
                addresses = tuple(_address(message) for message in self._route.get_addr() if _usable(message))
                gateways = _gateways(list(self._route.get_routes(table=_MAIN_TABLE)))
            except NetlinkDumpInterrupted:
                if not tries_left:
                    raise
                continue
            return tuple(sorted(links, key=lambda link: link.index)), addresses, gateways
        raise AssertionError("unreachable: the last try returns or raises")

    def links(self) -> tuple[Link, ...]:
        """The links alone, as `read` has them."""
        return self.read()[0]

    def wiring(self, addresses: tuple[Address, ...]) -> Wiring:
        """What is there: the given addresses, nim's own routes and rules, and everybody's default routes.

        Raises NetlinkDumpInterrupted as `read` does.
        """
        for tries_left in reversed(range(_DUMP_TRIES)):
            try:
                routes = frozenset(
                    route for message in self._route.get_routes() for route in _routes(message) if _matters(route)
                )
                rules = frozenset(
                    _rule(message)
                    for family in (socket.AF_INET, socket.AF_INET6)
                    for message in self._route.get_rules(family=family)
                    if message.get_attr("FRA_PROTOCOL") == PROTOCOL
                )
            except NetlinkDumpInterrupted:
                if not tries_left:
                    raise
                continue
            return Wiring(addresses=frozenset(addresses), routes=routes, rules=rules)
        raise AssertionError("unreachable: the last try returns or raises")

    def apply(self, change: Change) -> str:
        """Do it; "" when it is done or was done already, else what the kernel says against it."""
        try:
            match change.thing:
                case None:
                    self._route.link("set", index=change.index, state="up")
                case Address() as address:
                    self._route.addr(
                        change.action, index=address.index, address=address.address, prefixlen=address.prefix_len
                    )
                case Route() as route:
                    self._route.route(change.action, **_route_words(route))
                case Rule() as rule:
                    self._route.rule(change.action, **_rule_words(rule))
        except NetlinkError as err:
            return "" if err.code in _DONE_ALREADY[change.action] else os.strerror(err.code)
        return ""

    def listen_to_routers(self, name: str) -> str:
        """Have the kernel take router advertisements on this link whether it forwards or not; "" or why it cannot."""
        setting = Path("/proc/sys/net/ipv6/conf", name, "accept_ra")
        try:
            if setting.read_text().strip() != _ALWAYS:
                setting.write_text(_ALWAYS)
        except FileNotFoundError:  # no IPv6 here, or the link is gone, of which an event tells
            return ""
        except OSError as err:
            return f"{setting}: {err.strerror}"
        return ""

    def close(self) -> None:
        self._events.close()
        self._route.close()


def _link(message: Any) -> Link:
    info = message.get("linkinfo")
    return Link(
        index=message["index"],
        name=message.get("ifname"),
        ethernet=message["ifi_type"] == _ARPHRD_ETHER and not message["flags"] & IFF_LOOPBACK,
        kind=(info.get("kind") or "") if info is not None else "",
        up=bool(message["flags"] & IFF_UP),
        carrier=bool(message["flags"] & IFF_LOWER_UP),
        master=message.get("master") or 0,
    )


def _address(message: Any) -> Address:
    # On a point-to-point link "address" is the peer's and "local" is ours.
    address = message.get("local") or message.get("address")
    return Address(message["index"], address, message["prefixlen"], not _address_flags(message) & IFA_F_PERMANENT)


def _usable(message: Any) -> bool:
    return not _address_flags(message) & (IFA_F_TENTATIVE | IFA_F_DADFAILED)


def _address_flags(message: Any) -> int:
    flags = message.get_attr("IFA_FLAGS")
    return int(message["flags"] if flags is None else flags)


def _routes(message: Any) -> list[Route]:
    """The route, one for each of its ways."""
    family = message["family"]
    if message["type"] != _UNICAST or family not in _EVERYWHERE:
        return []
    destination = message.get_attr("RTA_DST")
    where = f"{destination}/{message['dst_len']}" if destination else _EVERYWHERE[family]
    table = message.get_attr("RTA_TABLE") or message["table"]
    metric = message.get_attr("RTA_PRIORITY") or 0
    if family == socket.AF_INET6 and metric == _IPV6_METRIC:
        metric = 0  # the kernel's own for "none given"
    return [
        Route(
            index=message.get_attr("RTA_OIF") if hop is message else hop["oif"],
            destination=where,
            gateway=hop.get_attr("RTA_GATEWAY") or "",
            table=table,
            metric=metric,
            protocol=message["proto"],
        )
        for hop in message.get_attr("RTA_MULTIPATH") or [message]
    ]


def _matters(route: Route) -> bool:
    if route.protocol == PROTOCOL:
        return True
    return route.destination in _EVERYWHERE.values() and route.protocol != _RTPROT_RA and route.index is not None


def _rule(message: Any) -> Rule:
    return Rule(
        source=f"{message.get_attr('FRA_SRC')}/{message['src_len']}",
        table=message.get_attr("FRA_TABLE") or message["table"],
        priority=message.get_attr("FRA_PRIORITY") or 0,
    )


def _route_words(route: Route) -> dict[str, Any]:
    words: dict[str, Any] = {
        "family": socket.AF_INET6 if ":" in route.destination else socket.AF_INET,
        "dst": route.destination,
        "oif": route.index,
        "table": route.table,
        "proto": route.protocol,
    }
    if route.gateway:
        words["gateway"] = route.gateway
    else:
        words["scope"] = _SCOPE_LINK
    if route.metric:
        words["priority"] = route.metric
    return words


def _rule_words(rule: Rule) -> dict[str, Any]:
    source, _, length = rule.source.partition("/")
    return {
        "family": socket.AF_INET6 if ":" in source else socket.AF_INET,
        "src": source,
        "src_len": int(length),
        "table": rule.table,
        "priority": rule.priority,
        "protocol": PROTOCOL,
    }


def _gateways(messages: list[Any]) -> tuple[tuple[int, str], ...]:
    """(link, next hop) of default routes, IPv4 before IPv6, best metric first."""
    found: list[tuple[int, int, int, str]] = []
    for message in messages:
        if message["dst_len"] or message["type"] != _UNICAST or message.get_attr("RTA_TABLE") != _MAIN_TABLE:
            continue
        metric = message.get("priority") or 0
        hops = message.get_attr("RTA_MULTIPATH") or [message]
        for hop in hops:
            index = message.get("oif") if hop is message else hop["oif"]
            gateway = hop.get_attr("RTA_GATEWAY")
            if index and gateway:
                found.append((message["family"], metric, index, gateway))
    return tuple((index, gateway) for _, _, index, gateway in sorted(found, key=lambda route: route[:2]))
