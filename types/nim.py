"""The device's own networking: what its ports should be and what they are."""

from __future__ import annotations

from pillar.types.common import DnsNameToIP, IpRange
from pillar.types.enums import DevicePortConfigVersion, DhcpType, NetworkProxyType, NetworkType
from pillar.types.record import Record
from pillar.types.scalars import NIL_UUID, ZERO_TIME, Int64, IpAddr, IpNet, Time, Uint32, Uuid


class ProxyEntry(Record):
    """A proxy for one protocol."""

    Type: NetworkProxyType = NetworkProxyType.HTTP
    Server: str = ""
    Port: Uint32 = 0


class ProxyConfig(Record):
    """Proxies of a port."""

    Proxies: tuple[ProxyEntry, ...] | None = None
    Exceptions: str = ""  # comma list
    Pacfile: str = ""  # base64 PAC
    NetworkProxyEnable: bool = False  # WPAD on
    NetworkProxyURL: str = ""  # WPAD URL
    WpadURL: str = ""  # URL found


class DhcpConfig(Record):
    """How a port gets its address."""

    Dhcp: DhcpType = DhcpType.NOOP  # static, client, none
    AddrSubnet: str = ""  # address/len text
    Gateway: IpAddr = ""
    DomainName: str = ""
    NtpServer: IpAddr = ""
    DnsServers: tuple[IpAddr, ...] | None = None


class NetworkPortConfig(Record):
    """What a port of the device should be."""

    IfName: str = ""
    Name: str = ""
    IsMgmt: bool = False  # used to reach the controller
    Free: bool = False
    Dhcp: DhcpType = DhcpType.NOOP  # static, client, none
    AddrSubnet: str = ""  # address/len text
    Gateway: IpAddr = ""
    DomainName: str = ""
    NtpServer: IpAddr = ""
    DnsServers: tuple[IpAddr, ...] | None = None
    Proxies: tuple[ProxyEntry, ...] | None = None
    Exceptions: str = ""  # comma list
    Pacfile: str = ""  # base64 PAC
    NetworkProxyEnable: bool = False  # WPAD on
    NetworkProxyURL: str = ""  # WPAD URL
    WpadURL: str = ""  # URL found
    AccessPoint: str = ""  # SSID/APN
    ParseError: str = ""  # parser error
    ParseErrorTime: Time = ZERO_TIME


class DevicePortConfig(Record):
    """A set of ports to try. Written by zedagent and nim, or by hand as an override; keyed by its origin."""

    Version: DevicePortConfigVersion = DevicePortConfigVersion.INITIAL  # 0 initial, 1 management flag is honoured
    Key: str = ""  # a stored member: origin (zedagent, lastresort, override...)
    TimePriority: Time = ZERO_TIME  # sort key; lastresort = 1970-01-01
    LastFailed: Time = ZERO_TIME  # last failed test
    LastSucceeded: Time = ZERO_TIME  # last good test
    LastError: str = ""  # text of last failure
    Ports: tuple[NetworkPortConfig, ...] | None = None


class DevicePortConfigList(Record):
    """All sets of ports nim knows, best first. Written by nim (persistent); key `global`."""

    CurrentIndex: Int64 = 0  # in use / under test; −1 none
    PortConfigList: tuple[DevicePortConfig, ...] | None = None  # newest TimePriority first


class IPInfo(Record):
    """What a lookup service says about an address; lower-case members, as that service sends them."""

    ip: str = ""
    hostname: str = ""
    city: str = ""
    region: str = ""
    country: str = ""
    loc: str = ""
    org: str = ""
    postal: str = ""


class AddrInfo(Record):
    """An address of a port and where it seems to be."""

    Addr: IpAddr = ""
    Geo: IPInfo = IPInfo()  # lower-case members ip, hostname, city, region, country, loc, org, postal
    LastGeoTimestamp: Time = ZERO_TIME  # when looked up


class NetworkXObjectConfig(Record):
    """A network of the device. Written by zedagent; keyed by UUID."""

    UUID: Uuid = NIL_UUID
    Type: NetworkType = NetworkType.NOOP
    Dhcp: DhcpType = DhcpType.NOOP  # static, client, none
    Subnet: IpNet = IpNet()
    Gateway: IpAddr = ""
    DomainName: str = ""
    NtpServer: IpAddr = ""
    DnsServers: tuple[IpAddr, ...] | None = None
    DhcpRange: IpRange = IpRange()  # addresses to hand out
    DnsNameToIPList: tuple[DnsNameToIP, ...] | None = None
    Proxy: ProxyConfig | None = None
    Error: str = ""  # for a person; "" means nothing is wrong now
    ErrorTime: Time = ZERO_TIME

    def key(self) -> str:
        return self.UUID


class NetworkPortStatus(Record):
    """A port of the device as it is. The fields of NetworkXObjectConfig and ProxyConfig stand among its own; `Proxy`
    belongs to the former, `Proxies` to the latter.
    """

    IfName: str = ""
    Name: str = ""
    IsMgmt: bool = False  # used to reach the controller
    Free: bool = False
    AccessPoint: str = ""  # SSID/APN
    UUID: Uuid = NIL_UUID
    Type: NetworkType = NetworkType.NOOP
    Dhcp: DhcpType = DhcpType.NOOP  # static, client, none
    Subnet: IpNet = IpNet()
    Gateway: IpAddr = ""
    DomainName: str = ""
    NtpServer: IpAddr = ""
    DnsServers: tuple[IpAddr, ...] | None = None
    DhcpRange: IpRange = IpRange()  # addresses to hand out
    DnsNameToIPList: tuple[DnsNameToIP, ...] | None = None
    Proxy: ProxyConfig | None = None
    AddrInfoList: tuple[AddrInfo, ...] | None = None
    Proxies: tuple[ProxyEntry, ...] | None = None
    Exceptions: str = ""  # comma list
    Pacfile: str = ""  # base64 PAC
    NetworkProxyEnable: bool = False  # WPAD on
    NetworkProxyURL: str = ""  # WPAD URL
    WpadURL: str = ""  # URL found
    Error: str = ""  # hides the one of NetworkXObjectConfig, which EVE loses
    ErrorTime: Time = ZERO_TIME

    def key(self) -> str:
        return self.UUID


class DeviceNetworkStatus(Record):
    """The ports in use and their addresses. Written by nim; key `global`."""

    Version: DevicePortConfigVersion = DevicePortConfigVersion.INITIAL  # 0 initial, 1 management flag is honoured
    Testing: bool = False  # not yet verified; some consumers hold back
    Ports: tuple[NetworkPortStatus, ...] | None = None
