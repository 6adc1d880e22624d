"""The `runc` backend with real containers, real signals and real kills of everybody involved."""

import base64
import contextlib
import dataclasses
import fcntl
import json
import os
import random
import re
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from containers import DEADLINE_S, POLITE, SERVICE, UUID, Machine, needs_runc
from servers import needs
from support import kernel_tells_of_reaped, wait_for

from pillar.crashpoints import KILL, Control, Fault, Plan, points
from pillar.crashtest.processes import lives
from pillar.demo import container
from pillar.hypervisors import CannotRun, DomainInfo, DomainSpec, HypervisorError, Hypervisors, Phase, _cgroup
from pillar.hypervisors._shim import __file__ as SHIM
from pillar.hypervisors.runc import RuncHypervisor
from pillar.pubsub import encode
from pillar.types.adapters import IoBundle
from pillar.types.domainmgr import DiskStatus


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    needs_runc()
    machine = Machine(tmp_path)
    yield machine
    machine.backend.stop(UUID, 0)
    machine.backend.cleanup(UUID)
    assert machine.leaves_nothing()


def test_a_container_runs_on_its_own_and_stops_when_asked(machine: Machine) -> None:
    pid = machine.run(machine.domain(POLITE))
    assert machine.look() == DomainInfo(Phase.RUNNING, domain_id=pid)
    machine.says("started")
    for kind in ("pid", "net", "mnt", "uts", "ipc", "cgroup"):
        assert os.readlink(f"/proc/{pid}/ns/{kind}") != os.readlink(f"/proc/self/ns/{kind}"), kind
    assert not [name for name in os.listdir(f"/proc/{pid}/fd") if ".lock" in os.readlink(f"/proc/{pid}/fd/{name}")]
    machine.backend.stop(UUID, 30)
    assert machine.look() == DomainInfo(Phase.GONE, exit="it exited with status 3")
    assert machine.output.endswith("asked\n")
    assert machine.leaves_nothing()
    machine.backend.cleanup(UUID)
    assert machine.backend.adopt() == set()


def test_one_that_does_not_listen_is_ended_after_the_grace(machine: Machine) -> None:
    machine.run(machine.domain(SERVICE))
    started = time.monotonic()
    machine.backend.stop(UUID, 0.3)
    assert time.monotonic() - started >= 0.3
    assert machine.look().exit == "it was ended by SIGKILL"


def test_adapters_are_not_passed_into_it(machine: Machine) -> None:
    adapters = (IoBundle(Name="left", AssignmentGroup="card", PciLong="0000:01:00.0"), IoBundle(AssignmentGroup="card"))
    with pytest.raises(CannotRun, match=r"^adapters are not passed into containers: take adapter group 'card' out of"):
        machine.backend.prepare(dataclasses.replace(machine.domain(SERVICE), adapters=adapters))


def test_the_images_own_stop_signal_asks_it(machine: Machine) -> None:
    machine.run(
        machine.domain("trap 'exit 7' USR1; echo ready; while :; do sleep 0.05; done", image={"StopSignal": "USR1"})
    )
    machine.says("ready")
    machine.backend.stop(UUID, 30)
    assert machine.look().exit == "it exited with status 7"


def test_what_the_image_says_of_itself_is_done(machine: Machine) -> None:
    passwd = container.layer({"etc/passwd": b"root:x:0:0::/root:/bin/sh\napp:x:7:8::/home/app:/bin/sh\n"})
    group = container.layer({"etc/group": b"root:x:0:\nweb:x:33:app\n"})
    spec = machine.domain(
        'echo "$1|$2|$PWD|$(id -u):$(id -g):$(id -G)|$GREETING|$HOME|$PILLAR_ECO_NAME|$PILLAR_ECO_UUID"',
        passwd,
        group,
        image={
            "Cmd": ["one", "two words"],
            "WorkingDir": "/var/app",
            "User": "app",
            "Env": ["PATH=/bin", "GREETING=good=morning", "PILLAR_ECO_NAME=forged"],
        },
    )
    machine.run(spec)
    assert machine.ended() == "it exited with status 0"
    assert machine.output.splitlines()[-1] == f"one|two words|/var/app|7:8:8 33|good=morning|/home/app|eco|{UUID}"


