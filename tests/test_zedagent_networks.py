"""Every rule of the device config about network instances, networks and ports, without files or processes."""

from __future__ import annotations

import base64
from typing import Any

import pytest
from zedagent_cases import APP, LATER, MESH, NET, NET2, NETWORK, NOW, STORE, app, instance, parse, parse_instance

from pillar.types.common import DnsNameToIP, IpRange
from pillar.types.nim import NetworkPortConfig, NetworkXObjectConfig
from pillar.types.scalars import NIL_UUID, IpNet

# ---- network instances


def test_a_switch_has_no_addresses() -> None:
    parsed = parse({"networkInstances": [instance(kind="ZnetInstSwitch", ipType="IPV4", ip={"subnet": "10.0.0.0/8"})]})
    record = parsed.instances[NET]
    assert (record.IpType, record.Subnet, record.DnsNameToIPList) == (0, IpNet(), None)
    assert "a switch has no addresses" in parsed.problems[0]


def test_bad_ip_settings_end_at_the_first_bad_value() -> None:
    ip = {"domain": "d", "subnet": "10.1.2.3/20", "gateway": "10.1.0.1", "dns": ["9.9.9.9", "no", "8.8.8.8"]}
    ip["dhcpRange"] = {"start": "10.1.0.2"}
    parsed = parse({"networkInstances": [instance(ipType="IPV4", ip=ip), instance(NET2, ipType="IPV4")]})
    record = parsed.instances[NET]
    assert record.Subnet == IpNet(IP="10.1.0.0", Mask=b"\xff\xff\xf0\0")
    assert (record.DomainName, record.Gateway, record.DnsServers, record.DhcpRange) == (
        "d",
        "10.1.0.1",
        ("9.9.9.9",),
        IpRange(),
    )
    assert record.DnsNameToIPList == ()
    assert parsed.problems == (f"network instance {NET} '': parseIpspec: bad dns IP no",)


@pytest.mark.parametrize(
    ("given", "read"),
    [
        ({"start": "10.0.0.1", "end": "10.0.0.9"}, IpRange(Start="10.0.0.1", End="10.0.0.9")),
        ({"start": "10.0.0.1"}, IpRange(Start="10.0.0.1")),
        ({"end": "10.0.0.9"}, IpRange()),
        ({"start": "10.0.0.1", "end": "x"}, IpRange()),
    ],
)
def test_dhcp_ranges(given: dict[str, str], read: IpRange) -> None:
    assert parse_instance(instance(ipType="IPV4", ip={"dhcpRange": given})).DhcpRange == read


def test_bad_addresses_of_host_names_are_left_out_of_an_instance() -> None:
    dns = [{"HostName": "a", "Address": ["10.0.0.1", "x", "fd00::1"]}, {"HostName": "b", "Address": ["y"]}]
    names = parse_instance(instance(ipType="IPV4", dns=dns)).DnsNameToIPList
    assert names == (DnsNameToIP(HostName="a", IPs=("10.0.0.1", "fd00::1")), DnsNameToIP(HostName="b", IPs=()))


def test_settings_of_a_mesh() -> None:
    prefix = base64.b64encode(bytes([0xFD]) + bytes(15)).decode()
    servers = [{"NameOrIp": "ms", "Credential": "c", "zsType": "mapServer"}]
    lisp = {
        "LispMSs": servers,
        "LispInstanceId": 9,
        "allocate": True,
        "allocationprefix": prefix,
        "allocationprefixlen": 8,
    }
    record = parse_instance({**MESH, "cfg": {"oconfig": "{}", "lispConfig": lisp}})
    assert (record.HasEncap, record.OpaqueConfig, record.LispConfig.IID, record.LispConfig.Allocate) == (
        True,
        "",
        9,
        True,
    )
    assert (record.LispConfig.EidPrefix, record.LispConfig.EidPrefixLen) == ("fd00::", 8)
    assert [(s.NameOrIp, s.Credential, s.ServiceType) for s in record.LispConfig.MapServers or ()] == [("ms", "c", 1)]
    assert parse_instance(MESH).LispConfig.MapServers == ()


def test_a_mesh_without_settings_is_published_and_named() -> None:
    odd = {"lispConfig": {"allocationprefix": base64.b64encode(b"abc").decode()}}
    parsed = parse(
        {
            "networkInstances": [
                instance(kind="ZnetInstMesh", ipType=3),
                {**MESH, "uuidandversion": {"uuid": NET2}, "cfg": odd},
            ]
        }
    )
    assert parsed.instances[NET].HasEncap
    assert parsed.instances[NET].LispConfig.MapServers is None
    assert parsed.instances[NET2].LispConfig.EidPrefix == ""
    assert ["needs cfg" in parsed.problems[0], "bad allocationprefix" in parsed.problems[1]] == [True, True]


