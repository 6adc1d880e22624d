"""zedrouter's own network in a real namespace: leases, names, access rules, port maps, switches, meshes, counters."""

from __future__ import annotations

from agentproc import Table
from mapserver import MapServer
from routerlab import (
    LAN,
    PORT_MAP,
    SWITCH,
    WAN,
    Router,
    comes,
    connect,
    counter,
    fetch,
    flow,
    rule,
    serve,
    talks,
    uuid,
)

pytest_plugins = ("netlab_fixtures", "routerlab_fixtures")


def test_a_guest_gets_its_lease_a_name_and_a_page_from_outside(router: Router) -> None:
    router.lab.serve("/hello", b"from outside")
    router.plug("eth0", "eth1")
    router.instance()
    router.app(1, LAN)
    router.agent.start()
    guest = router.guest(1)
    address = router.address(1)
    assert f" {address}/24 " in guest.run("ip", "-4", "addr")
    assert fetch(guest, "http://203.0.113.1/hello") == "from outside"
    comes(lambda: router.lab.requests("/hello") == ["192.168.10.2"], "the uplink's address is in the log")
    assert address in guest.run("busybox", "nslookup", uuid(1), "10.1.0.1")
    comes(lambda: router.up(1)["UnderlayNetworkList"][0]["Assigned"], "the lease is told")
    assert router.agent.inotify_instances() == 1
    assert router.instances.wait(LAN, ProgUplinkIntf="eth0", Error="")["BridgeIPAddr"] == "10.1.0.1"
    # It cannot take another address, not even one that nobody has.
    guest.run("ip", "addr", "add", "10.1.0.39/24", "dev", "eth0")
    guest.run("ip", "route", "replace", "default", "via", "10.1.0.1", "src", "10.1.0.39")
    before = counter(router, 1, "spoofed")
    assert fetch(guest, "http://203.0.113.1/hello", 1) == ""
    assert counter(router, 1, "spoofed") > before
    # Nothing of it is left once the config has gone.
    router.app_configs.remove(uuid(1))
    router.instance_configs.remove(LAN)
    router.apps.wait_gone(uuid(1))
    comes(lambda: "bn1" not in router.links() and "pillar" not in router.nft(), "the bridge and its rules are gone")
    assert "proto 177" not in router.lab.device.run("sh", "-c", "ip rule; ip route show table all")  # gone before it
    comes(lambda: not list((router.root / "run" / "zedrouter").glob("dnsmasq.*")), "dnsmasq's files are gone")
    assert "nbu1x1" in router.links()  # it belongs to whoever made it


def test_rules_are_kept_and_change_live_without_dropping_what_they_allow(router: Router) -> None:
    router.plug("eth0")
    router.instance()
    router.app(1, LAN, acls=[PORT_MAP])
    router.app(2, LAN, acls=[rule(7, protocol="tcp", ip="203.0.113.0/24", fport="80")])
    router.agent.start()
    router.lab.serve("/page", b"page")
    guest, other = router.guest(1), router.guest(2)
    outside, inside = flow(router, guest)
    assert talks(outside, inside)
    assert fetch(other, "http://203.0.113.1/page") == "page"
    assert connect(other, "192.168.10.1", 80, 1) is None  # another address
    assert fetch(guest, "http://203.0.113.1/page", 1) == ""  # it may only be called
    assert counter(router, 2, "out_7") > 0 and counter(router, 2, "out_drop") > 0
    # A rule more, another order: what was allowed goes on, and counts on.
    router.app(1, LAN, acls=[rule(9, ip="203.0.113.0/24"), PORT_MAP])
    comes(lambda: fetch(guest, "http://203.0.113.1/page", 2) == "page", "the new rule lets it out")
    assert talks(outside, inside)
    assert counter(router, 1, "in_1") > 0
    # What is no longer allowed ends at once, though it was.
    router.app(1, LAN, acls=[rule(2, {"Drop": True}, ip="192.168.10.0/24"), PORT_MAP])
    comes(lambda: not talks(outside, inside, 0.5) and counter(router, 1, "in_2") > 0, "the flow is cut by that rule")


def test_two_apps_on_one_instance_talk_and_on_two_do_not(router: Router) -> None:
    router.plug("eth0")
    router.instance()
    router.instance(WAN, "10.2.0")
    router.app(1, LAN)
    router.app(2, LAN)
    router.app(3, WAN)
    router.agent.start()
    one, two, three = router.guest(1), router.guest(2), router.guest(3)
    for space in (two, three):
        space.server = serve(space, 5000)  # type: ignore[attr-defined]
    assert connect(one, router.address(2), 5000) is not None
    assert connect(one, router.address(3), 5000, 1) is None
    # Between the two the rules of both count.
    router.app(2, LAN, acls=[rule(3, ip="203.0.113.0/24")])
    comes(lambda: connect(one, router.address(2), 5000, 0.5) is None, "the other one's rules keep it out")
    for space in (two, three):
        space.server.close()


