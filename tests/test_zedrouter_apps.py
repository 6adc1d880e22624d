"""zedrouter: what an app's network becomes, arm by arm. No disk, no clock, no process."""

from __future__ import annotations

from typing import Any

import pytest
from zedrouter_cases import LAN, LATER, MESH, NOW, SWITCH, WAN, local, port_map, rule, status_of, uuid

from pillar.cmd.zedrouter.appnetwork import World, app_network_status
from pillar.types.common import UUIDandVersion
from pillar.types.enums import AddressType, NetworkInstanceType
from pillar.types.networkinstance import IpRange, NetworkInstanceConfig
from pillar.types.zedrouter import (
    ACE,
    AppNetworkConfig,
    AppNetworkStatus,
    OverlayNetworkConfig,
    UnderlayNetworkConfig,
)


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
