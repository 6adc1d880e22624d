"""Every rule of the device config, one by one, without files or processes."""

from __future__ import annotations

import base64
from random import Random
from typing import Any

import pytest
from google.protobuf import json_format
from google.protobuf.descriptor import FieldDescriptor
from google.protobuf.message import Message
from msgspec import UNSET

from pillar.cmd.zedagent import reboot
from pillar.cmd.zedagent.parse import Parsed, Published, deactivated, parse_config
from pillar.cmd.zedagent.reboot import Reboot
from pillar.controller import config_pb2 as wire
from pillar.controller import notation
from pillar.pubsub import decode, encode
from pillar.types.common import DnsNameToIP, IpRange
from pillar.types.globalconfig import GlobalConfig
from pillar.types.networkinstance import NetworkInstanceConfig
from pillar.types.nim import NetworkPortConfig, NetworkXObjectConfig
from pillar.types.scalars import NIL_UUID, IpNet
from pillar.types.zedmanager import AppInstanceConfig

NOW = "2019-11-20T10:00:00Z"
LATER = "2019-11-21T10:00:00Z"
APP = "f0a41b6d-2c39-4e7a-90d5-6b8c1e2f4401"
APP2 = "f0a41b6d-2c39-4e7a-90d5-6b8c1e2f4402"
NET = "c7d1e2f0-9a3b-4c6d-8e5f-1a2b3c4d3301"
NET2 = "c7d1e2f0-9a3b-4c6d-8e5f-1a2b3c4d3302"
STORE = "91c2ad50-66f1-4e3b-8a0e-0d8f5a7c1101"
IMAGE = "0be6f7a2-51c4-4d18-9f3e-aa10bb205501"
NETWORK = "6a5e9d1c-70f3-4b8e-b3a9-77f0c2de2201"
LABEL = f"App farm-{APP}"


def parse(config: dict[str, Any], before: Parsed | None = None, now: str = NOW) -> Parsed:
    message = json_format.ParseDict({"id": {"uuid": APP}, **config}, wire.EdgeDevConfig())
    published = Published(networks=before.networks if before else {}, ports=before.ports if before else None)
    parsed = parse_config(message, published, now)
    for records in (parsed.apps, parsed.base, parsed.certs, parsed.datastores, parsed.instances, parsed.networks):
        for record in records.values():
            encode(record)  # whatever comes out can be published
    return parsed


def image(**members: Any) -> dict[str, Any]:
    return {"uuidandversion": {"uuid": IMAGE}, "name": "disk.raw", "siginfo": {}, "dsId": STORE, **members}


def app(uuid: str = APP, **members: Any) -> dict[str, Any]:
    return {
        "uuidandversion": {"uuid": uuid, "version": "1"},
        "displayname": "farm",
        "fixedresources": {"memory": 1024, "vcpus": 1},
        **members,
    }


def instance(uuid: str = NET, kind: str = "ZnetInstLocal", **members: Any) -> dict[str, Any]:
    return {"uuidandversion": {"uuid": uuid}, "instType": kind, **members}


def parse_app(config: dict[str, Any], *instances: dict[str, Any]) -> AppInstanceConfig:
    return parse({"apps": [config], "networkInstances": list(instances)}).apps[APP]


def parse_instance(config: dict[str, Any]) -> NetworkInstanceConfig:
    return parse({"networkInstances": [config]}).instances[NET]


def items(**values: str) -> GlobalConfig:
    return parse(
        {"configItems": [{"key": key.replace("_", "."), "value": value} for key, value in values.items()]}
    ).settings


# ---- apps and their images


def test_an_app_without_anything_else_has_eves_zero_values() -> None:
    record = parse_app(app())
    assert (record.StorageConfigList, record.UnderlayNetworkList, record.OverlayNetworkList) == ((), None, None)
    assert (record.IoAdapterList, record.Errors, record.ConfigSha256) == (None, None, "")
    assert record.RestartCmd.Counter == record.PurgeCmd.Counter == 0
    assert record.FixedResources.Memory == 1024


