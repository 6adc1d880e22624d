"""A device's apps on the network while things change around them: connections, access rules, neighbours, addresses.

One device serves all tests, with one VM that is booted once and two containers; nothing here restarts an app.
"""

from __future__ import annotations

import contextlib
from typing import Any

import pytest
from device import app_id
from netlab import CONTROLLER
from routerlab import connect, talks
from vm_images import BOOT_S, Guest
from wired_config import Json, container, drops, instance, linux, port_map, reaches, uplinks
from wired_device import WiredDevice, ask_shell

pytest_plugins = ("vm_fixtures", "wired_fixtures")
pytestmark = pytest.mark.timeout(400)  # a guest's kernel boots in three seconds, and in a minute on a busy machine

PAGE, ECHO, SHELL = 8080, 8007, 8023  # ports of the uplink: the VM's web server, what echoes, a shell in it
VM_SCRIPT = "#!/bin/sh\nnc -ll -p 7 -e cat &\nnc -ll -p 23 -e sh &\necho SERVING\n"
BOX_ENTRY = "#!/bin/sh\nhttpd -p 80 -h /www\necho from $PILLAR_ECO_NAME >/www/index.html\nexec sleep 100000\n"
VM_RULES = [port_map(PAGE, 80, 1), port_map(ECHO, 7, 2), port_map(SHELL, 23, 3), reaches("10.0.0.0/8", 4)]


class Apps:
    """What runs on the device: a VM and a container on one network instance, another container on a second one."""

    def __init__(self, wired: WiredDevice, guest: Guest) -> None:
        self.wired = wired
        self.config = uplinks(wired.lab)
        lan = instance(self.config, "lan", "10.1.0")
        other = instance(self.config, "other", "10.2.0")
        self.vm = linux(wired.lab, self.config, guest, "vm", instance=lan, rules=VM_RULES.copy(), script=VM_SCRIPT)
        self.near = container(wired.lab, self.config, "near", BOX_ENTRY, instance=lan)
        self.far = container(wired.lab, self.config, "far", BOX_ENTRY, instance=other)
        wired.deploy(self.config)
        wired.wait_running(*self.ids, seconds=BOOT_S)
        wired.says(app_id(self.vm), "SERVING")
        wired.wait(lambda: all(wired.vif(app).Assigned for app in self.ids), "all leases", BOOT_S)
        self.domains = self.running()

    @property
    def ids(self) -> list[str]:
        return [app_id(app) for app in self.config["apps"]]

    def running(self) -> dict[str, int]:
        """Whose processes they are; the same numbers as long as nobody was started anew."""
        self.wired.look()
        return {app: self.wired.domain(app).DomainId for app in self.ids}

    def address(self, app: Json) -> str:
        return self.wired.vif(app_id(app)).AllocatedIPAddr

    def change_rules(self, rules: list[Json]) -> None:
        """Deploy the config with other rules for the VM."""
        self.vm["interfaces"][0]["acls"] = rules
        self.wired.deploy(self.config)

    def shell(self, command: str, seconds: float = 60.0) -> str:
        """What a command prints in the VM. Raises OSError when nobody answers, or no more, within that time."""
        device = self.wired.wait_address("eth0")
        return self.wired.lab.controller.call(lambda: ask_shell(device, SHELL, command, seconds))


@pytest.fixture(scope="module")
def apps(wired: WiredDevice, guest: Guest) -> Apps:
    return Apps(wired, guest)


