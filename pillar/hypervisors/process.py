"""The `process` backend: the ECO's first disk is a program, run in its own session on the host.

No isolation: the program has domainmgr's rights and the host's network. Good for trying things out and for trusted
services.

    <root>/persist/process/<uuid>.lock          held (flock) by the domain itself, which inherits the descriptor; says
                                                {"pid", "start_ticks", "boot"} of its main process. Not in /run: it
                                                must stay as long as the domain, even if somebody empties /run
    <root>/persist/process/<uuid>/work          working directory and HOME; kept over restarts of the ECO
    <root>/persist/process/<uuid>/<sha>         executable copy of a read-only image (0555): a verified file is not
                                                executable and belongs to the verifier
    <root>/persist/log/<uuid>.log               what it prints; domainmgr bounds it

A start claims the lock, empties the file, and spawns `_launch.py`, which writes itself into the file and becomes the
program. So at any instruction at which domainmgr may be killed, the lock tells: free - nothing runs; held and empty
- the launcher is on its way; held and filled - that process is the domain. A program that closes the descriptor is
still found by what the file says, and one whose lock file was removed by its environment. The main process is the
domain: when it ends, whatever it left behind is ended too, as in a container.

Sizes, memory limits and vifs are not enforced. The exit status is known to the domainmgr that started the domain; a
later one sees that it ended, but not how. What the program finds in its environment: _environment.
"""

import errno
import fcntl
import json
import os
import shutil
import signal
import subprocess
import sys
import threading
from contextlib import suppress
from pathlib import Path

from pillar.bootid import boot_id
from pillar.controller.files import replace_file, sweep_staged
from pillar.hypervisors import (
    CannotRun,
    DomainInfo,
    DomainSpec,
    HypervisorError,
    Phase,
    _environment,
    _image,
    _members,
    _proc,
    register,
)
from pillar.hypervisors._launch import __file__ as LAUNCHER
from pillar.hypervisors._proc import Identity
from pillar.locations import Locations
from pillar.transports.partfile import sync_directory
from pillar.types.domainmgr import DiskStatus

DISK_FORMATS = ("qcow", "qcow2", "vhd", "vmdk", "ova", "vhdx")
USER_DATA = "user-data"
UNKNOWN_EXIT = "how it ended is not known: it was started by an earlier domainmgr"
# What exec says about the file and not about the moment: another try gives the same answer.
LASTING_ERRORS = {errno.ENOEXEC, errno.ENOENT, errno.EACCES, errno.ELOOP, errno.ENOTDIR, errno.EINVAL, errno.ELIBBAD}