def test_a_switch_joins_its_guests_to_the_outside(router: Router) -> None:
    router.plug("eth1", Dhcp=2, IsMgmt=False)
    router.lab.device.run("ip", "addr", "flush", "dev", "eth1")
    router.instance(SWITCH, Type=1, Port="eth1", IpType=0, Gateway="", DhcpRange={})
    router.app(1, SWITCH, acls=[rule(1, ip="0.0.0.0/0")])
    router.app(2, SWITCH, acls=[rule(1, {"Drop": True}, protocol="tcp", fport="80"), rule(2, ip="0.0.0.0/0")])
    router.agent.start()
    one, two = router.guest(1), router.guest(2)  # leases from outside
    assert " 192.168.20." in one.run("ip", "-4", "addr")
    router.lab.serve("/hello", b"hello")
    assert fetch(one, "http://192.168.20.1/hello") == "hello"
    assert fetch(two, "http://192.168.20.1/hello", 1) == ""
    assert "1 packets received" in two.run("busybox", "ping", "-c", "1", "-W", "20", "192.168.20.1")
    router.instance(SWITCH, Type=1, Port="eth1", IpType=0, Gateway="", DhcpRange={}, Activate=False)
    comes(lambda: "master" not in router.links()["eth1"], "the port is given back")


def test_rules_look_at_names_interfaces_directions_and_rates(router: Router) -> None:
    """Each kind of match and action that the other tests have no use for."""
    router.lab.controller.run("ip", "addr", "add", "45.0.0.1/32", "dev", "lo")
    router.lab.start_dnsmasq("--host-record=web.test,45.0.0.1")
    router.lab.serve("/hello", b"hello")
    router.plug("eth0", "eth1")
    router.instance()
    router.app(1, LAN, acls=[rule(1, protocol="tcp", host="web.test", fport="80:81")])
    router.app(2, LAN, acls=[rule(1, direction=1, protocol="tcp", lport="5000"), rule(2, interface="eth1")])
    burst = {"Limit": True, "LimitRate": 1, "LimitUnit": "m", "LimitBurst": 3}
    router.app(3, LAN, acls=[rule(5, burst, protocol="icmp"), rule(6, ip="10.1.0.0/24")])
    router.agent.start()
    one, two, three = router.guest(1), router.guest(2), router.guest(3)
    # By name: the address is let through once the device has told it to the guest.
    assert fetch(one, "http://45.0.0.1/hello", 1) == ""
    comes(
        lambda: "45.0.0.1" in one.run("busybox", "nslookup", "web.test", "10.1.0.1", check=False), "the name is known"
    )
    assert fetch(one, "http://45.0.0.1/hello") == "hello"
    assert fetch(one, "http://203.0.113.1/hello", 1) == ""
    # Somebody throws the address away, which the device's DNS has in its cache now.
    router.lab.device.run("nft", "flush", "ruleset")

    def asked_again() -> bool:
        one.run("busybox", "nslookup", "web.test", "10.1.0.1", check=False)
        return fetch(one, "http://45.0.0.1/hello", 1) == "hello"

    comes(asked_again, "the name works again")
    # INGRESS opens nothing outward; the instance's way out is eth0, which the other rule does not mean.
    with serve(two, 5000):
        assert connect(three, router.address(2), 5000) is not None
    assert fetch(two, "http://203.0.113.1/hello", 1) == ""
    router.app(2, LAN, acls=[rule(2, interface="eth0")])
    comes(lambda: fetch(two, "http://203.0.113.1/hello", 2) == "hello", "by the interface that is meant")
    # Three packets at once, question and answer counted, then one a minute.
    told = three.run("busybox", "ping", "-c", "4", "-i", "0.2", "-W", "1", "203.0.113.1", check=False)
    assert "1 packets received" in told or "2 packets received" in told
    assert counter(router, 3, "out_limit") > 0


