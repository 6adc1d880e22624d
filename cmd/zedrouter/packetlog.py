"""Packets that nftables rules hand to user space (`log group`): NFLOG, of the namespace this process is in.

    rule -> kernel's queue of the group -> Logged: what the rule says (its prefix), when, the packet's beginning

Nobody is held up: what does not fit the queue is lost.
"""

from __future__ import annotations

import ipaddress
import os
import socket
import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final

from pillar.cmd.zedrouter import netfilter

COPIED_BYTES: Final = 1500  # of each packet: a DNS answer over UDP is rarely longer
_ULOG: Final = 4  # the kernel's subsystem of packet logs
_PACKET, _CONFIG = _ULOG << 8, _ULOG << 8 | 1
_ERROR: Final = 2  # NLMSG_ERROR, also the acknowledgement
_REQUEST_ACK: Final = 1 | 4
_CFG_CMD, _CFG_MODE, _CFG_TIMEOUT = 1, 2, 4
_BIND: Final = 1
_COPY_PACKET: Final = 2
_TIMEOUT_CS: Final = 20  # the kernel collects packets for so many hundredths of a second
_WITH_PORTS: Final = (6, 17, 132)
_IPV6_HEADER: Final = 40


class Part(IntEnum):
    """The kernel's attributes of a logged packet that matter here."""

    TIMESTAMP = 3
    PAYLOAD = 9
    PREFIX = 10


@dataclass(frozen=True)
class Packet:
    """The headers of an IP packet, and what follows them."""

    source: str
    target: str
    protocol: int
    source_port: int
    target_port: int
    length: int  # of the whole packet, in bytes
    payload: bytes  # of UDP, as far as it was copied


@dataclass(frozen=True)
class Logged:
    """One packet and the rule's word for it."""

    prefix: str
    at_ns: int
    packet: Packet


class PacketLog:
    """What the rules with this group number log."""

    def __init__(self, group: int) -> None:
        """Raises OSError: no such thing in this kernel, or somebody else listens to this group (EBUSY)."""
        self._socket = netfilter.opened()
        try:
            self._configure(group, _attribute(_CFG_CMD, struct.pack("=B", _BIND)))
            mode = _attribute(_CFG_MODE, struct.pack(">IBx", COPIED_BYTES, _COPY_PACKET))
            self._configure(group, mode + _attribute(_CFG_TIMEOUT, struct.pack(">I", _TIMEOUT_CS)))
        except OSError:
            self._socket.close()
            raise

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self, at_most: int) -> Iterator[Logged]:
        """What was logged since, of at most so many datagrams; an overflowed queue (ENOBUFS) loses some."""
        for data in netfilter.datagrams(self._socket, at_most, 1 << 18):
            for kind, body in _messages(data):
                if kind == _PACKET and (logged := parse(body)) is not None:
                    yield logged

    def close(self) -> None:
        self._socket.close()

    def _configure(self, group: int, attributes: bytes) -> None:
        body = struct.pack(">BBH", socket.AF_UNSPEC, 0, group) + attributes
        self._socket.send(struct.pack("=IHHII", 16 + len(body), _CONFIG, _REQUEST_ACK, 0, 0) + body)
        for kind, answer in _messages(self._socket.recv(1 << 16)):  # the kernel answers before `send` returns
            if kind == _ERROR and (code := -struct.unpack_from("=i", answer)[0]):
                raise OSError(code, f"packets of log group {group}: {os.strerror(code)}")


def parse(body: bytes) -> Logged | None:
    """One message of the kernel; None for a packet that is not IP, or cut too short to know."""
    prefix, at_ns, packet = "", 0, None
    for kind, value in _attributes(body[4:]):
        match kind:
            case Part.PREFIX:
                prefix = value.rstrip(b"\0").decode(errors="replace")
            case Part.TIMESTAMP:
                seconds, micros = struct.unpack_from(">QQ", value)
                at_ns = seconds * 1_000_000_000 + micros * 1000
            case Part.PAYLOAD:
                packet = parse_packet(value)
    return Logged(prefix, at_ns or time.time_ns(), packet) if packet is not None else None


def parse_packet(data: bytes) -> Packet | None:
    """An IP packet that may have been cut; extension headers of IPv6 are not looked behind."""
    try:
        if data[0] >> 4 == 4:
            start = (data[0] & 15) * 4
            length, protocol = struct.unpack_from(">H", data, 2)[0], data[9]
            source, target = str(ipaddress.IPv4Address(data[12:16])), str(ipaddress.IPv4Address(data[16:20]))
        elif data[0] >> 4 == 6:
            start = _IPV6_HEADER
            length, protocol = struct.unpack_from(">H", data, 4)[0] + _IPV6_HEADER, data[6]
            source, target = str(ipaddress.IPv6Address(data[8:24])), str(ipaddress.IPv6Address(data[24:40]))
        else:
            return None
        source_port, target_port = struct.unpack_from(">HH", data, start) if protocol in _WITH_PORTS else (0, 0)
    except (IndexError, struct.error, ipaddress.AddressValueError):
        return None
    payload = data[start + 8 :] if protocol == socket.IPPROTO_UDP else b""
    return Packet(source, target, protocol, source_port, target_port, length, payload)


def _attribute(kind: int, value: bytes) -> bytes:
    return struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)


def _attributes(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 4:
        length, kind = struct.unpack_from("=HH", data)
        if length < 4:
            return
        yield kind & 0x3FFF, data[4:length]
        data = data[(length + 3) & ~3 :]


def _messages(data: bytes) -> Iterator[tuple[int, bytes]]:
    while len(data) >= 16:
        length, kind = struct.unpack_from("=IH", data)
        if length < 16:
            return
        yield kind, data[16:length]
        data = data[(length + 3) & ~3 :]