def test_user_data_is_there_as_environment_and_as_cloud_inits_files(machine: Machine) -> None:
    data = b"# settings\nGREETING=good morning\nPILLAR_ECO_NAME=forged\n"
    spec = machine.domain(
        'echo "$GREETING|$PILLAR_ECO_NAME"\ncat $PILLAR_ECO_USER_DATA /var/lib/cloud/seed/nocloud/meta-data',
        CloudInitUserData=base64.b64encode(data).decode(),
    )
    machine.run(spec)
    machine.ended()
    first, rest = machine.output.split("\n", 1)
    assert first == "good morning|eco"
    assert rest.startswith(data.decode())
    assert json.loads(rest[len(data) :])["instance-id"] == UUID


@pytest.mark.parametrize(
    ("image", "layers", "config", "reason"),
    [
        ({"Entrypoint": []}, (), {}, "names neither an entry point nor a command"),
        ({"Entrypoint": ["/nowhere"]}, (), {}, 'exec: "/nowhere": stat /nowhere: no such file or directory'),
        ({"User": "nobody-here"}, (), {}, "user 'nobody-here', whom its /etc/passwd does not have"),
        ({"User": "0:no-group"}, (), {}, "group 'no-group', which its /etc/group does not have"),
        ({}, (), {"CloudInitUserData": "%%%"}, "user data is not base64"),
        ({}, (), {"Memory": 1 << 40}, r"it asks for \d+ MiB of memory, this machine has"),
        ({}, (), {"CPUs": "all"}, "the CPU list 'all' is not"),
    ],
)
def test_what_can_never_run_says_so_and_leaves_nothing(
    machine: Machine, image: dict[str, Any], layers: tuple[bytes, ...], config: dict[str, Any], reason: str
) -> None:
    with pytest.raises(CannotRun, match=reason):
        machine.run(machine.domain(SERVICE, *layers, image=image, **config))
    assert machine.look().phase is Phase.GONE
    assert machine.leaves_nothing()


def test_an_image_that_cannot_be_unpacked_leaves_no_half_of_it(machine: Machine) -> None:
    with pytest.raises(CannotRun, match="leads out of the image"):
        machine.backend.prepare(machine.domain(SERVICE, container.layer({"../evil": b""})))
    assert not list((machine.data / UUID).glob("rootfs*"))


def test_images_of_the_wrong_kind_are_refused(machine: Machine) -> None:
    for content, reason in (
        (b"#!/bin/sh\n", "neither a container manifest nor an OCI archive"),
        (container.layer({"a": b""}), "has no index.json, so it is no OCI archive"),
        (b'{"schemaVersion": 2, "layers": []}', "cannot be run: a config is not described"),
    ):
        spec = machine.spec(content)
        with pytest.raises(CannotRun, match=reason):
            machine.backend.prepare(spec)
    other = container.image("x", [], {"Entrypoint": ["/x"]}).content.replace(b'"amd64"', b'"s390x"')
    with pytest.raises(HypervisorError, match="hashes to"):
        machine.backend.prepare(machine.spec(other))
    assert not machine.backend.refuses(machine.domain(SERVICE))


def test_memory_is_limited_and_running_out_of_it_is_told(machine: Machine) -> None:
    machine.run(machine.domain("echo start; exec awk 'BEGIN { s = \"x\"; while (1) s = s s }'", Memory=32 * 1024))
    assert re.fullmatch(r"it was ended by SIGKILL; out of memory: the kernel ended \d+ of its .*", machine.ended())


def test_limits_are_the_kernels(machine: Machine) -> None:
    machine.run(machine.domain(SERVICE, Memory=48 * 1024, VCpus=1))
    values = {
        path.name: path.read_text().split()[0]
        for directory in _cgroup.directories(machine.group)
        for path in directory.iterdir()
        if path.name in ("memory.limit_in_bytes", "memory.max", "cpu.cfs_quota_us", "cpu.max", "pids.max")
    }
    assert {int(text) for name, text in values.items() if name.startswith("memory")} == {48 << 20}
    assert {int(text) for name, text in values.items() if name.startswith("cpu")} == {100_000}
    assert values["pids.max"] == "4096"


