"""LISP's Map-Register and Map-Notify (RFC 9301): telling a map server at which addresses an EID is reached.

    0x3 | flags | records    nonce (8)    key id, length, authentication (HMAC-SHA-256)    record: EID, locators

The map server answers with the same record as 0x4, authenticated with the same key, and the same nonce.
"""

from __future__ import annotations

import hashlib
import hmac
import ipaddress
import socket
import struct
import time
from collections.abc import Iterable
from typing import Final, NamedTuple

PORT: Final = 4342
VALID_MIN: Final = 3  # minutes a map server keeps a registration; it is renewed every minute
_REGISTER, _NOTIFY = 3, 4
_WANT_NOTIFY: Final = 0x100
_SHA256: Final = 2
_AUTHENTICATION: Final = 32
_AUTHORITATIVE: Final = 0x1000
_LOCATOR_LOCAL_REACHABLE: Final = 0x0005
_LCAF: Final = 16387
_LCAF_INSTANCE_ID: Final = 2
_FIXED: Final = struct.Struct(">IQHH")
_TRIES: Final = 3
_ANSWER_S: Final = 1.0


class NotRegistered(Exception):
    """The map server did not confirm; the text says why."""


class Wish(NamedTuple):
    """One EID to be registered at one map server."""

    app: str
    iid: int
    eid: str
    server: str
    key: str
    locators: tuple[str, ...]


def map_register(wish: Wish, nonce: int) -> bytes:
    """The message for one EID. Pure."""
    record = _record(wish.iid, wish.eid, wish.locators)
    head = _FIXED.pack(_REGISTER << 28 | _WANT_NOTIFY | 1, nonce, _SHA256, _AUTHENTICATION)
    return head + _sign(head + bytes(_AUTHENTICATION) + record, wish.key) + record


def check_notify(data: bytes, key: str, nonce: int) -> None:
    """Is this the confirmation? Raises NotRegistered."""
    if len(data) < _FIXED.size + _AUTHENTICATION:
        raise NotRegistered(f"its answer has {len(data)} bytes")
    first, told, algorithm, length = _FIXED.unpack_from(data)
    if first >> 28 != _NOTIFY or told != nonce:
        raise NotRegistered(f"its answer is of type {first >> 28}, expected a Map-Notify with our nonce")
    if algorithm != _SHA256 or length != _AUTHENTICATION:
        raise NotRegistered(f"its answer is authenticated by algorithm {algorithm}, expected HMAC-SHA-256")
    end = _FIXED.size + _AUTHENTICATION
    whole = data[: _FIXED.size] + bytes(_AUTHENTICATION) + data[end:]
    if not hmac.compare_digest(_sign(whole, key), data[_FIXED.size : end]):
        raise NotRegistered("its answer is not authenticated with our key")


def register(wish: Wish, nonce: int) -> None:
    """Ask, and wait for the confirmation; some seconds at most. Raises NotRegistered and OSError."""
    found = socket.getaddrinfo(wish.server, PORT, type=socket.SOCK_DGRAM)
    family, kind, protocol, _, address = found[0]
    with socket.socket(family, kind, protocol) as link:
        link.connect(address)
        for _ in range(_TRIES):
            link.send(map_register(wish, nonce))
            until = time.monotonic() + _ANSWER_S
            while (left := until - time.monotonic()) > 0:
                link.settimeout(left)
                try:
                    answer = link.recv(65536)
                except TimeoutError:
                    break
                check_notify(answer, wish.key, nonce)
                return
    raise NotRegistered(f"no answer from {wish.server} port {PORT}")


def _sign(message: bytes, key: str) -> bytes:
    return hmac.new(key.encode(), message, hashlib.sha256).digest()


def _record(iid: int, eid: str, locators: Iterable[str]) -> bytes:
    locators = list(locators)
    address = ipaddress.ip_address(eid)
    head = struct.pack(">IBBHH", VALID_MIN, len(locators), address.max_prefixlen, _AUTHORITATIVE, 0)
    where = _with_instance(iid, address) if iid else struct.pack(">H", _afi(address)) + address.packed
    parts = [head, where]
    for locator in locators:
        found = ipaddress.ip_address(locator)
        parts.append(struct.pack(">BBBBHH", 1, 100, 255, 0, _LOCATOR_LOCAL_REACHABLE, _afi(found)) + found.packed)
    return b"".join(parts)


def _with_instance(iid: int, address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bytes:
    inner = struct.pack(">IH", iid, _afi(address)) + address.packed
    return struct.pack(">HBBBBH", _LCAF, 0, 0, _LCAF_INSTANCE_ID, 32, len(inner)) + inner


def _afi(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> int:
    return 1 if address.version == 4 else 2
