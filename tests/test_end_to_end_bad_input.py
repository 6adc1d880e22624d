"""A device config full of mistakes: each is the error of its app or network instance, and everything else goes on.

All of it is added in one config to a device on which the good apps run. What no app can have wrong in the same way
twice is tested nearer to where it is found: layers that climb out of a container's tree in test_end_to_end_containers,
images one by one in test_hypervisor_qemu, network instances and rules in test_zedrouter_instances,
test_zedrouter_rules and test_zedrouter_kernel_faults.
"""

from __future__ import annotations

import uuid
from pathlib import Path
from typing import Any

import pytest
from device import app_id, sleeper
from netlab import CONTROLLER
from vm_images import BOOT_S, HALT, Guest, boot_disk, qemu_img
from wired_config import Json, app, container, drive, instance, linux, port_map, reaches, served, uplinks
from wired_device import WiredDevice

from pillar.types.enums import SwState
from pillar.types.networkinstance import NetworkInstanceStatus

pytest_plugins = ("vm_fixtures", "wired_fixtures")
pytestmark = pytest.mark.timeout(600)  # three guests boot, two of them a whole Linux

OPTIONS = ("--set", "domainmgr.stop-grace=1")  # for the guest that takes no notice of the power button
PAGE = 8080
ENTRY = f"""#!/bin/sh
httpd -p 80 -h /www
echo "a good one" >/www/index.html
until busybox timeout 5 busybox wget -q -O /www/got http://{CONTROLLER}/last-rule; do sleep 1; done
echo "GOT $(cat /www/got)"
exec sleep 100000
"""
PANICS = "#!/bin/sh\necho c >/proc/sysrq-trigger\n"


class Faulty:
    """The config. `wrong` are the apps that must not run, with what is to be said of each."""

    def __init__(self, wired: WiredDevice, guest: Guest, directory: Path) -> None:
        self.wired = wired
        self.directory = directory
        self.config = uplinks(wired.lab)
        self.wrong: dict[str, str] = {}
        self.lan = instance(self.config, "lan", "10.1.0")
        self.good = self.good_app()
        self.running = [self.good]  # what runs all the time
        self.deaf = self.vm("deaf", boot_disk("up", HALT))  # takes no notice of the power button
        self.networks()
        self.images()
        self.machines(guest)

    def good_app(self) -> Json:
        """A container that is right, and has 300 rules, of which it needs the last two."""
        self.wired.lab.serve("/last-rule", b"by the last rule")
        many = [
            {"matches": [{"type": "ip", "value": f"198.51.100.{n % 250}/32"}, {"type": "protocol", "value": "tcp"},
                         {"type": "fport", "value": str(n)}], "id": n}
            for n in range(1, 299)
        ]  # fmt: skip
        rules = [*many, port_map(PAGE, 80, 299), reaches(f"{CONTROLLER}/32", 300)]
        return container(self.wired.lab, self.config, "good", ENTRY, instance=self.lan, rules=rules)

    def networks(self) -> None:
        """Network instances and interfaces that cannot be."""
        self.overlapping = instance(self.config, "overlapping", "10.1.0", first=20, last=30)
        self.overlapping["ip"]["subnet"] = "10.1.0.0/25"
        self.program("on-overlapping", self.overlapping, error="overlapping")

        self.tiny = instance(self.config, "tiny", "10.3.0", first=2, last=2)
        self.running.append(self.program("first-of-one", self.tiny))
        self.program("second-of-one", self.tiny, error="no free address")

        twins = instance(self.config, "twins", "10.4.0")
        for name in ("twin-a", "twin-b"):
            twin = self.program(name, twins)
            twin["interfaces"][0]["macAddress"] = "02:16:3e:00:00:99"
        self.twins = self.config["apps"][-2:]

        lost = self.program("no-network", twins, error="in network instances")
        lost["interfaces"][0]["networkId"] = str(uuid.uuid4())

    def images(self) -> None:
        """Disks that no machine must be given."""
        base, image = self.directory / "base.raw", self.directory / "image.qcow2"
        base.write_bytes(boot_disk("never"))
        qemu_img("convert", "-O", "qcow2", base, image)
        whole = image.read_bytes()
        corrupt = bytearray(whole)
        corrupt[64 << 10 : (64 << 10) + 512] = b"\xff" * 512  # the refcount table
        qemu_img("create", "-q", "-f", "qcow2", "-b", "/etc/hostname", "-F", "raw", image, "1M")
        self.vm("not-qcow2", boot_disk("never"), "QCOW2", error="should be an image of format qcow2, but it is a raw")
        self.vm("not-raw", whole, "RAW", error="should be an image of format raw, but it is a qcow2")
        self.vm("corrupt", bytes(corrupt), "QCOW2", error="corrupt qcow2 image")
        self.vm("cut-off", whole[:3000], "QCOW2", error="corrupt qcow2 image")
        self.vm("outside", image.read_bytes(), "QCOW2", error="refers to another file, /etc/hostname")

    def machines(self, guest: Guest) -> None:
        """Machines that cannot be had, or do not live long."""
        huge = self.vm("huge", boot_disk("never"), error="more than this machine has")
        huge["fixedresources"]["memory"] = 1 << 31
        panics = linux(self.wired.lab, self.config, guest, "panics", script=PANICS)
        self.wrong[app_id(panics)] = "the domain stopped by itself: the guest's kernel panicked"
        # Without a root file system it panics before it has a driver to say so.
        self.rootless = linux(self.wired.lab, self.config, guest, "rootless")
        self.rootless["drives"].pop()

    def program(self, name: str, network: Json, error: str = "") -> Json:
        """An app that needs no machine of its own: its network is the point."""
        image = sleeper(f"{name}.img")
        made = app(
            self.config, name, [drive(self.config, served(self.wired.lab, image.name, image.content))], instance=network
        )
        if error:
            self.wrong[app_id(made)] = error
        return made

    def vm(self, name: str, disk: bytes, iformat: str = "RAW", error: str = "") -> Json:
        """An app that is a machine with this disk."""
        image = served(self.wired.lab, f"{name}.img", disk)
        made = app(self.config, name, [drive(self.config, image, iformat=iformat, readonly=False)], memory=16 * 1024)
        if error:
            self.wrong[app_id(made)] = error
        return made