def test_a_read_only_drive_is_a_read_only_root_and_unpacked_once(machine: Machine) -> None:
    spec = machine.domain("echo x >/file || echo refused", ReadOnly=True)
    machine.run(spec)
    machine.ended()
    assert machine.output.endswith("refused\n")
    tree = (machine.data / UUID / "rootfs").stat().st_ino
    machine.backend.stop(UUID, 0)
    machine.backend.prepare(spec)
    assert (machine.data / UUID / "rootfs").stat().st_ino == tree


@pytest.mark.parametrize(("preserve", "counted"), [(False, ["1", "1"]), (True, ["1", "2"])])
def test_a_writable_root_is_kept_when_it_is_to_be_preserved(
    machine: Machine, preserve: bool, counted: list[str]
) -> None:
    spec = machine.domain("echo x >>/count; awk 'END { print NR }' /count", Preserve=preserve)
    for _ in range(2):
        machine.run(spec)
        machine.ended()
        machine.backend.stop(UUID, 0)
    assert machine.output.split() == counted


def test_further_drives_are_mounted_out_of_the_hosts_sight(machine: Machine) -> None:
    image, plain = machine.where.root / "data.img", machine.where.root / "plain.img"
    with image.open("wb") as file:
        file.truncate(4 << 20)
    subprocess.run([needs("mkfs.ext4", "e2fsprogs"), "-q", image], check=True)
    plain.write_text("as it is\n")
    if not Path("/dev/loop-control").exists():
        pytest.skip("this machine has no loop devices")
    disks = [
        DiskStatus(ImageSha256="b" * 64, Format="raw", Vdev=vdev, ActiveFileLocation=str(path), ReadOnly=read_only)
        for vdev, path, read_only in (("xvdb", image, False), ("xvdc", plain, True))
    ]
    spec = machine.domain(
        "echo kept >/media/xvdb/note; cat /media/xvdb/note /media/xvdc.raw; echo x >/media/xvdc.raw; exec sleep 99999"
    )
    machine.run(DomainSpec(UUID, spec.config, (*spec.disks, *disks)))
    machine.says("kept\nas it is\n")
    machine.says("Read-only file system")
    assert str(machine.data) not in Path("/proc/self/mountinfo").read_text()
    machine.backend.stop(UUID, 0)
    wait_for(lambda: not _loops(image), "the loop device to be free", DEADLINE_S)
    shown = subprocess.run(["debugfs", "-R", "cat /note", image], capture_output=True, text=True, check=True).stdout
    assert shown == "kept\n"


def _loops(image: Path) -> str:
    return subprocess.run(["losetup", "-j", image], capture_output=True, text=True, check=True).stdout


def test_a_second_start_is_refused(machine: Machine) -> None:
    spec = machine.domain(SERVICE)
    pid = machine.run(spec)
    with pytest.raises(HypervisorError, match="it runs already"):
        machine.backend.start(spec)
    with pytest.raises(HypervisorError, match="still running"):
        machine.backend.cleanup(UUID)
    assert machine.containers() == [pid]


def test_its_first_process_killed_by_somebody_is_told_and_seen_at_once(machine: Machine) -> None:
    pid = machine.run(machine.domain(SERVICE))
    watch = machine.backend.watch(UUID)
    assert watch is not None
    os.kill(pid, signal.SIGKILL)
    assert select.select([watch], [], [], DEADLINE_S)[0]
    os.close(watch)
    assert machine.look() == DomainInfo(Phase.GONE, exit="it was ended by SIGKILL")
    assert machine.backend.watch(UUID) is None


def test_a_later_domainmgr_knows_how_it_ended(machine: Machine) -> None:
    machine.run(machine.domain(POLITE))
    machine.says("started")
    later = RuncHypervisor(machine.where)
    assert later.adopt() == {UUID}
    os.kill(later.status(UUID).domain_id, signal.SIGTERM)
    wait_for(lambda: later.status(UUID).phase is Phase.GONE, "its end", DEADLINE_S)
    assert later.status(UUID).exit == "it exited with status 3"