def test_resources_that_eve_does_not_copy_stay_zero() -> None:
    uncopied = {
        "maxcpus": 4,
        "extraargs": "x",
        "cpus": "1",
        "devicetree": "d",
        "dtdev": ["a"],
        "irqs": [1],
        "iomem": ["m"],
    }
    vm = parse_app(app(fixedresources={"vcpus": 2, "virtualizationMode": 7, **uncopied})).FixedResources
    assert (vm.VCpus, vm.MaxCpus, vm.ExtraArgs, vm.CPUs, vm.DeviceTree) == (2, 0, "", "", "")
    assert (vm.DtDev, vm.IRQs, vm.IOMem, vm.VirtualizationMode) == (None, None, None, 7)


def test_unknown_kinds_of_images_come_out_as_their_number() -> None:
    drive = {"image": image(iformat=9, sizeBytes="-1"), "drvtype": 12, "target": 5}
    (storage,) = parse_app(app(drives=[drive])).StorageConfigList or ()
    assert (storage.Format, storage.Devtype, storage.Target, storage.Size) == ("9", "12", "5", 2**64 - 1)


def test_an_unusable_image_or_datastore_id_becomes_the_nil_uuid() -> None:
    drive = {"image": image(uuidandversion={"uuid": "x"}, dsId="y")}
    record = parse_app(app(drives=[drive]))
    (storage,) = record.StorageConfigList or ()
    assert (storage.ImageID, storage.DatastoreID, record.Errors) == (NIL_UUID, NIL_UUID, None)


def test_a_missing_part_is_an_error_of_its_app_and_blocks_nobody() -> None:
    broken = app(drives=[{"target": "Kernel"}, {"image": {"name": "a"}}, {"image": image(name="good")}])
    del broken["fixedresources"]
    parsed = parse({"apps": [broken, app(APP2)]})
    assert parsed.apps[APP].Errors == (
        f"{LABEL} has no fixedresources (memory and CPUs).\n",
        f"{LABEL}: drive 1 has no image.\n",
        f"{LABEL}: drive 2 (a): its image has no uuidandversion.\n",
        f"{LABEL}: drive 2 (a): its image has no siginfo (an unsigned one has an empty siginfo).\n",
    )
    images = parsed.apps[APP].StorageConfigList or ()
    assert [(i.Name, i.Target, i.Format) for i in images] == [
        ("", "kernel", ""),
        ("a", "tgtunknown", "fmtunknown"),
        ("good", "tgtunknown", "fmtunknown"),
    ]
    assert parsed.apps[APP2].Errors is None


def test_what_has_no_usable_id_is_left_out_and_named() -> None:
    nameless = {"displayname": "farm", "fixedresources": {}}
    parsed = parse(
        {
            "apps": [nameless, app("short"), app(APP2)],
            "networkInstances": [{"displayname": "lan"}],
            "base": [{"baseOSVersion": "1.0"}],
            "datastores": [{"fqdn": "http://a", "id": "zz"}, {"id": STORE}],
        }
    )
    assert list(parsed.apps) == [APP2]
    assert list(parsed.datastores) == [STORE]
    assert (parsed.instances, parsed.base) == ({}, {})
    assert parsed.problems == (
        "datastore 'http://a' is left out: uuid: incorrect UUID length: zz",
        "base OS '1.0' is left out: uuid: incorrect UUID length: ",
        "network instance 'lan' is left out: uuid: incorrect UUID length: ",
        "app 'farm' is left out: uuid: incorrect UUID length: ",
        "app 'farm' is left out: uuid: incorrect UUID length: short",
    )


def test_an_upper_case_uuid_is_the_same_app() -> None:
    drives = [{"image": image(siginfo={"signercerturl": "s"})}]
    parsed = parse({"apps": [app(APP.upper(), drives=drives)]})
    assert list(parsed.apps) == list(parsed.certs) == [APP]


