"""zedrouter's own network when something breaks: kills, people's commands, cables, and what cannot be made."""

from __future__ import annotations

import os
import random
import signal
import time

from routerlab import LAN, PORT_MAP, WAN, Router, comes, fetch, flow, rule, talks, uuid

from pillar.locations import Locations
from pillar.netplan.dnsmasq import find

pytest_plugins = ("netlab_fixtures", "routerlab_fixtures")


def test_whatever_is_broken_by_hand_is_mended_at_once(router: Router) -> None:
    router.plug("eth0")
    router.instance()
    router.app(1, LAN, acls=[PORT_MAP, rule(2, ip="0.0.0.0/0")])
    router.agent.start()
    guest = router.guest(1)
    device = router.lab.device
    device.run("ip", "link", "add", "mine0", "type", "bridge")  # somebody's
    device.run("nft", "add table inet mine; add chain inet mine c { type filter hook forward priority 5; }")
    index = router.links()["bn1"]["ifindex"]
    mark = router.links()["bn1"]["ifalias"].split(" ")[0]
    breakages = [
        ["ip link del bn1"],
        ["ip link set nbu1x1 nomaster", "ip link set bn1 down", f"nft flush chain inet {mark} judge"],
        ["ip addr flush dev bn1", "ip rule del priority 9000", f"nft delete table bridge {mark}"],
        ["ip route flush table all proto 177", f"nft delete element inet {mark} out4 {{ {router.address(1)} }}"],
        ["nft flush ruleset"],
    ]
    for breakage in breakages:
        for command in breakage:
            device.run("sh", "-c", command)
        comes(lambda: "as it should be" in router.pillar_net_unchecked("--diff"), f"{breakage} is mended")
    assert router.links()["bn1"]["ifindex"] != index
    pid = int((router.root / "run/zedrouter/dnsmasq.bn1.pid").read_text())
    os.kill(pid, signal.SIGKILL)
    comes(lambda: "as it should be" in router.pillar_net_unchecked("--diff"), "dnsmasq is back")
    router.lease(guest)  # on the bridge that was made anew, from the new dnsmasq
    router.lab.serve("/hello", b"again")
    assert fetch(guest, "http://203.0.113.1/hello") == "again"
    assert "mine0" in router.links()


def test_a_connection_survives_every_kill_of_zedrouter_and_nothing_is_left_half_done(router: Router) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    router.plug("eth0")
    router.instance()
    router.app(1, LAN, acls=[PORT_MAP])
    router.agent.start()
    outside, inside = flow(router, router.guest(1))
    dnsmasq = (router.root / "run/zedrouter/dnsmasq.bn1.pid").read_text()
    for turn in range(4):
        number = 10 + turn % 2
        if turn < 2:
            router.instance(uuid(920 + number), f"10.{number}.0")
            router.app(number, uuid(920 + number))
        else:
            router.app_configs.remove(uuid(number))
            router.instance_configs.remove(uuid(920 + number))
        time.sleep(chance.uniform(0.0, 0.08))  # somewhere in the middle of making or removing it
        router.agent.kill()
        assert talks(outside, inside)
        router.agent.start()
        assert talks(outside, inside)
        comes(lambda: "as it should be" in router.pillar_net_unchecked("--diff"), "everything is as it should be")
    comes(lambda: sorted(name for name in router.links() if name.startswith("bn")) == ["bn1"], "only bn1 is left")
    assert (router.root / "run/zedrouter/dnsmasq.bn1.pid").read_text() == dnsmasq  # the same one, adopted
    assert len(list((router.root / "run/zedrouter").glob("dnsmasq.*.conf"))) == 1
    assert [running.bridge for running in find(Locations(router.root))] == ["bn1"]


