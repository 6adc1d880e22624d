"""Counters: of interfaces, and of the conversations with the controller."""

from __future__ import annotations

from typing import Any, ClassVar

from pillar.types.enums import MetricItemType
from pillar.types.record import Record
from pillar.types.scalars import ZERO_TIME, Int64, Time, Uint64


class PktStats(Record):
    """Packets and bytes."""

    Pkts: Uint64 = 0
    Bytes: Uint64 = 0


class LinkPktStats(Record):
    """Packets and bytes both ways."""

    InPkts: PktStats = PktStats()
    OutPkts: PktStats = PktStats()


class NetworkMetric(Record):
    """Counters of one interface since it came up."""

    IfName: str = ""
    TxBytes: Uint64 = 0
    RxBytes: Uint64 = 0
    TxDrops: Uint64 = 0
    RxDrops: Uint64 = 0
    TxPkts: Uint64 = 0
    RxPkts: Uint64 = 0
    TxErrors: Uint64 = 0
    RxErrors: Uint64 = 0
    TxAclDrops: Uint64 = 0
    RxAclDrops: Uint64 = 0
    TxAclRateLimitDrops: Uint64 = 0
    RxAclRateLimitDrops: Uint64 = 0


class NetworkMetrics(Record):
    """Counters of all interfaces. Written by zedrouter; key `global`."""

    MetricList: tuple[NetworkMetric, ...] | None = None


class MetricItem(Record):
    """A value reported to the controller; never published."""

    Key: str = ""
    Type: MetricItemType = MetricItemType.OTHER
    Value: Any = None


class UrlMetrics(Record):
    """Messages and bytes exchanged over one interface with one URL."""

    TryMsgCount: Int64 = 0
    TryByteCount: Int64 = 0
    SentMsgCount: Int64 = 0
    SentByteCount: Int64 = 0
    RecvMsgCount: Int64 = 0  # each receive is an answer to a send
    RecvByteCount: Int64 = 0


class InterfaceMetrics(Record):
    """How talking to servers went over one interface."""

    FailureCount: Uint64 = 0
    SuccessCount: Uint64 = 0
    LastFailure: Time = ZERO_TIME
    LastSuccess: Time = ZERO_TIME
    UrlCounters: dict[str, UrlMetrics] | None = None  # by URL


class metricsMap(Record):
    """How talking to servers went. Written by downloader, logmanager and zedclient; key `global`.

    In the file it is the bare map: EVE publishes no struct here.
    """

    json_root: ClassVar[str] = "Interfaces"

    Interfaces: dict[str, InterfaceMetrics] | None = None  # by interface name