def test_certificates_are_the_signer_then_the_chain_of_each_image() -> None:
    both = {"signercerturl": "signer", "intercertsurl": "chain", "signature": base64.b64encode(b"s").decode()}
    drives = [{"image": image(siginfo=both)}, {"image": image()}, {"image": image(siginfo={"intercertsurl": "c2"})}]
    parsed = parse({"apps": [app(drives=drives), app(APP2, drives=[{"image": image()}])]})
    assert list(parsed.certs) == [APP]
    wanted = parsed.certs[APP].StorageConfigList or ()
    assert [(c.Name, c.NameIsURL, c.Size, c.DatastoreID) for c in wanted] == [
        (name, True, 102400, STORE) for name in ("signer", "chain", "c2")
    ]
    first = (parsed.apps[APP].StorageConfigList or ())[0]
    assert (first.CertificateChain, first.ImageSignature, first.SignatureKey) == (("chain",), b"s", "signer")


# ---- interfaces


@pytest.mark.parametrize(
    ("nic", "text", "kept"),
    [
        ({"macAddress": "zz"}, f"{LABEL}: bad MAC:zz, Err: address zz: invalid MAC address\n", (NET, None, "")),
        (
            {"macAddress": "02:00:00:00:00:01", "addr": "1.2.3"},
            f"{LABEL}: bad AppIPAddr:1.2.3\n",
            (NET, b"\2\0\0\0\0\1", ""),
        ),
        ({"addr": "fd00::1"}, "Static IPv6 addressing (fd00::1) not yet supported.\n", (NET, None, "fd00::1")),
        ({"networkId": NET2}, f"{LABEL}: Can't find {NET2} in network instances.\n", (NIL_UUID, None, "")),
    ],
)
def test_the_first_error_ends_an_interface_and_others_stay(
    nic: dict[str, Any], text: str, kept: tuple[Any, ...]
) -> None:
    good = {"name": "good", "networkId": NET, "acls": [{"id": 1}]}
    record = parse_app(
        app(interfaces=[{"name": "bad", "networkId": NET, "acls": [{"id": 1}], **nic}, good]), instance()
    )
    assert record.Errors == (text,)
    bad, fine = record.UnderlayNetworkList or ()
    assert (bad.Error, bad.ACLs, (bad.Network, bad.AppMacAddr, bad.AppIPAddr)) == (text, None, kept)
    assert (fine.Error, len(fine.ACLs or ())) == ("", 1)


def test_an_unknown_network_instance_is_one_error() -> None:
    record = parse_app(app(interfaces=[{"name": "a", "networkId": NET.upper()}]), instance())
    assert record.Errors == (f"{LABEL}: Can't find {NET.upper()} in network instances.\n",)
    assert record.OverlayNetworkList is None


def test_a_malformed_network_id_that_the_config_has_too() -> None:
    record = parse_app(app(interfaces=[{"networkId": "lan"}]), instance("lan"))
    assert record.Errors == (f"{LABEL}: Malformed Network UUID lan. Err: uuid: incorrect UUID length: lan\n",)


def test_the_drop_action_arrives() -> None:
    acl = {
        "id": -1,
        "name": "cut",
        "dir": "EGRESS",
        "matches": [{"type": "ip", "value": "0.0.0.0/0"}],
        "actions": [{"drop": True}],
    }
    record = parse_app(app(interfaces=[{"networkId": NET, "acls": [acl]}]), instance())
    (ace,) = (record.UnderlayNetworkList or ())[0].ACLs or ()
    assert [action.Drop for action in ace.Actions or ()] == [True]
    assert (ace.RuleID, ace.Dir) == (-1, 2)


MESH = instance(
    kind="ZnetInstMesh", ipType="CryptoIPV6", cfg={"type": "ZNetOConfigLisp", "lispConfig": {"LispInstanceId": 5}}
)


