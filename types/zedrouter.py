"""Networking of apps: interfaces, access rules, and what zedrouter made of them."""

from __future__ import annotations

import msgspec

from pillar.types.common import DnsNameToIP, UUIDandVersion
from pillar.types.enums import ACEDirection, MapServerType, NetworkInstanceType
from pillar.types.record import Record
from pillar.types.scalars import NIL_UUID, ZERO_TIME, Int32, Int64, IpAddr, Mac, Secret, Time, Uint32, Uuid


class ACEMatch(Record):
    """One condition of an access rule."""

    Type: str = ""  # ip, protocol, fport, lport, host, eidset; others rejected
    Value: str = ""


class ACEAction(Record):
    """What an access rule does with a match."""

    Drop: bool = False  # drop instead of accept; zedagent never sets it
    Limit: bool = False
    LimitRate: Int64 = 0  # packets per unit
    LimitUnit: str = ""  # s, m or h
    LimitBurst: Int64 = 0
    PortMap: bool = False
    TargetPort: Int64 = 0  # guest port


class ACE(Record):
    """One access rule: when all Matches hold, all Actions are done."""

    Matches: tuple[ACEMatch, ...] | None = None  # all must hold
    Actions: tuple[ACEAction, ...] | None = None  # what to do; "" = accept
    Name: str = ""
    RuleID: Int32 = 0  # id from controller; 0 rejected; −1 skips marking
    Dir: ACEDirection = ACEDirection.BOTH  # parsed, not used when building rules


class IPTablesRule(Record):
    """One iptables rule that was installed."""

    IPVer: Int64 = 0  # 4 or 6
    Table: str = ""  # "" = filter
    Chain: str = ""
    Prefix: tuple[str, ...] | None = None  # arguments put before the match
    Rule: tuple[str, ...] | None = None  # match arguments
    Action: tuple[str, ...] | None = None  # target arguments
    RuleID: Int32 = 0  # from ACE
    RuleName: str = ""  # unused
    ActionChainName: str = ""  # marking chain to delete with the rule
    IsUserConfigured: bool = False  # from an ACE
    IsMarkingRule: bool = False  # sets a mark
    IsPortMapRule: bool = False  # port map
    IsLimitDropRule: bool = False  # drops above limit
    IsDefaultDrop: bool = False  # final drop


class VifInfo(Record):
    """A virtual interface of an app."""

    Bridge: str = ""
    Vif: str = ""  # vif name in dom0
    Mac: str = ""  # guest MAC text


class MapServer(Record):
    """A LISP map server and the secret to register with it."""

    ServiceType: MapServerType = MapServerType.INVALID
    NameOrIp: str = ""
    Credential: Secret = ""  # secret


class AdditionalInfoDevice(Record, omit_defaults=True):
    """Where the device is, for the LISP management overlay. Members other than UnderlayIP are absent when empty."""

    UnderlayIP: str = msgspec.field(default_factory=str)  # public address text
    Hostname: str = ""  # reverse DNS name
    City: str = ""  # city
    Region: str = ""  # region
    Country: str = ""  # country
    Loc: str = ""  # lat,long
    Org: str = ""  # network operator


class AdditionalInfoApp(Record, omit_defaults=True):
    """What LISP is told about an app; JSON text, no table. Hostname is absent when empty."""

    DisplayName: str = msgspec.field(default_factory=str)
    DeviceEID: IpAddr = msgspec.field(default_factory=str)  # device EID
    DeviceIID: Uint32 = msgspec.field(default_factory=int)  # device IID
    UnderlayIP: str = msgspec.field(default_factory=str)  # public address text
    Hostname: str = ""  # reverse DNS name


class UnderlayNetworkConfig(Record):
    """An interface an app wants on a network instance."""

    Name: str = ""
    AppMacAddr: Mac = None  # static guest MAC; None = generate
    AppIPAddr: IpAddr = ""  # static guest address
    Error: str = ""  # for a person; "" means nothing is wrong now
    Network: Uuid = NIL_UUID
    ACLs: tuple[ACE, ...] | None = None


class UnderlayNetworkStatus(Record):
    """UnderlayNetworkConfig and what zedrouter provided for it."""

    Name: str = ""
    AppMacAddr: Mac = None  # static guest MAC; None = generate
    AppIPAddr: IpAddr = ""  # static guest address
    Error: str = ""  # for a person; "" means nothing is wrong now
    Network: Uuid = NIL_UUID
    ACLs: tuple[ACE, ...] | None = None
    Bridge: str = ""
    Vif: str = ""  # vif name in dom0
    Mac: str = ""  # guest MAC text
    BridgeMac: bytes | None = None  # six bytes; `Mac` is a field here
    BridgeIPAddr: str = ""  # bridge address offering DNS/DHCP; empty for plain switch
    AllocatedIPAddr: str = ""  # address reserved for the guest (text; empty on a switch)
    Assigned: bool = False  # DHCP lease seen for this vif
    HostName: str = ""
    ACLRules: tuple[IPTablesRule, ...] | None = None  # iptables rules currently installed