def test_guests_follow_the_cables(router: Router) -> None:
    router.lab.serve("/hello", b"hello")
    router.plug("eth0", "eth1")
    router.instance()  # by any uplink
    router.instance(WAN, "10.2.0", Port="eth0")  # by this one only
    router.app(1, LAN)
    router.app(2, WAN)
    router.agent.start()
    one, two = router.guest(1), router.guest(2)
    url = "http://203.0.113.1/hello"
    assert (fetch(one, url), fetch(two, url)) == ("hello", "hello")
    router.lab.unplug("eth0")
    router.instances.wait(LAN, 60, CurrentUplinkIntf="eth1", ProgUplinkIntf="eth1")
    router.instances.wait(WAN, 60, CurrentUplinkIntf="eth0", ProgUplinkIntf="")
    comes(lambda: fetch(one, url, 2) == "hello", "it goes by the other one")
    comes(lambda: router.lab.requests("/hello")[-1:] == ["192.168.20.2"], "the other uplink's address is in the log")
    began = time.monotonic()
    assert fetch(two, url, 20) == ""  # told so, not left waiting
    assert time.monotonic() - began < 15
    router.lab.plug("eth0")
    router.instances.wait(WAN, 60, ProgUplinkIntf="eth0")
    comes(lambda: fetch(two, url, 2) == "hello", "it is back")
    # An address that changes is nim's to tell; the rules go with the interface.
    router.plug("eth0")  # eth1 is no port any more
    router.instances.wait(LAN, 60, ProgUplinkIntf="eth0")
    comes(lambda: fetch(one, url, 2) == "hello", "by the port that is left")


def test_what_cannot_be_is_the_error_of_one_and_the_others_go_on(router: Router) -> None:
    device = router.lab.device
    device.run("ip", "link", "add", "bn2", "type", "bridge")  # somebody's, with a name that will be wanted
    device.run("ip", "link", "set", "bn2", "alias", "not yours")
    router.plug("eth0")
    router.instance()
    router.app(1, LAN)
    router.agent.start()
    guest = router.guest(1)
    router.lab.serve("/hello", b"hello")
    router.instance(WAN, "10.2.0")
    router.instances.wait(
        WAN, 60, Activated=False, Error=lambda text: "bn2 that is not ours: bridge (not yours)" in text
    )
    router.app(2, WAN)
    router.apps.wait(uuid(2), 60, Error=lambda text: "is in error" in text and "bn2" in text)
    router.instance(uuid(910), "10.1.0")  # overlaps
    router.instances.wait(uuid(910), 60, Error=lambda text: "overlaps" in text)
    # This kernel may lack dummies, which encapsulation needs.
    mesh = {"Type": 4, "IpType": 4, "Port": "", "HasEncap": True, "Gateway": "", "DhcpRange": {}, "Subnet": {}}
    router.instance(uuid(911), **mesh)
    lacks = not device.run("sh", "-c", "ip link add d0 type dummy 2>&1 && echo made", check=False).endswith("made\n")
    wanted = (lambda text: "CONFIG_DUMMY" in text) if lacks else ""
    router.instances.wait(uuid(911), 60, Error=wanted, BridgeNum=3)
    # A rule that the device does not know, 300 that it does.
    router.app(3, LAN, acls=[rule(1, protocol="nosuch", ip="0.0.0.0/0")])
    router.apps.wait(uuid(3), 60, Activated=True, Error=lambda text: "'nosuch' is not known on this device" in text)
    many = [rule(n, protocol="tcp", ip=f"198.51.100.{n % 250}/32", fport=str(n)) for n in range(1, 300)]
    router.app(4, LAN, acls=[*many, rule(300, ip="203.0.113.0/24")])
    assert fetch(router.guest(4), "http://203.0.113.1/hello") == "hello"
    assert fetch(guest, "http://203.0.113.1/hello") == "hello"
    router.app(5, LAN, uuid(999))
    router.apps.wait(uuid(5), 60, Activated=False, MissingNetwork=True)
    # The stranger's bridge goes, and so does the error.
    assert router.links()["bn2"]["ifalias"] == "not yours"
    device.run("ip", "link", "del", "bn2")
    router.instances.wait(WAN, 60, Activated=True, Error="")
    router.up(2)
