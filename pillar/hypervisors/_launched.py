"""Domains that are one main process each, found again by their lock files: what `process` and `qemu` share.

    <data>/<uuid>.lock    held (flock) by the domain itself, which inherits the descriptor; says {"pid", "start_ticks",
                          "boot"} of its main process
    <data>/<uuid>/        whatever the backend keeps for the domain
    <data>                <root>/persist/<backend>. Not in /run: it must stay as long as the domain, even if somebody
                          empties /run

A start claims the lock, empties the file, and spawns `_launch.py`, which writes itself into the file and becomes the
program. So at any instruction at which domainmgr may be killed, the lock tells: free - nothing runs; held and empty
- the launcher is on its way; held and filled - that process is the domain. A program that closes the descriptor is
still found by what the file says, and one whose lock file was removed by its environment.
"""

import errno
import fcntl
import json
import os
import shutil
import subprocess
import sys
from collections.abc import Collection, Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from pillar.bootid import boot_id
from pillar.hypervisors import CannotRun, DomainInfo, HypervisorError, Phase, _members, _proc
from pillar.hypervisors._exits import Exits, exit_text
from pillar.hypervisors._launch import __file__ as LAUNCHER
from pillar.hypervisors._proc import Identity
from pillar.pubsub.lock import take

UNKNOWN_EXIT = "how it ended is not known: no domainmgr that could be told was there"
# What exec says about the file and not about the moment: another try gives the same answer.
LASTING_ERRORS = {errno.ENOEXEC, errno.ENOENT, errno.EACCES, errno.ELOOP, errno.ENOTDIR, errno.EINVAL, errno.ELIBBAD}


@dataclass(frozen=True)
class Program:
    """What a domain's main process is to become."""

    command: Sequence[str]  # the program's path first
    environment: dict[str, str]  # with LOCK_VARIABLE: by it a domain is found whose lock file is gone
    directory: Path
    output: Path  # appended to
    cpus: str = ""  # those it may use, with commas between; "" for all
    descriptors: Collection[int] = ()  # inherited besides
    groups: Collection[Path] = ()  # directories of control groups, entered before the program begins


