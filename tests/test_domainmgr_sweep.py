"""What dead domains left is gone once a new domainmgr has begun, and what is not theirs stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import msgspec
import pytest
from domainmgr_device import UUID, Device, eco
from servers import needs
from support import wait_for
from vm_images import seed_kvm_answer

from pillar.types.enums import SwState

pytest_plugins = ("domainmgr_fixtures",)
LEAVES_A_CHILD = "#!/bin/sh\nsetsid sleep 600 &\necho up\nexec sleep 600\n"


def test_killed_between_saying_that_it_stopped_and_ending_what_it_left(device: Device) -> None:
    device.want(eco(device.image(LEAVES_A_CHILD)))
    device.start()
    status = device.running()
    device.says("up")
    wait_for(lambda: len(device.domains()) == 2, "the child", 60)
    device.kill()
    os.kill(status.DomainId, signal.SIGKILL)
    stopped = msgspec.structs.replace(
        status, State=SwState.HALTED, Activated=False, DomainId=0, LastErr="the domain stopped by itself: it was told"
    )
    device.write("domainmgr", "DomainStatus", UUID, stopped)
    device.start()
    wait_for(lambda: device.domains() == [], "the child's end", 60)
    assert device.status() == stopped


def test_a_half_unpacked_image_of_an_app_that_is_no_more_goes_and_a_whole_one_waits(device: Device) -> None:
    bundle = device.where.persist / "runc" / UUID
    for tree in ("rootfs.tmp", "rootfs"):
        (bundle / tree).mkdir(parents=True)
        (bundle / tree / "file").touch()
    device.start()
    wait_for(lambda: not (bundle / "rootfs.tmp").exists(), "the sweep", 60)
    assert (bundle / "rootfs" / "file").exists()


TAPS = """
import os, signal, sys
from pathlib import Path
from pyroute2 import IPRoute
from domainmgr_device import UUID, Device, but, eco
from support import wait_for
from vm_images import boot_disk
from pillar.hypervisors import _cgroup, _vifs
from pillar.types.common import UUIDandVersion
from pillar.types.domainmgr import DomainStatus
from pillar.types.enums import SwState
from pillar.types.zedrouter import VifInfo

device = Device(Path(sys.argv[1]))
root = device.where.root
NOBODY = "00000000-0000-4000-8000-00000000000a"
ALIVE = "00000000-0000-4000-8000-00000000000b"
kernel = IPRoute()

def links():
    return {link.get_attr("IFLA_IFNAME") for link in kernel.get_links()} - {"lo", "ifb0", "ifb1"}

def machine(uuid, tap):
    sha = device.image(boot_disk("up"))
    return but(eco(sha, uuid), Memory=16 * 1024, VCpus=1, VifList=(VifInfo(Vif=tap),))

def is_running(status):
    return status.State == SwState.RUNNING

try:
    device.want(machine(UUID, "nbu1x1"))
    device.want(machine(ALIVE, "nbu2x1"))
    device.start()
    dead = device.until(is_running, "RUNNING", UUID, 60).DomainId
    alive = device.until(is_running, "RUNNING", ALIVE, 60).DomainId
    group = _cgroup.prefix(root, "qemu") + UUID
    limited = bool(_cgroup.directories(group))

    device.kill()
    os.kill(dead, signal.SIGKILL)
    for table, owner in (("DomainConfig", "zedmanager"), ("DomainStatus", "domainmgr")):
        (device.where.agent_dir(owner) / table / f"{UUID}.json").unlink()
    _vifs.make_tap(VifInfo(Vif="nbu3x1"), _vifs.Owner(root, NOBODY))
    _vifs.make_tap(VifInfo(Vif="other"), _vifs.Owner(Path(f"{root}-other"), NOBODY))
    _vifs.make_tap(VifInfo(Vif="nested"), _vifs.Owner(Path(f"{root}:x"), NOBODY))
    kernel.link("add", ifname="nbu4x1", kind="tuntap", mode="tap")
    assert links() == {"nbu1x1", "nbu2x1", "nbu3x1", "nbu4x1", "other", "nested"}, links()
    assert bool(_cgroup.directories(group)) == limited

    device.start()
    wait_for(lambda: links() == {"nbu2x1", "nbu4x1", "other", "nested"}, "the sweep", 60)
    wait_for(lambda: not _cgroup.directories(group), "the group to go", 60)
    assert device.until(is_running, "RUNNING", ALIVE, 60).DomainId == alive
finally:
    device.end()
"""


def test_taps_and_groups_of_killed_machines_go_and_nothing_else(root: Path) -> None:
    """Two machines with taps, one killed together with domainmgr and forgotten by every table."""
    needs("qemu-system-x86_64", "qemu-system-x86")
    needs("qemu-img", "qemu-utils")
    if os.geteuid() != 0:
        pytest.skip("making taps needs root")
    seed_kvm_answer(root)
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", textwrap.dedent(TAPS), root],
        env=os.environ | {"PYTHONPATH": str(Path(__file__).parent)},
        capture_output=True, text=True, check=False, timeout=280,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr or done.stdout
