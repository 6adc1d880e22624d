"""The `process` backend with real programs, real signals and real kills of whoever started them."""

import base64
import fcntl
import json
import os
import platform
import select
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from support import kernel_tells_of_reaped
from support import wait_for as until

from pillar.crashtest.processes import lives
from pillar.hypervisors import CannotRun, DomainInfo, DomainSpec, HypervisorError, Hypervisors, Phase
from pillar.hypervisors._launched import UNKNOWN_EXIT, is_held
from pillar.hypervisors.process import ProcessHypervisor
from pillar.locations import Locations
from pillar.pubsub import encode
from pillar.types.common import UUIDandVersion
from pillar.types.domainmgr import DiskStatus, DomainConfig

UUID = "11111111-2222-4333-8444-555555555555"
SHA = "a" * 64
SLEEPER = "#!/bin/sh\necho started\nexec sleep 600\n"
DEADLINE_S = 20.0


class Machine:
    """One root with one backend, and all that a test starts in it ends with it."""

    def __init__(self, root: Path) -> None:
        self.where = Locations(root)
        self.backend = ProcessHypervisor(self.where)

    def domain(self, content: str | bytes, *, read_only: bool = True, **config: object) -> DomainSpec:
        image = self.where.root / "image"
        image.write_bytes(content.encode() if isinstance(content, str) else content)
        disk = DiskStatus(
            ImageSha256=SHA,
            ReadOnly=read_only,
            Format=str(config.pop("Format", "raw")),
            Vdev="xvda",
            FileLocation=str(image),
            ActiveFileLocation=str(image),
        )
        identity = UUIDandVersion(UUID=UUID, Version="1")
        return DomainSpec(UUID, DomainConfig(UUIDandVersion=identity, DisplayName="eco", **config), (disk,))  # type: ignore[arg-type]

    def run(self, spec: DomainSpec) -> int:
        self.backend.prepare(spec)
        return self.backend.start(spec)

    def phase(self) -> Phase:
        return self.backend.status(UUID).phase

    @property
    def lock(self) -> Path:
        return self.where.persist / "process" / f"{UUID}.lock"

    @property
    def output(self) -> str:
        path = self.where.log(UUID)
        return path.read_text() if path.exists() else ""


@pytest.fixture
def machine(tmp_path: Path) -> Iterator[Machine]:
    machine = Machine(tmp_path)
    yield machine
    machine.backend.stop(UUID, 0)


def test_a_program_runs_in_its_own_session_and_writes_its_log(machine: Machine) -> None:
    pid = machine.run(machine.domain(SLEEPER))
    assert machine.backend.status(UUID).domain_id == pid
    assert os.getsid(pid) == pid != os.getsid(0)
    until(lambda: machine.output == "started\n", "the log has what it printed")
    assert json.loads(machine.lock.read_text())["pid"] == pid
    machine.backend.stop(UUID, 5)
    assert machine.phase() is Phase.GONE
    assert not lives(pid)


def test_it_finds_its_name_its_user_data_and_its_arguments(machine: Machine) -> None:
    data = base64.b64encode(b"# settings\nGREETING=good morning\nPILLAR_ECO_NAME=forged\n").decode()
    script = (
        '#!/bin/sh\necho "$PILLAR_ECO_NAME|$PILLAR_ECO_UUID|$GREETING|$1|$2|$PWD|$(umask)"\ncat $PILLAR_ECO_USER_DATA\n'
    )
    machine.run(machine.domain(script, CloudInitUserData=data, ExtraArgs="--port '80 81'"))
    until(lambda: machine.phase() is Phase.GONE, "the script ends")
    first, *rest = machine.output.splitlines()
    work = machine.where.persist / "process" / UUID / "work"
    assert first == f"eco|{UUID}|good morning|--port|80 81|{work}|0022"
    assert rest == ["# settings", "GREETING=good morning", "PILLAR_ECO_NAME=forged"]
    assert "PYTHONPATH" not in first


def test_user_data_that_is_no_list_of_variables_is_handed_over_as_a_file_only(machine: Machine) -> None:
    data = base64.b64encode(b"#cloud-config\nhostname: x\nA=b\n").decode()
    machine.run(machine.domain('#!/bin/sh\necho "<$A>"\n', CloudInitUserData=data))
    until(lambda: machine.output == "<>\n", "nothing was taken as a variable")