class OverlayNetworkConfig(Record):
    """An interface an app wants on a mesh (LISP) network."""

    Name: str = ""
    EID: IpAddr = ""  # the EID (IPv6; empty until known)
    LispSignature: str = ""  # base64 text of r‖s
    ACLs: tuple[ACE, ...] | None = None
    AppMacAddr: Mac = None  # static guest MAC; None = generate
    AppIPAddr: IpAddr = ""
    Network: Uuid = NIL_UUID
    Error: str = ""  # for a person; "" means nothing is wrong now
    AdditionalInfoDevice: AdditionalInfoDevice | None = None  # location info, management record only
    MgmtIID: Uint32 = 0  # IID (zedmanager fills it for apps too)
    MgmtDnsNameToIPList: tuple[DnsNameToIP, ...] | None = None  # names for the management overlay
    MgmtMapServers: tuple[MapServer, ...] | None = None  # map servers for the management overlay


class OverlayNetworkStatus(Record):
    """OverlayNetworkConfig and what zedrouter provided for it."""

    Name: str = ""
    EID: IpAddr = ""  # the EID (IPv6; empty until known)
    LispSignature: str = ""  # base64 text of r‖s
    ACLs: tuple[ACE, ...] | None = None
    AppMacAddr: Mac = None  # static guest MAC; None = generate
    AppIPAddr: IpAddr = ""
    Network: Uuid = NIL_UUID
    Error: str = ""  # for a person; "" means nothing is wrong now
    AdditionalInfoDevice: AdditionalInfoDevice | None = None  # location info, management record only
    MgmtIID: Uint32 = 0  # IID (zedmanager fills it for apps too)
    MgmtDnsNameToIPList: tuple[DnsNameToIP, ...] | None = None  # names for the management overlay
    MgmtMapServers: tuple[MapServer, ...] | None = None  # map servers for the management overlay
    Bridge: str = ""
    Vif: str = ""  # vif name in dom0
    Mac: str = ""  # guest MAC text
    BridgeMac: bytes | None = None  # six bytes; `Mac` is a field here
    BridgeIPAddr: str = ""  # bridge address offering DNS/DHCP; empty for plain switch
    Assigned: bool = False  # DHCP lease seen for this vif
    HostName: str = ""
    ACLRules: tuple[IPTablesRule, ...] | None = None  # iptables rules currently installed


class AppNetworkConfig(Record):
    """The networking of an app. Written by zedmanager; keyed by the app's UUID."""

    UUIDandVersion: UUIDandVersion = UUIDandVersion()
    DisplayName: str = ""
    Activate: bool = False
    IsZedmanager: bool = False  # true only for the device-management overlay
    LegacyDataPlane: bool = False  # use python LISP data plane (management record only)
    OverlayNetworkList: tuple[OverlayNetworkConfig, ...] | None = None  # overlays
    UnderlayNetworkList: tuple[UnderlayNetworkConfig, ...] | None = None  # underlays

    def key(self) -> str:
        return self.UUIDandVersion.UUID


class AppNetworkStatus(Record):
    """What zedrouter provided for an app. Keyed by the app's UUID."""

    UUIDandVersion: UUIDandVersion = UUIDandVersion()
    AppNum: Int64 = 0  # 0 to 255, for names, MACs and marks; 0 = not yet allocated or the device itself
    Activated: bool = False  # actual: running / provisioned
    PendingAdd: bool = False
    PendingModify: bool = False
    PendingDelete: bool = False
    DisplayName: str = ""
    IsZedmanager: bool = False
    LegacyDataPlane: bool = False
    OverlayNetworkList: tuple[OverlayNetworkStatus, ...] | None = None  # config plus what was provisioned
    UnderlayNetworkList: tuple[UnderlayNetworkStatus, ...] | None = None  # config plus what was provisioned
    MissingNetwork: bool = False  # a referenced network instance did not exist; not cleared later
    Error: str = ""  # for a person; "" means nothing is wrong now
    ErrorTime: Time = ZERO_TIME

    def key(self) -> str:
        return self.UUIDandVersion.UUID


class AppNetworkACLArgs(Record):
    """What is needed to turn access rules into iptables rules; never published."""

    IsMgmt: bool = False
    IPVer: Int64 = 0
    BridgeName: str = ""
    VifName: str = ""
    BridgeIP: str = ""
    AppIP: str = ""
    UpLinks: tuple[str, ...] | None = None
    NIType: NetworkInstanceType = NetworkInstanceType.FIRST
    AppNum: Int32 = 0  # 0 to 255, for names, MACs and marks; 0 = not yet allocated or the device itself