@pytest.mark.parametrize(
    ("nic", "eid", "address"),
    [
        ({"addr": "10.0.0.9"}, "10.0.0.9", "10.0.0.9"),
        ({"cryptoEid": "fd00::5"}, "fd00::5", "fd00::5"),
        ({"cryptoEid": "fd00::5", "addr": "10.0.0.9"}, "fd00::5", "10.0.0.9"),
        ({}, "", ""),
    ],
)
def test_an_overlays_address_is_its_eid_unless_it_has_one(nic: dict[str, Any], eid: str, address: str) -> None:
    secret = {"lispsignature": "sig", "pemcert": base64.b64encode(b"c").decode()}
    record = parse_app(app(interfaces=[{"networkId": NET, **secret, **nic}]), MESH)
    assert record.UnderlayNetworkList is None
    (overlay,) = record.OverlayNetworkList or ()
    assert (overlay.EID, overlay.AppIPAddr, overlay.Network, overlay.ACLs) == (eid, address, NET, ())
    assert (overlay.LispSignature, overlay.PemCert, overlay.PemPrivateKey, overlay.IID) == ("sig", b"c", None, 0)


@pytest.mark.parametrize(
    ("nic", "text"),
    [
        ({"macAddress": "02"}, "bad MAC 02: address 02: invalid MAC address\n"),
        ({"cryptoEid": "e"}, "bad CryptoEid e\n"),
        ({"cryptoEid": "fd00::5", "addr": "a"}, "bad Addr a\n"),
        ({"addr": "a"}, "bad Addr a\n"),
    ],
)
def test_an_overlays_error_comes_after_those_of_underlays(nic: dict[str, Any], text: str) -> None:
    underlay = {"networkId": NET2, "addr": "x"}
    record = parse_app(app(interfaces=[{"networkId": NET, **nic}, underlay]), MESH, instance(NET2))
    assert record.Errors == (f"{LABEL}: bad AppIPAddr:x\n", f"parseOverlayNetworkConfigEntry: {text}")


def allocating(**lisp: Any) -> dict[str, Any]:
    """A mesh whose EIDs the device makes."""
    return {**MESH, "cfg": {"type": "ZNetOConfigLisp", "lispConfig": {"LispInstanceId": 5, "allocate": True, **lisp}}}


def test_an_interface_without_an_eid_gets_one_made_where_the_mesh_says_so() -> None:
    prefix = base64.b64encode(bytes([0xFD, 0x10]) + bytes(14)).decode()
    nics = [{"networkId": NET, "lispsignature": "sig"}, {"networkId": NET, "cryptoEid": "fd00::5"}]
    mesh = allocating(allocationprefix=prefix, allocationprefixlen=16, exportprivate=True)
    made, given = parse_app(app(interfaces=nics), mesh).OverlayNetworkList or ()
    assert (made.Allocate, made.IID, made.ExportPrivate, made.EID, made.AppIPAddr) == (True, 5, True, "", "")
    assert (made.AllocationPrefix, made.AllocationPrefixLen, made.LispSignature) == (b"\xfd\x10", 16, "")
    assert (given.Allocate, given.IID, given.EID) == (False, 0, "fd00::5")
    (default,) = parse_app(app(interfaces=nics[:1]), allocating()).OverlayNetworkList or ()
    assert (default.Allocate, default.AllocationPrefix, default.AllocationPrefixLen) == (True, None, 0)


@pytest.mark.parametrize("bits", [12, 16])
def test_a_prefix_that_is_no_whole_bytes_of_the_meshs_is_an_error_of_the_app(bits: int) -> None:
    mesh = allocating(allocationprefix=base64.b64encode(b"\xfd").decode(), allocationprefixlen=bits)
    (error,) = parse_app(app(interfaces=[{"networkId": NET}]), mesh).Errors or ()
    assert f"allocationprefixlen is {bits}, expected whole bytes of its allocationprefix, which has 8 bits" in error


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


# ---- datastores, base OS


