"""zedrouter: which access rules make sense, and where. No disk, no clock, no process."""

from __future__ import annotations

import pytest
from msgspec.structs import replace
from zedrouter_cases import SWITCH, local, port_map, rule, status_of

from pillar.cmd.zedrouter.acl import PortMap, port_maps, rule_errors
from pillar.types.enums import AddressType, NetworkInstanceType
from pillar.types.zedrouter import (
    ACE,
)


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
