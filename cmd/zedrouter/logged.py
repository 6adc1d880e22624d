"""What logged packets say for the flow log: flows that were dropped, and DNS requests. Pure.

    a packet about to be dropped -> Drops: one FlowRec per flow and rule, Action "drop", until the next publication
    an answer to a guest's DNS   -> DNSReq: the name it asked for, the addresses it was told

The kernel tells of a part of what one rule drops only (see `acl.drop_log`), so packets and bytes of a dropped flow are
what is known at least; the counters (NetworkMetrics, `pillar net --json`) have all of them.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Final

from pillar.cmd.zedrouter.flows import Guest
from pillar.cmd.zedrouter.packetlog import Logged
from pillar.netplan.acl import drop_told
from pillar.types.flow import DNSReq, FlowRec, IPTuple

FLOWS_AT_MOST: Final = 2000  # dropped ones between two publications: more are counted as lost
_QUERIES: Final = ("A", "AAAA")


class Drops:
    """The dropped flows since the last `take`; `lost` are packets of flows beyond FLOWS_AT_MOST."""

    def __init__(self) -> None:
        self.lost = 0
        self._flows: dict[tuple[Guest, IPTuple, bool, int], FlowRec] = {}

    def add(self, logged: Logged, guests: Mapping[str, Guest]) -> None:
        """Take in one packet, if it is a dropped one of a guest that is known; `guests` by address."""
        told = drop_told(logged.prefix)
        if told is None:
            return
        vif, way, rule = told
        packet, inbound = logged.packet, way == "in"
        address = next(
            (end for end in (packet.source, packet.target) if end in guests and guests[end].vif == vif), ""
        )  # a guest may talk to another of its instance: the rule says whose it is
        if not address:
            return
        guest, sent = guests[address], packet.source == address
        ours, others = (packet.source_port, packet.target_port) if sent else (packet.target_port, packet.source_port)
        other = packet.target if sent else packet.source
        flow = IPTuple(Src=address, Dst=other, SrcPort=ours, DstPort=others, Proto=packet.protocol)
        key = guest, flow, inbound, rule
        before = self._flows.get(key)
        if before is None and len(self._flows) >= FLOWS_AT_MOST:
            self.lost += 1
            return
        if before is None:
            before = FlowRec(Flow=flow, Inbound=inbound, ACLID=rule, Action="drop", StartTime=logged.at_ns)
        self._flows[key] = FlowRec(
            Flow=flow,
            Inbound=inbound,
            ACLID=rule,
            Action="drop",
            StartTime=before.StartTime,
            StopTime=logged.at_ns,
            TxBytes=before.TxBytes + (packet.length if sent else 0),
            TxPkts=before.TxPkts + sent,
            RxBytes=before.RxBytes + (0 if sent else packet.length),
            RxPkts=before.RxPkts + (not sent),
        )

    def take(self) -> Iterator[tuple[Guest, FlowRec]]:
        """All of them, and begin anew."""
        flows, self._flows, self.lost = self._flows, {}, 0
        for (guest, *_), record in flows.items():
            yield guest, record


def dns_request(logged: Logged) -> DNSReq | None:
    """The request that this packet answers; None for what is no answer about addresses."""
    # Here: a fifth of a second that only a device whose guests ask for names pays.
    import dns.exception
    import dns.flags
    import dns.message
    import dns.rdatatype

    try:
        answer = dns.message.from_wire(logged.packet.payload, ignore_trailing=True, raise_on_truncation=False)
    except (dns.exception.DNSException, ValueError):
        return None
    if not answer.flags & dns.flags.QR or len(answer.question) != 1:
        return None
    question = answer.question[0]
    if dns.rdatatype.to_text(question.rdtype) not in _QUERIES:
        return None
    found = [record.to_text() for given in answer.answer if given.rdtype == question.rdtype for record in given]
    name = question.name.to_text(omit_final_dot=True)
    return DNSReq(HostName=name, Addrs=tuple(found) or None, RequestTime=logged.at_ns)
