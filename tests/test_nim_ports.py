"""nim --ports manage, in a network of its own: leases, configs that fail and work, cables, kills."""

from __future__ import annotations

import contextlib
import http.client
import os
import random
import signal
import subprocess
import urllib.request

import pytest
from netlab import CONTROLLER, CONTROLLER_NAME
from nimlab import PATIENCE_S, PING, Managed, port, static
from servers import eventually

pytest_plugins = ("netlab_fixtures", "nimlab_fixtures")


def get(path: str, source: str) -> bytes:
    """What the controller answers to a request from this address."""
    connection = http.client.HTTPConnection(CONTROLLER, timeout=PATIENCE_S, source_address=(source, 0))
    with contextlib.closing(connection):
        connection.request("GET", path)
        return connection.getresponse().read()


def test_two_uplinks_get_leases_and_a_source_address_decides_the_port(managed: Managed) -> None:
    lab = managed.lab
    managed.agent.start()
    managed.wait_in_force("lastresort")
    managed.wait(lambda: managed.shown("eth0") and managed.shown("eth1"), "an address on both ports")
    for name in ("eth0", "eth1"):
        shown = managed.port(name)
        assert (shown["Gateway"], shown["DnsServers"]) == (lab.router(name), [lab.router(name)])
        assert (shown["DomainName"], shown["Error"], shown["IsMgmt"]) == ("lab.test", "", True)
        assert managed.addresses(name) == [f"{managed.shown(name)[0]}/24"]
    assert managed.default() == ["eth0", "eth1"]
    # By https, with the lab's own root; free ports in their order, and one that works is enough.
    managed.wait(lambda: lab.requests(PING)[-1:] == managed.shown("eth0"), "the controller to be asked over eth0")
    assert (managed.root / "run/resolv.conf").read_text() == (
        "search lab.test\nnameserver 192.168.10.1\nnameserver 192.168.20.1\n"
    )
    assert managed.agent.inotify_instances() == 1
    lab.serve("/which", b"")
    for name in ("eth1", "eth0"):
        address = managed.shown(name)[0]
        lab.device.call(lambda address=address: get("/which", address))
        managed.wait(lambda address=address: lab.requests("/which")[-1:] == [address], f"a request from {address}")


def test_configs_that_do_not_work_are_given_up_with_their_reason_and_one_that_does_is_kept(managed: Managed) -> None:
    managed.agent.start()
    managed.wait_in_force("lastresort")
    managed.wait(lambda: managed.addresses("eth0") and managed.addresses("eth1"), "both leases")
    lease = managed.addresses("eth0")
    other = managed.addresses("eth1")
    with managed.no_address_is_lost():  # these are known to be wrong without touching a port
        managed.overrides.write("missing", Version=1, Ports=[port("eth7")])
        managed.wait_failed("missing", "port eth7 does not exist")
        managed.overrides.write("rubbish", Version=1, Ports=[static("192.168.10.300/24")])
        managed.wait_failed("rubbish", "AddrSubnet is '192.168.10.300/24'")
        managed.overrides.write("beside", Version=1, Ports=[static("192.168.10.9/24", "192.168.11.1")])
        managed.wait_failed("beside", "Gateway 192.168.11.1 is not in the port's subnet")
        managed.wait_in_force("lastresort")
    managed.overrides.write("wrong", Version=1, Ports=[static("192.168.66.2/24", "192.168.66.1")])
    managed.wait_failed("wrong", "eth0 192.168.66.2: ")
    managed.wait_in_force("lastresort")
    managed.wait(lambda: managed.addresses("eth0") == lease and managed.addresses("eth1") == other, "the leases again")
    managed.overrides.write("lonely", Version=1, Ports=[static("192.168.10.9/24", "")])
    managed.wait_failed("lonely", "unreachable")
    managed.wait_in_force("lastresort")
    managed.overrides.write("good", Version=1, Ports=[static("192.168.10.9/24")])
    managed.wait_in_force("good")
    assert managed.addresses("eth0") == ["192.168.10.9/24"]
    assert (managed.addresses("eth1"), managed.default(), managed.clients()) == ([], ["eth0"], {})
    assert managed.rules() == ["192.168.10.9"]
    managed.wait(lambda: managed.lab.requests(PING)[-1:] == ["192.168.10.9"], "the controller was asked from it")
    listed = managed.listed()
    assert listed["PortConfigList"][0]["Key"] == "good"
    assert listed["CurrentIndex"] == 0
    managed.overrides.remove("good")  # its reason gone, the leases come back
    managed.wait_in_force("lastresort")
    managed.wait(lambda: managed.clients().keys() == {"eth0", "eth1"}, "both clients")