def test_a_connection_goes_on_while_zedrouter_is_killed_and_rules_change_and_new_ones_meet_the_rules_as_they_are(
    apps: Apps,
) -> None:
    wired = apps.wired
    wired.wait_page(PAGE, "from a VM")
    with wired.connect(ECHO) as flow:

        def goes_on() -> bool:
            """Does a word come back from the VM, on the connection that was there from the beginning?"""
            return talks_to_itself(flow)

        assert goes_on()
        wired.kill("zedrouter")
        assert goes_on()
        wired.wait_back("zedrouter")
        wired.wait_no_difference()
        assert goes_on()

        refused = [drops(9, protocol="tcp", lport="80"), *VM_RULES]
        for rules, allowed in ((refused, False), (VM_RULES, True), (VM_RULES[1:], False), (VM_RULES, True)):
            apps.change_rules(rules.copy())
            if allowed:
                wired.wait_page(PAGE, "from a VM")
            else:
                wired.wait(lambda: wired.page(PAGE, seconds=1) == "", "new connections to be refused", BOOT_S)
            assert goes_on()
    wired.wait_no_difference()
    assert apps.running() == apps.domains
    assert wired.where.log(app_id(apps.vm)).read_bytes().count(b"GUEST-READY") == 1


def test_apps_of_one_instance_talk_to_each_other_and_those_of_two_do_not(apps: Apps) -> None:
    wired = apps.wired
    near, far = wired.inside(app_id(apps.near)), wired.inside(app_id(apps.far))
    vm, beside, beyond = apps.address(apps.vm), apps.address(apps.near), apps.address(apps.far)
    get = "printf 'GET / HTTP/1.0\\r\\n\\r\\n' | nc -w {} {} 80"

    talk = connect(near, vm, 7)
    assert talk is not None and talks_to_itself(talk)
    talk.close()
    assert "from near" in apps.shell(get.format(30, beside))

    assert connect(far, vm, 7, 1) is None
    assert connect(near, beyond, 80, 1) is None
    assert "from far" not in apps.shell(get.format(1, beyond))
    assert connect(wired.lab.device, beyond, 80) is not None  # it is there: only not for them


def test_port_maps_and_source_addresses_follow_the_uplinks_address(apps: Apps) -> None:
    """Another address by DHCP, then one that the config names: people reach the VM there, and it calls from there."""
    wired, lab = apps.wired, apps.wired.lab
    lab.serve("/who", b"you")
    apps.change_rules([*VM_RULES, reaches(f"{CONTROLLER}/32", 5)])
    assert wired.wait_address("eth0") != "192.168.10.77"

    lab.start_dnsmasq(f"--dhcp-host={lab.mac('eth0')},192.168.10.77")
    lab.unplug("eth0")
    wired.wait(lambda: "no carrier" in wired.port("eth0").Error, "the pulled cable", BOOT_S)
    lab.plug("eth0")
    is_at(apps, "192.168.10.77")

    network = dict(apps.config["networks"][0], id="5f0d1a54-0000-4000-8000-000000000001")
    network["ip"] = {
        "dhcp": "Static",
        "subnet": "192.168.10.0/24",
        "gateway": lab.router("eth0"),
        "dns": [lab.router("eth0")],
    }
    apps.config["networks"].append(network)
    apps.config["systemAdapterList"][0] |= {"networkUUID": network["id"], "addr": "192.168.10.88"}
    wired.deploy(apps.config)
    is_at(apps, "192.168.10.88")
    assert apps.running() == apps.domains


def is_at(apps: Apps, address: str) -> None:
    """Wait until eth0 has this address; then the VM is reached there, and calls from there."""
    wired, lab = apps.wired, apps.wired.lab
    wired.wait(lambda: wired.address("eth0") == address, f"{address} on eth0", BOOT_S)
    wired.wait(lambda: "from a VM" in wired.page(PAGE, address), f"the port map at {address}", BOOT_S)

    def calls_from() -> bool:
        with contextlib.suppress(OSError):  # the way to the shell may be changing, and cuts what went over it
            apps.shell(f"printf 'GET /who HTTP/1.0\\r\\n\\r\\n' | nc -w 5 {CONTROLLER} 80", 20)
        return lab.requests("/who")[-1:] == [address]

    wired.wait(calls_from, f"a request from {address}", BOOT_S)
    wired.wait_no_difference()


def talks_to_itself(flow: Any) -> bool:
    """Does the far end send back what it is sent?"""
    return talks(flow, flow)