def test_datastores() -> None:
    stores = [{"id": STORE, "dType": "DsHttp"}, {"id": f"{{{IMAGE}}}", "dType": 7, "region": "eu", "password": "p"}]
    records = parse({"datastores": stores}).datastores
    assert (records[STORE].DsType, records[STORE].Region) == ("DsHttp", "us-west-2")
    assert (records[IMAGE].DsType, records[IMAGE].Region, records[IMAGE].Password) == ("7", "eu", "p")


def test_base_os_parameters_are_copied() -> None:
    params = {"baseOSParams": [{"OSVerKey": "k", "OSVerValue": "v"}]}
    entry = {"uuidandversion": {"uuid": APP2}, "baseOSVersion": "9", "baseOSDetails": params, "drives": [{}]}
    parsed = parse({"base": [entry, {"uuidandversion": {"uuid": APP}, "activate": True}]})
    assert list(parsed.base) == [APP2]  # the other one is an empty slot
    assert [(p.OSVerKey, p.OSVerValue) for p in parsed.base[APP2].OsParams or ()] == [("k", "v")]
    assert parsed.problems == ("base OS 9: drive 1 has no image.",)


# ---- config items


def test_the_signature_policy_is_ours_and_only_its_two_words_are_taken() -> None:

    assert items().SignaturePolicy is UNSET
    assert items(verifier_signature_policy="strict").SignaturePolicy == "strict"
    assert items(verifier_signature_policy="permissive").SignaturePolicy == "permissive"
    assert items(verifier_signature_policy="lax").SignaturePolicy is UNSET


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("120", 120),
        ("+120", 120),
        ("007200", 7200),
        ("1", 60),
        ("0", 600),
        ("-1", 4294967295),
        ("-2147483648", 2147483648),
    ]
    + [
        (bad, 600)
        for bad in ("2147483648", "-2147483649", " 120", "120 ", "1_000", "0x78", "", "12.0", "١٢٠", "9" * 5000)
    ],
)
def test_numbers(value: str, seconds: int) -> None:
    settings = items(timer_download_retry=value)
    assert (settings.DownloadRetryTime, settings.Errors) == (seconds, None)


def test_a_better_interval_of_zero_is_off() -> None:
    assert items(timer_port_testbetterinterval="0").NetworkTestBetterInterval == 0
    assert items(timer_port_testbetterinterval="7").NetworkTestBetterInterval == 7


@pytest.mark.parametrize("value", ["0", "f", "F", "FALSE", "false", "False"])
def test_spellings_of_no(value: str) -> None:
    settings = items(debug_enable_usb=value, debug_enable_ssh=value)
    assert (settings.UsbAccess, settings.SshAccess) == (False, False)


@pytest.mark.parametrize("value", ["1", "t", "T", "TRUE", "true", "True"])
def test_spellings_of_yes(value: str) -> None:
    settings = items(app_allow_vnc=value, storage_apps_ignore_disk_check=value)
    assert (settings.AllowAppVnc, settings.IgnoreDiskCheckForApps) == (True, True)


@pytest.mark.parametrize("value", ["no", "off", "fAlse", "", " false"])
def test_other_spellings_leave_the_default(value: str) -> None:
    settings = items(debug_enable_usb=value)
    assert (settings.UsbAccess, settings.Errors) == (True, None)


def test_an_ssh_key_opens_the_access_and_stays_whole() -> None:
    settings = items(debug_enable_ssh="ssh-rsa AAAA me@home")
    assert (settings.SshAccess, settings.SshAuthorizedKeys) == (True, "ssh-rsa AAAA me@home")


@pytest.mark.parametrize(
    ("value", "state"),
    [
        ("disabled", 1),
        ("disable", 1),
        ("off", 1),
        ("enabled", 2),
        ("enable", 2),
        ("on", 2),
        ("none", 2),
        ("OFF", 2),
        ("maybe", 2),
    ],
)
def test_three_states(value: str, state: int) -> None:
    settings = items(network_allow_wwan_app_download=value)
    assert (settings.AllowNonFreeAppImages, settings.Errors) == (state, None)


