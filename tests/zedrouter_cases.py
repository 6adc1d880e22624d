"""Network instances, ports and access rules that the tests of zedrouter's decisions share."""

from __future__ import annotations

from typing import Any

from pillar.cmd.zedrouter.instances import instance_status, judge
from pillar.types.enums import AddressType, DhcpType, NetworkInstanceType
from pillar.types.networkinstance import IpRange, NetworkInstanceConfig, NetworkInstanceStatus
from pillar.types.nim import AddrInfo, DeviceNetworkStatus, NetworkPortStatus
from pillar.types.scalars import ip_net
from pillar.types.zedrouter import (
    ACE,
    ACEAction,
    ACEMatch,
)

NOW = "2026-01-02T03:04:05Z"
LATER = "2026-01-02T03:04:06Z"


def uuid(number: int) -> str:
    return f"00000000-0000-0000-0000-{number:012}"


LAN, WAN, MESH, SWITCH = (uuid(900 + number) for number in range(4))


def port(name: str, dhcp: DhcpType = DhcpType.CLIENT, *addresses: str, **fields: Any) -> NetworkPortStatus:
    given = {"IsMgmt": True, "Free": True} | fields
    infos = tuple(AddrInfo(Addr=address) for address in addresses)
    return NetworkPortStatus(IfName=name, Name=name, Dhcp=dhcp, AddrInfoList=infos, **given)


NETWORK = DeviceNetworkStatus(
    Ports=(
        port("eth0", DhcpType.CLIENT, "192.0.2.2"),
        port("eth1", DhcpType.NONE),
        port("wwan0", DhcpType.CLIENT, "198.51.100.2", Free=False),
    )
)


def local(number: str = LAN, subnet: str = "10.1.0.0/24", **fields: Any) -> NetworkInstanceConfig:
    stem = subnet.rsplit(".", 1)[0]
    given: dict[str, Any] = {
        "UUID": number,
        "DisplayName": "lan",
        "Type": NetworkInstanceType.LOCAL,
        "Activate": True,
        "Port": "eth0",
        "IpType": AddressType.IPV4,
        "Subnet": ip_net(subnet),
        "Gateway": f"{stem}.1",
        "DhcpRange": IpRange(Start=f"{stem}.10", End=f"{stem}.12"),
    }
    return NetworkInstanceConfig(**given | fields)


def errors_of(*configs: NetworkInstanceConfig, statuses: dict[str, Any] | None = None) -> dict[str, str]:
    verdicts = judge({c.UUID: c for c in configs}, statuses or {}, (), NETWORK)
    return {number: verdict.error for number, verdict in verdicts.items()}


def status_of(config: NetworkInstanceConfig, bridge_num: int = 1) -> NetworkInstanceStatus:
    verdict = judge({config.UUID: config}, {}, (), NETWORK)[config.UUID]
    return instance_status(verdict, 0 if verdict.error else bridge_num, None, (), NETWORK, NOW)


def rule(*matches: tuple[str, str], rule_id: int = 1, **action: Any) -> ACE:
    actions = (ACEAction(**action),) if action else ()
    return ACE(RuleID=rule_id, Matches=tuple(ACEMatch(Type=t, Value=v) for t, v in matches), Actions=actions)


def port_map(lport: str = "8080", target: int = 80) -> ACE:
    return rule(("protocol", "tcp"), ("lport", lport), PortMap=True, TargetPort=target)
