"""Addressing of a network or a network instance, and static host names."""

from collections.abc import Sequence
from typing import Any

from pillar.controller import config_pb2 as wire
from pillar.controller.notation import Malformed, read_cidr, read_ip
from pillar.types.common import DnsNameToIP, IpRange
from pillar.types.scalars import IpNet


def read_ipspec(spec: wire.ipspec) -> tuple[dict[str, Any], str]:
    """The record members that `spec` sets, and EVE's text about the first bad value ("" when all are good).

    The first bad value ends the reading: domain, subnet, gateway, NTP, DNS servers, DHCP range; members after it are
    left out, DNS servers before a bad one are kept.
    """
    read: dict[str, Any] = {"DomainName": spec.domain}
    try:
        _read(spec, read)
    except Malformed as why:
        return read, f"parseIpspec: {why}"
    return read, ""


def _read(spec: wire.ipspec, read: dict[str, Any]) -> None:
    if spec.subnet:
        try:
            network, mask = read_cidr(spec.subnet)
        except Malformed as why:
            raise Malformed(f"bad subnet {spec.subnet}: {why}") from why
        read["Subnet"] = IpNet(IP=network, Mask=mask)
    if spec.gateway:
        read["Gateway"] = _ip("gateway", spec.gateway)
    if spec.ntp:
        read["NtpServer"] = _ip("ntp", spec.ntp)
    for server in spec.dns:
        read["DnsServers"] = (*read.get("DnsServers", ()), _ip("dns", server))
    if spec.dhcpRange.start:  # without a start the end says nothing
        start = _ip("start", spec.dhcpRange.start)
        end = _ip("end", spec.dhcpRange.end) if spec.dhcpRange.end else ""
        read["DhcpRange"] = IpRange(Start=start, End=end)


def _ip(what: str, text: str) -> str:
    try:
        return read_ip(text)
    except Malformed as why:
        raise Malformed(f"bad {what} IP {text}") from why


def read_host_names(entries: Sequence[wire.ZnetStaticDNSEntry]) -> tuple[tuple[DnsNameToIP, ...], list[str]]:
    """The static host names with their good addresses, and the texts that are not addresses."""
    names: list[DnsNameToIP] = []
    bad: list[str] = []
    for entry in entries:
        addresses: list[str] = []
        for text in entry.Address:
            try:
                addresses.append(read_ip(text))
            except Malformed:
                bad.append(text)
        names.append(DnsNameToIP(HostName=entry.HostName, IPs=tuple(addresses)))
    return tuple(names), bad
