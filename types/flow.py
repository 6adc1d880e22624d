"""Network flows of apps."""

from __future__ import annotations

from pillar.types.record import Record
from pillar.types.scalars import NIL_UUID, Int32, Int64, IpAddr, Uuid


class IPTuple(Record):
    """Who talks to whom."""

    Src: IpAddr = ""  # address of the app
    Dst: IpAddr = ""
    SrcPort: Int32 = 0
    DstPort: Int32 = 0
    Proto: Int32 = 0


class FlowScope(Record):
    """Which app and network flows belong to."""

    UUID: Uuid = NIL_UUID
    Intf: str = ""
    Localintf: str = ""  # local interface
    NetUUID: Uuid = NIL_UUID
    Sequence: str = ""  # split counter text


class FlowRec(Record):
    """One flow. Times in ns since 1970."""

    Flow: IPTuple = IPTuple()
    Inbound: bool = False
    ACLID: Int32 = 0
    Action: str = ""  # accept/drop
    StartTime: Int64 = 0
    StopTime: Int64 = 0
    TxBytes: Int64 = 0
    TxPkts: Int64 = 0
    RxBytes: Int64 = 0
    RxPkts: Int64 = 0


class DNSReq(Record):
    """A DNS request of an app."""

    HostName: str = ""
    Addrs: tuple[IpAddr, ...] | None = None
    RequestTime: Int64 = 0
    ACLNum: Int32 = 0


class IPFlow(Record):
    """Flows of an app. Written by zedrouter; keyed by the UUIDs of app and network and Sequence, joined."""

    DevID: Uuid = NIL_UUID
    Scope: FlowScope = FlowScope()  # app/bridge
    Flows: tuple[FlowRec, ...] | None = None
    DNSReqs: tuple[DNSReq, ...] | None = None

    def key(self) -> str:
        return self.Scope.UUID + self.Scope.NetUUID + self.Scope.Sequence
