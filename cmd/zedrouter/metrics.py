"""Counters of interfaces and network instances, from the kernel's statistics and the counters of access rules. Pure.

As seen from the device: Tx goes to the guest, so TxAclDrops are packets that the guest was not to get, RxAclDrops those
that it was not to send.
"""

from __future__ import annotations

from collections.abc import Mapping

from pillar.netplan.state import Actual, Link
from pillar.types.common import UUIDandVersion
from pillar.types.metrics import NetworkMetric, NetworkMetrics
from pillar.types.networkinstance import (
    NetworkInstanceMetrics,
    NetworkInstanceStatus,
    ProbeIntfMetrics,
    ProbeMetrics,
)
from pillar.types.nim import DeviceNetworkStatus
from pillar.types.scalars import Uuid

Counters = Mapping[str, tuple[int, int]]


def network_metrics(
    instances: Mapping[Uuid, NetworkInstanceStatus],
    network: DeviceNetworkStatus | None,
    actual: Actual,
    counters: Counters,
) -> NetworkMetrics:
    """All interfaces that the device's networks are made of: ports, bridges, vifs."""
    ports = [port.IfName for port in network.Ports or ()] if network is not None else []
    found = {name: metric(actual.links[name], counters) for name in ports if name in actual.links}
    for status in instances.values():
        found |= {one.IfName: one for one in _of_instance(status, actual, counters)}
    return NetworkMetrics(MetricList=tuple(found.values()))


def instance_metrics(
    status: NetworkInstanceStatus, network: DeviceNetworkStatus | None, actual: Actual, counters: Counters
) -> NetworkInstanceMetrics:
    """One instance: its bridge and the vifs on it, and how its ways out are."""
    ports = [port for port in (network.Ports or () if network is not None else ()) if port.IsMgmt]
    dead = actual.dead()
    probes = tuple(
        ProbeIntfMetrics(
            IntfName=port.IfName,
            NexthopGw=port.Gateway,
            GatewayUP=bool(port.Gateway) and port.IfName in actual.links and port.IfName not in dead,
        )
        for port in ports
    )
    return NetworkInstanceMetrics(
        UUIDandVersion=UUIDandVersion(UUID=status.UUID, Version=status.Version),
        DisplayName=status.DisplayName,
        Type=status.Type,
        NetworkMetrics=NetworkMetrics(MetricList=tuple(_of_instance(status, actual, counters))),
        ProbeMetrics=ProbeMetrics(
            CurrUplinkIntf=status.CurrentUplinkIntf, UplinkNumber=len(ports), IntfProbeStats=probes
        ),
    )


def metric(link: Link, counters: Counters, vifs: tuple[str, ...] = ()) -> NetworkMetric:
    """One interface; a bridge has the drops of its `vifs`."""
    stats = link.stats
    names = vifs or (link.name,)

    def dropped(*kinds: str) -> int:
        return sum(counters.get(f"{name}_{kind}", (0, 0))[0] for name in names for kind in kinds)

    return NetworkMetric(
        IfName=link.name,
        TxBytes=stats.get("tx_bytes", 0),
        RxBytes=stats.get("rx_bytes", 0),
        TxDrops=stats.get("tx_dropped", 0),
        RxDrops=stats.get("rx_dropped", 0),
        TxPkts=stats.get("tx_packets", 0),
        RxPkts=stats.get("rx_packets", 0),
        TxErrors=stats.get("tx_errors", 0),
        RxErrors=stats.get("rx_errors", 0),
        TxAclDrops=dropped("in_drop"),
        RxAclDrops=dropped("out_drop", "spoofed"),
        TxAclRateLimitDrops=dropped("in_limit"),
        RxAclRateLimitDrops=dropped("out_limit"),
    )


def _of_instance(status: NetworkInstanceStatus, actual: Actual, counters: Counters) -> list[NetworkMetric]:
    vifs = tuple(vif.Name for vif in status.Vifs or ())
    found = []
    if status.BridgeName in actual.links:
        found.append(metric(actual.links[status.BridgeName], counters, vifs))
    return found + [metric(actual.links[name], counters) for name in vifs if name in actual.links]
