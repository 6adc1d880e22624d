"""A VM that writes to its disks is restarted and purged: what it finds on them afterwards, and where it is reached."""

from __future__ import annotations

from typing import Any

import pytest
from device import app_id
from vm_images import BOOT_S, Guest
from wired_config import drive, instance, linux, port_map, served, uplinks
from wired_device import WiredDevice

pytest_plugins = ("vm_fixtures", "wired_fixtures")

OPTIONS = ("--set", f"domainmgr.stop-grace={BOOT_S}")  # it takes notice of the power button; how soon is the machine's
PAGE = 8080
DISK_BYTES = 1 << 20
# Says what its two disks begin with, and adds one to both. There is no file system on them.
SCRIPT = """#!/bin/sh
first() { head -c 16 /dev/$1 | tr -d '\\0\\n'; }
echo "DISKS [$(first vda)] [$(first vdb)]"
for disk in vda vdb; do echo $(($(first $disk) + 1)) | dd of=/dev/$disk conv=notrunc,fsync 2>/dev/null; done
echo WRITTEN
"""


@pytest.mark.timeout(900)  # four boots
def test_a_restart_keeps_the_disk_that_is_to_be_preserved_a_purge_gives_new_ones_and_the_network_stays(
    wired: WiredDevice, guest: Guest
) -> None:
    config = uplinks(wired.lab)
    lan = instance(config, "lan", "10.1.0")
    blank = served(wired.lab, "blank.img", bytes(DISK_BYTES))
    seven = served(wired.lab, "seven.img", b"7\n".ljust(DISK_BYTES, b"\0"))
    kept = drive(config, blank, readonly=False, preserve=True)
    fresh = drive(config, blank, readonly=False, preserve=False)
    vm = linux(wired.lab, config, guest, "vm", kept, fresh, instance=lan, rules=[port_map(PAGE, 80)], script=SCRIPT)
    app = app_id(vm)
    lives = Lives(wired, app)

    wired.deploy(config)
    lives.begins("[] []")
    before = wired.vif(app)
    assert before.Mac and before.AllocatedIPAddr

    vm["restart"] = {"counter": 1}
    wired.deploy(config)
    lives.begins("[1] []")

    vm["purge"] = {"counter": 1}
    wired.deploy(config)
    lives.begins("[] []")

    vm["drives"][vm["drives"].index(kept)] = drive(config, seven, readonly=False, preserve=True)  # needs a purge
    wired.deploy(config)
    lives.begins("[7] []")

    after = wired.vif(app)
    assert (after.Mac, after.AllocatedIPAddr) == (before.Mac, before.AllocatedIPAddr)
    log = wired.where.log(app).read_text(errors="replace")
    leases = [line.split("GUEST-ADDRESS ", 1)[1].split()[1] for line in log.splitlines() if "GUEST-ADDRESS " in line]
    assert leases == [before.AllocatedIPAddr] * lives.count
    assert log.count("GUEST-POWERDOWN") == lives.count - 1  # each life but the last ended in order
    wired.wait_no_difference()
    assert len(list(wired.where.images.iterdir())) == 2  # the disks of earlier lives are gone
    assert wired.restarts() == {}


class Lives:
    """One boot of the VM after the other."""

    def __init__(self, wired: WiredDevice, app: str) -> None:
        self.wired = wired
        self.app = app
        self.count = 0
        self._domains: list[Any] = [0]

    def begins(self, disks: str) -> None:
        """Wait until the VM runs as another domain than before, has found this on its disks, and has its lease."""
        wired, app = self.wired, self.app
        self.count += 1
        wired.wait(
            lambda: wired.is_running(app) and self._domain() not in self._domains,
            f"life {self.count}",
            2 * BOOT_S,
        )
        self._domains.append(self._domain())
        wired.says(app, "WRITTEN", self.count)
        wired.says(app, "GUEST-ADDRESS", self.count)
        told = [line for line in wired.where.log(app).read_text(errors="replace").splitlines() if "DISKS " in line]
        assert told[-1].endswith(f"DISKS {disks}"), told
        wired.wait_page(PAGE, "from a VM")

    def _domain(self) -> int:
        """0 while it has none: a purge removes it."""
        self.wired.look()
        status = self.wired.domains.get(self.app)
        return int(status.DomainId) if status is not None else 0