def test_a_port_that_appears_makes_its_config_be_tried_again(managed: Managed) -> None:
    managed.overrides.write("dongle", Version=1, Ports=[port("eth7")])
    managed.agent.start()
    managed.wait_in_force("lastresort")
    assert "eth7 does not exist" in managed.entry("dongle")["LastError"]
    lab = managed.lab
    lab.switch.run("ip", "link", "add", "to-dev7", "type", "veth", "peer", "name", "eth7")
    lab.switch.run("ip", "link", "set", "to-dev7", "master", "lan0", "up")
    lab.switch.run("ip", "link", "set", "eth7", "netns", lab.device.name)  # it comes with its cable
    managed.wait_in_force("dongle")
    assert managed.default() == ["eth7"]
    lab.switch.run("ip", "link", "del", "to-dev7")
    managed.wait(lambda: "does not exist" in managed.port("eth7").get("Error", ""), "the missing port to be told")


def test_a_pulled_cable_moves_the_traffic_and_its_return_moves_it_back(managed: Managed) -> None:
    managed.agent.start()
    managed.wait_in_force("lastresort")
    managed.wait(lambda: managed.default() == ["eth0", "eth1"], "both default routes")
    before = managed.addresses("eth0")
    with managed.no_address_is_lost():
        managed.lab.unplug("eth0")
        managed.wait(lambda: "no carrier" in managed.port("eth0")["Error"], "the pulled cable")
        assert managed.shown("eth0") == []
        managed.wait(lambda: managed.default() == ["eth1"], "the other way out")
        managed.lab.plug("eth0")
        managed.wait(lambda: managed.default() == ["eth0", "eth1"], "both ways out")
        managed.wait(lambda: managed.shown("eth0") and not managed.port("eth0")["Error"], "the port again")
        assert managed.addresses("eth0") == before
    managed.wait_in_force("lastresort")


def test_a_cable_that_leads_elsewhere_brings_another_address(managed: Managed) -> None:
    managed.agent.start()
    managed.wait_in_force("lastresort")
    managed.lab.unplug("eth0")
    managed.wait(lambda: "no carrier" in managed.port("eth0")["Error"], "the pulled cable")
    managed.lab.start_dnsmasq(f"--dhcp-host={managed.lab.mac('eth0')},192.168.10.77")
    managed.lab.plug("eth0")
    managed.wait(lambda: managed.addresses("eth0") == ["192.168.10.77/24"], "the new address, and no other")
    managed.wait(lambda: managed.shown("eth0") == ["192.168.10.77"], "the new address to be told")
    managed.wait(lambda: "192.168.10.77" in managed.rules() and len(managed.rules()) == 2, "its rule")


def test_a_killed_dhcp_client_is_replaced_and_the_address_stays(managed: Managed) -> None:
    managed.agent.start()
    managed.wait_in_force("lastresort")
    managed.wait(lambda: managed.addresses("eth0") and managed.addresses("eth1"), "both leases")
    with managed.no_address_is_lost():
        (victim,) = managed.clients()["eth0"]
        said = managed.lease("eth0")
        os.kill(victim, signal.SIGKILL)
        managed.wait(lambda: managed.clients().get("eth0", [victim]) != [victim], "another client")
        managed.wait(lambda: managed.lease("eth0") not in ("", said), "its own lease")
    assert managed.addresses("eth0")


