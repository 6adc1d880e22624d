"""A real domainmgr on its own root, with real programs as ECOs, fed by hand-written configurations."""

import contextlib
import os
import random
import shutil
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
from domainmgr_device import OTHER, UUID, Device, but, eco
from support import kernel_tells_of_reaped, wait_for

from pillar.types.adapters import AssignableAdapters, PhysicalIOAdapter, PhysicalIOAdapterList
from pillar.types.common import IoAdapter, UUIDandVersion
from pillar.types.domainmgr import DiskConfig, DomainStatus, ImageStatus
from pillar.types.enums import SwState

pytest_plugins = ("domainmgr_fixtures",)
SLEEPER = '#!/bin/sh\necho "up $$"\nexec sleep 600\n'


def test_an_eco_runs_stops_runs_again_and_is_removed_whole(device: Device) -> None:
    config = device.want(eco(device.image(SLEEPER)))
    device.start()
    status = device.running()
    assert status.Activated
    assert status.DomainName == "eco.4"
    assert status.BootTime != DomainStatus().BootTime
    (disk,) = status.DiskStatusList or ()
    assert disk.Vdev == "xvda"
    assert disk.ActiveFileLocation == disk.FileLocation
    wait_for(lambda: device.output() == f"up {status.DomainId}\n", "its log")

    device.want(but(config, Activate=False))
    halted = device.until(lambda found: found.State == SwState.HALTED, "HALTED")
    assert not halted.Activated
    assert halted.DomainId == 0
    assert device.domains() == []

    device.want(config)
    again = device.running()
    assert again.DomainId not in (0, status.DomainId)

    device.unwant()
    wait_for(lambda: device.read(DomainStatus, UUID) is None, "the status is withdrawn")
    assert device.domains() == []
    assert list((device.where.persist / "process").iterdir()) == []


def test_an_inactive_eco_has_its_disks_and_waits(device: Device) -> None:
    config = device.want(eco(device.image(SLEEPER), activate=False))
    device.start()
    status = device.until(lambda found: found.DiskStatusList and not found.PendingAdd, "prepared")
    assert status.State == SwState.INSTALLED
    device.want(but(config, Activate=True, AppNum=7))
    assert device.running().DomainName == "eco.7"


def test_an_eco_that_ignores_TERM_is_killed(device: Device) -> None:
    config = device.want(eco(device.image("#!/bin/sh\ntrap '' TERM\necho up\nwhile :; do sleep 600; done\n")))
    device.start("--stop-grace", "0.3")
    device.running()
    wait_for(lambda: device.output() == "up\n", "the trap is set")
    device.want(but(config, Activate=False))
    device.until(lambda found: found.State == SwState.HALTED, "HALTED")
    assert device.domains() == []


def test_an_eco_that_stops_by_itself_is_shown_with_its_exit_status_and_can_be_restarted(device: Device) -> None:
    marker = device.where.root / "second"
    config = device.want(eco(device.image(f"#!/bin/sh\nsleep 605 &\n[ -e {marker} ] && exec sleep 600\nexit 7\n")))
    device.start()
    status = device.until(lambda found: found.State == SwState.HALTED, "HALTED")
    assert not status.Activated
    assert "stopped by itself: it exited with status 7" in status.LastErr
    wait_for(lambda: device.domains() == [], "what it left behind is ended")
    marker.touch()
    device.want(but(config, Activate=False))
    device.until(lambda found: not found.LastErr and found.State == SwState.HALTED, "HALTED without an error")
    device.want(config)
    device.running()


def test_an_adopted_eco_is_noticed_when_it_ends(device: Device) -> None:
    device.want(eco(device.image(SLEEPER)))
    device.start()
    pid = device.running().DomainId
    device.kill()
    device.start()
    wait_for(lambda: device.holds(pid), "it is adopted")
    os.kill(pid, signal.SIGTERM)
    status = device.until(lambda found: found.State == SwState.HALTED, "HALTED")
    assert "it was ended by SIGTERM" in status.LastErr or not kernel_tells_of_reaped()


