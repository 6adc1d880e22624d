"""zedrouter's decisions, arm by arm: numbers, addresses, rules, instances, apps. No disk, no clock, no process."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace

from pillar.cmd.zedrouter.acl import PortMap, port_maps, rule_errors
from pillar.cmd.zedrouter.addresses import NoAddress, allocate
from pillar.cmd.zedrouter.appnetwork import World, app_network_status
from pillar.cmd.zedrouter.instances import VifUse, choose_uplink, instance_status, judge, leaving_status
from pillar.cmd.zedrouter.numbers import APP_NUM, BRIDGE_NUM, HIGHEST, NoNumber, double, grant, unused
from pillar.types.common import UUIDandVersion
from pillar.types.enums import AddressType, ChangeInProgressType, DhcpType, NetworkInstanceType
from pillar.types.networkinstance import IpRange, NetworkInstanceConfig, NetworkInstanceStatus
from pillar.types.nim import AddrInfo, DeviceNetworkStatus, NetworkPortStatus
from pillar.types.scalars import ip_net
from pillar.types.uuidtonum import UuidToNum
from pillar.types.zedrouter import (
    ACE,
    ACEAction,
    ACEMatch,
    AppNetworkConfig,
    AppNetworkStatus,
    OverlayNetworkConfig,
    UnderlayNetworkConfig,
)

NOW = "2026-01-02T03:04:05Z"
LATER = "2026-01-02T03:04:06Z"


def uuid(number: int) -> str:
    return f"00000000-0000-0000-0000-{number:012}"


LAN, WAN, MESH, SWITCH = (uuid(900 + number) for number in range(4))


def port(name: str, dhcp: DhcpType = DhcpType.CLIENT, *addresses: str, **fields: Any) -> NetworkPortStatus:
    given = {"IsMgmt": True, "Free": True} | fields
    infos = tuple(AddrInfo(Addr=address) for address in addresses)
    return NetworkPortStatus(IfName=name, Name=name, Dhcp=dhcp, AddrInfoList=infos, **given)


NETWORK = DeviceNetworkStatus(
    Ports=(
        port("eth0", DhcpType.CLIENT, "192.0.2.2"),
        port("eth1", DhcpType.NONE),
        port("wwan0", DhcpType.CLIENT, "198.51.100.2", Free=False),
    )
)


def local(number: str = LAN, subnet: str = "10.1.0.0/24", **fields: Any) -> NetworkInstanceConfig:
    stem = subnet.rsplit(".", 1)[0]
    given: dict[str, Any] = {
        "UUID": number,
        "DisplayName": "lan",
        "Type": NetworkInstanceType.LOCAL,
        "Activate": True,
        "Port": "eth0",
        "IpType": AddressType.IPV4,
        "Subnet": ip_net(subnet),
        "Gateway": f"{stem}.1",
        "DhcpRange": IpRange(Start=f"{stem}.10", End=f"{stem}.12"),
    }
    return NetworkInstanceConfig(**given | fields)


def errors_of(*configs: NetworkInstanceConfig, statuses: dict[str, Any] | None = None) -> dict[str, str]:
    verdicts = judge({c.UUID: c for c in configs}, statuses or {}, (), NETWORK)
    return {number: verdict.error for number, verdict in verdicts.items()}


def status_of(config: NetworkInstanceConfig, bridge_num: int = 1) -> NetworkInstanceStatus:
    verdict = judge({config.UUID: config}, {}, (), NETWORK)[config.UUID]
    return instance_status(verdict, 0 if verdict.error else bridge_num, None, (), NETWORK, NOW)


# ---- numbers


def record(number: int, **fields: Any) -> UuidToNum:
    given: dict[str, Any] = {"UUID": uuid(number), "Number": number, "NumType": APP_NUM, "InUse": True}
    return UuidToNum(**given | {"CreateTime": NOW, "LastUseTime": NOW} | fields)


def numbered(*records: UuidToNum) -> dict[str, UuidToNum]:
    return {one.UUID: one for one in records}


def test_the_first_app_gets_number_one_and_the_next_the_lowest_free_one() -> None:
    assert grant(uuid(1), APP_NUM, {}, {}, NOW).number == 1
    assert grant(uuid(9), APP_NUM, numbered(record(1), record(3)), {}, NOW).number == 2


def test_apps_and_bridges_are_numbered_apart() -> None:
    assert grant(uuid(9), BRIDGE_NUM, numbered(record(1)), {}, NOW).number == 1


def test_an_app_that_comes_back_gets_its_number_back() -> None:
    stored = numbered(record(1), record(7, InUse=False))
    given = grant(uuid(7), APP_NUM, stored, {}, LATER)
    assert (given.number, given.give_up) == (7, None)
    assert given.record == record(7, InUse=True, LastUseTime=LATER)


def test_a_number_in_use_is_written_only_once() -> None:
    assert grant(uuid(1), APP_NUM, numbered(record(1)), {uuid(1): 1}, LATER).record is None


def test_when_all_numbers_are_taken_the_one_unused_for_longest_is_given_on() -> None:
    stored = numbered(*(record(number) for number in range(1, HIGHEST + 1)))
    stored[uuid(40)] = record(40, InUse=False, LastUseTime="2025-06-01T00:00:00Z")
    stored[uuid(50)] = record(50, InUse=False, LastUseTime="2025-05-01T00:00:00Z")
    given = grant(uuid(999), APP_NUM, stored, {}, NOW)
    assert (given.number, given.give_up) == (50, uuid(50))
    # one that a status shows is in use, whatever its record says
    assert grant(uuid(999), APP_NUM, stored, {uuid(50): 50}, NOW).number == 40


def test_an_exhausted_number_range_is_an_error_and_no_exit() -> None:
    stored = numbered(*(record(number) for number in range(1, HIGHEST + 1)))
    with pytest.raises(NoNumber, match="all 255 numbers for apps are in use"):
        grant(uuid(999), APP_NUM, stored, {}, NOW)


def test_a_number_that_only_a_status_shows_is_taken_too_and_stays_with_its_app() -> None:
    held = {uuid(5): 1, uuid(6): 2}
    assert grant(uuid(7), APP_NUM, {}, held, NOW).number == 3
    assert grant(uuid(6), APP_NUM, {}, held, NOW).number == 2


def test_an_app_with_the_uuid_of_an_instance_is_refused() -> None:
    with pytest.raises(NoNumber, match="already has a number as a network instance"):
        grant(uuid(1), APP_NUM, numbered(record(1, NumType=BRIDGE_NUM)), {}, NOW)


def test_of_two_records_with_one_number_the_one_that_a_status_shows_stays() -> None:
    stored = numbered(record(3, CreateTime="2020-01-01T00:00:00Z"), record(4, Number=3))
    assert double(stored, {uuid(4): 3}) == [uuid(3)]
    assert double(stored, {}) == [uuid(4)]


def test_numbers_without_config_and_status_are_marked_unused_once() -> None:
    stored = numbered(record(1), record(2), record(3, InUse=False))
    assert list(unused(stored, {uuid(1)})) == [record(2, InUse=False)]


# ---- addresses


def test_addresses_are_handed_out_in_order_until_none_is_left_and_then_again_from_the_start() -> None:
    lan = status_of(local())
    taken = {"10.1.0.1"}
    for expected in ("10.1.0.10", "10.1.0.11", "10.1.0.12"):
        assert allocate(lan, taken) == expected
        taken.add(expected)
    with pytest.raises(NoAddress, match=r"all 3 from 10\.1\.0\.10 to 10\.1\.0\.12 are taken"):
        allocate(lan, taken)
    assert allocate(lan, taken - {"10.1.0.10"}) == "10.1.0.10"  # EVE scans upwards only and would find none


def test_a_released_address_rests_while_others_are_free() -> None:
    assert allocate(status_of(local()), {"10.1.0.1", "10.1.0.11"}) == "10.1.0.12"


def test_addresses_that_a_config_names_are_left_to_it() -> None:
    assert allocate(status_of(local()), {"10.1.0.1"}, reserved={"10.1.0.10"}) == "10.1.0.11"


def test_the_gateway_the_networks_own_name_and_the_broadcast_are_nobodys() -> None:
    config = local(subnet="10.2.0.0/29", DhcpRange=IpRange(Start="10.2.0.0", End="10.2.0.7"))
    lan, taken = status_of(config), {"10.2.0.1"}
    given = []
    for _ in range(5):
        given.append(allocate(lan, taken))
        taken.add(given[-1])
    assert sorted(given) == [f"10.2.0.{last}" for last in range(2, 7)]
    with pytest.raises(NoAddress):
        allocate(lan, taken)


def test_a_huge_ipv6_range_is_not_walked_through() -> None:
    config = local(
        subnet="10.1.0.0/24",
        IpType=AddressType.IPV6,
        Subnet=ip_net("fd00::/64"),
        Gateway="fd00::1",
        DhcpRange=IpRange(Start="fd00::1:0", End="fd00::ffff:ffff:ffff:ffff"),
    )
    assert allocate(status_of(config), {"fd00::1", "fd00::1:0"}) == "fd00::1:1"


# ---- network instances


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        ({"Type": NetworkInstanceType.HONEYPOT}, "type HONEYPOT"),
        ({"Type": NetworkInstanceType(77)}, "type 77"),
        ({"Port": "eth7"}, "port 'eth7' is not a port of this device"),
        ({"Port": "eth1"}, "only a switch can use it"),
        ({"IpType": AddressType(9)}, "IP type 9"),
        ({"Subnet": ip_net("0.0.0.0/0")}, "no subnet"),
        ({"Subnet": ip_net("fd00::/64")}, "is not IPv4"),
        ({"Gateway": "0.0.0.0"}, "gateway 0.0.0.0"),
        ({"DhcpRange": IpRange()}, "no DHCP range"),
        ({"DhcpRange": IpRange(Start="10.1.0.5")}, "no DHCP range"),
        ({"DhcpRange": IpRange(Start="10.9.0.5", End="10.1.0.9")}, "starts at 10.9.0.5, outside"),
        ({"DhcpRange": IpRange(Start="10.1.0.5", End="10.9.0.9")}, "ends at 10.9.0.9, outside"),
        ({"DhcpRange": IpRange(Start="10.1.0.9", End="10.1.0.5")}, "before its start"),
        ({"Type": NetworkInstanceType.SWITCH, "IpType": AddressType.NONE}, "a switch needs a port with Dhcp NONE"),
        ({"Type": NetworkInstanceType.SWITCH, "IpType": AddressType.NONE, "Port": "uplink"}, "not the label"),
    ],
)
def test_a_wrong_instance_says_what_is_wrong(fields: dict[str, Any], error: str) -> None:
    config = local(**fields)
    assert error in errors_of(config)[LAN]
    status = status_of(config)
    assert (status.Activated, status.BridgeNum, status.ErrorTime) == (False, 0, NOW)


@pytest.mark.parametrize(
    "fields",
    [
        {},
        {"Port": ""},
        {"Port": "uplink"},
        {"Port": "freeuplink"},
        {"Gateway": ""},
        {"IpType": AddressType.NONE, "Subnet": ip_net("10.0.0.0/8"), "DhcpRange": IpRange()},
        {"Type": NetworkInstanceType.SWITCH, "IpType": AddressType.NONE, "Port": "eth1"},
        {"Type": NetworkInstanceType.MESH, "IpType": AddressType.CRYPTO_IPV6, "DhcpRange": IpRange()},
    ],
)
def test_a_right_instance_is_in_service(fields: dict[str, Any]) -> None:
    status = status_of(local(**fields), 7)
    assert (status.Error, status.Activated) == ("", True)
    assert (status.BridgeName, status.BridgeMac) == ("bn7", "00:16:3e:06:00:07")


def test_of_two_overlapping_subnets_the_one_in_service_stays_and_the_other_waits_for_it() -> None:
    old, new = local(WAN, "10.1.0.0/16", DisplayName="old"), local(LAN)
    assert errors_of(new, old)[WAN] != ""  # from nothing, the order of the UUIDs decides
    errors = errors_of(new, old, statuses={WAN: status_of(old)})
    assert errors[WAN] == ""
    assert f"overlaps that of network instance old ({WAN})" in errors[LAN]
    assert errors_of(new) == {LAN: ""}  # the other one went: the error goes by itself


def test_an_instance_in_service_that_moves_does_not_drive_out_another() -> None:
    """Not even when its UUID comes first: its service is at the old subnet."""
    mover, stayer = local(LAN, "10.1.0.0/24"), local(WAN, "10.7.0.0/24")
    statuses = {LAN: status_of(mover, 1), WAN: status_of(stayer, 2)}
    configs = {LAN: local(LAN, "10.7.0.0/24"), WAN: stayer}
    for _ in range(2):  # the second look sees what the first one published
        verdicts = judge(configs, statuses, (), NETWORK)
        assert "cannot change its addressing: the subnet overlaps" in verdicts[LAN].error
        assert verdicts[WAN].error == ""
        statuses = {u: instance_status(v, 1, statuses[u], (), NETWORK, NOW) for u, v in verdicts.items()}
        assert statuses[LAN].Subnet == mover.Subnet
    assert judge({LAN: configs[LAN]}, {LAN: statuses[LAN]}, (), NETWORK)[LAN].wanted == configs[LAN]


def test_an_instance_that_is_wrong_itself_blocks_nobody() -> None:
    assert errors_of(local(uuid(1), Gateway="0.0.0.0"), local(LAN))[LAN] == ""


def test_a_switch_has_its_port_for_itself() -> None:
    network = DeviceNetworkStatus(Ports=(port("eth1", DhcpType.NONE),))
    switch = local(SWITCH, Type=NetworkInstanceType.SWITCH, IpType=AddressType.NONE, Port="eth1", DisplayName="sw")
    second = replace(switch, UUID=uuid(999))
    verdicts = judge({c.UUID: c for c in (switch, second)}, {}, (), network)
    assert verdicts[SWITCH].error == ""
    assert "a switch needs port eth1 for itself" in verdicts[uuid(999)].error


def test_before_nim_has_spoken_a_port_is_waited_for() -> None:
    assert "nim has not published" in judge({LAN: local()}, {}, (), None)[LAN].error


def test_a_change_of_type_or_port_is_refused_and_the_error_goes_when_it_is_taken_back() -> None:
    before = status_of(local())
    verdict = judge({LAN: local(Port="wwan0")}, {LAN: before}, (), NETWORK)[LAN]
    assert "cannot change the port from 'eth0' to 'wwan0'" in verdict.error
    refused = instance_status(verdict, 1, before, (), NETWORK, NOW)
    assert (refused.Port, refused.Activated, refused.BridgeNum) == ("eth0", False, 1)
    again = judge({LAN: local(Port="wwan0")}, {LAN: refused}, (), NETWORK)[LAN]
    assert instance_status(again, 1, refused, (), NETWORK, LATER) == refused  # stable, and keeps its time
    back = judge({LAN: local()}, {LAN: refused}, (), NETWORK)[LAN]
    assert instance_status(back, 1, refused, (), NETWORK, LATER) == before


def test_an_instance_that_never_worked_takes_any_change() -> None:
    wrong = status_of(local(Port="eth7"))
    assert judge({LAN: local()}, {LAN: wrong}, (), NETWORK)[LAN].error == ""


def test_addressing_changes_once_the_last_app_has_left() -> None:
    before, config = status_of(local()), local(subnet="10.5.0.0/24", DnsServers=("9.9.9.9",))
    kept = judge({LAN: config}, {LAN: before}, {LAN}, NETWORK)[LAN]
    assert (kept.wanted.Subnet, kept.wanted.DnsServers, kept.held_back) == (before.Subnet, ("9.9.9.9",), True)
    status = instance_status(judge({LAN: config}, {LAN: before}, (), NETWORK)[LAN], 1, before, (), NETWORK, NOW)
    assert (status.Subnet, status.BridgeIPAddr) == (config.Subnet, "10.5.0.1")


def test_without_a_gateway_the_bridge_takes_an_address_of_the_range_and_keeps_it() -> None:
    config = local(Gateway="")
    status = status_of(config)
    assert status.BridgeIPAddr == "10.1.0.10"
    use = VifUse("nbu1x1", "00:16:3e:00:01:01", uuid(1), "10.1.0.11")
    verdict = judge({LAN: config}, {LAN: status}, {LAN}, NETWORK)[LAN]
    after = instance_status(verdict, 1, status, [use], NETWORK, NOW)
    assert after.BridgeIPAddr == "10.1.0.10"
    assert after.IPAssignments == {"00:16:3e:00:01:01": "10.1.0.11", "00:16:3e:06:00:01": "10.1.0.10"}


def test_an_instance_whose_config_is_gone_keeps_its_bridge_until_its_apps_have_left() -> None:
    use = VifUse("nbu1x1", "00:16:3e:00:01:01", uuid(1), "10.1.0.11")
    leaving = leaving_status(status_of(local(), 4), [use])
    assert (leaving.ChangeInProgress, leaving.Activated) == (ChangeInProgressType.DELETE, False)
    assert (leaving.BridgeNum, [vif.Name for vif in leaving.Vifs or ()]) == (4, ["nbu1x1"])


def test_a_label_chooses_a_port_with_an_address_and_stays_with_it() -> None:
    assert choose_uplink("uplink", NETWORK, "") == "eth0"
    assert choose_uplink("uplink", NETWORK, "wwan0") == "wwan0"
    assert choose_uplink("freeuplink", NETWORK, "wwan0") == "eth0"
    unplugged = DeviceNetworkStatus(Ports=(port("eth0", DhcpType.CLIENT, "fe80::1"), (NETWORK.Ports or ())[2]))
    assert choose_uplink("uplink", unplugged, "eth0") == "wwan0"
    assert choose_uplink("freeuplink", unplugged, "eth0") == ""


# ---- rules


def rule(*matches: tuple[str, str], rule_id: int = 1, **action: Any) -> ACE:
    actions = (ACEAction(**action),) if action else ()
    return ACE(RuleID=rule_id, Matches=tuple(ACEMatch(Type=t, Value=v) for t, v in matches), Actions=actions)


def port_map(lport: str = "8080", target: int = 80) -> ACE:
    return rule(("protocol", "tcp"), ("lport", lport), PortMap=True, TargetPort=target)


@pytest.mark.parametrize(
    ("ace", "error"),
    [
        (rule(rule_id=0), "RuleID is 0"),
        (rule(("colour", "red")), "unknown match type 'colour'"),
        (rule(("host", "a.example"), ("eidset", "")), "exclude each other"),
        (rule(("lport", "80")), "lport needs a protocol"),
        (rule(("fport", "80")), "fport needs a protocol"),
        (rule(("protocol", "icmp"), ("fport", "80")), "that has ports, not 'icmp'"),
        (rule(("ip", "10.0.0.0/99")), "'10.0.0.0/99' is no value"),
        (rule(("protocol", "tcp"), ("fport", "99999")), "'99999' is no value"),
        (rule(Drop=True, PortMap=True, TargetPort=80), "drop and port map exclude each other"),
        (rule(Limit=True, LimitRate=0, LimitUnit="s"), "expected a rate above 0"),
        (rule(Limit=True, LimitRate=5, LimitUnit="y"), "per s, m or h"),
        (rule(("protocol", "tcp"), PortMap=True, TargetPort=80), "needs an lport"),
        (rule(("lport", "80"), PortMap=True, TargetPort=80), "a port map needs a protocol"),
        (port_map(target=0), "expected 1 to 65535"),
        (port_map("80:90"), "a single lport"),
    ],
)
def test_a_wrong_rule_says_what_is_wrong(ace: ACE, error: str) -> None:
    assert any(error in text for text in rule_errors([ace], status_of(local()), True))


def test_right_rules_are_accepted() -> None:
    rules = [
        rule(("ip", "0.0.0.0/0")),
        rule(("host", "10.1.1.1")),
        rule(("host", "updates.example.com")),
        rule(("eidset", "")),
        rule(("protocol", "udp"), ("fport", "5000:5010"), Limit=True, LimitRate=5, LimitUnit="s"),
        rule(("protocol", "47"), Drop=True),
        port_map(),
    ]
    assert rule_errors(rules, status_of(local()), True) == []
    assert list(port_maps(rules)) == [PortMap("tcp", 8080)]


def test_a_port_map_needs_a_guest_with_an_address() -> None:
    assert any("guest with an address" in text for text in rule_errors([port_map()], status_of(local()), False))


def test_rules_on_a_switch_need_its_uplink_and_no_port_map() -> None:
    switch = local(SWITCH, Type=NetworkInstanceType.SWITCH, IpType=AddressType.NONE, Port="eth1")
    assert rule_errors([rule(("ip", "0.0.0.0/0"))], status_of(switch), False) == []
    assert any("no port map on a switch" in text for text in rule_errors([port_map()], status_of(switch), False))
    lonely = status_of(replace(switch, Port=""))
    assert any("exactly one uplink" in text for text in rule_errors([rule()], lonely, False))
    assert rule_errors([], lonely, False) == []


# ---- apps


def app(number: int = 1, *networks: UnderlayNetworkConfig, **fields: Any) -> AppNetworkConfig:
    given: dict[str, Any] = {"DisplayName": f"app{number}", "Activate": True, "UnderlayNetworkList": networks}
    return AppNetworkConfig(UUIDandVersion=UUIDandVersion(UUID=uuid(number), Version="1"), **given | fields)


def on(network: str = LAN, *rules: ACE, **fields: Any) -> UnderlayNetworkConfig:
    return UnderlayNetworkConfig(Name="eth0", Network=network, ACLs=rules, **fields)


def world(*configs: NetworkInstanceConfig, others: tuple[AppNetworkStatus, ...] = (), **fields: Any) -> World:
    instances = {config.UUID: status_of(config, number) for number, config in enumerate(configs, 1)}
    return World(instances.keys(), instances, {o.UUIDandVersion.UUID: o for o in others}, **fields)


def decide(
    config: AppNetworkConfig, around: World, previous: AppNetworkStatus | None = None, now: str = NOW
) -> AppNetworkStatus:
    return app_network_status(config, previous, int(config.UUIDandVersion.UUID[-12:]), around, now)


def addresses(status: AppNetworkStatus) -> list[str]:
    return [network.AllocatedIPAddr for network in status.UnderlayNetworkList or ()]


def test_an_app_gets_names_macs_and_an_address() -> None:
    status = decide(app(5, on(), on()), world(local()))
    assert (status.Activated, status.Error, status.AppNum) == (True, "", 5)
    first, second = status.UnderlayNetworkList or ()
    assert (first.Vif, first.Mac, first.Bridge) == ("nbu1x5", "00:16:3e:00:01:05", "bn1")
    assert (first.AllocatedIPAddr, first.BridgeIPAddr) == ("10.1.0.10", "10.1.0.1")
    assert (first.HostName, first.BridgeMac) == (uuid(5), bytes.fromhex("00163e060001"))
    assert (second.Vif, second.AllocatedIPAddr) == ("nbu2x5", "10.1.0.11")


def test_looking_again_changes_nothing() -> None:
    around = world(local())
    for config in (app(5, on()), app(5, on(uuid(77))), app(5, on(LAN, rule(rule_id=0)))):
        status = decide(config, around)
        assert decide(config, around, status, LATER) == status


def test_no_two_apps_get_one_address() -> None:
    first = decide(app(1, on()), world(local()))
    second = decide(app(2, on()), world(local(), others=(first,)))
    third = decide(app(3, on()), world(local(), others=(first, second)))
    assert len({*addresses(first), *addresses(second), *addresses(third)}) == 3
    fourth = decide(app(4, on()), world(local(), others=(first, second, third)))
    assert (fourth.Activated, addresses(fourth)) == (True, [""])
    assert "no free address" in fourth.Error
    assert addresses(decide(app(4, on()), world(local(), others=(first, third)), fourth)) == addresses(second)


def test_an_address_stays_when_others_come_and_go() -> None:
    second = decide(app(2, on()), world(local(), others=(decide(app(1, on()), world(local())),)))
    assert addresses(decide(app(2, on()), world(local()), second)) == ["10.1.0.11"]


def test_an_address_that_somebody_else_has_is_not_kept() -> None:
    """As after records were edited by hand."""
    mine = decide(app(2, on()), world(local()))
    other = decide(app(1, on()), world(local()))
    assert addresses(mine) == addresses(other)
    assert addresses(decide(app(2, on()), world(local(), others=(other,)), mine)) == ["10.1.0.11"]


def test_a_static_address_is_honoured_even_outside_the_dhcp_range() -> None:
    assert addresses(decide(app(1, on(AppIPAddr="10.1.0.200")), world(local()))) == ["10.1.0.200"]


@pytest.mark.parametrize(
    ("address", "error"),
    [
        ("10.9.0.1", "outside the subnet"),
        ("10.1.0.1", "already used by the bridge"),
        ("10.1.0.10", "already used by app1"),
    ],
)
def test_a_static_address_that_cannot_be_is_reported(address: str, error: str) -> None:
    first = decide(app(1, on()), world(local()))
    status = decide(app(2, on(AppIPAddr=address)), world(local(), others=(first,)))
    assert error in status.Error
    assert (status.Activated, addresses(status)) == (True, [""])


def test_one_app_cannot_name_one_address_twice() -> None:
    status = decide(app(1, on(AppIPAddr="10.1.0.20"), on(AppIPAddr="10.1.0.20")), world(local()))
    assert addresses(status) == ["10.1.0.20", ""]
    assert "already used by this app" in status.Error


def test_two_guests_with_one_mac_on_one_instance_are_reported() -> None:
    mac = bytes.fromhex("020000000001")
    first = decide(app(1, on(AppMacAddr=mac)), world(local()))
    assert (first.UnderlayNetworkList or ())[0].Mac == "02:00:00:00:00:01"
    second = decide(app(2, on(AppMacAddr=mac)), world(local(), others=(first,)))
    assert "MAC 02:00:00:00:00:01 is already used by app1" in second.Error
    assert addresses(second) == [""]


def test_on_a_switch_nobody_gets_an_address() -> None:
    switch = local(SWITCH, Type=NetworkInstanceType.SWITCH, IpType=AddressType.NONE, Port="eth1")
    status = decide(app(1, on(SWITCH)), world(switch))
    assert (status.Error, addresses(status)) == ("", [""])
    assert (status.UnderlayNetworkList or ())[0].BridgeIPAddr == ""


def test_a_missing_instance_is_waited_for() -> None:
    waiting = decide(app(1, on(), on(WAN)), world(local()))
    assert (waiting.Activated, waiting.MissingNetwork) == (False, True)
    assert f"network instance {WAN} is not configured" in waiting.Error
    came = decide(app(1, on(), on(WAN)), world(local(), local(WAN, "10.7.0.0/24")), waiting)
    assert (came.Activated, came.MissingNetwork, came.Error) == (True, False, "")


def test_a_running_app_keeps_its_address_without_an_error_while_its_withdrawn_instance_stays_for_it() -> None:
    running = decide(app(1, on()), world(local()))
    orphaned = decide(app(1, on()), World(instances=world(local()).instances), running)
    assert (orphaned.Activated, orphaned.MissingNetwork, addresses(orphaned)) == (True, True, addresses(running))
    assert orphaned.Error == ""
    assert decide(app(1, on()), world(local()), orphaned) == running


def test_a_running_app_whose_instance_was_lost_says_so_and_keeps_its_address() -> None:
    running = decide(app(1, on()), world(local()))
    orphaned = decide(app(1, on()), World(), running)
    assert (orphaned.Activated, orphaned.MissingNetwork, addresses(orphaned)) == (True, True, addresses(running))
    assert "is not configured" in orphaned.Error
    assert decide(app(1, on()), world(local()), orphaned) == running


def test_an_instance_in_error_is_reported_and_the_other_vifs_work() -> None:
    status = decide(app(1, on(WAN), on()), world(local(WAN, Gateway="0.0.0.0"), local(LAN)))
    assert status.Activated
    assert "underlay 1 (eth0): network instance lan is in error: gateway 0.0.0.0" in status.Error
    assert addresses(status) == ["", "10.1.0.10"]


def test_an_inactive_app_holds_no_address_and_has_no_error() -> None:
    running = decide(app(1, on()), world(local()))
    idle = decide(app(1, on(), on(uuid(77)), Activate=False), world(local()), running)
    assert (idle.Activated, idle.Error, addresses(idle)) == (False, "", ["", ""])
    assert [network.Vif for network in idle.UnderlayNetworkList or ()] == ["nbu1x1", "nbu2x1"]


def test_a_parse_error_of_one_interface_reaches_the_status() -> None:
    assert "bad MAC" in decide(app(1, on(Error="bad MAC")), world(local())).Error


def test_an_active_app_keeps_what_it_has_when_asked_for_more() -> None:
    running = decide(app(1, on()), world(local()))
    refused = decide(app(1, on(), on()), world(local()), running)
    assert "cannot change from 1 to 2 underlay networks while the app is active" in refused.Error
    assert (refused.Activated, refused.UnderlayNetworkList) == (True, running.UnderlayNetworkList)
    assert decide(app(1, on()), world(local()), refused, LATER) == running
    idle = decide(app(1, on(), on(), Activate=False), world(local()), refused)
    assert len(decide(app(1, on(), on()), world(local()), idle).UnderlayNetworkList or ()) == 2


def test_new_rules_are_taken_over_while_the_app_runs() -> None:
    running = decide(app(1, on()), world(local()))
    changed = decide(app(1, on(LAN, rule(("ip", "0.0.0.0/0")))), world(local()), running)
    assert (changed.Error, addresses(changed)) == ("", addresses(running))
    assert len((changed.UnderlayNetworkList or ())[0].ACLs or ()) == 1


@pytest.mark.parametrize("network", [LAN, WAN])
def test_a_port_map_of_another_app_blocks_activation_until_that_app_has_gone(network: str) -> None:
    """On the same instance, and on another one that goes out through the same port."""
    instances = (local(), local(WAN, "10.7.0.0/24"))
    first = decide(app(1, on(LAN, port_map())), world(*instances))
    wish = app(2, on(network, port_map()))
    blocked = decide(wish, world(*instances, others=(first,)))
    assert (blocked.Activated, blocked.UnderlayNetworkList) == (False, None)
    assert "port map of tcp port 8080 is already used by app app1" in blocked.Error
    free = decide(wish, world(*instances), blocked)
    assert (free.Activated, free.Error) == (True, "")


def test_the_port_map_of_an_inactive_app_blocks_nobody() -> None:
    idle = decide(app(1, on(LAN, port_map()), Activate=False), world(local()))
    assert decide(app(2, on(LAN, port_map())), world(local(), others=(idle,))).Activated


def test_port_maps_through_different_uplinks_do_not_clash() -> None:
    instances = (local(), local(WAN, "10.7.0.0/24", Port="wwan0"))
    first = decide(app(1, on(LAN, port_map())), world(*instances))
    assert decide(app(2, on(WAN, port_map())), world(*instances, others=(first,))).Error == ""


def test_an_active_app_that_asks_for_a_taken_port_map_keeps_its_old_rules() -> None:
    first = decide(app(1, on(LAN, port_map())), world(local()))
    running = decide(app(2, on()), world(local(), others=(first,)))
    refused = decide(app(2, on(LAN, port_map())), world(local(), others=(first,)), running)
    assert "already used by app app1" in refused.Error
    assert (refused.Activated, refused.UnderlayNetworkList) == (True, running.UnderlayNetworkList)


def test_a_port_map_without_an_uplink_leads_nowhere() -> None:
    status = decide(app(1, on(LAN, port_map())), world(local(Port="")))
    assert (status.Activated, "has no uplink" in status.Error) == (False, True)


def test_a_port_map_twice_in_one_app_is_told_but_stops_nothing() -> None:
    status = decide(app(1, on(LAN, port_map(), port_map())), world(local()))
    assert (status.Activated, addresses(status)) == (True, ["10.1.0.10"])
    assert "more than once" in status.Error


def mesh() -> NetworkInstanceConfig:
    return local(
        MESH, Type=NetworkInstanceType.MESH, IpType=AddressType.CRYPTO_IPV6, DhcpRange=IpRange(), DisplayName="mesh"
    )


def overlay(eid: str = "fd00::5", network: str = MESH) -> OverlayNetworkConfig:
    return OverlayNetworkConfig(Name="mesh0", EID=eid, Network=network)


def test_an_overlay_carries_its_eid_and_two_apps_have_two_vifs() -> None:
    first = decide(app(1, OverlayNetworkList=(overlay(),)), world(mesh()))
    assert (first.Activated, first.Error) == (True, "")
    vif = (first.OverlayNetworkList or ())[0]
    assert (vif.Vif, vif.Mac, vif.EID, vif.AppIPAddr) == ("nbo1x1", "00:16:3e:01:01:01", "fd00::5", "fd00::5")
    second = decide(app(2, OverlayNetworkList=(overlay("fd00::6"),)), world(mesh(), others=(first,)))
    assert (second.OverlayNetworkList or ())[0].Vif == "nbo1x2"  # EVE calls both nbo1x1
    same = decide(app(3, OverlayNetworkList=(overlay(),)), world(mesh(), others=(first,)))
    assert "EID fd00::5 is already used by app1" in same.Error


@pytest.mark.parametrize(
    ("wanted", "error"),
    [
        (overlay(""), "no EID yet"),
        (overlay("10.0.0.5"), "the mesh has IPv6 EIDs"),
        (overlay(network=LAN), "is no mesh"),
    ],
)
def test_a_wrong_overlay_says_what_is_wrong(wanted: OverlayNetworkConfig, error: str) -> None:
    assert error in decide(app(1, OverlayNetworkList=(wanted,)), world(mesh(), local())).Error


def test_the_devices_own_overlay_is_on_no_instance() -> None:
    config = app(1, IsZedmanager=True, OverlayNetworkList=(overlay("fd00::1", uuid(0)),))
    status = app_network_status(config, None, 0, World(), NOW)
    assert (status.Activated, status.AppNum, status.Error) == (True, 0, "")
    assert (status.OverlayNetworkList or ())[0].Vif == "dbo1x0"
    two = app(1, on(), IsZedmanager=True, OverlayNetworkList=(overlay(),))
    assert "exactly one overlay" in app_network_status(two, None, 0, World(), NOW).Error