def test_without_a_dhcp_server_the_port_says_so_and_the_controller_is_reached_over_the_other(managed: Managed) -> None:
    managed.lab.start_dnsmasq(uplinks=("eth1",))
    managed.agent.start()
    managed.wait_in_force("lastresort")
    assert (managed.addresses("eth0"), managed.default()) == ([], ["eth1"])
    managed.wait(
        lambda: set(managed.lab.requests(PING)) == set(managed.shown("eth1")), "the controller was asked over eth1"
    )


def test_nim_killed_again_and_again_leaves_one_client_per_port_and_loses_no_address(managed: Managed) -> None:
    managed.agent.start()
    managed.wait_in_force("lastresort")
    managed.wait(lambda: managed.addresses("eth0") and managed.addresses("eth1"), "both leases")
    clients = managed.clients()
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    choice = random.Random(seed)
    with managed.no_address_is_lost():
        for _ in range(4):
            managed.agent.kill()
            with contextlib.suppress(subprocess.TimeoutExpired):  # somewhere on its way up
                managed.agent.process = subprocess.Popen(
                    managed.agent.command, stderr=subprocess.DEVNULL, start_new_session=True
                )
                managed.agent.process.wait(choice.uniform(0.2, 1.2))
        managed.agent.kill()
        assert managed.clients() == clients  # they outlive it
        managed.agent.start()
        managed.wait(lambda: "adopted the DHCP client" in managed.agent.log_text, "the clients to be adopted")
        managed.wait_in_force("lastresort")
    assert managed.clients() == clients


def test_killed_while_it_changes_from_config_to_config_nim_ends_up_right(managed: Managed) -> None:
    managed.overrides.write("good", Version=1, Ports=[static("192.168.10.9/24")])
    managed.agent.start()
    managed.wait_in_force("good")
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    choice = random.Random(seed)
    for number in range(4):
        wanted = [port("eth1")] if number % 2 == 0 else [static(f"192.168.10.{20 + number}/24")]
        managed.overrides.write("good", Version=1, Ports=wanted)
        with contextlib.suppress(subprocess.TimeoutExpired):
            assert managed.agent.process is not None
            managed.agent.process.wait(choice.uniform(0.0, 0.5))
        managed.agent.kill()
        managed.agent.start()
    managed.wait_in_force("good")
    managed.wait(lambda: managed.addresses("eth0") == ["192.168.10.23/24"], "the last config's address alone")
    managed.wait(lambda: managed.addresses("eth1") == [] and managed.clients() == {}, "nothing of the one before")
    managed.wait(lambda: managed.default() == ["eth0"] and managed.rules() == ["192.168.10.23"], "its route and rule")
    managed.wait(lambda: os.listdir(managed.root / "run/nim/ports") == ["eth0"], "its folder alone")


def test_what_others_take_away_or_add_on_a_port_is_put_right(managed: Managed) -> None:
    managed.overrides.write("good", Version=1, Ports=[static("192.168.10.9/24")])
    managed.agent.start()
    managed.wait_in_force("good")
    device = managed.lab.device
    device.run("ip", "addr", "flush", "dev", "eth0")
    managed.wait(lambda: managed.addresses("eth0") == ["192.168.10.9/24"], "the address again")
    managed.wait(lambda: managed.default() == ["eth0"], "the route again")
    device.run("ip", "addr", "add", "192.168.10.99/24", "dev", "eth0")
    managed.wait(lambda: managed.addresses("eth0") == ["192.168.10.9/24"], "no stranger on the port")
    device.run("ip", "rule", "del", "priority", "15000")
    device.run("ip", "link", "set", "eth0", "down")
    managed.wait(lambda: managed.default() == ["eth0"] and managed.rules() == ["192.168.10.9"], "rule and route again")
    device.run("ip", "addr", "add", "198.51.100.1/32", "dev", "lo")  # no port: nobody's business
    assert "198.51.100.1" in device.run("ip", "addr", "show", "dev", "lo")


