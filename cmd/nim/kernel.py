"""The kernel's side of nim: what interfaces there are, and a descriptor that tells when that changed.

The only module that imports pyroute2 (about 0.27 s and 24 MiB: its package file imports all of it), so only nim pays.

An event says only "look again": its text is thrown away and everything is read anew (6 ms for a few interfaces).
So lost events (ENOBUFS when the queue was full), doubled and merged ones do no harm.
"""

import errno
import socket
from typing import Any

from pyroute2.iproute import IPRoute
from pyroute2.netlink import rtnl
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted
from pyroute2.netlink.rtnl.ifaddrmsg import IFA_F_DADFAILED, IFA_F_TENTATIVE
from pyroute2.netlink.rtnl.ifinfmsg import IFF_LOOPBACK, IFF_UP

from pillar.cmd.nim.facts import Address, Link

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
        master=message.get("master") or 0,
    )


def _address(message: Any) -> Address:
    # On a point-to-point link "address" is the peer's and "local" is ours.
    return Address(message["index"], message.get("local") or message.get("address"), message["prefixlen"])


def _usable(message: Any) -> bool:
    flags = message.get_attr("IFA_FLAGS")
    return not (message["flags"] if flags is None else flags) & (IFA_F_TENTATIVE | IFA_F_DADFAILED)


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