@pytest.mark.parametrize(
    ("value", "percent", "error"),
    [
        ("50", 50, None),
        ("3", 20, None),
        ("0", 20, None),
        ("80", 80, None),
        ("81", 80, "dom0MinDiskUsagePercent (81) > maxAllowed (80). Setting it to 80."),
        ("-1", 20, 'bad int value -1 for {key}: strconv.ParseUint: parsing "-1": invalid syntax\n'),
        (
            "4294967296",
            20,
            'bad int value 4294967296 for {key}: strconv.ParseUint: parsing "4294967296": value out of range\n',
        ),
    ],
)
def test_the_error_of_the_last_config_item_is_kept(value: str, percent: int, error: str | None) -> None:
    key = "storage.dom0.disk.minusage.percent"
    settings = items(**{key: value})
    assert settings.Dom0MinDiskUsagePercent == percent
    assert settings.Errors == ((error.format(key=key),) if error else None)


def test_unknown_items_are_errors_in_their_order() -> None:
    settings = items(colour="red", timer_config_interval="7", debug_a_b_loglevel="info", sound="off")
    assert settings.ConfigInterval == 7
    assert settings.Errors == (
        "Unknown configItem colour value red\n",
        "Unknown configItem debug.a.b.loglevel value info\n",
        "Unknown configItem sound value off\n",
    )


def test_log_levels() -> None:
    settings = items(
        debug_nim_loglevel="WARN",
        debug_nim_remote_loglevel="trace",
        debug_x_loglevel="loud",
        debug_default_loglevel="odd",
    )
    agents = settings.AgentSettings or {}
    assert {name: (s.LogLevel, s.RemoteLogLevel) for name, s in agents.items()} == {"nim": ("WARN", "trace")}
    assert (settings.DefaultLogLevel, settings.DefaultRemoteLogLevel, settings.Errors) == ("odd", "info", None)


# ---- reboot


@pytest.mark.parametrize(
    ("wanted", "kept", "then"),
    [
        (None, None, Reboot.NOTHING),
        (None, 3, Reboot.FORGET),
        (3, None, Reboot.REMEMBER),
        (3, 3, Reboot.NOTHING),
        (4, 3, Reboot.NOW),
    ],
)
def test_a_changed_counter_means_reboot(wanted: int | None, kept: int | None, then: Reboot) -> None:
    assert reboot.decide(None if wanted is None else wire.DeviceOpsCmd(counter=wanted), kept) is then


def test_a_reboot_deactivates_every_app() -> None:
    apps = deactivated(parse({"apps": [app(activate=True), app(APP2)]}).apps)
    assert [record.Activate for record in apps.values()] == [False, False]


# ---- anything at all


def scramble(message: Message, random: Random, depth: int = 0) -> None:
    """Fill `message` with values that are good, odd and wrong."""
    for field in message.DESCRIPTOR.fields:
        if random.random() < 0.4:
            continue
        value = getattr(message, field.name)
        if field.message_type is not None and field.message_type.GetOptions().map_entry:
            value[random.choice(["Ifname", "slot"])] = "x"
        elif field.message_type is not None:
            for _ in range(random.randint(1, 2) if field.is_repeated else 1):
                part = value.add() if field.is_repeated else value
                part.SetInParent()
                scramble(part, random, depth + 1)
        elif field.is_repeated:
            value.extend(scalar(field, random) for _ in range(random.randint(0, 2)))
        else:
            setattr(message, field.name, scalar(field, random))