def test_user_data_that_is_not_base64_is_an_error(machine: Machine) -> None:
    with pytest.raises(CannotRun, match="user data is not base64"):
        machine.backend.prepare(machine.domain(SLEEPER, CloudInitUserData="%%%"))


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"QFI\xfb" + bytes(100), "a qcow2 disk and needs the qemu backend"),
        (bytes(510) + b"\x55\xaa" + bytes(512), "a raw disk with a boot record and needs the qemu backend"),
        (bytes(257) + b"ustar" + bytes(300), "a tar archive, perhaps a container and needs the runc backend"),
        (b"", "an empty file"),
        (b"hello, world", "neither a program nor a script"),
        (b"#!/no/such/interpreter\n", "a script for /no/such/interpreter, which this machine does not have"),
        (b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00\xf3\x7f" + bytes(100), "an ELF program for machine type 32755"),
    ],
)
def test_an_image_that_cannot_run_is_refused_with_the_backend_that_could(
    machine: Machine, content: bytes, named: str
) -> None:
    spec = machine.domain(content)
    assert named in machine.backend.refuses(spec)
    with pytest.raises(CannotRun, match=r"^process: "):
        Hypervisors(machine.where, "process").select(spec)
    with pytest.raises(CannotRun):
        machine.run(spec)


def test_a_container_and_a_declared_disk_format_are_refused_whatever_the_content(machine: Machine) -> None:
    assert "runc" in machine.backend.refuses(machine.domain(SLEEPER, IsContainer=True))
    assert "qemu" in machine.backend.refuses(machine.domain(SLEEPER, Format="qcow2"))
    assert "no disk" in machine.backend.refuses(DomainSpec(UUID, machine.domain(SLEEPER).config, ()))


def test_a_broken_program_says_why_it_does_not_start_and_leaves_nothing(machine: Machine) -> None:
    number = {"x86_64": 62, "aarch64": 183}.get(platform.machine())
    if number is None:
        pytest.skip(f"no ELF machine number known for {platform.machine()}")
    broken = b"\x7fELF\x02\x01\x01" + bytes(9) + b"\x02\x00" + number.to_bytes(2, "little") + bytes(10)
    with pytest.raises(CannotRun, match=r"cannot execute .*: Exec format error"):
        machine.run(machine.domain(broken))
    assert machine.phase() is Phase.GONE
    assert machine.lock.read_text() == ""


def test_a_program_that_is_open_for_writing_for_a_moment_longer_is_waited_for(machine: Machine) -> None:
    spec = machine.domain(Path("/bin/sleep").read_bytes(), read_only=False, ExtraArgs="600")
    machine.backend.prepare(spec)
    with ThreadPoolExecutor() as pool, open(machine.where.root / "image", "ab"):
        started = pool.submit(machine.backend.start, spec)
        until(lambda: machine.lock.exists() and machine.lock.read_text(), "the launcher is about to execute it")
        assert machine.phase() is Phase.STARTING
    assert machine.backend.status(UUID) == DomainInfo(Phase.RUNNING, domain_id=started.result(timeout=DEADLINE_S))


def test_a_program_that_ignores_TERM_is_killed_after_the_grace_period_with_all_its_children(machine: Machine) -> None:
    script = "#!/bin/sh\ntrap '' TERM\nsetsid sleep 601 &\necho $!\nwhile :; do sleep 602; done\n"
    pid = machine.run(machine.domain(script))
    until(lambda: machine.output.strip(), "it started its child")
    child = int(machine.output)  # now: a shell whose child is killed before it says so too
    began = time.monotonic()
    machine.backend.stop(UUID, 0.5)
    assert time.monotonic() - began >= 0.5
    assert not lives(pid)
    assert not lives(child)


def test_a_program_has_the_grace_period_to_end_in_order(machine: Machine) -> None:
    script = "#!/bin/sh\ntrap 'sleep 0.3; echo done; exit 0' TERM\necho ready\nwhile :; do sleep 0.05; done\n"
    machine.run(machine.domain(script))
    until(lambda: machine.output == "ready\n", "the trap is set")
    machine.backend.stop(UUID, 15)
    assert machine.output.endswith("done\n")


