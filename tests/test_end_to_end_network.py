"""A whole device on a network of its own: nim sets up its ports, a VM and a container answer through port maps."""

from __future__ import annotations

from typing import Any

import pytest
from device import app_id
from netlab import CONTROLLER
from vm_images import BOOT_S, Guest
from wired_config import container, instance, linux, port_map, reaches, uplinks
from wired_device import WiredDevice

pytest_plugins = ("vm_fixtures", "wired_fixtures")

VM_PORT, CONTAINER_PORT = 8080, 8081
# What the guests try themselves: one server is allowed to them, the same one under its other address is not.
TRIES = f"""#!/bin/sh
ask() {{ printf 'GET /allowed HTTP/1.0\\r\\n\\r\\n' | busybox nc -w $2 $1 80 | busybox grep '200 OK'; }}
until ask {CONTROLLER} 5; do sleep 1; done
echo reached the allowed one
ask 192.168.10.1 2 || echo did not reach the other one
"""
ENTRY = f"""#!/bin/sh
echo "from a container" >/www/index.html
httpd -p 80 -h /www
{TRIES.partition(chr(10))[2]}
while :; do sleep 1; done
"""


def config_of(wired: WiredDevice, guest: Guest) -> dict[str, Any]:
    """One local network instance, on it a VM and a container: called by a port map each, calling one server only."""
    config = uplinks(wired.lab)
    lan = instance(config, "lan", "10.1.0", port="uplink")

    def rules(port: int) -> list[dict[str, Any]]:
        return [port_map(port, 80), reaches(f"{CONTROLLER}/32", 2)]

    linux(wired.lab, config, guest, "vm", instance=lan, rules=rules(VM_PORT), script=TRIES)
    container(wired.lab, config, "box", ENTRY, instance=lan, rules=rules(CONTAINER_PORT))
    return config


def both_answer(wired: WiredDevice, uplink: str) -> None:
    """The VM's and the container's pages are there from outside, over this uplink."""
    wired.wait_page(VM_PORT, "from a VM", uplink)
    wired.wait_page(CONTAINER_PORT, "from a container", uplink)


@pytest.mark.timeout(600)
def test_a_vm_and_a_container_answer_through_their_port_maps_whatever_dies(wired: WiredDevice, guest: Guest) -> None:
    lab = wired.lab
    lab.serve("/allowed", b"")
    config = config_of(wired, guest)
    apps = [app_id(app) for app in config["apps"]]
    # The ports first: the network instance is to find both with an address, and take the first.
    wired.deploy({**config, "apps": [], "networkInstances": []})
    wired.wait(lambda: "port config zedagent works" in wired.where.log("nim").read_text(), "its port config", BOOT_S)
    wired.wait(lambda: wired.address("eth0") and wired.address("eth1"), "both leases", BOOT_S)
    wired.deploy(config)
    wired.wait_running(*apps, seconds=BOOT_S)
    # The images came over the first free port.
    wired.wait(lambda: set(lab.requests("/box.tar")) == {wired.address("eth0")}, "the image came over eth0 alone")
    both_answer(wired, "eth0")
    # They got their addresses by DHCP, reach whom they may, and nobody else; what is not mapped is not there.
    for app in apps:
        wired.says(app, "did not reach the other one")
        assert "reached the allowed one" in wired.where.log(app).read_text(errors="replace")
        wired.wait(lambda app=app: wired.vif(app).Assigned, "the lease to be told")
    assert wired.page(80) == ""
    wired.wait_no_difference()

    # Cables: the guests' way out, and their port maps with it, move to the other uplink, and back when that one goes.
    for gone, left in (("eth0", "eth1"), ("eth1", "eth0")):
        lab.unplug(gone)
        wired.wait(lambda gone=gone: "no carrier" in wired.port(gone).Error, "the pulled cable", BOOT_S)
        both_answer(wired, left)
        lab.plug(gone)
        wired.wait(lambda gone=gone: wired.address(gone), "the cable's return", BOOT_S)

    # Everybody who made this dies; the domains go on, and all is found again.
    domains = {app: wired.domain(app).DomainId for app in apps}
    wired.kill("nim", "zedrouter", "domainmgr", "zedmanager")
    wired.kill_dnsmasqs()
    both_answer(wired, "eth0")
    wired.wait_back("nim", "zedrouter", "domainmgr", "zedmanager")
    wired.wait(lambda: len(wired.dnsmasqs()) == 1, "the bridge's dnsmasq", BOOT_S)
    wired.wait_running(*apps, seconds=BOOT_S)
    wired.wait_no_difference()
    both_answer(wired, "eth0")
    assert {app: wired.domain(app).DomainId for app in apps} == domains
    assert set(wired.domains.items()) == set(apps)

    wired.deploy({**config, "apps": [], "networkInstances": []})
    wired.wait_gone(*apps, seconds=BOOT_S)  # a guest shuts down no faster than it boots
    wired.wait(
        lambda: lab.device.run("ip", "-o", "link").count("\n") == 3, "only the loopback and the uplinks to be left"
    )