def test_a_container_outlives_the_process_that_watches_it(machine: Machine) -> None:
    spec = machine.domain(SERVICE)
    pid = machine.run(spec)
    os.kill(machine.parent, signal.SIGKILL)
    later = RuncHypervisor(machine.where)
    wait_for(lambda: not lives(machine.parent), "the parent's end", DEADLINE_S)
    assert later.status(UUID) == DomainInfo(Phase.RUNNING, domain_id=pid)
    with pytest.raises(HypervisorError, match="it runs already as process"):
        later.start(spec)
    watch = later.watch(UUID)
    assert watch is not None
    os.kill(pid, signal.SIGKILL)
    assert select.select([watch], [], [], DEADLINE_S)[0]
    os.close(watch)
    assert later.status(UUID).exit == "it was ended by SIGKILL" or not kernel_tells_of_reaped()
    later.stop(UUID, 0)
    assert machine.leaves_nothing()


def test_a_frozen_container_can_be_stopped(machine: Machine) -> None:
    machine.run(machine.domain(SERVICE))
    runc = [needs("runc", "runc"), "--root", machine.data / "state"]
    subprocess.run([*runc, "pause", UUID], check=True)
    machine.backend.stop(UUID, 0)
    assert machine.look().phase is Phase.GONE


def test_a_stranger_with_the_recorded_pid_is_left_alone(machine: Machine) -> None:
    spec = machine.domain(SERVICE)
    machine.run(spec)
    machine.backend.stop(UUID, 0)
    (machine.data / f"{UUID}.exit").unlink()
    stranger = subprocess.Popen(["sleep", "1000"])
    try:
        lock = machine.data / f"{UUID}.lock"
        fields = json.loads(lock.read_text())
        fields["pid"] = fields["init"]["pid"] = stranger.pid
        lock.write_text(json.dumps(fields))
        assert machine.look().phase is Phase.GONE
        machine.backend.stop(UUID, 0)
        machine.run(spec)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_container_of_another_root_with_the_same_name_is_left_alone(machine: Machine, tmp_path: Path) -> None:
    other = Machine(tmp_path / "other")
    other.where.root.mkdir()
    pid = other.run(other.domain(SERVICE))
    try:
        assert machine.backend.adopt() == set()
        machine.run(machine.domain(SERVICE))
        machine.backend.stop(UUID, 0)
        machine.backend.cleanup(UUID)
        assert other.look() == DomainInfo(Phase.RUNNING, domain_id=pid)
    finally:
        other.backend.stop(UUID, 0)
        other.backend.cleanup(UUID)


def test_left_overs_of_which_only_the_control_group_is_known_are_found_and_swept(machine: Machine) -> None:
    pid = machine.run(machine.domain(SERVICE))
    os.kill(machine.parent, signal.SIGKILL)
    shutil.rmtree(machine.data)
    assert machine.backend.adopt() == {UUID}
    machine.backend.stop(UUID, 0)
    assert not lives(pid)
    assert machine.leaves_nothing()


def test_a_container_that_died_with_its_parent_can_be_started_again(machine: Machine) -> None:
    """Nobody was left to have runc forget it."""
    spec = machine.domain(SERVICE)
    pid = machine.run(spec)
    for victim in (machine.parent, pid):
        os.kill(victim, signal.SIGKILL)
    machine.ended()
    machine.backend.start(spec)
    assert machine.look().phase is Phase.RUNNING


def test_a_container_that_died_with_its_parent_is_removed_whole(machine: Machine) -> None:
    pid = machine.run(machine.domain(SERVICE))
    for victim in (machine.parent, pid):
        os.kill(victim, signal.SIGKILL)
    machine.ended()
    machine.backend.cleanup(UUID)
    assert machine.leaves_nothing()


def test_a_start_is_refused_while_somebody_else_begins_one(machine: Machine) -> None:
    spec = machine.domain(SERVICE)
    machine.backend.prepare(spec)
    (machine.data / "state").mkdir(exist_ok=True)
    with (machine.data / f"{UUID}.lock").open("a") as other:
        fcntl.flock(other, fcntl.LOCK_EX)
        with pytest.raises(HypervisorError, match="it runs already, or is being started"):
            machine.backend.start(spec)