@pytest.mark.parametrize(
    ("ending", "text"), [("exit 3", "it exited with status 3"), ("kill -9 $$", "ended by SIGKILL")]
)
def test_how_it_ended_is_known_to_who_started_it(machine: Machine, ending: str, text: str) -> None:
    machine.run(machine.domain(f"#!/bin/sh\n{ending}\n"))
    until(lambda: machine.phase() is Phase.GONE, "it ends")
    assert text in machine.backend.status(UUID).exit


@pytest.mark.parametrize(
    ("ending", "text"), [("exit 3", "it exited with status 3"), ("kill -9 $$", "it was ended by SIGKILL")]
)
@pytest.mark.parametrize("reaped", [False, True])
def test_how_it_ended_is_known_to_who_adopted_it(machine: Machine, reaped: bool, ending: str, text: str) -> None:
    go = machine.where.root / "go"
    os.mkfifo(go)
    pid = machine.run(machine.domain(f"#!/bin/sh\nread word <{go}\n{ending}\n"))
    later = ProcessHypervisor(machine.where)
    until(lambda: later.status(UUID).phase is Phase.RUNNING, "it is adopted")
    go.write_text("go\n")
    until(lambda: not lives(pid), "it ends")
    if reaped:
        assert text in machine.backend.status(UUID).exit  # its parent is told, and then /proc no longer has it
        assert not Path(f"/proc/{pid}").exists()
    known = not reaped or kernel_tells_of_reaped()
    assert later.status(UUID).exit == (text if known else UNKNOWN_EXIT)


def test_how_it_ended_is_not_known_to_who_never_saw_it_alive(machine: Machine) -> None:
    machine.run(machine.domain("#!/bin/sh\nexit 3\n"))
    until(lambda: machine.phase() is Phase.GONE, "it ends")
    assert ProcessHypervisor(machine.where).status(UUID).exit == UNKNOWN_EXIT


def test_a_second_start_is_refused_and_names_the_first(machine: Machine) -> None:
    spec = machine.domain(SLEEPER)
    pid = machine.run(spec)
    with pytest.raises(HypervisorError, match=f"runs already as pid {pid}"):
        machine.backend.start(spec)
    with pytest.raises(HypervisorError, match=f"runs already as pid {pid}"):
        ProcessHypervisor(machine.where).start(spec)  # another process would see the same
    with pytest.raises(HypervisorError, match="still running"):
        machine.backend.cleanup(UUID)
    assert lives(pid)


def test_another_domainmgr_adopts_it_and_is_told_when_it_ends(machine: Machine) -> None:
    pid = machine.run(machine.domain("#!/bin/sh\nexec sleep 600\n"))
    other = ProcessHypervisor(machine.where)
    assert other.adopt() == {UUID}
    until(lambda: other.status(UUID).phase is Phase.RUNNING, "the program runs")
    assert other.status(UUID).domain_id == pid
    watch = other.watch(UUID)
    assert watch is not None
    try:
        other.stop(UUID, 5)
        assert select.select([watch], [], [], DEADLINE_S)[0]
    finally:
        os.close(watch)
    assert other.status(UUID).exit == "it was ended by SIGTERM"
    other.cleanup(UUID)
    assert other.adopt() == set()
    assert not machine.lock.exists()


def test_a_program_that_closes_the_lock_is_still_found_and_not_started_twice(machine: Machine) -> None:
    spec = machine.domain(
        f"#!{sys.executable}\nimport os, time\nos.closerange(3, 100)\nprint(1, flush=True)\ntime.sleep(600)\n"
    )
    pid = machine.run(spec)
    until(lambda: machine.output, "it closed everything")
    other = ProcessHypervisor(machine.where)
    assert other.status(UUID).domain_id == pid
    with pytest.raises(HypervisorError, match=f"pid {pid}"):
        other.start(spec)
    other.stop(UUID, 5)
    assert not lives(pid)


