"""The flow log: what the kernel's connection tracking says of flows of guests that have ended.

    kernel event "destroyed" -> Ended -> FlowRec -> IPFlow, up to FLOWS_PER_RECORD each, the last RECORDS_KEPT per vif

A flow's rule stands in its mark. Flows that the rules drop are never tracked: see `logged` for those, and for DNS
requests. Flows that end while zedrouter is dead are not logged.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, Final

from pillar.cmd.zedrouter import netfilter
from pillar.types.flow import DNSReq, FlowRec, FlowScope, IPFlow, IPTuple
from pillar.types.scalars import Uuid

FLOWS_PER_RECORD: Final = 125
RECORDS_KEPT: Final = 8  # per app and network: a reader may be so far behind
WAITING_AT_MOST: Final = 10_000  # flows between two publications; more are counted as lost
_SOL_NETLINK: Final = 270
_NETLINK_ADD_MEMBERSHIP: Final = 1
_DESTROYED: Final = 3  # NFNLGRP_CONNTRACK_DESTROY
_RULE: Final = 0xFFFFFF


@dataclass(frozen=True)
class Ended:
    """A flow as the kernel tracked it: two tuples (source, destination, their ports), packets and bytes each way."""

    protocol: int
    original: tuple[str, str, int, int]
    reply: tuple[str, str, int, int]
    sent: tuple[int, int] = (0, 0)  # packets, bytes of who opened it
    answered: tuple[int, int] = (0, 0)
    mark: int = 0
    start_ns: int = 0
    stop_ns: int = 0


@dataclass(frozen=True)
class Guest:
    """Who has an address."""

    app: Uuid
    network: Uuid
    bridge: str
    vif: str


def records_of(ended: Ended, guests: Mapping[str, Guest]) -> Iterator[tuple[Guest, FlowRec]]:
    """The entries in the logs of those guests whose flow it was: none, one, or two when they talked to each other."""
    source, target, source_port, target_port = ended.original
    if (guest := guests.get(source)) is not None:
        yield guest, _record(ended, source, target, source_port, target_port, inbound=False)
    own, _, own_port, _ = ended.reply
    if (guest := guests.get(own)) is not None:
        yield guest, _record(ended, own, source, own_port, source_port, inbound=True)


def _record(ended: Ended, own: str, other: str, own_port: int, other_port: int, *, inbound: bool) -> FlowRec:
    sent, received = (ended.answered, ended.sent) if inbound else (ended.sent, ended.answered)
    return FlowRec(
        Flow=IPTuple(Src=own, Dst=other, SrcPort=own_port, DstPort=other_port, Proto=ended.protocol),
        Inbound=inbound,
        ACLID=ended.mark & _RULE,
        Action="accept",
        StartTime=ended.start_ns,
        StopTime=ended.stop_ns,
        TxBytes=sent[1],
        TxPkts=sent[0],
        RxBytes=received[1],
        RxPkts=received[0],
    )


Entry = FlowRec | DNSReq


def batches(entries: Iterable[tuple[Guest, Entry]], first: Mapping[tuple[Uuid, Uuid], int]) -> Iterator[IPFlow]:
    """Records to publish; `first` is the next sequence number by (app, network), 0 where it has none."""
    by_guest: dict[Guest, list[Entry]] = {}
    for guest, entry in entries:
        by_guest.setdefault(guest, []).append(entry)
    following = dict(first)
    for guest, listed in by_guest.items():
        for start in range(0, len(listed), FLOWS_PER_RECORD):
            number = following.get((guest.app, guest.network), 0)
            following[guest.app, guest.network] = number + 1
            scope = FlowScope(
                UUID=guest.app, Intf=guest.bridge, Localintf=guest.vif, NetUUID=guest.network, Sequence=str(number)
            )
            part = listed[start : start + FLOWS_PER_RECORD]
            flows = tuple(entry for entry in part if isinstance(entry, FlowRec))
            requests = tuple(entry for entry in part if isinstance(entry, DNSReq))
            yield IPFlow(Scope=scope, Flows=flows, DNSReqs=requests or None)


class FlowEvents:
    """The kernel's events about ended flows, of the namespace this process is in."""

    def __init__(self) -> None:
        """Raises OSError where there is no connection tracking."""
        # Imported here: with --network none nobody needs pyroute2.
        from pyroute2.netlink.nfnetlink.nfctsocket import nfct_msg

        self._message = nfct_msg
        self._socket = netfilter.opened()
        self._socket.setsockopt(_SOL_NETLINK, _NETLINK_ADD_MEMBERSHIP, _DESTROYED)

    def fileno(self) -> int:
        return self._socket.fileno()

    def read(self, at_most: int) -> Iterator[Ended]:
        """The flows that have ended since; an overflowed queue (ENOBUFS) loses some."""
        for data in netfilter.datagrams(self._socket, at_most, 1 << 16):
            message = self._message(data)
            message.decode()
            if (ended := _ended(message)) is not None:
                yield ended

    def close(self) -> None:
        self._socket.close()


def _ended(message: Any) -> Ended | None:
    original, reply = _tuple(message, "CTA_TUPLE_ORIG"), _tuple(message, "CTA_TUPLE_REPLY")
    if original is None or reply is None:
        return None
    time = message.get_attr("CTA_TIMESTAMP")
    return Ended(
        original[0],
        original[1],
        reply[1],
        _counted(message, "CTA_COUNTERS_ORIG"),
        _counted(message, "CTA_COUNTERS_REPLY"),
        message.get_attr("CTA_MARK") or 0,
        (time.get_attr("CTA_TIMESTAMP_START") or 0) if time is not None else 0,
        (time.get_attr("CTA_TIMESTAMP_STOP") or 0) if time is not None else 0,
    )


def _tuple(message: Any, which: str) -> tuple[int, tuple[str, str, int, int]] | None:
    found = message.get_attr(which)
    address = found.get_attr("CTA_TUPLE_IP") if found is not None else None
    protocol = found.get_attr("CTA_TUPLE_PROTO") if found is not None else None
    if address is None or protocol is None:
        return None
    version = "V6" if address.get_attr("CTA_IP_V6_SRC") else "V4"
    return protocol.get_attr("CTA_PROTO_NUM") or 0, (
        str(address.get_attr(f"CTA_IP_{version}_SRC")),
        str(address.get_attr(f"CTA_IP_{version}_DST")),
        protocol.get_attr("CTA_PROTO_SRC_PORT") or 0,
        protocol.get_attr("CTA_PROTO_DST_PORT") or 0,
    )


def _counted(message: Any, which: str) -> tuple[int, int]:
    found = message.get_attr(which)
    if found is None:
        return 0, 0
    return found.get_attr("CTA_COUNTERS_PACKETS") or 0, found.get_attr("CTA_COUNTERS_BYTES") or 0