class LaunchedDomains:
    """All domains below one directory. The methods without comment are those of `Hypervisor`."""

    def __init__(self, data: Path) -> None:
        self.data = data
        self._exits = Exits()

    def lock(self, uuid: str) -> Path:
        return self.data / f"{uuid}.lock"

    def home(self, uuid: str) -> Path:
        return self.data / uuid

    def claim(self, uuid: str) -> int:
        """Take the domain's lock, empty the file, return the locked descriptor. Raises HypervisorError when it runs."""
        self.data.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = self.lock(uuid)
        # Before the file is made: a removed one must not look like one never written.
        holder = self.main_process(uuid, fresh=True)
        lock_fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            if holder is not None and _proc.alive(holder):
                raise HypervisorError(f"it runs already as pid {holder.pid}")
            take(lock_fd)
            os.ftruncate(lock_fd, 0)
        except BlockingIOError:
            os.close(lock_fd)
            raise HypervisorError(f"{lock} is held by what an earlier run left behind, or by a start") from None
        except BaseException:
            os.close(lock_fd)
            raise
        return lock_fd

    def spawn(self, uuid: str, lock_fd: int, program: Program) -> int:
        """Run a claimed domain; its pid once the program executes. Raises CannotRun or HypervisorError."""
        image = program.command[0]
        report, report_fd = os.pipe2(os.O_CLOEXEC)
        with open(report, "rb") as answer, ExitStack() as opened:
            try:
                groups = [opened.enter_context((path / "cgroup.procs").open("wb")).fileno() for path in program.groups]
                numbers = str(lock_fd), str(report_fd), program.cpus, ",".join(map(str, groups))
                launcher = [sys.executable, "-I", "-S", LAUNCHER, *numbers]
                with open(open_for_appending(program.output), "ab") as output:
                    child = subprocess.Popen(
                        [*launcher, *program.command],
                        env=program.environment,
                        cwd=program.directory,
                        stdin=subprocess.DEVNULL,
                        stdout=output,
                        stderr=output,
                        pass_fds=(lock_fd, report_fd, *groups, *program.descriptors),
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
        if self.main_process(uuid) is None:  # the pipe closed because the launcher ended, not because it went on
            raise HypervisorError(f"the launcher failed before it ran {image}: {exit_text(child.wait())}")
        _members.look_again()
        self._exits.born(uuid, child)
        return child.pid

    def status(self, uuid: str) -> DomainInfo:
        """`exit` is what the kernel told: known for domains that this process started, or has seen alive (_exits)."""
        held = is_held(self.lock(uuid))
        holder = self.main_process(uuid)
        alive = holder is not None and _proc.alive(holder)
        ended = self._exits.told(uuid)  # after that look: what ends between the two has a status to read
        if holder is not None and alive:
            self._exits.lives(uuid, holder)
            if os.fsencode(LAUNCHER) in _proc.command_line(holder.pid):
                return DomainInfo(Phase.STARTING)
            return DomainInfo(Phase.RUNNING, domain_id=holder.pid)
        if held and holder is None:
            return DomainInfo(Phase.STARTING)
        if holder is not None and holder.boot != boot_id():
            return DomainInfo(Phase.GONE, exit="the machine was restarted", rebooted=True)
        return DomainInfo(Phase.GONE, exit=ended or (UNKNOWN_EXIT if holder is not None else ""))

    def watch(self, uuid: str) -> int | None:
        holder = self.main_process(uuid)
        return None if holder is None else _proc.opened(holder)

    def end_all(self, uuid: str, grace_s: float) -> None:
        """TERM to every process of the domain, `grace_s` seconds, KILL. Raises HypervisorError when some survive."""
        left = _members.end_all(self.lock(uuid), self.main_process(uuid), grace_s)
        if left:
            raise HypervisorError(f"processes {', '.join(map(str, left))} survive SIGKILL")
        self.status(uuid)  # reaps our child, so that the pid is free

    def adopt(self) -> set[str]:
        found = {path.stem for path in (*self.data.glob("*.lock"), *_members.locks_below(self.data))}
        with suppress(FileNotFoundError):
            found |= {entry.name for entry in os.scandir(self.data) if entry.is_dir(follow_symlinks=False)}
        return found

    def cleanup(self, uuid: str) -> None:
        info = self.status(uuid)
        if info.phase is not Phase.GONE:
            raise HypervisorError(f"still {info.phase.value}, pid {info.domain_id or 'not known yet'}")
        with suppress(FileNotFoundError):
            shutil.rmtree(self.home(uuid))
        self.lock(uuid).unlink(missing_ok=True)  # last: as long as it is there, `adopt` finds the rest
        self._exits.forget(uuid)

    def main_process(self, uuid: str, fresh: bool = False) -> Identity | None:
        """Who the lock file says the domain is; without one, who carries its path. None when nobody is known yet."""
        try:
            fields = json.loads(self.lock(uuid).read_bytes())
            return Identity(pid=fields["pid"], start_ticks=fields["start_ticks"], boot=fields["boot"])
        except FileNotFoundError:
            return _members.main_process(self.lock(uuid), fresh)
        except (ValueError, KeyError, TypeError):  # empty, or the launcher is writing it
            return None


def is_held(lock: Path) -> bool:
    """Whether somebody holds the lock. Shared for a moment to find out, for which whoever takes it waits."""
    try:
        lock_fd = os.open(lock, os.O_RDWR | os.O_CLOEXEC)
    except FileNotFoundError:
        return False
    try:
        fcntl.flock(lock_fd, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(lock_fd, fcntl.LOCK_UN)
    except BlockingIOError:
        return True
    else:
        return False
    finally:
        os.close(lock_fd)


def open_for_appending(path: Path) -> int:
    """A domain's log, made with its directory where it is missing; a link in its place is not followed."""
    path.parent.mkdir(parents=True, exist_ok=True)
    return os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