@pytest.mark.parametrize("removed", ["run", "persist/process"])
def test_whatever_directory_is_removed_it_is_still_found_and_not_started_twice(machine: Machine, removed: str) -> None:
    spec = machine.domain(SLEEPER)
    pid = machine.run(spec)
    until(lambda: b"sleep" in Path(f"/proc/{pid}/cmdline").read_bytes(), "it is through with its last exec")
    shutil.rmtree(machine.where.root / removed, ignore_errors=True)
    other = ProcessHypervisor(machine.where)
    assert other.status(UUID).domain_id == pid
    assert other.adopt() == {UUID}
    other.prepare(spec)
    with pytest.raises(HypervisorError, match=f"pid {pid}"):
        other.start(spec)
    other.stop(UUID, 5)
    assert not lives(pid)
    assert other.status(UUID).phase is Phase.GONE


def test_a_stranger_that_got_the_pid_is_neither_adopted_nor_touched(machine: Machine) -> None:
    spec = machine.domain(SLEEPER)
    machine.run(spec)
    machine.backend.stop(UUID, 5)
    stranger = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        holder = json.loads(machine.lock.read_text())
        for forged in (holder | {"pid": stranger.pid}, {**_identity(stranger.pid), "boot": "another boot"}):
            machine.lock.write_text(json.dumps(forged))
            other = ProcessHypervisor(machine.where)
            assert other.status(UUID).phase is Phase.GONE
            assert other.status(UUID).rebooted == ("another boot" in forged.values())
            assert other.watch(UUID) is None
            other.stop(UUID, 0)
        assert stranger.poll() is None
        pid = machine.run(spec)  # and the domain can be started again
        assert pid != stranger.pid
        machine.backend.stop(UUID, 5)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_what_a_program_leaves_behind_is_found_and_ended(machine: Machine) -> None:
    machine.run(machine.domain("#!/bin/sh\nsetsid sleep 603 &\necho $!\n"))
    until(lambda: machine.phase() is Phase.GONE, "the main process ends")
    left = int(machine.output)
    assert lives(left)
    machine.backend.stop(UUID, 0)
    assert not lives(left)


