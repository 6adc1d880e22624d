"""zedrouter: which address of an instance a guest is given. No disk, no clock, no process."""

from __future__ import annotations

import pytest
from zedrouter_cases import local, status_of

from pillar.cmd.zedrouter.addresses import NoAddress, allocate
from pillar.types.enums import AddressType
from pillar.types.networkinstance import IpRange
from pillar.types.scalars import ip_net


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
