"""The start of a virtual machine, broken off: domainmgr killed before each of its calls, QEMU killed before it answers.

A sample of the calls; all of them with --full. In a network namespace of its own: the machine has a tap.
"""

from __future__ import annotations

import os
import random
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from domainmgr_device import UUID, Device, but, eco
from netlab import Namespace, needs_netlab
from servers import needs
from support import wait_for
from vm_images import boot_disk, seed_kvm_answer

from pillar.crashpoints import KILL, STOP, Control, Fault, Plan, Point, points
from pillar.types.domainmgr import DomainConfig, DomainStatus
from pillar.types.enums import SwState
from pillar.types.zedrouter import VifInfo

pytest_plugins = ("domainmgr_fixtures",)

SAMPLE = 3
PATIENCE_S = 60.0
# How often these come is chance: what the log and the touch file tell, and the questions whether QEMU is there yet.
IGNORED = (("*", "/persist/log/*"), ("*", "/run/*.touch"), ("connect", "unix"))


@pytest.fixture
def space(device: Device) -> Iterator[Namespace]:
    """A network namespace, in which the device's domainmgr is started."""
    needs_netlab()
    space = Namespace(f"plab{os.getpid()}-0-domainmgr")
    space.create()
    device.enter = space.enter
    yield space
    space.delete()


@pytest.fixture
def control(device: Device, root: Path) -> Iterator[Control]:
    """The crash points of the device's domainmgr."""
    needs("gcc", "gcc")
    with Control(root, {"domainmgr": "pillar.cmd.domainmgr"}) as control:
        device.environment = control.environment()
        yield control


@pytest.fixture
def vm(device: Device) -> DomainConfig:
    """A machine with a private disk and a tap, which is not wanted yet."""
    needs("qemu-system-x86_64", "qemu-system-x86")
    needs("qemu-img", "qemu-utils")
    seed_kvm_answer(device.where.root)
    config = eco(device.image(boot_disk("up")), ReadOnly=False)
    return but(config, Memory=16 * 1024, VCpus=1, VifList=(VifInfo(Vif="nbu1x4", Mac="02:16:3e:00:00:04"),))


def plan(device: Device, *faults: Fault, ignore: tuple[tuple[str, str], ...] = IGNORED) -> Plan:
    return Plan(device.where.root, {UUID: "<app>"}, ignore, faults)


def test_killed_before_a_call_of_a_vms_start_there_is_one_vm_in_the_end(
    device: Device, space: Namespace, control: Control, vm: DomainConfig
) -> None:
    kill_at_points(device, space, control, vm, SAMPLE)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_killed_before_any_call(device: Device, space: Namespace, control: Control, vm: DomainConfig) -> None:
    kill_at_points(device, space, control, vm, None)


def test_a_qemu_that_is_killed_before_it_answers_is_a_failed_try_and_the_next_one_runs(
    device: Device, space: Namespace, control: Control, vm: DomainConfig
) -> None:
    """Where domainmgr first asks QEMU whether it is there, it is held until QEMU is dead."""
    ready(device, control)
    control.begin(plan(device, Fault(Point("domainmgr", "connect", "unix", 1), STOP), ignore=()))
    device.want(vm)
    wait_for(lambda: control.fired() and device.domains(), "domainmgr to stop after QEMU's start", PATIENCE_S)
    for pid in (killed := device.domains()):
        os.kill(pid, signal.SIGKILL)
    assert device.manager is not None
    os.kill(device.manager.pid, signal.SIGCONT)
    status = device.until(lambda status: status.State == SwState.RUNNING, "RUNNING", seconds=PATIENCE_S)
    assert device.domains() == [status.DomainId] != killed
    assert status.LastErr == "" and status.TriedCount == 0
    assert "try 1 of 3: QEMU ended at once: " in device.where.log("domainmgr").read_text()


def kill_at_points(device: Device, space: Namespace, control: Control, vm: DomainConfig, sample: int | None) -> None:
    """Kill domainmgr before so many calls of the start, or all; each time one VM runs in the end, and goes whole."""
    found = start_points(device, control, vm)
    stopped(device, space)
    seed = random.randrange(1 << 30)
    print(f"{len(found)} points, seed {seed}")
    for point in found if sample is None else random.Random(seed).sample(found, sample):
        control.begin(plan(device, Fault(point, KILL)))
        device.want(vm)
        manager = device.manager
        assert manager is not None
        wait_for(lambda manager=manager: manager.poll() is not None or is_up(device), f"{point}", PATIENCE_S)
        assert len(device.domains()) <= 1, point
        device.kill()
        ready(device, control)
        wait_for(lambda: is_up(device) and device.domains() == [device.status().DomainId], f"one VM after {point}", 60)
        assert device.status().LastErr == "", point
        assert taps(space) == ["nbu1x4"], point
        stopped(device, space)


def ready(device: Device, control: Control) -> None:
    """Start domainmgr and wait until it has looked at everything; its calls are counted from then on."""
    control.begin(plan(device))
    device.start_ready("--stop-grace", "0")
    control.begin(plan(device))


def start_points(device: Device, control: Control, vm: DomainConfig) -> list[Point]:
    """Let it run once; by which calls domainmgr changed something on the way."""
    ready(device, control)
    device.want(vm)
    device.until(lambda status: status.State == SwState.RUNNING, "RUNNING", seconds=PATIENCE_S)
    found = points(control.calls())
    assert any(point.call == "spawn" for point in found)
    return found


def is_up(device: Device) -> bool:
    return device.status().State == SwState.RUNNING


def stopped(device: Device, space: Namespace) -> None:
    """Withdraw the machine; wait until nothing of it is left."""
    device.unwant()
    device.until(lambda status: status == DomainStatus(), "the status to go", seconds=PATIENCE_S)
    assert device.domains() == []
    assert taps(space) == []
    assert not list((device.where.persist / "qemu").glob("*.lock"))


def taps(space: Namespace) -> list[str]:
    """The vifs in the namespace."""
    return [line.split(": ")[1] for line in space.run("ip", "-o", "link").splitlines() if " nbu" in line]
