"""The `qemu` backend with real QEMUs; the guests are boot sectors, so each is up in a fraction of a second."""

from __future__ import annotations

import contextlib
import json
import os
import random
import select
import shutil
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest
from support import wait_for
from vm_images import ECHO, MEMORY_KIB, PANIC, RESET, SWITCH_OFF, boot_disk, qemu_img
from vm_machine import UUID, Machine

from pillar.hypervisors import CannotRun, DomainSpec, HypervisorError, Hypervisors, Phase, _kvm, _members, _qmp, connect
from pillar.hypervisors.qemu import QemuHypervisor

pytest_plugins = ("vm_fixtures",)


def test_a_vm_runs_prints_into_its_log_and_is_quit_when_it_ignores_the_power_button(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    for limit in ("ASK_S", "QUIT_S"):
        monkeypatch.setattr(f"pillar.hypervisors.qemu.{limit}", 60.0)
    pid = machine.run(machine.booting("up"))
    info = machine.backend.status(UUID)
    assert (info.phase, info.domain_id) == (Phase.RUNNING, pid)
    machine.says("up")
    machine.backend.stop(UUID, 0.3)
    assert machine.backend.status(UUID).exit == "it was ended by a command"
    assert not Path(f"/proc/{pid}").exists()
    machine.backend.cleanup(UUID)
    assert machine.kept() == set()


def test_a_qemu_that_hangs_is_killed(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    pid = machine.run(machine.booting("up"))
    monkeypatch.setattr("pillar.hypervisors.qemu.ASK_S", 0.2)
    os.kill(pid, signal.SIGSTOP)
    machine.backend.stop(UUID, 5)
    assert machine.phase() is Phase.GONE
    assert machine.backend.status(UUID).exit == "it was ended by SIGKILL"


@pytest.mark.parametrize(
    ("then", "text"),
    [(SWITCH_OFF, "the guest switched itself off"), (PANIC, "the guest's kernel panicked")],
    ids=["off", "panic"],
)
def test_how_a_guest_ended_is_known_even_to_a_later_domainmgr(machine: Machine, then: bytes, text: str) -> None:
    machine.run(machine.booting("up", then))
    wait_for(lambda: machine.phase() is Phase.GONE, "the end of the guest", 60)
    assert machine.backend.status(UUID).exit == text
    assert QemuHypervisor(machine.where).status(UUID).exit == text


def test_a_guest_that_ended_before_anybody_asked_was_started_all_the_same(
    machine: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    def asks_too_late(home: Path, wait_s: float) -> bool:
        wait_for(lambda: _qmp.ending(home), "the end of the guest", 60)
        return obeys(home, wait_s)

    obeys = _qmp.obeys
    monkeypatch.setattr(_qmp, "obeys", asks_too_late)
    machine.run(machine.booting("up", SWITCH_OFF))
    wait_for(lambda: machine.phase() is Phase.GONE, "QEMU's end", 60)
    assert machine.backend.status(UUID).exit == "the guest switched itself off"


def test_a_guest_that_reboots_stays_the_same_domain(machine: Machine) -> None:
    pid = machine.run(machine.booting("up ", RESET))
    machine.says("up up up")
    info = machine.backend.status(UUID)
    assert (info.phase, info.domain_id) == (Phase.RUNNING, pid)


def test_the_console_is_a_socket_with_both_directions(machine: Machine) -> None:
    assert machine.backend.console(UUID) is None
    machine.run(machine.booting("up", ECHO))
    machine.says("up")
    socket = machine.backend.console(UUID)
    assert socket is not None
    with connect(socket, 60) as connection:
        connection.sendall(b"hello")
        heard = b""
        while b"hello" not in heard:
            heard += connection.recv(100)
    machine.says("hello")  # in the log as well, whoever listens
    machine.backend.stop(UUID, 0)
    assert machine.backend.console(UUID) is None


def test_a_second_start_is_refused_and_another_domainmgr_adopts_the_first(machine: Machine) -> None:
    spec = machine.booting("up")
    pid = machine.run(spec)
    other = QemuHypervisor(machine.where)
    assert other.adopt() == {UUID}
    assert other.status(UUID).domain_id == pid
    with pytest.raises(HypervisorError, match=f"runs already as pid {pid}"):
        other.start(spec)
    watched = other.watch(UUID)
    assert watched is not None
    assert not select.select([watched], [], [], 0)[0]
    os.kill(pid, signal.SIGKILL)
    assert select.select([watched], [], [], 60)[0]
    os.close(watched)
    assert other.status(UUID).exit == "it was ended by SIGKILL"  # it saw it alive
    assert "SIGKILL" in machine.backend.status(UUID).exit
    assert other.watch(UUID) is None


KILLED_STARTER = """
import os, sys
from pathlib import Path
from pillar.hypervisors import DomainSpec
from pillar.hypervisors.qemu import QemuHypervisor
from pillar.locations import Locations
from pillar.pubsub import decode
from pillar.types.domainmgr import DomainConfig, DiskStatus
backend = QemuHypervisor(Locations(Path(sys.argv[1])))
spec = DomainSpec(sys.argv[2], decode(DomainConfig, sys.argv[3].encode()), (decode(DiskStatus, sys.argv[4].encode()),))
print("ready", flush=True)
sys.stdin.readline()
backend.prepare(spec)
backend.start(spec)
print("started", flush=True)
sys.stdin.readline()
"""


@pytest.mark.parametrize("round_number", range(4))
def test_whenever_the_starter_is_killed_there_is_one_vm_or_none(machine: Machine, round_number: int) -> None:
    from pillar.pubsub import encode

    seed = random.randrange(1 << 30)
    print(f"seed {seed}")
    spec = machine.booting("up")
    arguments = [str(machine.where.root), UUID, encode(spec.config).decode(), encode(spec.disks[0]).decode()]
    starter = subprocess.Popen(
        [sys.executable, "-c", KILLED_STARTER, *arguments],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip
    assert starter.stdin is not None
    assert starter.stdout is not None
    assert starter.stdout.readline() == "ready\n"
    starter.stdin.write("go\n")
    starter.stdin.flush()
    select.select([starter.stdout], [], [], random.Random(seed).uniform(0, 0.35))
    starter.kill()
    starter.wait()
    starter.stdin.close()
    starter.stdout.close()
    wait_for(lambda: machine.phase() is not Phase.STARTING, "the launcher to end or go on", 60)
    before = machine.backend.status(UUID)
    if before.phase is Phase.RUNNING:
        with pytest.raises(HypervisorError, match="runs already"):
            machine.backend.start(spec)
    else:
        machine.run(spec)
    lock = machine.where.persist / "qemu" / f"{UUID}.lock"
    found = _members.members(lock, None)
    for descriptor in found.values():
        os.close(descriptor)
    assert set(found) == {machine.backend.status(UUID).domain_id}
    machine.backend.stop(UUID, 0)
    assert machine.phase() is Phase.GONE


def test_a_qcow2_copy_is_grown_and_the_guest_sees_its_disks_in_order(machine: Machine) -> None:
    first = machine.file("first.raw", boot_disk("up"))
    system = machine.where.images / "system.qcow2"
    qemu_img("convert", "-O", "qcow2", first, system)
    data = machine.file("data.raw", bytes(4096))
    spec = machine.domain(system, data)
    disk = spec.disks[0]
    import msgspec

    spec = DomainSpec(UUID, spec.config, (msgspec.structs.replace(disk, Maxsizebytes=8 << 20), spec.disks[1]))
    machine.run(spec)
    machine.says("up")
    blocks = _qmp.execute(machine.where.persist / "qemu" / UUID, "query-block")
    assert isinstance(blocks, list)
    sizes = {entry["inserted"]["node-name"]: entry["inserted"]["image"]["virtual-size"] for entry in blocks}
    assert sizes == {"xvda": 8 << 20, "xvdb": 4096}
    machine.backend.stop(UUID, 0)
    machine.run(spec)  # grown already: the same again
    machine.backend.stop(UUID, 0)


def test_images_that_are_not_whole_or_not_what_they_should_be_are_refused(machine: Machine) -> None:
    def refused(*paths: Path) -> str:
        with pytest.raises(CannotRun) as caught:
            machine.backend.prepare(machine.domain(*paths))
        return str(caught.value)

    images = machine.where.images
    base = machine.file("base.raw", boot_disk("up"))
    outside = images / "outside.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-b", base, "-F", "raw", outside)
    assert f"refers to another file, {base}" in refused(outside)

    elsewhere = images / "elsewhere.qcow2"
    qemu_img("create", "-q", "-f", "qcow2", "-o", f"data_file={images / 'data.raw'}", elsewhere, "1M")
    assert "keeps its data in another file" in refused(elsewhere)

    corrupt = images / "corrupt.qcow2"
    qemu_img("convert", "-O", "qcow2", base, corrupt)
    with corrupt.open("r+b") as file:
        file.seek(64 << 10)  # the refcount table
        file.write(b"\xff" * 512)
    assert "corrupt qcow2 image" in refused(corrupt)

    assert "corrupt qcow2 image" in refused(machine.file("cut.qcow2", corrupt.read_bytes()[:5000]))
    assert "should be an image of format qcow2, but it is a raw disk" in refused(
        machine.file("raw.qcow2", boot_disk("up"))
    )
    assert "should be an image of format raw, but it is a qcow2 disk" in refused(
        machine.file("qcow2.raw", corrupt.read_bytes())
    )
    assert "neither a program nor" in refused(machine.file("text.raw", b"hello, world"))
    flat = images / "flat.vmdk"
    qemu_img("convert", "-O", "vmdk", "-o", "subformat=monolithicFlat", base, flat)
    assert "another file" in refused(flat)
    assert machine.kept() == set()


def test_what_the_machine_does_not_have_is_an_error_at_once(machine: Machine) -> None:
    def refused(**config: object) -> str:
        with pytest.raises(CannotRun) as caught:
            machine.backend.prepare(machine.booting("up", **config))
        return str(caught.value)

    assert "more than this machine has" in refused(Memory=1 << 40)
    assert "Memory is 0 KiB" in refused(Memory=0)
    assert "CPUs is '4000'" in refused(CPUs="4000")
    assert "expected a list as 0-1,3" in refused(CPUs="two")
    assert "the kernel /no/kernel cannot be read" in refused(Kernel="/no/kernel")
    tree = machine.file("tree.dtb", bytes(1 << 20))  # as QEMU dumps it
    assert "a kernel would not find it; pack it" in refused(Kernel="/etc/hostname", DeviceTree=str(tree))
    assert "no kernel to go with it" in refused(Ramdisk="/etc/hostname")
    assert "not base64" in refused(CloudInitUserData="%%%")


def test_a_qemu_that_ends_at_once_says_why(machine: Machine) -> None:
    spec = machine.booting("up")
    machine.backend.prepare(spec)
    (disk,) = spec.disks
    Path(disk.ActiveFileLocation).unlink()
    with pytest.raises(HypervisorError, match=r"QEMU ended at once: .*No such file"):
        machine.backend.start(spec)
    assert machine.phase() is Phase.GONE
    machine.run(machine.booting("up"))  # and another try can be better


def test_a_domain_is_pinned_to_its_processors(machine: Machine) -> None:
    cpu = min(os.sched_getaffinity(0))
    pid = machine.run(machine.booting("up", CPUs=str(cpu)))
    assert os.sched_getaffinity(pid) == {cpu}
    for task in Path(f"/proc/{pid}/task").iterdir():
        with contextlib.suppress(ProcessLookupError):  # a thread without work ended
            assert os.sched_getaffinity(int(task.name)) == {cpu}


def test_without_qemu_the_error_names_the_package(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = machine.booting("up")
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(CannotRun, match=r"^qemu: qemu-system-\w+ is not installed: apt-get install qemu-system-\w+$"):
        Hypervisors(machine.where, "auto").select(spec)
    monkeypatch.undo()
    assert Hypervisors(machine.where, "auto").select(spec).name == "qemu"


def test_backends_are_asked_in_an_order_in_which_the_better_one_comes_first(machine: Machine) -> None:
    order = [backend.name for backend in Hypervisors(machine.where, "auto").backends]
    assert order == ["process", "xen", "qemu", "runc"]


def test_the_proof_of_kvm_boots_where_a_guest_runs_and_its_answer_is_kept(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    program = shutil.which("qemu-system-x86_64")
    assert program is not None
    monkeypatch.setattr(_kvm, "PROOF_S", 60.0)
    assert _kvm._boots(program, "tcg")  # the same boot sector and firmware, on what runs everywhere
    monkeypatch.setattr(_kvm, "DEVICE", tmp_path / "device")
    answer = tmp_path / "kvm.json"
    assert not _kvm.works(program, answer)
    assert not answer.exists()  # without a device there is nothing to prove
    (tmp_path / "device").touch()
    monkeypatch.setattr(_kvm, "_boots", lambda program: True)
    assert _kvm.works(program, answer)
    monkeypatch.setattr(_kvm, "_boots", lambda program: False)
    assert _kvm.works(program, answer)
    answer.write_text(json.dumps({"question": ["another boot"], "works": True}))
    assert not _kvm.works(program, answer)


def test_its_cards_are_taps_in_their_bridges_and_go_with_it(machine: Machine) -> None:
    if os.geteuid() != 0:
        pytest.skip("making taps needs root")
    disk = machine.file("disk.raw", boot_disk("up"))
    script = textwrap.dedent(f"""
        from pathlib import Path
        from pyroute2 import IPRoute
        from pillar.hypervisors import DomainSpec, _qmp, _vifs
        from pillar.hypervisors.qemu import QemuHypervisor
        from pillar.locations import Locations
        from pillar.types.domainmgr import DiskStatus, DomainConfig
        from pillar.types.zedrouter import VifInfo

        kernel = IPRoute()
        kernel.link("add", ifname="bn1", kind="bridge")
        where = Locations({str(machine.where.root)!r})
        backend = QemuHypervisor(where)
        left = VifInfo(Vif="nbu9x9")
        _vifs.make_tap(left, _vifs.Owner(where.root, "somebody who is no more"))
        vifs = (VifInfo(Bridge="bn1", Vif="nbu1x1", Mac="02:16:3e:00:00:03"), VifInfo(Vif="nbu1x2"))
        config = DomainConfig(Memory={MEMORY_KIB}, VifList=vifs)
        disk = DiskStatus(Format="raw", Vdev="xvda", ActiveFileLocation={str(disk)!r})
        spec = DomainSpec({UUID!r}, config, (disk,))
        backend.prepare(spec)
        backend.start(spec)
        try:
            assert set(_vifs.owned(where.root)) == {{"nbu1x1", "nbu1x2"}}
            (tap,) = kernel.get_links(*kernel.link_lookup(ifname="nbu1x1"))
            assert tap.get_attr("IFLA_MASTER") == kernel.link_lookup(ifname="bn1")[0]
            assert tap.get_attr("IFLA_CARRIER") == 1  # QEMU has it open
            cards = _qmp.execute(where.persist / "qemu" / {UUID!r}, "query-rx-filter")
            assert cards[-1]["main-mac"] == "02:16:3e:00:00:03" or cards[0]["main-mac"] == "02:16:3e:00:00:03"
        finally:
            backend.stop({UUID!r}, 0)
        assert _vifs.owned(where.root) == {{}}
    """)
    done = subprocess.run(
        ["unshare", "--net", sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=100
    )
    assert done.returncode == 0, done.stderr or done.stdout