def scalar(field: FieldDescriptor, random: Random) -> Any:
    texts = [
        APP,
        NET,
        NET2,
        NETWORK,
        NET.upper(),
        NIL_UUID,
        "",
        "10.0.0.1",
        "10.0.0.0/8",
        "fd00::1",
        "::/0",
        "1:0:0:2:0:0:0:3",
    ]
    texts += [
        "02:00:00:00:00:01",
        "eth0",
        "ssh x",
        "\u2028<&>",
        "\x00",
        "-1",
        "timer.gc.vdisk",
        "debug.nim.loglevel",
        "info",
    ]
    match field.type:
        case FieldDescriptor.TYPE_STRING:
            return random.choice(texts)
        case FieldDescriptor.TYPE_BYTES:
            return random.choice([b"", b"\xff", bytes(16)])
        case FieldDescriptor.TYPE_BOOL:
            return random.random() < 0.5
        case FieldDescriptor.TYPE_UINT32:
            return random.choice([0, 1, 2**32 - 1])
        case FieldDescriptor.TYPE_INT64:
            return random.choice([0, 1, -1, 2**63 - 1, -(2**63)])
        case FieldDescriptor.TYPE_INT32:
            return random.choice([0, 1, -1, 2**31 - 1, -(2**31)])
        case FieldDescriptor.TYPE_ENUM:
            numbers = [*field.enum_type.values_by_number, 3, 9, 255, 260, -1, 2**31 - 1, -(2**31)]
            return random.choice(numbers)
    raise AssertionError(field.full_name)


@pytest.mark.parametrize("seed", range(5))
def test_whatever_a_controller_sends_comes_out_as_records_that_can_be_published(seed: int) -> None:
    random = Random(seed)
    for _ in range(60):
        message = wire.EdgeDevConfig()
        scramble(message, random)
        parsed = parse_config(message, Published(networks={}, ports=None), NOW)
        tables = (parsed.apps, parsed.base, parsed.certs, parsed.datastores, parsed.instances, parsed.networks)
        records = [record for table in tables for record in table.values()]
        for record in [*records, parsed.settings, parsed.physical, *([parsed.ports] if parsed.ports else [])]:
            assert decode(type(record), encode(record)) == record
        again = parse_config(message, Published(networks=parsed.networks, ports=parsed.ports), LATER)
        assert again == parsed


# ---- notations


@pytest.mark.parametrize(
    "form",
    [APP, APP.upper(), APP.replace("-", ""), f"{{{APP}}}", f"urn:uuid:{APP}", f"urn:uuid:{APP.replace('-', '')}"],
)
def test_ways_to_write_a_uuid(form: str) -> None:
    assert notation.read_uuid(form) == APP


@pytest.mark.parametrize(
    "form", ["", APP[1:], f"({APP})", f"URN:UUID:{APP}", APP.replace("f", "g"), APP[:-1] + "ü", "-" * 36]
)
def test_what_is_no_uuid(form: str) -> None:
    with pytest.raises(notation.Malformed, match=r"uuid: incorrect UUID|invalid byte"):
        notation.read_uuid(form)


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("010.001.2.3", "10.1.2.3"),
        ("::ffff:1.2.3.4", "1.2.3.4"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("::", "::"),
        ("1:2:3:4:5:6:1.2.3.4", "1:2:3:4:5:6:102:304"),
    ],
)
def test_ways_to_write_an_address(text: str, address: str) -> None:
    assert notation.read_ip(text) == address


@pytest.mark.parametrize(
    "text",
    [
        "",
        "1.2.3",
        "1.2.3.256",
        "1.2.3.4.5",
        "fe80::1%eth0",
        "1::2::3",
        ":::",
        "a",
        "1.2.3.4/8",
        "٣.1.1.1",
        "1.2.3." + "9" * 5000,
    ],
)
def test_what_is_no_address(text: str) -> None:
    with pytest.raises(notation.Malformed):
        notation.read_ip(text)


@pytest.mark.parametrize(
    ("text", "size"),
    [("02:00:5e:00:00:01", 6), ("02-00-5E-00-00-01", 6), ("0200.5e00.0001", 6), ("02:00:5e:10:00:00:00:01", 8)],
)
def test_ways_to_write_a_mac(text: str, size: int) -> None:
    assert len(notation.read_mac(text)) == size
