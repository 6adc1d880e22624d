"""Addresses on a network instance: the bridge's and the guests', from the DHCP range. Pure.

The statuses are the ledger: an address is taken while some status shows it, so nothing is counted or kept elsewhere.

EVE scans from the range's start plus the number of assignments up to the end and gives up there, although
lower addresses may have become free; here the scan goes on at the start.
"""

import ipaddress
from collections.abc import Collection

from pillar.types.enums import AddressType, NetworkInstanceType
from pillar.types.networkinstance import NetworkInstanceConfig, NetworkInstanceStatus
from pillar.types.scalars import IpAddr, ip_network

Instance = NetworkInstanceConfig | NetworkInstanceStatus


class NoAddress(Exception):
    """No address can be given on this instance; the text says why."""


def allocates(instance: Instance) -> bool:
    """Does this instance hand out addresses? A switch and a mesh of crypto EIDs do not."""
    return instance.Type != NetworkInstanceType.SWITCH and instance.IpType != AddressType.CRYPTO_IPV6


def bridge_address(instance: Instance, before: IpAddr, taken: Collection[IpAddr]) -> IpAddr:
    """The bridge's own address: the gateway, else the one it has, else the lowest free one; "" where it has none."""
    if not allocates(instance):
        return ""
    if instance.Gateway:
        return instance.Gateway
    if before and before not in taken and in_range(instance, before):
        return before
    try:
        return lowest_free(instance, taken)
    except NoAddress:
        return ""


def allocate(instance: NetworkInstanceStatus, taken: Collection[IpAddr], reserved: Collection[IpAddr] = ()) -> IpAddr:
    """An address that nobody on this instance has. `taken` are all that are assigned, the bridge's included.

    `reserved` are addresses that configs name; they are left to whom they belong to. Raises NoAddress.
    """
    # Released addresses rest as long as possible: a guest may still believe in its lease.
    offset = len(taken) - (1 if instance.Gateway in taken else 0)
    return _scan(instance, frozenset(taken) | frozenset(reserved), offset)


def lowest_free(instance: Instance, taken: Collection[IpAddr]) -> IpAddr:
    """The first free address of the range. Raises NoAddress."""
    return _scan(instance, taken, 0)


def in_range(instance: Instance, address: IpAddr) -> bool:
    bounds = _bounds(instance)
    if bounds is None:
        return False
    parsed = ipaddress.ip_address(address)
    version, first, last = bounds
    return parsed.version == version and first <= int(parsed) <= last


def in_subnet(instance: Instance, address: IpAddr) -> bool:
    """True too where there is no subnet to be outside of."""
    try:
        subnet = ip_network(instance.Subnet)
    except ValueError:
        return False
    return subnet is None or ipaddress.ip_address(address) in subnet


def _bounds(instance: Instance) -> tuple[int, int, int] | None:
    if not instance.DhcpRange.Start or not instance.DhcpRange.End:
        return None
    start, end = (ipaddress.ip_address(text) for text in (instance.DhcpRange.Start, instance.DhcpRange.End))
    first, last = int(start), int(end)
    subnet = ip_network(instance.Subnet)
    if subnet is not None and subnet.num_addresses > 2:  # its own name and the broadcast are nobody's
        first = max(first, int(subnet.network_address) + 1)
        last = min(last, int(subnet.broadcast_address) - (1 if subnet.version == 4 else 0))
    return start.version, first, last


def _scan(instance: Instance, taken: Collection[IpAddr], offset: int) -> IpAddr:
    bounds = _bounds(instance)
    if bounds is None:
        raise NoAddress("the network instance has no DHCP range to take an address from")
    version, first, last = bounds
    count = last - first + 1
    # With one look more than there are taken addresses a free one is found, if there is any.
    for step in range(min(max(count, 0), len(taken) + 1)):
        number = first + (offset + step) % count
        text = str(ipaddress.IPv4Address(number) if version == 4 else ipaddress.IPv6Address(number))
        if text not in taken:
            return text
    raise NoAddress(
        f"no free address: all {max(count, 0)} from {instance.DhcpRange.Start} to {instance.DhcpRange.End} are taken"
    )
