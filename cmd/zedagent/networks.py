"""Port networks of the device config -> NetworkXObjectConfig.

The first error ends an entry: it goes to Error (with ErrorTime) and reaches people through the ports that use the
network. The texts are EVE's.
"""

from collections.abc import Iterable
from typing import Any

from pillar.cmd.zedagent.ipspec import read_host_names, read_ipspec
from pillar.controller import config_pb2 as wire
from pillar.controller.notation import Malformed, enum_value, read_uuid
from pillar.types.enums import DhcpType, NetworkProxyType, NetworkType
from pillar.types.nim import NetworkXObjectConfig, ProxyConfig, ProxyEntry
from pillar.types.scalars import NIL_UUID, Time

_PROXIES = (wire.PROXY_HTTP, wire.PROXY_HTTPS, wire.PROXY_SOCKS, wire.PROXY_FTP)


class _Wrong(Exception):
    """The network cannot be used; str() is the text for people."""


def parse_networks(networks: Iterable[wire.NetworkConfig], now: Time) -> dict[str, NetworkXObjectConfig]:
    """The networks by UUID. One whose id is not a UUID stands under the nil UUID with its error, as in EVE."""
    records: dict[str, NetworkXObjectConfig] = {}
    for network in networks:
        read: dict[str, Any] = {"UUID": NIL_UUID, "Type": enum_value(NetworkType, network.type)}
        try:
            _read(network, read)
        except _Wrong as wrong:
            read |= {"Error": f"parseOneNetworkXObjectConfig: {wrong}", "ErrorTime": now}
        record = NetworkXObjectConfig(**read)
        records[record.UUID] = record
    return records


def _read(network: wire.NetworkConfig, read: dict[str, Any]) -> None:
    try:
        uuid = read["UUID"] = read_uuid(network.id)
    except Malformed as why:
        raise _Wrong(f"Malformed UUID ignored: {why}") from why
    if network.HasField("entProxy"):
        read["Proxy"] = _parse_proxy(network.entProxy)
    match int(read["Type"]):
        case wire.V4 | wire.V6 | wire.CryptoEID:
            if not network.HasField("ip"):
                raise _Wrong(f"Missing ipspec for {uuid} in {_dump(network)}")
            _read_ip(network, f"parseIpspec failed for {uuid}", read)
        case wire.NETWORKTYPENOOP:
            if network.HasField("ip"):
                _read_ip(network, f"parseIpspec ignored for {uuid}", read)
        case _:
            raise _Wrong(f"Unknown NetworkConfig type {int(read['Type'])} for {uuid} in {_dump(network)}; ignored")
    names, bad = read_host_names(network.dns)
    if bad:
        raise _Wrong(f"bad dnsEntry {bad[0]} for {uuid}")
    read["DnsNameToIPList"] = names


def _read_ip(network: wire.NetworkConfig, what: str, read: dict[str, Any]) -> None:
    members, wrong = read_ipspec(network.ip)
    read |= {"Dhcp": enum_value(DhcpType, network.ip.dhcp), **members}
    if wrong:
        raise _Wrong(f"{what}: {wrong}")


def _parse_proxy(proxy: wire.ProxyConfig) -> ProxyConfig:
    return ProxyConfig(
        Proxies=tuple(
            ProxyEntry(
                Type=NetworkProxyType(server.proto if server.proto in _PROXIES else 0),
                Server=server.server,
                Port=server.port,
            )
            for server in proxy.proxies
        )
        or None,
        Exceptions=proxy.exceptions,
        Pacfile=proxy.pacfile,
        NetworkProxyEnable=proxy.networkProxyEnable,
        NetworkProxyURL=proxy.networkProxyURL,
    )


def _dump(network: wire.NetworkConfig) -> str:
    return " ".join(str(network).split())
