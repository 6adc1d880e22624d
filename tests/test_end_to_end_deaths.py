"""kill -9 of what serves people: a VM's QEMU, a container's first process, the DHCP server of their network.

One device serves all tests; each ends with both apps running.
"""

from __future__ import annotations

import os
import signal

import pytest
from device import app_id
from vm_images import BOOT_S, Guest
from wired_config import container, instance, linux, port_map, reaches, uplinks
from wired_device import WiredDevice, ask_shell

from pillar.types.enums import SwState

pytest_plugins = ("vm_fixtures", "wired_fixtures")
pytestmark = pytest.mark.timeout(400)  # a guest's kernel boots in three seconds, and in a minute on a busy machine

VM_PORT, BOX_PORT = 8080, 8081
SHELL = 23  # inside
ENTRY = "#!/bin/sh\nhttpd -p 80 -h /www\necho from a container >/www/index.html\nexec sleep 100000\n"
SCRIPT = f"#!/bin/sh\nnc -ll -p {SHELL} -e sh &\n"


class Apps:
    """A VM and a container on one network instance, both reached from outside."""

    def __init__(self, wired: WiredDevice, guest: Guest) -> None:
        self.wired = wired
        self.config = uplinks(wired.lab)
        lan = instance(self.config, "lan", "10.1.0")

        linux(
            wired.lab, self.config, guest, "vm", instance=lan, script=SCRIPT,
            rules=[port_map(VM_PORT, 80), port_map(8023, SHELL, 2), reaches("10.1.0.0/24", 3)],
        )  # fmt: skip
        container(wired.lab, self.config, "box", ENTRY, instance=lan, rules=[port_map(BOX_PORT, 80)])
        self.vm, self.box = self.ids = [app_id(app) for app in self.config["apps"]]
        wired.deploy(self.config)
        self.wait_serving()

    def wait_serving(self) -> None:
        """Until both run, have their leases and answer."""
        self.wired.wait_running(*self.ids, seconds=BOOT_S)
        self.wired.wait_page(VM_PORT, "from a VM")
        self.wired.wait_page(BOX_PORT, "from a container")
        self.wired.wait(lambda: all(self.wired.vif(app).Assigned for app in self.ids), "both leases", BOOT_S)

    def places(self) -> dict[str, tuple[str, str]]:
        """The MAC and the address of each."""
        return {app: (self.wired.vif(app).Mac, self.wired.vif(app).AllocatedIPAddr) for app in self.ids}


@pytest.fixture(scope="module")
def apps(wired: WiredDevice, guest: Guest) -> Apps:
    return Apps(wired, guest)


def test_a_killed_vm_and_a_killed_container_are_told_as_such_and_a_restart_puts_them_in_their_places_again(
    apps: Apps,
) -> None:
    wired = apps.wired
    places = apps.places()
    killed = [wired.domain(app).DomainId for app in apps.ids]
    assert [wired.processes(app) for app in apps.ids] == [[pid] for pid in killed]
    for pid in killed:
        os.kill(pid, signal.SIGKILL)
    for app in apps.ids:
        told = wired.wait_error(app, "the domain stopped by itself: it was ended by SIGKILL")
        assert (told.State, told.ErrorSource, told.Activated) == (SwState.HALTED, "DomainStatus", False)
        assert wired.processes(app) == []
    assert apps.places() == places  # they stay theirs
    wired.wait_no_difference()

    # They stay down until somebody asks: the controller, by its restart counter.
    for app in apps.config["apps"]:
        app["restart"] = {"counter": 1}
    wired.deploy(apps.config)
    apps.wait_serving()
    for app in apps.ids:
        assert wired.processes(app) == [wired.domain(app).DomainId]
    assert apps.places() == places
    assert not {wired.domain(app).DomainId for app in apps.ids} & set(killed)
    wired.says(apps.vm, "GUEST-ADDRESS", 2)  # it has its address, and answers, before it says so
    log = wired.where.log(apps.vm).read_text(errors="replace")
    assert log.count(f"GUEST-ADDRESS eth0 {places[apps.vm][1]}") == log.count("GUEST-ADDRESS") == 2
    wired.wait_no_difference()


def test_a_killed_dhcp_server_is_back_at_once_with_its_leases(apps: Apps) -> None:
    wired = apps.wired
    places = apps.places()
    domains = [wired.domain(app).DomainId for app in apps.ids]

    (killed,) = wired.kill_dnsmasqs()
    wired.wait(lambda: wired.dnsmasqs() not in ([], [killed]), "another dnsmasq", BOOT_S)
    (leases,) = (wired.where.agent_dir("zedrouter")).glob("dnsmasq.*.leases")
    wired.wait(
        lambda: all(f" {mac} {address} " in leases.read_text() for mac, address in places.values()),
        "the leases, which a new server writes anew",
        BOOT_S,
    )
    # The VM asks again, and has what it had.
    command = "udhcpc -i eth0 -n -q -t 30 -T 1 -s /bin/true 2>&1"
    wired.connect(8023).close()  # the shell listens
    address = wired.wait_address("eth0")
    told = wired.lab.controller.call(lambda: ask_shell(address, 8023, command))
    assert f"lease of {places[apps.vm][1]} obtained" in told
    apps.wait_serving()
    assert apps.places() == places
    assert [wired.domain(app).DomainId for app in apps.ids] == domains
    assert len(wired.dnsmasqs()) == 1
    wired.wait_no_difference()