def test_a_killed_domainmgr_adopts_the_same_process_and_reports_one_that_died_meanwhile(device: Device) -> None:
    for uuid in (UUID, OTHER):
        device.want(eco(device.image(SLEEPER), uuid))
    device.start()
    before = [device.running(uuid) for uuid in (UUID, OTHER)]
    device.kill()
    assert sorted(device.domains()) == sorted(status.DomainId for status in before)
    os.kill(before[1].DomainId, signal.SIGKILL)
    device.start()
    device.until(lambda found: found.State == SwState.HALTED, "the dead one is HALTED", OTHER)
    assert device.status() == before[0]  # not even the boot time changed
    assert device.domains() == [before[0].DomainId]


def test_what_was_withdrawn_while_domainmgr_was_down_is_removed(device: Device) -> None:
    third = "6f1c0a3e-0000-4000-8000-000000000003"
    for uuid in (UUID, OTHER, third):
        device.want(eco(device.image(SLEEPER), uuid, ReadOnly=False, Preserve=True))
    device.start()
    for uuid in (UUID, OTHER, third):
        device.running(uuid)
    device.kill()
    device.unwant()
    device.unwant(third)
    (device.where.agent_dir("domainmgr") / "DomainStatus" / f"{third}.json").unlink()  # not even a status is left
    device.start()
    wait_for(lambda: device.domains() == [device.status(OTHER).DomainId], "only the other one runs")
    wait_for(lambda: device.read(DomainStatus, UUID) is None, "the status is withdrawn")
    kept = {path.name.partition("-")[2] for path in device.where.images.iterdir()}
    assert kept == {f"{OTHER}.raw", f"{third}.raw"}, "what nobody said to remove is left to the garbage collection"


def test_a_domainmgr_that_is_told_to_end_leaves_its_ecos_running(device: Device) -> None:
    device.want(eco(device.image(SLEEPER)))
    device.start()
    pid = device.running().DomainId
    assert device.manager is not None
    device.manager.terminate()
    assert device.manager.wait(timeout=60) == 0
    assert device.domains() == [pid]


def test_after_a_reboot_ecos_run_again_with_what_they_preserved(device: Device) -> None:
    sha = device.image(SLEEPER)
    device.want(eco(sha, ReadOnly=False, Preserve=True))
    device.want(eco(sha, OTHER))
    device.start()
    before = {uuid: device.running(uuid).DomainId for uuid in (UUID, OTHER)}
    device.kill()
    for pid in before.values():
        os.kill(pid, signal.SIGKILL)
    (device.where.images / f"{sha}-{UUID}.raw").write_text("#!/bin/sh\necho preserved\nexec sleep 600\n")
    (device.where.agent_dir("domainmgr") / "DomainStatus" / f"{UUID}.json").unlink()  # /run was emptied for this one
    boot = Path("/proc/sys/kernel/random/boot_id").read_text().strip()
    for uuid in before:
        lock = device.where.persist / "process" / f"{uuid}.lock"
        lock.write_text(lock.read_text().replace(boot, "another boot"))
    device.start()
    for uuid, pid in before.items():
        wait_for(lambda uuid=uuid, pid=pid: device.running(uuid).DomainId != pid, "another process")
    wait_for(lambda: "preserved" in device.output(), "the preserved copy runs")


@pytest.mark.parametrize("removed", ["run/domainmgr", "run", "persist/process"])
def test_an_eco_is_not_started_twice_when_a_directory_is_removed_and_domainmgr_killed(
    device: Device, removed: str
) -> None:
    config = device.want(eco(device.image(SLEEPER)))
    device.start()
    pid = device.running().DomainId
    wait_for(lambda: device.output().count("up") == 1, "it is up")
    if removed == "run":  # zedmanager's files are below it: a domainmgr that sees them go has to end the ECO
        device.kill()
    shutil.rmtree(device.where.root / removed, ignore_errors=True)  # meanwhile domainmgr may put something back
    if removed != "run":
        device.kill()
        shutil.rmtree(device.where.root / removed, ignore_errors=True)
    device.want(config)
    device.start()
    device.until(lambda found: found.State == SwState.RUNNING and found.DomainId == pid, "the same process")
    config = device.want(but(config, Activate=False, UUIDandVersion=UUIDandVersion(UUID=UUID, Version="2")))
    device.until(lambda found: found.State == SwState.HALTED, "HALTED")
    assert device.domains() == []
    assert device.output().count("up") == 1