def test_guests_of_a_mesh_reach_each_other_by_their_eids_and_lisp_is_configured(router: Router) -> None:
    router.plug("eth0")
    servers = [{"ServiceType": 0, "NameOrIp": "ms.test", "Credential": "secret"}]
    mesh = {"Type": 4, "IpType": 4, "Gateway": "", "DhcpRange": {}, "Subnet": {}}
    router.instance(WAN, **mesh, LispConfig={"IID": 42, "MapServers": servers})
    eids = {1: "fd3d:269e:6aa9::1", 2: "fd3d:269e:6aa9::2"}
    for number, eid in eids.items():
        only = [rule(3, ip="fd3d:269e:6aa9::1/128")] if number == 2 else [rule(3, ip="::/0")]
        overlay = {"Name": "mesh", "EID": eid, "LispSignature": f"sig{number}", "Network": WAN, "ACLs": only}
        router.app(number, OverlayNetworkList=[overlay], UnderlayNetworkList=None)
    router.agent.start()
    guests = {}
    for number, eid in eids.items():
        guest = guests[number] = router.guest(number, lease=False)
        guest.run("ip", "addr", "add", f"{eid}/128", "dev", "eth0", "nodad")
        comes(lambda guest=guest: guest.run("ip", "-6", "route", "show", "dev", "eth0"), "the link is up")
        guest.run("ip", "route", "add", "fd00::/8", "via", "fe80::1", "dev", "eth0")
    with serve(guests[2], 5000, version=6):
        made = comes(lambda: connect(guests[1], eids[2], 5000, 2), "the other guest answers")
        assert made is not None
    # Nobody takes another's EID.
    guests[1].run("ip", "addr", "add", "fd3d:269e:6aa9::9/128", "dev", "eth0", "nodad")
    lost = guests[1].run("busybox", "ping", "-6", "-c", "1", "-W", "1", "-I", "fd3d:269e:6aa9::9", eids[2], check=False)
    assert " 0 packets received" in lost
    assert " dev bn1 " in router.lab.device.run("ip", "-6", "route", "get", eids[1])
    config = router.root / "run/zedrouter/lisp/lisp.config"
    text = config.read_text()
    for part in ("dns-name = ms.test", "instance-id = 42", f"eid-prefix = {eids[1]}/128", "interface = eth0", "sig2"):
        assert part in text
    assert config.stat().st_mode & 0o777 == 0o600  # the map server's key is in it
    mode = Table(router.root, "zedrouter", "NetworkMode").wait("global")
    assert "LISP data plane is out of its scope" in mode["Explanation"]
    router.pillar_net("--diff")
    router.instance(WAN, **mesh, LispConfig={"IID": 42, "MapServers": [{"NameOrIp": "a } b", "Credential": "x"}]})
    router.instances.wait(WAN, 60, Error=lambda text: "lisp.config: the name of a map server" in text)
    for number in eids:
        router.app_configs.remove(uuid(number))
    router.instance_configs.remove(WAN)
    comes(lambda: not config.exists() and "bn1" not in router.links(), "the mesh has gone")
    assert "proto 177" not in router.lab.device.run("sh", "-c", "ip -6 rule; ip -6 route show table all")


def test_eids_are_registered_at_their_map_servers(router: Router) -> None:
    router.plug("eth0")
    names = {"right": "203.0.113.1", "other": "192.168.20.1", "nobody": "192.168.10.1"}
    mesh = {"Type": 4, "IpType": 4, "Gateway": "", "DhcpRange": {}, "Subnet": {}}
    servers = [{"NameOrIp": address, "Credential": "our key"} for address in names.values()]
    router.lab.device.run("ip", "route", "add", "203.0.113.1", "via", "192.168.10.1")
    right = MapServer(router.lab.controller, names["right"], "our key")
    other = MapServer(router.lab.controller, names["other"], "our key", answer_with="another key")
    try:
        router.instance(WAN, **mesh, LispConfig={"IID": 42, "MapServers": servers})
        router.app(1, OverlayNetworkList=[{"Name": "mesh", "EID": "fd3d::1", "Network": WAN}])
        router.agent.start()
        table = Table(router.root, "zedrouter", "EIDRegistration")
        told = table.wait(f"{uuid(1)}:42:{names['right']}", 60, Registered=True, Error="")
        assert (told["EID"], told["Locators"]) == ("fd3d::1", ["192.168.10.2"])
        assert right.registered == {(42, "fd3d::1"): ["192.168.10.2"]}
        # A server that has not our key, and one that is none.
        table.wait(f"{uuid(1)}:42:{names['other']}", 60, Registered=False, Error=lambda text: "with our key" in text)
        table.wait(f"{uuid(1)}:42:{names['nobody']}", 60, Registered=False, Error=lambda text: text != "")
        # By another uplink it is reached at another address.
        router.lab.unplug("eth0")
        router.lab.device.run("ip", "route", "replace", "203.0.113.1", "via", "192.168.20.1")
        router.plug("eth1")  # when nim says so the way is there; in vain it would be tried once a minute
        comes(lambda: right.registered == {(42, "fd3d::1"): ["192.168.20.2"]}, "the new address is registered")
        router.app_configs.remove(uuid(1))
        comes(lambda: not table.keys(), "the registrations are withdrawn")
    finally:
        right.close()
        other.close()