def test_a_second_vpn_is_refused_alone() -> None:
    vpn = {"kind": "ZnetInstCloud", "ipType": "IPV4", "cfg": {"oconfig": '{"x":1}'}}
    local = instance(STORE, cfg={"oconfig": "ignored"})
    parsed = parse(
        {
            "networkInstances": [local, instance(**vpn), instance(NET2, **vpn)],
            "apps": [app(interfaces=[{"networkId": NET2}, {"networkId": NET}])],
        }
    )
    assert list(parsed.instances) == [STORE, NET]
    assert parsed.instances[NET].OpaqueConfig == '{"x":1}'
    assert parsed.instances[STORE].OpaqueConfig == ""
    (error,) = parsed.apps[APP].Errors or ()
    assert f"network instance {NET2} is refused: only one" in error
    assert NET2 in parsed.problems[0]


# ---- networks and ports


def network(**members: Any) -> NetworkXObjectConfig:
    (record,) = parse(
        {"networks": [{"id": NETWORK, "type": "V4", "ip": {"dhcp": "Client"}, **members}]}
    ).networks.values()
    return record


@pytest.mark.parametrize(
    ("members", "text"),
    [
        ({"id": "x"}, "Malformed UUID ignored: uuid: incorrect UUID length: x"),
        (
            {"ip": {"subnet": "10.0.0.1"}},
            f"parseIpspec failed for {NETWORK}: parseIpspec: bad subnet 10.0.0.1: invalid CIDR address: 10.0.0.1",
        ),
        ({"ip": {"gateway": "g"}}, f"parseIpspec failed for {NETWORK}: parseIpspec: bad gateway IP g"),
        ({"ip": {"ntp": "pool.ntp.org"}}, f"parseIpspec failed for {NETWORK}: parseIpspec: bad ntp IP pool.ntp.org"),
        ({"ip": {"dns": ["d"]}}, f"parseIpspec failed for {NETWORK}: parseIpspec: bad dns IP d"),
        ({"ip": {"dhcpRange": {"start": "s"}}}, f"parseIpspec failed for {NETWORK}: parseIpspec: bad start IP s"),
        (
            {"ip": {"dhcpRange": {"start": "1.1.1.1", "end": "e"}}},
            f"parseIpspec failed for {NETWORK}: parseIpspec: bad end IP e",
        ),
        ({"type": 0, "ip": {"gateway": "g"}}, f"parseIpspec ignored for {NETWORK}: parseIpspec: bad gateway IP g"),
        ({"dns": [{"HostName": "h", "Address": ["1.1.1.1", "a"]}]}, f"bad dnsEntry a for {NETWORK}"),
    ],
)
def test_the_first_error_ends_a_network(members: dict[str, Any], text: str) -> None:
    record = network(**members)
    assert record.Error == f"parseOneNetworkXObjectConfig: {text}"
    assert (record.ErrorTime, record.DnsNameToIPList) == (NOW, None)


@pytest.mark.parametrize(
    ("kind", "begin"),
    [
        ("V6", "Missing ipspec for"),
        ("CryptoEID", "Missing ipspec for"),
        ("CryptoV4", "Unknown NetworkConfig type 24 for"),
        (99, "Unknown NetworkConfig type 99 for"),
    ],
)
def test_kinds_of_networks_that_cannot_be(kind: str | int, begin: str) -> None:
    (record,) = parse({"networks": [{"id": NETWORK, "type": kind}]}).networks.values()
    assert record.Error.startswith(f"parseOneNetworkXObjectConfig: {begin} {NETWORK} in ")


def test_a_network_of_no_type_needs_no_addressing() -> None:
    (record,) = parse({"networks": [{"id": NETWORK}]}).networks.values()
    assert (record.Error, record.DnsNameToIPList, record.Proxy) == ("", (), None)


def test_proxies() -> None:
    proxies = [{"proto": "PROXY_FTP", "server": "a", "port": 1}, {"proto": "PROXY_OTHER", "server": "b"}, {"proto": 9}]
    proxy = network(entProxy={"proxies": proxies, "pacfile": "p", "networkProxyEnable": True}).Proxy
    assert proxy is not None
    assert [(entry.Type, entry.Server, entry.Port) for entry in proxy.Proxies or ()] == [
        (3, "a", 1),
        (0, "b", 0),
        (0, "", 0),
    ]
    assert (proxy.Pacfile, proxy.NetworkProxyEnable) == ("p", True)


def port_config(adapter: dict[str, Any], ip: dict[str, Any] | None = None, **network: Any) -> dict[str, Any]:
    return {
        "systemAdapterList": [{"name": "eth0", "uplink": True, "networkUUID": NETWORK, **adapter}],
        "deviceIoList": [{"ptype": 1, "phylabel": "p0", "logicallabel": "eth0"}],
        "networks": [{"id": NETWORK, "type": "V4", "ip": ip or {"dhcp": "Client"}, **network}],
    }


def port(adapter: dict[str, Any], ip: dict[str, Any] | None = None, **network: Any) -> NetworkPortConfig:
    ports = parse(port_config(adapter, ip, **network)).ports
    assert ports is not None
    (record,) = ports.Ports or ()
    return record


PORT = "parseSystemAdapterConfig: Port eth0"