class ProcessHypervisor:
    """Runs programs. See the module's docstring; the methods are those of `Hypervisor`."""

    name = "process"

    def __init__(self, where: Locations) -> None:
        self._data = where.persist / "process"
        self._where = where
        self._children: dict[str, subprocess.Popen[bytes]] = {}  # started by us: their exit status is ours to read
        self._ended: dict[str, str] = {}  # how the last one of ours ended
        self._guard = threading.Lock()  # of the two above: workers and the main loop both look

    def refuses(self, domain: DomainSpec) -> str:
        if domain.config.IsContainer or any(disk.Format == "container" for disk in domain.disks):
            return "a container image needs the runc backend"
        if not domain.disks:
            return "there is no disk to take the program from"
        first = domain.disks[0]
        if first.Format in DISK_FORMATS:
            return f"an image of format {first.Format} needs the qemu backend"
        try:
            kind = _image.kind_of(_source(first))
        except OSError as error:
            return f"cannot read {_source(first)}: {error.strerror}"
        if kind.backend == self.name:
            return ""
        advice = f" and needs the {kind.backend} backend" if kind.backend else ""
        return f"{_source(first)} is {kind.what}{advice}"

    def prepare(self, domain: DomainSpec) -> None:
        reason = self.refuses(domain)
        if reason:
            raise CannotRun(reason)
        _environment.arguments(domain)
        data = _environment.user_data(domain)
        home = self._home(domain.uuid)
        for directory in (self._data, home, home / "work"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = home / USER_DATA
        sweep_staged(file)
        if data:
            replace_file(file, data)
        else:
            file.unlink(missing_ok=True)
        self._make_executable(domain)

    def start(self, domain: DomainSpec) -> int:
        lock = self._lock(domain.uuid)
        lock_fd = self._claim(domain.uuid, lock)
        try:
            home = self._home(domain.uuid)
            data_file = home / USER_DATA
            environment = _environment.environment(
                domain, home / "work", lock, data_file if data_file.exists() else None
            )
            return self._spawn(domain, lock_fd, environment)
        finally:
            os.close(lock_fd)  # the domain has its own copy; if it was not born, the lock is free again

    def status(self, uuid: str) -> DomainInfo:
        with self._guard:
            child = self._children.get(uuid)
            if child is not None and child.poll() is not None:
                self._ended[uuid] = _exit_text(child.returncode)
                del self._children[uuid]
            ended = self._ended.get(uuid, "")
        held = self._is_held(uuid)
        holder = self._holder(uuid)
        if holder is not None and _proc.alive(holder):
            if os.fsencode(LAUNCHER) in _proc.command_line(holder.pid):
                return DomainInfo(Phase.STARTING)
            return DomainInfo(Phase.RUNNING, domain_id=holder.pid)
        if held and holder is None:
            return DomainInfo(Phase.STARTING)
        if holder is not None and holder.boot != boot_id():
            return DomainInfo(Phase.GONE, exit="the machine was restarted", rebooted=True)
        return DomainInfo(Phase.GONE, exit=ended or (UNKNOWN_EXIT if holder is not None else ""))

    def watch(self, uuid: str) -> int | None:
        holder = self._holder(uuid)
        return None if holder is None else _proc.opened(holder)

    def stop(self, uuid: str, grace_s: float) -> None:
        left = _members.end_all(self._lock(uuid), self._holder(uuid), grace_s)
        if left:
            raise HypervisorError(f"processes {', '.join(map(str, left))} survive SIGKILL")
        self.status(uuid)  # reaps our child, so that the pid is free

    def console(self, uuid: str) -> Path | None:
        return None  # it prints into its log and reads nothing

    def adopt(self) -> set[str]:
        found = {path.stem for path in (*self._data.glob("*.lock"), *_members.locks_below(self._data))}
        with suppress(FileNotFoundError):
            found |= {entry.name for entry in os.scandir(self._data) if entry.is_dir(follow_symlinks=False)}
        return found

    def cleanup(self, uuid: str) -> None:
        info = self.status(uuid)
        if info.phase is not Phase.GONE:
            raise HypervisorError(f"still {info.phase.value}, pid {info.domain_id or 'not known yet'}")
        with suppress(FileNotFoundError):
            shutil.rmtree(self._home(uuid))
        self._lock(uuid).unlink(missing_ok=True)  # last: as long as it is there, `adopt` finds the rest
        with self._guard:
            self._ended.pop(uuid, None)

    def _make_executable(self, domain: DomainSpec) -> None:
        """Give the program its execute permission: our own copy gets it in place, a verified file is copied first."""
        first = domain.disks[0]
        source = _source(first)
        if not first.ReadOnly:
            source.chmod(0o755)
            return
        copy = self._copy(domain)
        if copy.exists():  # complete, because it came by rename, and named by its content
            return
        for old in copy.parent.iterdir():
            if old.is_file() and old.name != USER_DATA:
                old.unlink()
        staged = copy.with_name(copy.name + ".tmp")
        with source.open("rb") as reader, staged.open("wb") as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)
            writer.flush()
            os.fchmod(writer.fileno(), 0o555)
            os.fsync(writer.fileno())  # else a power cut can leave the name with an empty file
        staged.rename(copy)
        sync_directory(copy.parent)

    def _claim(self, uuid: str, lock: Path) -> int:
        """Take the domain's lock, empty the file, return the locked descriptor. Raises HypervisorError when it runs."""
        self._data.mkdir(mode=0o700, parents=True, exist_ok=True)
        holder = self._holder(uuid)  # before the file is made: a removed one must not look like one never written
        lock_fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if holder is not None and _proc.alive(holder):
                raise HypervisorError(f"it runs already as pid {holder.pid}")
            with self._guard:  # `status` tries the lock too
                fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
            os.ftruncate(lock_fd, 0)
        except BlockingIOError:
            os.close(lock_fd)
            raise HypervisorError(f"{lock} is held by what an earlier run left behind, or by a start") from None
        except BaseException:
            os.close(lock_fd)
            raise
        return lock_fd

    def _spawn(self, domain: DomainSpec, lock_fd: int, environment: dict[str, str]) -> int:
        image = self._copy(domain) if domain.disks[0].ReadOnly else _source(domain.disks[0])
        report, report_fd = os.pipe2(os.O_CLOEXEC)
        with open(report, "rb") as answer:
            try:
                command = [sys.executable, "-I", "-S", LAUNCHER, str(lock_fd), str(report_fd), str(image)]
                with open(self._open_log(domain.uuid), "ab") as output:
                    child = subprocess.Popen(
                        command + _environment.arguments(domain),
                        env=environment,
                        cwd=self._home(domain.uuid) / "work",
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                        pass_fds=(lock_fd, report_fd),
                        start_new_session=True,  # a signal to domainmgr's group or terminal is not for the domain
                    )
            finally:
                os.close(report_fd)
            failure = answer.read().decode()  # the launcher's end closes when it has become the program, or ended
        if failure:
            child.wait()
            number, _, text = failure.partition(" ")
            problem = f"cannot execute {image}: {text}"
            raise CannotRun(problem) if int(number) in LASTING_ERRORS else HypervisorError(problem)
        if self._holder(domain.uuid) is None:  # the pipe closed because the launcher ended, not because it went on
            raise HypervisorError(f"the launcher failed before it ran {image}: {_exit_text(child.wait())}")
        with self._guard:
            self._children[domain.uuid] = child
            self._ended.pop(domain.uuid, None)
        return child.pid

    def _open_log(self, uuid: str) -> int:
        path = self._where.log(uuid)
        path.parent.mkdir(parents=True, exist_ok=True)
        return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)

    def _holder(self, uuid: str) -> Identity | None:
        """Who the lock file says the domain is; without one, who carries its path. None when nobody is known yet."""
        try:
            fields = json.loads(self._lock(uuid).read_bytes())
            return Identity(pid=fields["pid"], start_ticks=fields["start_ticks"], boot=fields["boot"])
        except FileNotFoundError:
            return _members.main_process(self._lock(uuid))
        except (ValueError, KeyError, TypeError):  # empty, or the launcher is writing it
            return None

    def _is_held(self, uuid: str) -> bool:
        try:
            lock_fd = os.open(self._lock(uuid), os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            return False
        try:
            with self._guard:
                fcntl.flock(lock_fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
                fcntl.flock(lock_fd, fcntl.LOCK_UN)
        except BlockingIOError:
            return True
        else:
            return False
        finally:
            os.close(lock_fd)

    def _lock(self, uuid: str) -> Path:
        return self._data / f"{uuid}.lock"

    def _home(self, uuid: str) -> Path:
        return self._data / uuid

    def _copy(self, domain: DomainSpec) -> Path:
        return self._home(domain.uuid) / domain.disks[0].ImageSha256.lower()


def _source(disk: DiskStatus) -> Path:
    return Path(disk.ActiveFileLocation or disk.FileLocation)


def _exit_text(code: int) -> str:
    if code >= 0:
        return f"it exited with status {code}"
    with suppress(ValueError):
        return f"it was ended by {signal.Signals(-code).name}"
    return f"it was ended by signal {-code}"


register(ProcessHypervisor.name, ProcessHypervisor)