def test_looking_whether_it_runs_leaves_the_lock_free_even_when_a_child_is_born_in_that_moment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A fork copies the descriptor that the look has open, and until it executes something a child keeps the copy."""
    lock = tmp_path / "lock"
    lock.touch()
    released, release = os.pipe()
    children = []
    flock = fcntl.flock

    def forks_when_taken(fd: int, how: int) -> None:
        flock(fd, how)
        if not children:
            child = os.fork()
            if child == 0:
                os.close(release)
                os.read(released, 1)  # until the test is over
                os._exit(0)
            children.append(child)

    monkeypatch.setattr(fcntl, "flock", forks_when_taken)
    try:
        assert not is_held(lock)
        with lock.open("r+") as start:
            flock(start, fcntl.LOCK_EX | fcntl.LOCK_NB)
            assert is_held(lock)
    finally:
        os.close(release)
        os.waitpid(children[0], 0)
        os.close(released)


def test_half_a_holder_means_that_it_is_starting(machine: Machine) -> None:
    spec = machine.domain(SLEEPER)
    pid = machine.run(spec)
    whole = machine.lock.read_text()
    machine.lock.write_text("")  # as the launcher finds it
    assert machine.phase() is Phase.STARTING
    machine.lock.write_text(whole[:10])
    assert machine.phase() is Phase.STARTING
    machine.lock.write_text(whole)
    assert machine.backend.status(UUID).domain_id == pid


STARTER = """
import sys
from pillar.hypervisors import DomainSpec
from pillar.hypervisors.process import ProcessHypervisor
from pillar.locations import Locations
from pillar.pubsub import decode
from pillar.types.domainmgr import DiskStatus, DomainConfig
root, config, disk = sys.argv[1], sys.argv[2], sys.argv[3]
backend = ProcessHypervisor(Locations(root))
spec = DomainSpec(sys.argv[4], decode(DomainConfig, config.encode()), (decode(DiskStatus, disk.encode()),))
backend.prepare(spec)
print("starting", flush=True)
backend.start(spec)
print("started", flush=True)
sys.stdin.read()
"""


@pytest.mark.parametrize("after_us", [0, 1000, 4000, 8000, 12000, 16000, 22000, 30000])
def test_whenever_the_starter_is_killed_there_is_one_domain_or_none(machine: Machine, after_us: int) -> None:
    spec = machine.domain(SLEEPER)
    texts = [encode(spec.config).decode(), encode(spec.disks[0]).decode(), UUID]
    starter = subprocess.Popen(
        [sys.executable, "-c", STARTER, str(machine.where.root), *texts], stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )
    assert starter.stdin is not None
    assert starter.stdout is not None
    with starter.stdin, starter.stdout:
        assert starter.stdout.readline() == b"starting\n"
        end = time.monotonic() + after_us / 1e6
        while time.monotonic() < end:  # a moment of the start, chosen by the parameter
            pass
        starter.kill()
        starter.wait()
    until(lambda: machine.phase() is not Phase.STARTING, "the launcher is through or dead")
    if machine.phase() is Phase.GONE:
        machine.backend.start(spec)
    pid = machine.backend.status(UUID).domain_id
    with pytest.raises(HypervisorError):
        machine.backend.start(spec)
    until(lambda: machine.output == "started\n", "exactly one program has run")
    # While it executes `sleep` its environment is empty for a moment.
    until(lambda: b"600" in Path(f"/proc/{pid}/cmdline").read_bytes(), "the program is in its last image")
    until(lambda: _carriers(machine.lock) == [pid], "it is the only process that carries the lock")


def test_a_read_only_image_is_not_changed_and_a_private_copy_runs_in_place(machine: Machine) -> None:
    spec = machine.domain(SLEEPER)
    image = Path(spec.disks[0].FileLocation)
    image.chmod(0o400)
    machine.run(spec)
    assert image.stat().st_mode & 0o777 == 0o400
    copy = machine.where.persist / "process" / UUID / SHA
    assert copy.stat().st_mode & 0o777 == 0o555
    machine.backend.stop(UUID, 5)
    pid = machine.run(machine.domain("#!/bin/sh\nexec sleep 604\n", read_only=False))
    until(lambda: b"604" in Path(f"/proc/{pid}/cmdline").read_bytes(), "the private copy runs")


def _identity(pid: int) -> dict[str, object]:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return {"pid": pid, "start_ticks": int(fields[19])}


def _carriers(lock: Path) -> list[int]:
    return [pid for pid in map(int, filter(str.isdigit, os.listdir("/proc"))) if _carries(pid, lock)]


def _carries(pid: int, lock: Path) -> bool:
    try:
        return f"PILLAR_ECO_LOCK={lock}".encode() in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    except (FileNotFoundError, ProcessLookupError, PermissionError):
        return False


def test_what_a_start_needs_is_on_the_disk_before_it_is_used(machine: Machine, tmp_path: Path) -> None:
    spec = machine.domain(SLEEPER, CloudInitUserData=base64.b64encode(b"A=b\n").decode())
    trace = tmp_path / "trace"
    texts = [encode(spec.config).decode(), encode(spec.disks[0]).decode(), UUID]
    code = STARTER.partition("backend.start")[0]
    command = ["strace", "-f", "-y", "-o", str(trace), "-e", "trace=fsync,rename,renameat,renameat2"]
    try:
        subprocess.run(
            [*command, sys.executable, "-c", code, str(machine.where.root), *texts],
            check=True,
            stdout=subprocess.DEVNULL,
            timeout=100,
        )
    except FileNotFoundError:
        pytest.skip("strace is not installed")
    home = machine.where.persist / "process" / UUID
    calls = trace.read_text().splitlines()
    for name in ("user-data", SHA):
        (renamed,) = (at for at, line in enumerate(calls) if "rename" in line and f'{home}/{name}"' in line)
        assert "fsync(" in calls[renamed - 1], f"the content of {name}"
        assert f"{home}/" in calls[renamed - 1]
        assert "fsync(" in calls[renamed + 1], f"the name of {name}"
        assert f"<{home}>" in calls[renamed + 1]


def test_signals_for_the_starter_do_not_reach_the_domain(machine: Machine) -> None:
    pid = machine.run(machine.domain(SLEEPER))
    assert os.getpgid(pid) == pid
    status = Path(f"/proc/{pid}/status").read_text()
    ignored = int(next(line for line in status.splitlines() if line.startswith("SigIgn")).split()[1], 16)
    assert not ignored & (1 << (signal.SIGPIPE - 1))
