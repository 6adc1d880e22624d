"""What a virtual machine may use of the host: its memory and a stated overhead, its processors, its threads."""

from __future__ import annotations

import base64
import contextlib
import os
import re
from pathlib import Path

import pytest
from support import wait_for
from vm_images import BOOT_S, MEMORY_KIB, Guest
from vm_machine import UUID, Machine

from pillar.hypervisors import HypervisorError, Phase, _cgroup, _machine, _qmp
from pillar.hypervisors.qemu import QemuHypervisor

pytest_plugins = ("vm_fixtures",)


needs_groups = pytest.mark.skipif(
    os.geteuid() != 0 or "memory" not in _cgroup.controllers(), reason="limits need root and a memory controller"
)


def limits(machine: Machine) -> dict[str, str]:
    """What the kernel holds the running machine to."""
    return {
        path.name: path.read_text().strip()
        for directory in _cgroup.directories(machine.group)
        for path in directory.iterdir()
        if path.name
        in (
            "memory.limit_in_bytes",
            "memory.memsw.limit_in_bytes",
            "memory.max",
            "cpu.cfs_quota_us",
            "cpu.max",
            "pids.max",
        )
    }


@needs_groups
def test_qemu_is_held_to_the_guests_memory_and_a_stated_overhead(machine: Machine) -> None:
    pid = machine.run(machine.booting("up", Memory=16 * 1024, VCpus=1))
    assert _cgroup.members(machine.group) == {pid}
    found = limits(machine)
    most = (16 << 20) + (16 << 20) * 25 // 1000 + (370 + 3 + 256 + 64 << 20)  # as docs/domains.md says
    for name, text in found.items():
        if name.startswith("memory"):
            assert most - 4096 < int(text) <= most, name  # whole pages
    assert found["pids.max"] == "1024"
    if (os.cpu_count() or 1) > 1:
        assert "100000" in (found.get("cpu.cfs_quota_us") or found["cpu.max"])
    machine.backend.stop(UUID, 0)
    assert _cgroup.directories(machine.group) == []


def test_with_kvm_nothing_is_kept_for_translated_code() -> None:
    from pillar.types.domainmgr import DomainConfig

    config = DomainConfig(Memory=1 << 20, VCpus=2)
    assert _machine.overhead_bytes(config, kvm=True) == (370 + 6 << 20) + (1 << 30) * 25 // 1000
    assert _machine.overhead_bytes(config, kvm=False) - _machine.overhead_bytes(config, kvm=True) == 320 << 20


@needs_groups
def test_one_that_needs_more_is_ended_and_a_later_domainmgr_says_why(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(_machine, "overhead_bytes", lambda config, kvm: 160 << 20)  # sooner full than the real one
    machine.run(machine.booting("up"))
    home = machine.where.persist / "qemu" / UUID
    grow = {"qom-type": "memory-backend-ram", "id": "more", "size": 2 << 30, "prealloc": True}
    with contextlib.suppress(HypervisorError):  # it hangs up: it is dead
        _qmp.execute(home, "object-add", grow, timeout_s=60)
    wait_for(lambda: machine.phase() is Phase.GONE, "its end", 60)
    later = QemuHypervisor(machine.where)
    for backend in (machine.backend, later):
        assert backend.status(UUID).exit == "out of memory: the kernel ended QEMU at its memory limit"
    assert later.adopt() == {UUID}
    later.stop(UUID, 0)
    assert _cgroup.directories(machine.group) == []


@needs_groups
def test_a_group_of_which_nothing_else_is_left_is_found_and_removed(machine: Machine) -> None:
    _cgroup.make(machine.group, _cgroup.Limits(memory_bytes=1 << 30))
    assert machine.backend.adopt() == {UUID}
    machine.backend.cleanup(UUID)
    assert machine.backend.adopt() == set()


def test_without_control_groups_it_runs_unlimited(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_cgroup, "_hierarchies", list)
    machine.run(machine.booting("up"))
    machine.says("up")
    machine.backend.stop(UUID, 0)


VERSION_2 = """#!/bin/sh
mkdir -p /groups && mount -t cgroup2 none /groups && cd /groups || exit 1
echo "+memory +cpu +pids" >cgroup.subtree_control
mkdir own
{writes}
for file in {files}; do echo "HAS $file=$(cat own/$file)."; done
sh -c 'echo 0 >own/cgroup.procs; exec awk "BEGIN {{ s = \\"x\\"; while (1) s = s s }}"'
echo "COUNTED $(grep ^oom_kill own/memory.events)."
"""


@pytest.mark.timeout(400)
def test_a_kernel_with_version_2_takes_the_same_limits_and_counts_what_it_ended(machine: Machine, guest: Guest) -> None:
    """This machine's kernel may have version 1 only, a guest's has both: it writes what `_cgroup` would write."""
    asked = _cgroup.Limits(memory_bytes=24 << 20, cpus=1, processes=64)
    files = {file: text for group in _cgroup.settings(2, asked).values() for file, text in group.items()}
    writes = "\n".join(f"[ ! -e own/{file} ] || echo '{text}' >own/{file}" for file, text in files.items())
    script = VERSION_2.format(writes=writes, files=" ".join(files))
    machine.run(
        machine.domain(
            Memory=MEMORY_KIB,
            Kernel=str(guest.kernel),
            Ramdisk=str(guest.ramdisk),
            ExtraArgs="quiet cgroup_no_v1=all",
            CloudInitUserData=base64.b64encode(script.encode()).decode(),
        )
    )
    wait_for(lambda: "COUNTED" in machine.output() or None, "the guest's count", BOOT_S)
    wait_for(lambda: re.search(r"COUNTED.*\.", machine.output()), "the whole line", 60)
    for file, text in files.items():
        assert f"HAS {file}={text}." in machine.output() or file == "memory.swap.max", machine.output()
    assert re.search(r"COUNTED oom_kill [1-9]", machine.output()), machine.output()


def test_version_2_switches_on_what_its_groups_need(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of files only: a mount of version 2 that has controllers cannot be had beside version 1."""
    (tmp_path / "cgroup.controllers").write_text("cpuset cpu memory\n")
    (tmp_path / "cgroup.subtree_control").write_text("cpu memory\n")
    monkeypatch.setattr(_cgroup, "_hierarchies", lambda: [(tmp_path, set())])
    assert _cgroup.make("own", _cgroup.Limits(memory_bytes=4096, cpus=2, processes=9)) == [tmp_path / "own"]
    made = {path.name: path.read_text() for path in (tmp_path / "own").iterdir()}
    assert made == {"memory.max": "4096", "cpu.max": "200000 100000"}
