"""zedrouter: what is wrong with a network instance, and what it has when nothing is. No disk, no clock, no process."""

from __future__ import annotations

from typing import Any

import pytest
from msgspec.structs import replace
from zedrouter_cases import LAN, LATER, NETWORK, NOW, SWITCH, WAN, errors_of, local, port, status_of, uuid

from pillar.cmd.zedrouter.instances import VifUse, choose_uplink, instance_status, judge, leaving_status
from pillar.types.enums import AddressType, ChangeInProgressType, DhcpType, NetworkInstanceType
from pillar.types.networkinstance import IpRange
from pillar.types.nim import DeviceNetworkStatus
from pillar.types.scalars import ip_net


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
