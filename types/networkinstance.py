"""Network instances: the networks apps attach to."""

from __future__ import annotations

from pillar.types.common import DnsNameToIP, IpRange, UUIDandVersion
from pillar.types.enums import AddressType, ChangeInProgressType, CurrIntfStatusType, NetworkInstanceType
from pillar.types.lisp import LispInfoStatus, LispMetrics
from pillar.types.metrics import NetworkMetric, NetworkMetrics
from pillar.types.record import Record
from pillar.types.scalars import NIL_UUID, ZERO_TIME, Int64, IpAddr, IpNet, Secret, Time, Uint32, Uuid
from pillar.types.vpn import VpnMetrics, VpnStatus
from pillar.types.zedrouter import MapServer


class NetworkInstanceLispConfig(Record):
    """Mesh settings of a network instance."""

    MapServers: tuple[MapServer, ...] | None = None  # map servers
    IID: Uint32 = 0
    Allocate: bool = False  # device allocates EIDs
    ExportPrivate: bool = False  # export keys
    EidPrefix: IpAddr = ""
    EidPrefixLen: Uint32 = 0  # prefix length
    Experimental: bool = False


class NetworkInstanceConfig(Record):
    """A network instance wanted. Written by zedagent; keyed by UUID."""

    UUID: Uuid = NIL_UUID
    Version: str = ""  # controller's version text
    DisplayName: str = ""
    Type: NetworkInstanceType = NetworkInstanceType.FIRST  # switch, local, cloud, mesh
    Activate: bool = False
    Port: str = ""  # device port name, or label uplink/freeuplink, or "" = none
    IpType: AddressType = AddressType.NONE  # address family
    Subnet: IpNet = IpNet()
    Gateway: IpAddr = ""
    DomainName: str = ""
    NtpServer: IpAddr = ""
    DnsServers: tuple[IpAddr, ...] | None = None
    DhcpRange: IpRange = IpRange()  # addresses to hand out
    DnsNameToIPList: tuple[DnsNameToIP, ...] | None = None
    HasEncap: bool = False  # mesh: MTU 1280 helper interface
    OpaqueConfig: Secret = ""  # VPN settings as JSON text (VpnConfig); secret for its pre-shared keys
    LispConfig: NetworkInstanceLispConfig = NetworkInstanceLispConfig()  # mesh settings

    def key(self) -> str:
        return self.UUID


class VifNameMac(Record):
    """A virtual interface attached to a network instance."""

    Name: str = ""  # vif
    MacAddr: str = ""  # MAC text
    AppID: Uuid = NIL_UUID


class ServerProbe(Record):
    """What to probe to see whether an uplink works."""

    ServerURL: str = ""
    ServerIP: IpAddr = ""
    ProbeInterval: Uint32 = 0  # seconds


class ProbeInfo(Record):
    """What probing says about one port."""

    IfName: str = ""
    IsPresent: bool = False  # mark for sweep
    TransDown: bool = False  # went down after long up
    GatewayUP: bool = False  # next hop answers
    LocalAddr: IpAddr = ""
    NhAddr: IpAddr = ""
    IsFree: bool = False  # free port
    FailedCnt: Uint32 = 0  # consecutive local failures
    SuccessCnt: Uint32 = 0  # consecutive local successes
    RemoteHostUP: bool = False  # remote answers
    FailedProbeCnt: Uint32 = 0  # consecutive remote failures
    SuccessProbeCnt: Uint32 = 0  # consecutive remote successes
    AveLatency: Int64 = 0  # ms


class NetworkInstanceInfo(Record):
    """What zedrouter made for a network instance; its fields stand in NetworkInstanceStatus."""

    BridgeNum: Int64 = 0  # 1–255
    BridgeName: str = ""  # `bn<num>`
    BridgeIPAddr: str = ""  # bridge address offering DNS/DHCP; empty for plain switch
    BridgeMac: str = ""  # text 00:16:3e:06:00:<num hex>
    IfNameList: tuple[str, ...] | None = None  # uplink interfaces at activation
    IPAssignments: dict[str, IpAddr] | None = None  # MAC text → address
    BridgeIPSets: tuple[str, ...] | None = None  # DNS names used in ACLs on this bridge
    Vifs: tuple[VifNameMac, ...] | None = None  # vifs attached
    Ipv4Eid: bool = False  # mesh with IPv4 EIDs
    Error: str = ""  # for a person; "" means nothing is wrong now
    ErrorTime: Time = ZERO_TIME
    VifMetricMap: dict[str, NetworkMetric] | None = None  # vif name → counters, keeps removed vifs


class NetworkInstanceProbeStatus(Record):
    """Which uplink a network instance uses; its fields stand in NetworkInstanceStatus."""

    PConfig: ServerProbe = ServerProbe()  # remote probe target
    NeedIntfUpdate: bool = False  # uplink switch pending
    PrevUplinkIntf: str = ""
    CurrentUplinkIntf: str = ""  # chosen
    ProgUplinkIntf: str = ""  # actually programmed
    CurrIntfUP: CurrIntfStatusType = CurrIntfStatusType.NONE  # up/down
    TriggerCnt: Uint32 = 0  # switch count
    PInfo: dict[str, ProbeInfo] | None = None  # per port