@pytest.mark.parametrize(
    ("adapter", "ip", "text"),
    [
        ({"name": "eth9"}, None, "Missing phyio for eth9; ignored"),
        ({"addr": "1.2"}, None, f"{PORT} has Bad sysAdapter.Addr 1.2 - ignored"),
        ({"networkUUID": NET}, None, f"{PORT} Network with UUID {NET} not found: "),
        (
            {},
            {"gateway": "g"},
            f"{PORT} Network error: parseOneNetworkXObjectConfig: parseIpspec failed for {NETWORK}: ",
        ),
        ({}, {"dhcp": "Static", "subnet": "10.0.0.0/8"}, f"{PORT} DT_STATIC but missing subnet address in "),
        ({}, {"dhcp": "DHCPNone"}, f"{PORT}: isMgmt with DT_NONE not supported"),
        ({}, {"dhcp": 3}, f"{PORT}: ignore unsupported dhcp type 3"),
        ({"networkUUID": ""}, None, f"{PORT} isMgmt without networkUUID not supported"),
        ({"networkUUID": NIL_UUID}, None, f"{PORT} isMgmt without networkUUID not supported"),
    ],
)
def test_a_port_that_cannot_be_used_says_so_and_stays(
    adapter: dict[str, Any], ip: dict[str, Any] | None, text: str
) -> None:
    record = port(adapter, ip)
    assert record.ParseError.startswith(text)
    assert record.ParseErrorTime == NOW


def test_a_static_port_has_its_address_in_the_networks_subnet() -> None:
    ip = {"dhcp": "Static", "subnet": "10.0.0.0/13", "gateway": "10.0.0.1", "dns": ["10.0.0.2"], "domain": "d"}
    record = port({"addr": "10.0.0.7", "accessPoint": "apn"}, ip, entProxy={"exceptions": "e"})
    assert (record.AddrSubnet, record.Gateway, record.DnsServers, record.Dhcp) == (
        "10.0.0.7/13",
        "10.0.0.1",
        ("10.0.0.2",),
        1,
    )
    assert (record.DomainName, record.Exceptions, record.AccessPoint, record.ParseError) == ("d", "e", "apn", "")


def test_a_port_address_without_a_subnet_is_no_address() -> None:
    assert port({"addr": "10.0.0.7"}).AddrSubnet == ""
    assert "missing subnet address" in port({"addr": "10.0.0.7"}, {"dhcp": "Static"}).ParseError


def test_without_any_uplink_every_port_is_free_management() -> None:
    config = port_config({"uplink": False})
    config["systemAdapterList"].append({"name": "eth9", "networkUUID": NETWORK})
    ports = parse(config).ports
    assert ports is not None
    assert ports.Version == 0
    assert [(p.IsMgmt, p.Free, p.ParseError) for p in ports.Ports or ()] == [
        (True, True, ""),
        (False, False, "Missing phyio for eth9; ignored"),
    ]


@pytest.mark.parametrize(("adapter", "policy"), [(True, False), (False, True)])
def test_either_side_makes_a_port_free(adapter: bool, policy: bool) -> None:
    config = port_config({"freeUplink": adapter})
    config["deviceIoList"][0]["usagePolicy"] = {"freeUplink": policy}
    ports = parse(config).ports
    assert ports is not None
    assert [p.Free for p in ports.Ports or ()] == [True]


def test_no_adapters_leave_the_ports_alone() -> None:
    parsed = parse({})
    assert parsed.ports is None
    assert (parsed.physical.Initialized, parsed.physical.AdapterList) == (True, ())


def test_ports_find_adapters_of_this_config_only() -> None:
    before = parse(port_config({}))
    config = port_config({})
    config["deviceIoList"] = []
    after = parse(config, before)
    assert after.ports is not None
    assert [p.ParseError for p in after.ports.Ports or ()] == ["Missing phyio for eth0; ignored"]


def test_addresses_of_physical_adapters() -> None:
    addresses = {
        "PciLong": "0000:01:00.0",
        "IFNAME": "eth0",
        "Irq": "4",
        "ioPorts": "3f8",
        "SERIAL": "/dev/ttyS0",
        "slot": "2",
    }
    entry = {"ptype": 200, "phylabel": "a", "phyaddrs": addresses, "usage": 9, "cbattr": {"x": "y"}}
    (adapter,) = parse({"deviceIoList": [entry]}).physical.AdapterList or ()
    phy = adapter.Phyaddr
    assert (phy.PciLong, phy.Ifname, phy.Irq, phy.Ioports, phy.Serial, phy.UnknownType) == (
        "0000:01:00.0", "eth0", "4", "3f8", "/dev/ttyS0", "2",
    )  # fmt: skip
    assert (adapter.Ptype, adapter.Usage) == (200, 9)


def test_times_stay_while_what_they_date_does() -> None:
    config = port_config({}, {"gateway": "g"})
    first = parse(config)
    again = parse(config, first, LATER)
    assert (again.networks, again.ports) == (first.networks, first.ports)
    other = parse(port_config({}, {"gateway": "h"}), first, LATER)
    assert other.networks[NETWORK].ErrorTime == LATER
    assert other.ports is not None
    assert other.ports.TimePriority == LATER
    assert [p.ParseErrorTime for p in other.ports.Ports or ()] == [LATER]