@pytest.mark.parametrize("seed", range(3))
def test_whenever_domainmgr_is_killed_exactly_one_domain_runs_in_the_end(device: Device, seed: int) -> None:
    chance = random.Random(seed)
    config = device.want(eco(device.image(SLEEPER), ReadOnly=False, Preserve=bool(seed % 2)))
    for _ in range(6):
        device.start()
        started = time.monotonic() + chance.uniform(0.15, 0.6)
        wait_for(lambda started=started: time.monotonic() >= started, f"the moment of the kill, seed {seed}")
        device.kill()
        assert len(device.domains()) <= 1
    device.start()
    status = device.running()
    wait_for(lambda: device.domains() == [status.DomainId], "one process, and it is the published one")
    device.says("up")  # perhaps only the last domainmgr came so far
    device.want(but(config, Activate=False))
    device.until(lambda found: found.State == SwState.HALTED, "HALTED")
    assert device.domains() == []
    assert device.output().count("up") == 1, "no kill made it start twice"


RENAMES = "rename,renameat,renameat2"


@pytest.mark.parametrize(
    ("call", "occurrence"),
    [("vfork", 1), ("flock", 1), ("flock", 2), ("pidfd_open", 1), ("pipe2", 1), ("close", 1)]
    + [(RENAMES, occurrence) for occurrence in (1, 2, 3)],
)
def test_a_kill_at_a_system_call_of_the_start_leaves_one_domain_or_none(
    device: Device, call: str, occurrence: int
) -> None:
    config = device.want(eco(device.image(SLEEPER), activate=False))
    device.start()
    device.until(lambda found: found.DiskStatusList and not found.PendingAdd, "prepared")
    assert device.manager is not None
    manager = device.manager
    with injected(device, call, occurrence):
        device.want(but(config, Activate=True))
        wait_for(
            lambda: _ended(manager.pid) or device.status().State == SwState.RUNNING,
            "it is killed, or does not make the call so often",
        )
    device.kill()
    device.start()
    status = device.running()
    wait_for(lambda: device.domains() == [status.DomainId], "one process, and it is the published one")


def test_a_launcher_that_is_killed_is_a_failed_boot_and_not_an_eco_that_stopped(device: Device) -> None:
    config = device.want(eco(device.image(SLEEPER), activate=False))
    device.start()
    device.until(lambda found: found.DiskStatusList and not found.PendingAdd, "prepared")
    with injected(device, "execve", 1):
        device.want(but(config, Activate=True))
        status = device.until(lambda found: found.BootFailed, "BootFailed")
    assert "the launcher failed before it ran" in status.LastErr
    assert status.TriedCount == 3
    assert device.domains() == []
    device.want(but(config, Activate=False))
    device.until(lambda found: found.State == SwState.HALTED and not found.LastErr, "HALTED")
    device.want(but(config, Activate=True))
    device.running()


def test_a_read_write_image_runs_from_a_private_copy(device: Device) -> None:
    sha = device.image(SLEEPER)
    config = device.want(eco(sha, ReadOnly=False))
    device.start()
    (disk,) = device.running().DiskStatusList or ()
    copy = device.where.images / f"{sha}-{UUID}.raw"
    assert disk.ActiveFileLocation == str(copy)
    image = wait_for(lambda: device.read(ImageStatus, copy.name), "its ImageStatus")
    assert (image.RefCount, image.Size, image.FileLocation) == (1, len(SLEEPER), str(copy))
    device.want(but(config, Activate=False))
    device.until(lambda found: found.State == SwState.HALTED, "HALTED")
    assert not copy.exists(), "without Preserve the copy ends with the run"
    wait_for(lambda: device.read(ImageStatus, copy.name) is None, "its ImageStatus is withdrawn")


def test_a_preserved_copy_keeps_what_was_written_until_the_eco_is_deleted(device: Device) -> None:
    sha = device.image(SLEEPER)
    config = device.want(eco(sha, ReadOnly=False, Preserve=True))
    device.start()
    device.running()
    copy = device.where.images / f"{sha}-{UUID}.raw"
    device.want(but(config, Activate=False))
    device.until(lambda found: found.State == SwState.HALTED, "HALTED")
    copy.write_text("#!/bin/sh\necho changed\nexec sleep 600\n")
    device.want(config)
    device.running()
    wait_for(lambda: "changed" in device.output(), "the changed copy runs")
    device.unwant()
    wait_for(lambda: device.read(DomainStatus, UUID) is None, "the status is withdrawn")
    assert not copy.exists()


