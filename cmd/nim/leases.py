"""What a DHCP server gave a port, as the client's script (`lease.sh`) wrote it down."""

from __future__ import annotations

import ipaddress
from dataclasses import dataclass
from pathlib import Path
from typing import Final

_MAX_BYTES: Final = 64 * 1024
_INFINITE: Final = 0xFFFFFFFF


@dataclass(frozen=True)
class Lease:
    """One lease. It is good until `expires_s` on the clock of /proc/uptime."""

    address: str
    prefix_len: int
    gateway: str = ""
    dns_servers: tuple[str, ...] = ()
    ntp_server: str = ""
    domain: str = ""
    wpad_url: str = ""
    expires_s: float = float("inf")


def read_lease(path: Path) -> Lease | None:
    """The lease in this file; None when there is none, or nothing that makes sense."""
    try:
        with path.open("rb") as file:
            return parse_lease(file.read(_MAX_BYTES).decode(errors="replace"))
    except OSError:
        return None


def parse_lease(text: str) -> Lease | None:
    """The lease of the script's lines; of a name that stands twice the first counts. None without a usable address."""
    fields: dict[str, str] = {}
    for line in text.splitlines():
        name, _, value = line.partition("=")
        fields.setdefault(name, value.strip())
    addresses = _addresses(fields.get("address", ""))
    try:
        prefix_len = int(fields["prefix"])
        obtained_s, seconds = float(fields["obtained"]), int(fields["seconds"])
    except (KeyError, ValueError):
        return None
    if not addresses or not 0 < prefix_len <= 32:
        return None
    return Lease(
        address=addresses[0],
        prefix_len=prefix_len,
        gateway=next(iter(_addresses(fields.get("routers", ""))), ""),
        dns_servers=_addresses(fields.get("dns", "")),
        ntp_server=next(iter(_addresses(fields.get("ntp", ""))), ""),
        domain=next(iter(fields.get("domain", "").split()), ""),
        wpad_url=fields.get("wpad", ""),
        expires_s=float("inf") if seconds == _INFINITE else obtained_s + seconds,
    )


def _addresses(text: str) -> tuple[str, ...]:
    """The usable IPv4 addresses among the words."""
    found: list[str] = []
    for word in text.split():
        try:
            address = ipaddress.IPv4Address(word)
        except ValueError:
            continue
        if not (address.is_unspecified or address.is_multicast or address.is_loopback) and word not in found:
            found.append(word)
    return tuple(found)
