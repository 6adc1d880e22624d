"""The kernel's side: read the namespace this process is in, do steps, tell when something changed.

An event says only "look again". pyroute2 speaks to the kernel; importing it costs about 0.27 s and 24 MiB.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from pyroute2.iproute import IPRoute
from pyroute2.netlink import rtnl
from pyroute2.netlink.exceptions import NetlinkDumpInterrupted, NetlinkError

from pillar.netplan import PROTOCOL, RULE_PRIORITY, TABLE_BASE
from pillar.netplan.difference import (
    AddAddress,
    AddBridge,
    AddDummy,
    AddRule,
    DeleteAddress,
    DeleteLink,
    DeleteRoute,
    DeleteRule,
    ReplaceRoute,
    SetAlias,
    SetMac,
    SetMaster,
    SetSysctl,
    SetUp,
    Step,
)
from pillar.netplan.links import read_links
from pillar.netplan.state import Actual, Route

_SYSCTLS: Final = Path("/proc/sys/net")
_UNREACHABLE: Final = 7
_DUMP_TRIES: Final = 5
_IFA_F_NODAD: Final = 2  # no other device has the bridge's address on its bridge
_GROUPS: Final = (
    rtnl.RTMGRP_LINK
    | rtnl.RTMGRP_IPV4_IFADDR
    | rtnl.RTMGRP_IPV4_ROUTE
    | rtnl.RTMGRP_IPV4_RULE
    | rtnl.RTMGRP_IPV6_IFADDR
    | rtnl.RTMGRP_IPV6_ROUTE
)
_NFNL_SUBSYS_NFTABLES: Final = 10
_NFT_MSG_GETGEN: Final = 16
_NFTA_GEN_ID: Final = 1
_NFNLGRP_NFTABLES: Final = 7
_SOL_NETLINK: Final = 270
_NETLINK_ADD_MEMBERSHIP: Final = 1
_NETLINK_NETFILTER: Final = 12
# Elements are added by dnsmasq at every look-up; those are no reason to look.
_IGNORED_NFT_MESSAGES: Final = frozenset({12, 15})  # NEWSETELEM, NEWGEN


class StepFailed(Exception):
    """The kernel refused a step."""


class Kernel:
    """The network of the namespace this process is in. `events` are readable when something changed."""

    def __init__(self, *, watch: bool = True) -> None:
        self._route = IPRoute()
        self.events: list[socket.socket] = []
        if watch:  # before the first look: nothing changes unnoticed in between
            links = _netlink(socket.NETLINK_ROUTE)
            links.bind((0, _GROUPS))
            tables = _netlink(_NETLINK_NETFILTER)
            tables.bind((0, 0))
            tables.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _NFNLGRP_NFTABLES)
            self.events = [links, tables]
        self._generations = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, _NETLINK_NETFILTER)
        self._generations.bind((0, 0))
        self._generations.settimeout(5)

    def close(self) -> None:
        for events in self.events:
            events.close()
        self._generations.close()
        self._route.close()

    def drain(self, events: socket.socket) -> bool:
        """Throw away the events that wait; True when one of them is a reason to look again."""
        matters = False
        while True:
            try:
                message = events.recv(1 << 16)
            except BlockingIOError:
                return matters
            except OSError as err:
                if err.errno != errno.ENOBUFS:
                    raise
                matters = True
                continue
            matters = matters or events is not self.events[-1] or _tells_of_rules(message)

    def generation(self) -> int:
        """A number that grows with every change of the namespace's nftables. Raises OSError."""
        header = struct.pack("=IHHII", 20, (_NFNL_SUBSYS_NFTABLES << 8) | _NFT_MSG_GETGEN, 1, 0, 0)
        self._generations.send(header + struct.pack("=BBH", 0, 0, 0))
        reply = self._generations.recv(4096)
        place = 20
        while place + 4 <= len(reply):
            length, kind = struct.unpack_from("=HH", reply, place)
            if kind & 0x3FFF == _NFTA_GEN_ID:
                return int(struct.unpack_from(">I", reply, place + 4)[0])
            place += (length + 3) & ~3 or 4
        raise OSError(errno.EOPNOTSUPP, "the kernel has no nftables")

    def read(self, *, stats: bool = False) -> Actual:
        """What there is now, sysctls excepted; with `stats` also the counters of interfaces.

        Raises NetlinkDumpInterrupted or LinksChanged when it changed during every one of a few tries.
        """
        for tries_left in reversed(range(_DUMP_TRIES)):
            try:
                links = read_links(stats=stats)
                addresses: dict[int, set[str]] = {}
                for message in self._route.get_addr():
                    index, address = _address(message)
                    if address:
                        addresses.setdefault(index, set()).add(address)
                names = {link.index: link.name for link in links.values()}
                routes: dict[int, set[Route]] = {}
                for message in self._route.get_routes(proto=PROTOCOL):
                    if message["proto"] == PROTOCOL:
                        table = message.get("table") or message["table"]
                        routes.setdefault(table, set()).add(_route(message, names))
                rules = frozenset(self._rules())
            except NetlinkDumpInterrupted:
                if not tries_left:
                    raise
                continue
            return Actual(
                links,
                {index: frozenset(found) for index, found in addresses.items()},
                {table: frozenset(found) for table, found in routes.items()},
                rules,
            )
        raise AssertionError("unreachable: the last try returns or raises")

    def _rules(self) -> Iterable[tuple[str, int, int]]:
        for family, version in ((socket.AF_INET, 4), (socket.AF_INET6, 6)):
            for message in self._route.get_rules(family=family):
                if message.get("protocol") == PROTOCOL:
                    yield message.get("iifname") or "", message.get("table") or message["table"], version

    def do(self, step: Step) -> None:
        """Do one step; that it is done already is fine. Raises StepFailed."""
        try:
            self._do(step)
        except NetlinkError as err:
            if err.code in _DONE.get(type(step), ()):
                return
            raise StepFailed(f"{step}: {_why(err, step)}") from err
        except OSError as err:
            raise StepFailed(f"{step}: {err.strerror or err}") from err

    def _do(self, step: Step) -> None:
        route = self._route
        match step:
            case AddBridge(name=name, mac=mac):
                route.link(
                    "add",
                    ifname=name,
                    kind="bridge",
                    address=mac,
                    br_stp_state=0,
                    br_forward_delay=0,
                    br_mcast_snooping=0,
                )
            case AddDummy(name=name, mac=mac):
                route.link("add", ifname=name, kind="dummy", address=mac, mtu=1280)
            case SetAlias(name=name, alias=alias):
                route.link("set", index=self._index(name), ifalias=alias)
            case SetMac(name=name, mac=mac):
                route.link("set", index=self._index(name), address=mac)
            case SetUp(name=name):
                route.link("set", index=self._index(name), state="up")
            case DeleteLink(name=name):
                route.link("del", index=self._index(name))
            case SetMaster(name=name, master=master):
                route.link("set", index=self._index(name), master=self._index(master) if master else 0)
                if master:
                    route.link("set", index=self._index(name), state="up")
            case AddAddress(dev=dev, address=address):
                own, _, length = address.partition("/")
                words = {"flags": _IFA_F_NODAD} if ":" in own else {}
                route.addr("add", index=self._index(dev), address=own, prefixlen=int(length), **words)
            case DeleteAddress(dev=dev, address=address):
                own, _, length = address.partition("/")
                route.addr("del", index=self._index(dev), address=own, prefixlen=int(length))
            case ReplaceRoute(bridge=bridge, route=wanted, table=table):
                route.route("replace", **self._route_words(wanted, table or TABLE_BASE + self._index(bridge)))
            case DeleteRoute(table=table, route=unwanted):
                route.route("del", **self._route_words(unwanted, table))
            case AddRule(bridge=bridge, version=version):
                route.rule("add", **self._rule_words(bridge, TABLE_BASE + self._index(bridge), version))
            case DeleteRule(bridge=bridge, table=table, version=version):
                route.rule("del", **self._rule_words(bridge, table, version))
            case SetSysctl(path=path, value=value):
                (_SYSCTLS / path).write_text(value)

    def _index(self, name: str) -> int:
        try:
            return socket.if_nametoindex(name)
        except OSError:
            raise OSError(errno.ENODEV, f"there is no interface {name}") from None

    def _route_words(self, route: Route, table: int) -> dict[str, Any]:
        family = socket.AF_INET6 if route.to == "default6" or ":" in route.to else socket.AF_INET
        any_address = "::/0" if family == socket.AF_INET6 else "0.0.0.0/0"
        words: dict[str, Any] = {
            "family": family,
            "dst": any_address if route.to.startswith("default") else route.to,
            "table": table,
            "proto": PROTOCOL,
        }
        if not route.dev:
            return words | {"type": "unreachable"}
        words["oif"] = self._index(route.dev)
        if route.via:
            return words | {"gateway": route.via, "flags": ["onlink"]}
        return words | ({"scope": "link"} if family == socket.AF_INET else {})

    def _rule_words(self, bridge: str, table: int, version: int) -> dict[str, Any]:
        return {
            "family": socket.AF_INET if version == 4 else socket.AF_INET6,
            "iifname": bridge,
            "table": table,
            "priority": RULE_PRIORITY,
            "protocol": PROTOCOL,
        }