def test_a_raw_disk_grows_to_its_maximum_and_a_script_does_not(device: Device) -> None:
    script, data = device.image(SLEEPER), device.image(b"data" * 1000)
    wanted = (
        DiskConfig(ImageSha256=script, Format="raw", Maxsizebytes=1 << 20),
        DiskConfig(ImageSha256=data, Format="raw", Maxsizebytes=1 << 20),
        DiskConfig(ImageSha256=data, Format="raw"),
    )
    device.want(but(eco(script), DiskConfigList=wanted))
    device.start()
    found = device.running().DiskStatusList or ()
    assert [Path(disk.ActiveFileLocation).stat().st_size for disk in found] == [len(SLEEPER), 1 << 20, 4000]
    assert [disk.Vdev for disk in found] == ["xvda", "xvdb", "xvdc"]


def test_an_image_that_cannot_run_says_which_backend_could_and_a_better_one_runs(device: Device) -> None:
    config = device.want(eco(device.image(b"QFI\xfb" + bytes(100))))
    device.start("--hypervisor", "process")
    status = device.until(lambda found: found.BootFailed, "BootFailed")
    assert "a qcow2 disk and needs the qemu backend" in status.LastErr
    assert status.State == SwState.HALTED
    better = eco(device.image(SLEEPER), version="2")
    device.want(but(config, UUIDandVersion=better.UUIDandVersion, DiskConfigList=better.DiskConfigList))
    assert device.running().LastErr == ""


def test_a_missing_image_is_said_and_the_others_go_on(device: Device) -> None:
    missing = device.want(eco("b" * 64))
    device.want(eco(device.image(SLEEPER), OTHER))
    device.start()
    status = device.until(lambda found: found.LastErr, "an error")
    assert "is not verified" in status.LastErr
    device.running(OTHER)
    sha = device.image(SLEEPER)
    device.want(but(missing, DiskConfigList=(DiskConfig(ImageSha256=sha, ReadOnly=True),)))
    device.running()


def test_an_adapter_group_goes_to_one_eco_only_and_to_the_next_when_it_is_free(device: Device) -> None:
    sha = device.image(SLEEPER)
    device.start()
    empty = wait_for(lambda: device.read(AssignableAdapters, "global"), "adapters without a list")
    assert empty == AssignableAdapters(Initialized=True)
    wanted = (IoAdapter(Name="USB1"),)
    device.want(but(eco(sha), IoAdapterList=wanted))
    assert "unknown" in device.until(lambda found: found.AdaptersFailed, "AdaptersFailed").LastErr
    listed = PhysicalIOAdapterList(Initialized=True, AdapterList=(PhysicalIOAdapter(Phylabel="p1", Assigngrp="usb1"),))
    device.write("zedagent", "PhysicalIOAdapterList", "zedagent", listed)
    assert device.running().IoAdapterList == wanted
    device.want(but(eco(sha, OTHER), IoAdapterList=wanted))
    refused = device.until(lambda found: found.AdaptersFailed, "AdaptersFailed", OTHER)
    assert f"used by app {UUID}" in refused.LastErr
    table = device.read(AssignableAdapters, "global")
    assert table is not None
    assert [bundle.UsedByUUID for bundle in table.IoBundleList or ()] == [UUID]
    device.unwant()
    assert device.running(OTHER).LastErr == ""


@contextlib.contextmanager
def injected(device: Device, call: str, occurrence: int) -> Iterator[None]:
    """SIGKILL to domainmgr, or to what it starts, when one of its threads makes a system call for the n-th time."""
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    assert device.manager is not None
    pid = device.manager.pid
    fault = ["-e", f"trace={call}", "-e", f"inject={call}:signal=SIGKILL:when={occurrence}"]
    tracer = subprocess.Popen(["strace", "-f", "-qq", "-o", "/dev/null", *fault, "-p", str(pid)])
    try:
        wait_for(lambda: _traced(pid), "strace is attached")
        yield
    finally:
        # Not TERM: strace was seen to wait for ever for threads that its own SIGKILL had ended, and we with it.
        tracer.kill()
        tracer.wait(timeout=20)


def _ended(pid: int) -> bool:
    """Also while it is still traced, when nobody but the tracer may reap it."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"


def _traced(pid: int) -> bool:
    return "TracerPid:\t0" not in Path(f"/proc/{pid}/status").read_text()
