"""DeviceNetworkStatus from the port config in force and what the kernel and the DHCP leases say. Pure.

A port's static settings are shown as the config gives them, addresses and gateway as the kernel has them. A port that
nim manages and that has no carrier has an error and shows no address: nobody shall send from it, although the kernel
keeps the address in case the cable comes back. What is only observed is shown as it is.
"""

import ipaddress
from collections.abc import Mapping

from pillar.cmd.nim.facts import Facts, Link, name_service
from pillar.cmd.nim.wiring import managed
from pillar.cmd.nim.wpad import PacFile
from pillar.types.enums import DhcpType
from pillar.types.nim import (
    AddrInfo,
    DeviceNetworkStatus,
    DevicePortConfig,
    NetworkPortConfig,
    NetworkPortStatus,
)
from pillar.types.scalars import ZERO_TIME, IpAddr, IpNet, Time, ip_net


def device_network_status(
    config: DevicePortConfig | None,
    facts: Facts,
    previous: DeviceNetworkStatus | None,
    now: Time,
    *,
    testing: bool = False,
) -> DeviceNetworkStatus:
    """The status of every port of `config`, in its order; no ports without a config.

    `previous` lends an unchanged error its time, so that nothing is republished because a clock moved on.
    """
    if config is None:
        return DeviceNetworkStatus(Ports=())
    errors = _errors(previous)
    claimed: dict[str, int] = {}
    for port in config.Ports or ():
        claimed[port.IfName] = claimed.get(port.IfName, 0) + 1
    ports = tuple(
        _port_status(port, facts, errors.get((port.IfName, port.Name)), now, twice=claimed[port.IfName] > 1)
        for port in config.Ports or ()
    )
    return DeviceNetworkStatus(Version=config.Version, Testing=testing, Ports=ports)


def _errors(previous: DeviceNetworkStatus | None) -> Mapping[tuple[str, str], tuple[str, Time]]:
    ports = previous.Ports or () if previous is not None else ()
    return {(port.IfName, port.Name): (port.Error, port.ErrorTime) for port in ports}


def _port_status(
    port: NetworkPortConfig, facts: Facts, before: tuple[str, Time] | None, now: Time, *, twice: bool
) -> NetworkPortStatus:
    link = facts.link(port.IfName)
    subnet, complaint = _static_subnet(port)
    pac = facts.pacs.get(port.IfName, PacFile())
    complaint = complaint or _trouble(port, link, facts) or pac.error
    error, error_time = _error(port, link, complaint, before, now, twice=twice)
    dead = facts.managed and link is not None and not link.carrier
    own = tuple(address for address in facts.addresses if link is not None and address.index == link.index and not dead)
    lease = facts.leases.get(port.IfName)
    if not subnet.IP and own:
        first = min(own, key=lambda address: _order(address.address))
        subnet = ip_net(f"{first.address}/{first.prefix_len}")
    dns_servers, domain = name_service(port, facts)
    ntp_server, gateway = port.NtpServer, port.Gateway
    if lease is not None:
        ntp_server, gateway = ntp_server or lease.ntp_server, gateway or lease.gateway
    return NetworkPortStatus(
        IfName=port.IfName,
        Name=port.Name or port.IfName,
        IsMgmt=port.IsMgmt,
        Free=port.Free,
        AccessPoint=port.AccessPoint,
        Dhcp=port.Dhcp,
        Subnet=subnet,
        Gateway=_gateway(facts, link) or gateway,
        DomainName=domain,
        NtpServer=ntp_server,
        DnsServers=dns_servers,
        AddrInfoList=tuple(AddrInfo(Addr=address) for address in sorted((a.address for a in own), key=_order)),
        Proxies=port.Proxies,
        Exceptions=port.Exceptions,
        Pacfile=port.Pacfile or pac.pac,
        NetworkProxyEnable=port.NetworkProxyEnable,
        NetworkProxyURL=port.NetworkProxyURL,
        WpadURL=pac.url or port.WpadURL,
        Error=error,
        ErrorTime=error_time,
    )


def _error(
    port: NetworkPortConfig,
    link: Link | None,
    complaint: str,
    before: tuple[str, Time] | None,
    now: Time,
    *,
    twice: bool,
) -> tuple[str, Time]:
    """The worst thing wrong with this port and since when; the config's own error has the config's own time."""
    if port.ParseError:
        return port.ParseError, port.ParseErrorTime
    if not port.IfName:
        error = "the port config names no interface"
    elif link is None:
        error = f"port {port.IfName} does not exist on this device; it is used as soon as it appears"
    elif twice:
        error = f"port {port.IfName} is listed more than once in the port config"
    else:
        error = complaint
    if not error:
        return "", ZERO_TIME
    if before is not None and before[0] == error:
        return error, before[1]
    return error, now


def _trouble(port: NetworkPortConfig, link: Link | None, facts: Facts) -> str:
    """What keeps a managed port from being of use."""
    if not facts.managed or link is None or not managed(port):
        return ""
    if port.IfName in facts.problems:
        return facts.problems[port.IfName]
    return "" if link.carrier or not link.up else f"port {port.IfName} has no carrier: is its cable plugged in?"


def _static_subnet(port: NetworkPortConfig) -> tuple[IpNet, str]:
    """(subnet of the static address or none, what is wrong with it or "")."""
    if not port.AddrSubnet:
        wrong = "Dhcp is STATIC but AddrSubnet is empty" if port.Dhcp == DhcpType.STATIC else ""
        return IpNet(), wrong
    try:
        return ip_net(port.AddrSubnet), ""
    except ValueError:
        return IpNet(), f"AddrSubnet is {port.AddrSubnet!r}, expected an address with its prefix like 10.1.0.2/24"


def _gateway(facts: Facts, link: Link | None) -> IpAddr:
    return next((gateway for index, gateway in facts.gateways if link is not None and index == link.index), "")


def _order(text: str) -> tuple[int, bool, int]:
    """IPv4 first, link-local addresses last within their family, then by number: the kernel's order may change."""
    address = ipaddress.ip_address(text)
    return address.version, address.is_link_local, int(address)
