"""VPN network instances: settings as the controller sends them, state and counters."""

from __future__ import annotations

from pillar.types.enums import NetworkInstanceType, NetworkServiceType, VpnState
from pillar.types.metrics import LinkPktStats, PktStats
from pillar.types.record import Record
from pillar.types.scalars import ZERO_TIME, Secret, Time, Uint32, Uint64


class NetLinkConfig(Record):
    """One side of a VPN link; an address may be a port's name."""

    Name: str = ""
    IpAddr: str = ""
    SubnetBlock: str = ""


class VpnTunnelConfig(Record):
    """A tunnel interface."""

    Name: str = ""
    Key: Secret = ""
    Mtu: str = ""
    Metric: str = ""
    LocalIpAddr: str = ""
    RemoteIpAddr: str = ""


class VpnClientConfig(Record):
    """A client of a VPN server, or the other way round."""

    IpAddr: str = ""
    SubnetBlock: str = ""
    PreSharedKey: Secret = ""
    TunnelConfig: VpnTunnelConfig = VpnTunnelConfig()


class VpnConfig(Record):
    """A VPN as the controller sends it in NetworkInstanceConfig.OpaqueConfig."""

    VpnRole: str = ""
    PolicyBased: bool = False
    IsClient: bool = False
    PortConfig: NetLinkConfig = NetLinkConfig()
    AppLinkConfig: NetLinkConfig = NetLinkConfig()
    GatewayConfig: NetLinkConfig = NetLinkConfig()
    ClientConfigList: tuple[VpnClientConfig, ...] | None = None


class StrongSwanConfig(Record):
    """An older form of VpnConfig."""

    VpnRole: str = ""
    PolicyBased: bool = False
    IsClient: bool = False
    VpnGatewayIpAddr: str = ""
    VpnSubnetBlock: str = ""
    VpnLocalIpAddr: str = ""
    VpnRemoteIpAddr: str = ""
    PreSharedKey: Secret = ""
    LocalSubnetBlock: str = ""
    ClientConfigList: tuple[VpnClientConfig, ...] | None = None


class VpnEndPoint(Record):
    """One end of a VPN connection."""

    Id: str = ""
    IpAddr: str = ""
    Port: Uint32 = 0


class VpnLinkInfo(Record):
    """One direction of a VPN link."""

    SubNet: str = ""
    SpiId: str = ""
    Direction: bool = False
    PktStats: PktStats = PktStats()


class VpnLinkStatus(Record):
    """A VPN link as it is. Times in seconds."""

    Id: str = ""
    Name: str = ""
    ReqId: str = ""
    InstTime: Uint64 = 0
    ExpTime: Uint64 = 0
    RekeyTime: Uint64 = 0
    EspInfo: str = ""
    State: VpnState = VpnState.INVALID
    LInfo: VpnLinkInfo = VpnLinkInfo()
    RInfo: VpnLinkInfo = VpnLinkInfo()
    MarkDelete: bool = False


class VpnConnStatus(Record):
    """A VPN connection as it is. Times in seconds."""

    Id: str = ""
    Name: str = ""
    State: VpnState = VpnState.INVALID
    Version: str = ""
    Ikes: str = ""
    EstTime: Uint64 = 0
    ReauthTime: Uint64 = 0
    LInfo: VpnEndPoint = VpnEndPoint()
    RInfo: VpnEndPoint = VpnEndPoint()
    Links: tuple[VpnLinkStatus | None, ...] | None = None
    StartLine: Uint32 = 0
    EndLine: Uint32 = 0
    MarkDelete: bool = False


class VpnStatus(Record):
    """All VPN connections of a network instance."""

    Version: str = ""
    UpTime: Time = ZERO_TIME  # since when
    IpAddrs: str = ""
    ActiveVpnConns: tuple[VpnConnStatus | None, ...] | None = None
    StaleVpnConns: tuple[VpnConnStatus | None, ...] | None = None
    ActiveTunCount: Uint32 = 0
    ConnectingTunCount: Uint32 = 0
    PolicyBased: bool = False


class VpnLinkMetrics(Record):
    """Which link counters belong to."""

    SubNet: str = ""
    SpiId: str = ""


class VpnEndPointMetrics(Record):
    """Counters of one end."""

    IpAddr: str = ""
    LinkInfo: VpnLinkMetrics = VpnLinkMetrics()
    PktStats: PktStats = PktStats()


class VpnConnMetrics(Record):
    """Counters of a VPN connection."""

    Id: str = ""
    Name: str = ""
    EstTime: Uint64 = 0
    Type: NetworkServiceType = NetworkServiceType.FIRST
    NIType: NetworkInstanceType = NetworkInstanceType.FIRST
    LEndPoint: VpnEndPointMetrics = VpnEndPointMetrics()
    REndPoint: VpnEndPointMetrics = VpnEndPointMetrics()


class VpnMetrics(Record):
    """Counters of all VPN connections of a network instance."""

    UpTime: Time = ZERO_TIME  # since when
    DataStat: LinkPktStats = LinkPktStats()
    IkeStat: LinkPktStats = LinkPktStats()
    NatTStat: LinkPktStats = LinkPktStats()
    EspStat: LinkPktStats = LinkPktStats()
    ErrStat: LinkPktStats = LinkPktStats()
    PhyErrStat: LinkPktStats = LinkPktStats()
    VpnConns: tuple[VpnConnMetrics | None, ...] | None = None