# What a step may meet when it, or somebody else, has done it before.
_DONE: Final[dict[type, tuple[int, ...]]] = {
    AddBridge: (errno.EEXIST,),
    AddDummy: (errno.EEXIST,),
    AddAddress: (errno.EEXIST,),
    AddRule: (errno.EEXIST,),
    DeleteLink: (errno.ENODEV,),
    DeleteAddress: (errno.EADDRNOTAVAIL, errno.ENODEV),
    DeleteRoute: (errno.ESRCH, errno.ENODEV),
    DeleteRule: (errno.ENOENT, errno.ESRCH),
}


def _why(err: NetlinkError, step: Step) -> str:
    if err.code == errno.EOPNOTSUPP and isinstance(step, AddDummy):
        return "this kernel has no dummy interfaces (CONFIG_DUMMY), which a mesh with encapsulation needs"
    return os.strerror(err.code)


def _netlink(protocol: int) -> socket.socket:
    return socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC, protocol)


def _tells_of_rules(message: bytes) -> bool:
    place = 0
    while place + 16 <= len(message):
        length, kind = struct.unpack_from("=IH", message, place)
        if kind >> 8 == _NFNL_SUBSYS_NFTABLES and kind & 0xFF not in _IGNORED_NFT_MESSAGES:
            return True
        if length < 16:
            return False
        place += (length + 3) & ~3
    return False


def _address(message: Any) -> tuple[int, str]:
    address = message.get("local") or message.get("address")
    if not address or (address.startswith("fe80:") and address != "fe80::1"):  # the kernel's own
        return message["index"], ""
    return message["index"], f"{address}/{message['prefixlen']}"


def _route(message: Any, names: dict[int, str]) -> Route:
    six = message["family"] == socket.AF_INET6
    to = f"{message.get('dst')}/{message['dst_len']}" if message["dst_len"] else "default6" if six else "default"
    if message["type"] == _UNREACHABLE:
        return Route(to)
    return Route(to, message.get("gateway") or "", names.get(message.get("oif") or 0, "?"))


def read_sysctls(paths: Iterable[str]) -> dict[str, str]:
    """Those below /proc/sys/net that exist, as they are in this namespace."""
    found = {}
    for path in paths:
        with contextlib.suppress(OSError):
            found[path] = (_SYSCTLS / path).read_text().strip()
    return found