def test_only_observing_changes_nothing(managed: Managed) -> None:
    managed.agent.command = tuple(word for word in managed.agent.command if word not in ("--ports", "manage"))
    before = managed.lab.device.run("ip", "-o", "link")
    managed.agent.start()
    managed.status.wait("global", Testing=False)
    assert managed.lab.device.run("ip", "-o", "link") == before
    assert (managed.clients(), managed.rules()) == ({}, [])
    assert not (managed.root / "run/nim/ports").exists()


@pytest.mark.full
def test_without_any_dhcp_server_the_config_fails_after_its_waits(managed: Managed) -> None:
    managed.overrides.write("static", Version=1, TimePriority="2001-01-01T00:00:00Z", Ports=[static("192.168.10.9/24")])
    managed.lab.start_dnsmasq(uplinks=())
    managed.overrides.write("dhcp", Version=1, Ports=[port("eth0")])
    managed.agent.start()
    eventually(lambda: "no DHCP server answers" in managed.entry("dhcp")["LastError"], "dhcp to fail", 90)
    managed.wait_in_force("static")


def test_the_test_url_may_be_anybody(managed: Managed) -> None:
    (managed.root / "config" / "server").unlink()
    url = managed.lab.serve("/anybody", b"")
    managed.agent.command = (*managed.agent.command, "--test-url", url)
    managed.agent.start()
    managed.wait_in_force("lastresort")
    answer = managed.lab.controller.call(lambda: urllib.request.urlopen(f"http://{CONTROLLER}/anybody").status)
    assert answer == 200
    managed.wait(
        lambda: set(managed.lab.requests("/anybody")[:1]) & set(managed.shown("eth0") + managed.shown("eth1")),
        "its own request",
    )


def test_addresses_that_routers_advertise_are_shown_and_decide_the_port(managed: Managed) -> None:
    lab = managed.lab
    prefixes = {"eth0": "fd00:10:", "eth1": "fd00:20:"}
    for which, prefix in enumerate(prefixes.values()):
        lab.controller.run("ip", "addr", "add", f"{prefix}:1/64", "dev", f"lan{which}", "nodad")
    lab.controller.run("ip", "addr", "add", "fd00:99::1/128", "dev", "lo", "nodad")
    ranges = [f"--dhcp-range={prefix}:,ra-only,64" for prefix in prefixes.values()]
    lab.start_dnsmasq("--enable-ra", *ranges, f"--host-record={CONTROLLER_NAME},fd00:99::1")
    managed.overrides.write("six", Version=1, Ports=[port("eth0"), port("eth1")])
    managed.agent.start()
    managed.wait_in_force("six")
    for name, prefix in prefixes.items():
        managed.wait(lambda name=name: managed.shown_ipv6(name), f"an IPv6 address on {name}")
        assert all(address.startswith(prefix) for address in managed.shown_ipv6(name))
    lab.serve("/which", b"")

    def answered(address: str) -> bool:
        connection = http.client.HTTPConnection("[fd00:99::1]", timeout=5, source_address=(address, 0))
        with contextlib.closing(connection), contextlib.suppress(OSError):
            connection.request("GET", "/which")
            return connection.getresponse().status == 200
        return False

    def way_from(address: str) -> str:
        with contextlib.suppress(AssertionError):  # "Network is unreachable", until nim has made the way
            return lab.device.run("ip", "-6", "route", "get", "fd00:99::1", "from", address)
        return ""

    for name in ("eth1", "eth0"):
        (address, *_) = managed.shown_ipv6(name)
        managed.wait(lambda name=name, address=address: f" dev {name} " in way_from(address), f"the way by {name}")
        managed.wait(lambda address=address: lab.device.call(lambda: answered(address)), f"an answer to {address}")
        managed.wait(lambda address=address: lab.requests("/which")[-1:] == [address], f"the request from {address}")
    # zedrouter forwards for its apps: the addresses stay.
    lab.device.run("sysctl", "-qw", "net.ipv6.conf.all.forwarding=1")
    setting = lab.device.run("sysctl", "-n", "net.ipv6.conf.eth0.accept_ra")
    assert setting.strip() == "2"