def test_a_start_whose_parent_process_is_killed_fails_and_leaves_nothing(
    machine: Machine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    runc = shutil.which("runc")
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin/runc"
    script.write_text(f'#!/bin/sh\n{runc} "$@" || exit\ncase "$*" in *" create "*) kill -9 $PPID;; esac\n')
    script.chmod(0o700)
    monkeypatch.setenv("PATH", f"{script.parent}:{os.environ['PATH']}")
    with pytest.raises(HypervisorError):
        machine.run(machine.domain(SERVICE))
    assert machine.leaves_nothing()


STARTER = """
import sys
from pathlib import Path
from pillar.hypervisors import DomainSpec
from pillar.hypervisors._shim import __file__ as SHIM
from pillar.hypervisors.runc import RuncHypervisor
from pillar.locations import Locations
from pillar.pubsub import decode
from pillar.types.domainmgr import DiskStatus, DomainConfig

root, uuid = Path(sys.argv[1]), sys.argv[2]
config = decode(DomainConfig, (root / "config.json").read_bytes())
disk = decode(DiskStatus, (root / "disk.json").read_bytes())
backend = RuncHypervisor(Locations(root))
spec = DomainSpec(uuid, config, (disk,))
(root / "begun").touch()
backend.stop(uuid, 0)
backend.prepare(spec)
backend.start(spec)
"""


@pytest.fixture
def starter(machine: Machine) -> list[str]:
    """The command of a process that does what domainmgr does to run a domain, and ends."""
    spec = machine.domain(SERVICE)
    (machine.where.root / "config.json").write_bytes(encode(spec.config))
    (machine.where.root / "disk.json").write_bytes(encode(spec.disks[0]))
    return [sys.executable, "-c", STARTER, str(machine.where.root), UUID]


@pytest.mark.timeout(400)  # a dozen starts, each of a second on a machine that does nothing else
def test_killed_at_any_moment_of_a_start_there_is_one_container_or_none(
    machine: Machine, starter: list[str], request: pytest.FixtureRequest
) -> None:
    """Domainmgr, the container's parent or runc is killed at some moment; the next start gives exactly one."""
    needs("runc", "runc")
    dice = random.Random(seed := random.randrange(1 << 30))
    print("seed", seed)
    for _ in range(40 if request.config.getoption("--full") else 5):
        (machine.where.root / "begun").unlink(missing_ok=True)  # of the start before
        process = subprocess.Popen(starter)
        victim = dice.choice(["domainmgr", "parent", "runc", "domainmgr and parent"])
        _kill_after(machine, process, victim, dice.uniform(0, 0.35))
        process.wait()
        wait_for(lambda: machine.look().phase is not Phase.STARTING, "the start to be over", DEADLINE_S)
        info = machine.look()
        if info.phase is Phase.RUNNING:
            assert machine.containers() == [info.domain_id]
        done = subprocess.run(starter, capture_output=True, text=True, check=False)
        assert done.returncode == 0, f"{victim}: {done.stderr}"
        assert machine.look().phase is Phase.RUNNING, victim
        assert machine.containers() == [machine.look().domain_id], victim
        machine.backend.stop(UUID, 0)
        assert machine.leaves_nothing(), victim


def _kill_after(machine: Machine, process: "subprocess.Popen[bytes]", victim: str, delay_s: float) -> None:
    """Once the start has begun, wait a moment of this length, then kill."""
    begun = machine.where.root / "begun"
    wait_for(begun.exists, "the start to begin", DEADLINE_S)
    time.sleep(delay_s)  # a different moment each time, which is the point
    if "domainmgr" in victim:
        process.kill()
    if "parent" in victim:
        _kill_those_with(b"_shim.py", machine)
    if victim == "runc":
        _kill_those_with(b"runc\0--root", machine)


def _kill_those_with(words: bytes, machine: Machine) -> None:
    """Of this root only: its path is in the command."""
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                line = (entry / "cmdline").read_bytes()
                if words in line and bytes(machine.where.root) in line and int(entry.name) != os.getpid():
                    os.kill(int(entry.name), signal.SIGKILL)


CRASHING = """
import subprocess
ours = {name: os.environ[name] for name in ("LD_PRELOAD", "PILLAR_CRASHPOINTS")}

class Popen(subprocess.Popen):  # the parent gets a clean environment, and in it what the crash points need
    def __init__(self, *words, env=None, **options):
        super().__init__(*words, env=(env or dict(os.environ)) | ours, **options)

subprocess.Popen = Popen
"""


@pytest.mark.timeout(400)  # a dozen starts, each of a second on a machine that does nothing else
def test_killed_at_any_call_of_a_start_there_is_one_container_or_none(
    machine: Machine, starter: list[str], root: Path, request: pytest.FixtureRequest
) -> None:
    """Each call by which domainmgr or the container's parent changes something, a sample of them in the suite."""
    needs("gcc", "gcc")
    program = machine.where.root / "starter.py"
    program.write_text("import os\n" + CRASHING + STARTER)
    command = [sys.executable, str(program), *starter[3:]]
    with Control(root, {"starter": str(program), "parent": SHIM}) as control:

        def start() -> int:
            return subprocess.run(command, env=os.environ | control.environment(), check=False).returncode

        labels = {UUID: "<app>"}
        control.begin(Plan(machine.where.root, labels=labels))
        assert start() == 0
        found = [point for point in points(control.calls()) if point.call not in ("look", "enter", "list", "unlink")]
        machine.backend.stop(UUID, 0)
        assert {point.agent for point in found} == {"starter", "parent"}
        seed = random.randrange(1 << 30)
        print("seed", seed)
        chosen = found if request.config.getoption("--full") else random.Random(seed).sample(found, 5)
        for point in chosen:
            machine.backend.cleanup(UUID)
            control.begin(Plan(machine.where.root, labels=labels, faults=(Fault(point, KILL),)))
            start()
            wait_for(lambda: machine.look().phase is not Phase.STARTING, f"the end of {point}", DEADLINE_S)
            info = machine.look()
            assert machine.containers() == [info.domain_id] or info.phase is Phase.GONE, point
            control.begin(Plan(machine.where.root, labels=labels))
            assert start() == 0, point
            assert machine.containers() == [machine.look().domain_id], point
            machine.backend.stop(UUID, 0)
            assert machine.leaves_nothing(), point


VERSION_2 = """
umount -l /sys/fs/cgroup 2>/dev/null
mount -t cgroup2 none /sys/fs/cgroup && exec "$@"
"""
LIFE = """
from pillar.hypervisors import _cgroup
group = _cgroup.prefix(root) + uuid
pid = backend.status(uuid).domain_id
places = [str(path) for path in _cgroup.directories(group)]
print(_cgroup.members(group) == {pid}, places == ["/sys/fs/cgroup/" + group])
os.kill(backend._holder(uuid).shim.pid, 9)
backend.stop(uuid, 0)
print(backend.status(uuid).phase.value, _cgroup.directories(group))
"""


def test_with_control_groups_of_version_2_only(machine: Machine, starter: list[str]) -> None:
    """What this kernel's version 2 can limit depends on what version 1 took; finding, killing and removing does not."""
    command = ["unshare", "--mount", "sh", "-c", VERSION_2, "sh", sys.executable, "-c", "import os\n" + STARTER + LIFE]
    done = subprocess.run([*command, *starter[3:]], capture_output=True, text=True, check=False, timeout=DEADLINE_S)
    assert done.stdout.splitlines() == ["True True", "gone []"], done.stdout + done.stderr


def test_auto_gives_a_container_to_runc_and_a_program_to_process(machine: Machine) -> None:
    backends = Hypervisors(machine.where, "auto")
    assert backends.select(machine.domain(SERVICE)).name == "runc"


def test_a_machine_without_runc_says_what_to_install(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    spec = machine.domain(SERVICE)
    monkeypatch.setattr("pillar.hypervisors.runc._runc", lambda: None)
    with pytest.raises(CannotRun, match=r"apt-get install runc"):
        machine.backend.prepare(spec)