@pytest.fixture(scope="module")
def faulty(wired: WiredDevice, guest: Guest, tmp_path_factory: pytest.TempPathFactory) -> Faulty:
    faulty = Faulty(wired, guest, tmp_path_factory.mktemp("images"))
    # Who is to keep what two cannot have comes first.
    wired.deploy({**faulty.config, "apps": faulty.running, "networkInstances": [faulty.lan, faulty.tiny]})
    wired.wait_running(*map(app_id, faulty.running), seconds=BOOT_S)
    wired.deploy(faulty.config)
    return faulty


def test_each_mistake_is_the_error_of_its_app_and_the_others_run(faulty: Faulty) -> None:
    wired = faulty.wired
    good = app_id(faulty.good)
    first = wired.domain(good).DomainId
    wired.wait_running(app_id(faulty.deaf), seconds=BOOT_S)
    wired.says(good, "GOT by the last rule")
    wired.wait_page(PAGE, "a good one")

    for key, text in faulty.wrong.items():
        wired.wait_error(key, text, BOOT_S)
        assert not wired.app(key).Activated
        assert wired.processes(key) == []
    with_error = told_of_instances(wired)
    assert set(with_error) == {"overlapping"}
    assert "the subnet overlaps that of network instance lan" in with_error["overlapping"]
    wired.wait(lambda: [key for key in map(app_id, faulty.twins) if "02:16:3e:00:00:99" in wired.app(key).Error],
               "one of the twins to be refused", BOOT_S)  # fmt: skip

    # No driver told of this one's end: the machine stands there, as a real one would.
    wired.says(app_id(faulty.rootless), "Kernel panic - not syncing")
    assert wired.app(app_id(faulty.rootless)).State == SwState.RUNNING

    wired.wait_no_difference()
    assert wired.domain(good).DomainId == first
    wired.wait_page(PAGE, "a good one")
    assert wired.restarts() == {}


def test_all_of_it_goes_even_what_takes_no_notice_of_the_power_button(faulty: Faulty) -> None:
    wired = faulty.wired
    deaf = app_id(faulty.deaf)
    wired.wait_running(deaf, seconds=BOOT_S)
    wired.says(deaf, "up")
    assert wired.processes(deaf) == [wired.domain(deaf).DomainId]
    wired.deploy({**faulty.config, "apps": [], "networkInstances": []})
    wired.wait_gone(*map(app_id, faulty.config["apps"]), seconds=BOOT_S)
    assert wired.processes(deaf) == []
    wired.wait(
        lambda: wired.lab.device.run("ip", "-o", "link").count("\n") == 3,
        "only the loopback and the uplinks to be left",
    )
    assert wired.restarts() == {}


def told_of_instances(wired: WiredDevice) -> dict[str, Any]:
    """The errors of network instances by their names."""
    table = wired.table("zedrouter", NetworkInstanceStatus)
    wired.look()
    return {status.DisplayName: status.Error for status in table.items().values() if status.Error}