class NetworkInstanceStatus(Record):
    """A network instance as it is: its config, NetworkInstanceInfo and NetworkInstanceProbeStatus in one record.
    Written by zedrouter; keyed by UUID.
    """

    UUID: Uuid = NIL_UUID
    Version: str = ""  # controller's version text
    DisplayName: str = ""
    Type: NetworkInstanceType = NetworkInstanceType.FIRST  # switch, local, cloud, mesh
    Activate: bool = False
    Port: str = ""  # device port name, or label uplink/freeuplink, or "" = none
    IpType: AddressType = AddressType.NONE  # address family
    Subnet: IpNet = IpNet()
    Gateway: IpAddr = ""
    DomainName: str = ""
    NtpServer: IpAddr = ""
    DnsServers: tuple[IpAddr, ...] | None = None
    DhcpRange: IpRange = IpRange()  # addresses to hand out
    DnsNameToIPList: tuple[DnsNameToIP, ...] | None = None
    HasEncap: bool = False  # mesh: MTU 1280 helper interface
    OpaqueConfig: Secret = ""  # VPN settings as JSON text (VpnConfig); secret for its pre-shared keys
    LispConfig: NetworkInstanceLispConfig = NetworkInstanceLispConfig()  # mesh settings
    ChangeInProgress: ChangeInProgressType = ChangeInProgressType.NONE  # create/modify/delete running
    Activated: bool = False  # actual: running / provisioned
    BridgeNum: Int64 = 0  # 1–255
    BridgeName: str = ""  # `bn<num>`
    BridgeIPAddr: str = ""  # bridge address offering DNS/DHCP; empty for plain switch
    BridgeMac: str = ""  # text 00:16:3e:06:00:<num hex>
    IfNameList: tuple[str, ...] | None = None  # uplink interfaces at activation
    IPAssignments: dict[str, IpAddr] | None = None  # MAC text → address
    BridgeIPSets: tuple[str, ...] | None = None  # DNS names used in ACLs on this bridge
    Vifs: tuple[VifNameMac, ...] | None = None  # vifs attached
    Ipv4Eid: bool = False  # mesh with IPv4 EIDs
    Error: str = ""  # for a person; "" means nothing is wrong now
    ErrorTime: Time = ZERO_TIME
    VifMetricMap: dict[str, NetworkMetric] | None = None  # vif name → counters, keeps removed vifs
    OpaqueStatus: Secret = ""  # those settings as they were read
    LispStatus: NetworkInstanceLispConfig = NetworkInstanceLispConfig()  # declared; not filled from LispConfig
    VpnStatus: VpnStatus | None = None  # VPN state or null
    LispInfoStatus: LispInfoStatus | None = None  # LISP state for this IID or null
    LispMetrics: LispMetrics | None = None
    PConfig: ServerProbe = ServerProbe()  # remote probe target
    NeedIntfUpdate: bool = False  # uplink switch pending
    PrevUplinkIntf: str = ""
    CurrentUplinkIntf: str = ""  # chosen
    ProgUplinkIntf: str = ""  # actually programmed
    CurrIntfUP: CurrIntfStatusType = CurrIntfStatusType.NONE  # up/down
    TriggerCnt: Uint32 = 0  # switch count
    PInfo: dict[str, ProbeInfo] | None = None  # per port

    def key(self) -> str:
        return self.UUID


class ProbeIntfMetrics(Record):
    """Probe counters of one port."""

    IntfName: str = ""
    NexthopGw: IpAddr = ""  # gateway
    GatewayUP: bool = False  # local up
    RmoteStatusUP: bool = False  # remote up (name misspelt)
    GatewayUPCnt: Uint32 = 0
    GatewayDownCnt: Uint32 = 0
    RemoteUPCnt: Uint32 = 0
    RemoteDownCnt: Uint32 = 0
    LatencyToRemote: Uint32 = 0  # ms


class ProbeMetrics(Record):
    """Probe counters of a network instance."""

    CurrUplinkIntf: str = ""  # chosen uplink
    RemoteEndpoint: str = ""  # URL or address
    LocalPingIntvl: Uint32 = 0  # s
    RemotePingIntvl: Uint32 = 0  # s
    UplinkNumber: Uint32 = 0  # candidates
    IntfProbeStats: tuple[ProbeIntfMetrics, ...] | None = None


class NetworkInstanceMetrics(Record):
    """Counters of a network instance. Written by zedrouter; keyed by UUID."""

    UUIDandVersion: UUIDandVersion = UUIDandVersion()
    DisplayName: str = ""
    Type: NetworkInstanceType = NetworkInstanceType.FIRST
    NetworkMetrics: NetworkMetrics = NetworkMetrics()
    ProbeMetrics: ProbeMetrics = ProbeMetrics()  # probing
    VpnMetrics: VpnMetrics | None = None
    LispMetrics: LispMetrics | None = None

    def key(self) -> str:
        return self.UUIDandVersion.UUID
