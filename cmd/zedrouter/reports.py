"""What zedrouter tells of traffic, now and then: NetworkMetrics, NetworkInstanceMetrics and the flow log IPFlow."""

from __future__ import annotations

import logging
from collections.abc import Mapping
from typing import Final

from pillar.cmd.zedrouter import flows, logged
from pillar.cmd.zedrouter.appnetwork import vifs_on
from pillar.cmd.zedrouter.kernelnet import KernelNetwork
from pillar.cmd.zedrouter.metrics import instance_metrics, network_metrics
from pillar.cmd.zedrouter.packetlog import PacketLog
from pillar.loop import Loop
from pillar.netplan.firewall import DNS, log_group
from pillar.pubsub import PubSub
from pillar.types.flow import IPFlow
from pillar.types.metrics import NetworkMetrics
from pillar.types.networkinstance import NetworkInstanceMetrics, NetworkInstanceStatus
from pillar.types.nim import DeviceNetworkStatus
from pillar.types.scalars import Uuid
from pillar.types.zedrouter import AppNetworkStatus

_EVENTS_AT_ONCE: Final = 200


class Reports:
    """The tables that tell of traffic. `look` publishes the counters; flows are taken in as the kernel tells them."""

    def __init__(self, pubsub: PubSub, loop: Loop, log: logging.Logger, kernel: KernelNetwork) -> None:
        self._log = log
        self._kernel = kernel
        self._metrics = pubsub.publication(NetworkMetrics)
        self._instances = pubsub.publication(NetworkInstanceMetrics)
        self._flows = pubsub.publication(IPFlow)
        self._guests: dict[str, flows.Guest] = {}
        self._waiting: list[tuple[flows.Guest, flows.Entry]] = []
        self._drops = logged.Drops()
        self._lost = 0
        self._events = flows.FlowEvents()
        loop.add_reader(self._events.fileno(), self._flow_ended)
        try:
            self._packets = PacketLog(log_group(kernel.mark))
            loop.add_reader(self._packets.fileno(), self._packet_logged)
        except OSError as err:
            log.warning("dropped flows and DNS requests will be missing in the flow log: %s", err)

    def follow(self, instances: Mapping[Uuid, NetworkInstanceStatus], apps: Mapping[Uuid, AppNetworkStatus]) -> None:
        """Whose addresses flows are asked for; a guest that has just left is still known for its last flows."""
        for uuid, status in apps.items():
            for network, name, vif in vifs_on(status):
                if vif.address and network in instances:
                    bridge = instances[network].BridgeName
                    self._guests[vif.address] = flows.Guest(uuid, network, bridge, name)

    def look(
        self,
        instances: Mapping[Uuid, NetworkInstanceStatus],
        apps: Mapping[Uuid, AppNetworkStatus],
        network: DeviceNetworkStatus | None,
    ) -> None:
        """Publish what the counters say now, and the flows that have ended since the last look."""
        actual, counters = self._kernel.links(), self._kernel.counters()
        self._metrics.publish("global", network_metrics(instances, network, actual, counters))
        for uuid, status in instances.items():
            if status.BridgeNum:
                self._instances.publish(uuid, instance_metrics(status, network, actual, counters))
        for uuid in set(self._instances.keys()) - set(instances):
            self._instances.unpublish(uuid)
        self._publish_flows(apps)
        self._guests.clear()
        self.follow(instances, apps)

    def _flow_ended(self) -> None:
        for ended in self._events.read(_EVENTS_AT_ONCE):
            for guest, record in flows.records_of(ended, self._guests):
                self._wait(guest, record)

    def _packet_logged(self) -> None:
        for one in self._packets.read(_EVENTS_AT_ONCE):
            if one.prefix != DNS:
                self._drops.add(one, self._guests)
            elif one.packet.target in self._guests and (request := logged.dns_request(one)) is not None:
                self._wait(self._guests[one.packet.target], request)

    def _wait(self, guest: flows.Guest, entry: flows.Entry) -> None:
        if len(self._waiting) >= flows.WAITING_AT_MOST:
            self._lost += 1
        else:
            self._waiting.append((guest, entry))

    def _publish_flows(self, apps: Mapping[Uuid, AppNetworkStatus]) -> None:
        if lost := self._lost + self._drops.lost:
            self._log.warning("%d flows or DNS requests are missing in the flow log: too many at once", lost)
            self._lost = 0
        waiting, self._waiting = [*self._waiting, *self._drops.take()], []
        numbers: dict[tuple[Uuid, Uuid], list[int]] = {}
        for key, record in self._flows.items().items():
            scope = record.Scope
            if scope.UUID not in apps:
                self._flows.unpublish(key)
            elif scope.Sequence.isdigit():
                numbers.setdefault((scope.UUID, scope.NetUUID), []).append(int(scope.Sequence))
        following = {place: max(found) + 1 for place, found in numbers.items()}
        for record in flows.batches(waiting, following):
            self._flows.publish(record.key(), record)
            place = record.Scope.UUID, record.Scope.NetUUID
            numbers.setdefault(place, []).append(int(record.Scope.Sequence))
        for (app, network), found in numbers.items():
            for number in sorted(found)[: -flows.RECORDS_KEPT]:
                self._flows.unpublish(f"{app}{network}{number}")
