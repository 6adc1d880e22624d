"""The `runc` backend: the ECO's first drive is a container image, run with namespaces and a control group of its own.

    <root>/persist/runc/<uuid>.lock     held (flock) by the container's parent process (`_shim.py`), and by runc and the
                                        container's first process until it becomes the image; says who they are
    <root>/persist/runc/<uuid>.exit     how the last run ended; written by the parent before anybody is told
    <root>/persist/runc/<uuid>/         the bundle: root file system, config.json, see _bundle
    <root>/persist/runc/state/<uuid>/   runc's own (--root): another root's containers have the same names elsewhere
    <root>/persist/log/<uuid>.log       what the container prints; domainmgr bounds it
    control group pillar-<root>-<uuid>  at the top of each hierarchy
    the vifs                            veth pairs, the inner ends eth0, eth1 ... in the container's network namespace

A start claims the lock and spawns the parent, which has runc create the container, waits until the vifs are in its
network namespace, and has runc start it. A kill at any instruction leaves one container or none:

    domainmgr, before "go"      the parent reads the end of a pipe and deletes the container
    domainmgr, after it         the container runs and the next domainmgr finds it
    the parent, before start    the created container never runs; the next start or stop sweeps it
    the parent, after start     the container goes on; how it ends is then not known
    runc                        the parent says so and deletes what there is
    the container's process     the parent writes down the signal, or that the kernel ended it for want of memory

The network namespace has no name and no file: it goes when the container does, and the inner ends of the vifs, the
outer ends and the DHCP clients with it. So do the mounts of further drives, made in the parent's mount namespace.
"""

import json
import os
import select
import shutil
import signal
import subprocess
import sys
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pillar.bootid import boot_id
from pillar.hypervisors import (
    CannotRun,
    DomainInfo,
    DomainSpec,
    HypervisorError,
    Missing,
    Phase,
    _cgroup,
    _image,
    _members,
    _proc,
    _vifs,
    register,
)
from pillar.hypervisors._bundle import JOB, Bundle, Job, limits_of
from pillar.hypervisors._environment import LOCK_VARIABLE, PATH
from pillar.hypervisors._exits import Exits, exit_text
from pillar.hypervisors._launched import is_held, open_for_appending
from pillar.hypervisors._proc import Identity
from pillar.hypervisors._shim import __file__ as SHIM
from pillar.locations import Locations
from pillar.pubsub.lock import take

INSTALL = Missing("runc is not installed: apt-get install runc")
UNKNOWN_EXIT = "how it ended is not known: the process that watched it was ended too"
STEP_TIMEOUT_S = 90.0  # runc gives up earlier
LEASE_WAIT_S = 3.0
SHIM_WAIT_S = 10.0  # for the parent's own cleaning up, after the container is dead
LASTING = 'exec: "'  # in runc's words: about the program that the image names, and the same at every try


@dataclass(frozen=True)
class Holder:
    """What the lock file says: the parent, how far it got (creating, created, started), the container's process."""

    shim: Identity
    phase: str
    init: Identity | None


class RuncHypervisor:
    """Runs containers. See the module's docstring; the methods are those of `Hypervisor`."""

    name = "runc"
    grace_s = 10.0  # Docker's
    takes_devices = False

    def __init__(self, where: Locations) -> None:
        self._where = where
        self._data = where.persist / "runc"
        self._state = self._data / "state"
        self._prefix = _cgroup.prefix(where.root)
        self._children: dict[str, subprocess.Popen[bytes]] = {}  # parents that we started: ours to reap
        self._exits = Exits()  # of containers whose parent is gone
        self._guard = threading.Lock()  # of the children: workers and the main loop both look

    def refuses(self, domain: DomainSpec) -> str:
        if not domain.disks:
            return "there is no drive to take the container image from"
        first = domain.disks[0]
        if not (domain.config.IsContainer or first.Format == "container"):
            return "its first drive is no container image"
        source = Path(first.FileLocation or first.ActiveFileLocation)
        try:
            kind = _image.kind_of(source)
        except OSError as error:
            return f"cannot read {source}: {error.strerror}"
        if kind.backend != self.name:
            return f"{source} is {kind.what}, neither a container manifest nor an OCI archive"
        return self._machine_lacks()

    def prepare(self, domain: DomainSpec) -> None:
        reason = self.refuses(domain)
        if reason:
            raise CannotRun(reason)
        if domain.adapters:
            groups = ", ".join(dict.fromkeys(repr(bundle.AssignmentGroup) for bundle in domain.adapters))
            raise CannotRun(
                f"adapters are not passed into containers: take adapter group {groups} out of the app's configuration,"
                " or run it as a virtual machine"
            )
        limits_of(domain)
        self._bundle(domain.uuid).prepare(domain, self._job(domain.uuid), self._group(domain.uuid))

    def start(self, domain: DomainSpec) -> int:
        uuid = domain.uuid
        lock_fd = self._claim(uuid)
        try:
            self._sweep(uuid)
            self._exit(uuid).unlink(missing_ok=True)
            self._exits.forget(uuid)
            self._bundle(uuid).forget_leases()
            child, answers, go = self._spawn(uuid, lock_fd)
        finally:
            os.close(lock_fd)  # the parent has its own copy; if it was not born, the lock is free again
        with open(answers, "rb", buffering=0) as reader, open(go, "wb", buffering=0) as writer:
            try:
                init = self._created(uuid, child, reader.fileno())
                self._make_vifs(domain, init)
                writer.write(b"go")
                self._answer(child, reader.fileno(), "started")
            except BaseException:
                writer.close()  # the parent deletes the container
                self._end_parent(uuid, child)
                raise
        with self._guard:
            self._children[uuid] = child
        return init

    def status(self, uuid: str) -> DomainInfo:
        self._reap(uuid)
        holder = self._holder(uuid)
        if holder is None:
            return DomainInfo(Phase.STARTING if is_held(self._lock(uuid)) else Phase.GONE)
        if holder.shim.boot != boot_id():
            return DomainInfo(Phase.GONE, exit="the machine was restarted", rebooted=True)
        watched = _proc.alive(holder.shim)  # asked first: what it writes down it has written before it ends
        ended = self._ended(uuid)
        if ended:
            return DomainInfo(Phase.GONE, exit=ended)
        if watched:
            if holder.phase == "started" and holder.init is not None:
                return DomainInfo(Phase.RUNNING, domain_id=holder.init.pid)
            return DomainInfo(Phase.STARTING)
        if holder.init is not None and _proc.alive(holder.init):
            self._exits.lives(uuid, holder.init)  # nobody is left to write it down
            if holder.phase == "started" or not is_held(self._lock(uuid)):
                return DomainInfo(Phase.RUNNING, domain_id=holder.init.pid)
            return DomainInfo(Phase.GONE)  # created, and nobody is left to start it
        return DomainInfo(Phase.GONE, exit=self._exit_without_parent(uuid) if holder.init is not None else "")

    def watch(self, uuid: str) -> int | None:
        """Of the parent, which ends after it wrote down how the container ended; of the container if it is gone."""
        holder = self._holder(uuid)
        if holder is None or self._ended(uuid):
            return None
        descriptor = _proc.opened(holder.shim)
        if descriptor is None and holder.init is not None:
            descriptor = _proc.opened(holder.init)
        return descriptor

    def stop(self, uuid: str, grace_s: float) -> None:
        self._bundle(uuid).drop_unfinished()
        if not (self._lock(uuid).exists() or _cgroup.directories(self._group(uuid)) or self._has_vifs(uuid)):
            return  # nothing was ever started: a start makes the lock first, and every container has its group
        holder = self._holder(uuid)
        if holder is not None and holder.init is not None:
            self._end_container(uuid, holder.init, grace_s)
            self._wait_for_parent(holder.shim)
        left = _members.end_all(self._lock(uuid), holder.shim if holder is not None else None, 0)
        if left:
            raise HypervisorError(f"processes {', '.join(map(str, left))} survive SIGKILL")
        self._sweep(uuid)
        self._reap(uuid)

    def console(self, uuid: str) -> Path | None:
        """None: a container has no console, only what it prints."""
        return None

    def adopt(self) -> set[str]:
        found = {path.stem for path in self._data.glob("*.lock")}
        for directory in (self._data, self._state):
            with suppress(FileNotFoundError):
                found |= {entry.name for entry in os.scandir(directory) if entry.is_dir(follow_symlinks=False)}
        found.discard(self._state.name)
        found |= _vifs.owners(self._where.root, "veth")
        return found | {name.removeprefix(self._prefix) for name in _cgroup.names(self._prefix)}

    def cleanup(self, uuid: str) -> None:
        info = self.status(uuid)
        if info.phase is not Phase.GONE:
            raise HypervisorError(f"still {info.phase.value}, process {info.domain_id or 'not known yet'}")
        self._sweep(uuid)
        self._bundle(uuid).remove()
        self._exit(uuid).unlink(missing_ok=True)
        self._exit(uuid).with_suffix(".exit.tmp").unlink(missing_ok=True)
        self._lock(uuid).unlink(missing_ok=True)  # last: as long as it is there, `adopt` finds the rest

    # Starting.

    def _machine_lacks(self) -> str:
        if _runc() is None:
            return INSTALL
        if os.geteuid() != 0:
            return Missing("containers need root: run domainmgr as root")
        if not _cgroup.mounts():
            return Missing("containers need control groups: mount /sys/fs/cgroup")
        return ""

    def _job(self, uuid: str) -> Job:
        group = self._group(uuid)
        return Job(
            runc=_runc() or "runc",
            state=str(self._state),
            id=uuid,
            bundle=str(self._bundle(uuid).directory),
            exit=str(self._exit(uuid)),
            oom_files=_cgroup.oom_files(group),
            drives=[],
            clients=[],
            stop_signal="",
            lease_wait_s=LEASE_WAIT_S,
        )

    def _claim(self, uuid: str) -> int:
        """Take the domain's lock and return the locked descriptor. Raises HypervisorError when it runs."""
        self._state.mkdir(mode=0o700, parents=True, exist_ok=True)
        lock = self._lock(uuid)
        lock_fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            take(lock_fd)
            holder = self._holder(uuid)
            if holder is not None and holder.init is not None and _proc.alive(holder.init):
                raise HypervisorError(f"it runs already as process {holder.init.pid}")
            os.ftruncate(lock_fd, 0)
        except BlockingIOError:
            os.close(lock_fd)
            raise HypervisorError(f"{lock} is held: it runs already, or is being started") from None
        except BaseException:
            os.close(lock_fd)
            raise
        return lock_fd

    def _spawn(self, uuid: str, lock_fd: int) -> tuple[subprocess.Popen[bytes], int, int]:
        """Start the parent process; returns it, the pipe it answers on and the one it waits for."""
        answers, answers_in = os.pipe2(os.O_CLOEXEC)
        go_out, go = os.pipe2(os.O_CLOEXEC)
        job = self._bundle(uuid).directory / JOB
        command = [sys.executable, "-I", "-S", SHIM, str(lock_fd), str(answers_in), str(go_out), str(job)]
        try:
            with open(open_for_appending(self._where.log(uuid)), "ab") as output:
                child = subprocess.Popen(
                    command,
                    env={"PATH": PATH, LOCK_VARIABLE: str(self._lock(uuid))},
                    cwd="/",
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=output,
                    pass_fds=(lock_fd, answers_in, go_out),
                    start_new_session=True,  # a signal to domainmgr's group or terminal is not for the container
                )
        except BaseException:
            os.close(answers)
            os.close(go)
            raise
        finally:
            os.close(answers_in)
            os.close(go_out)
        return child, answers, go

    def _created(self, uuid: str, child: subprocess.Popen[bytes], reader: int) -> int:
        return int(self._answer(child, reader, "created"))

    def _answer(self, child: subprocess.Popen[bytes], reader: int, wanted: str) -> str:
        """The parent's next line; what follows the wanted word. Raises CannotRun or HypervisorError."""
        line = _read_line(reader, STEP_TIMEOUT_S)
        word, _, rest = line.partition(" ")
        if word == wanted:
            return rest
        if word == "failed":
            raise CannotRun(rest) if LASTING in rest else HypervisorError(rest)
        if line:
            raise HypervisorError(f"the container's parent process said {line!r} instead of {wanted}")
        with suppress(subprocess.TimeoutExpired):
            raise HypervisorError(f"the container's parent process ended with status {child.wait(1)}, before {wanted}")
        raise HypervisorError(f"the container's parent process has not said {wanted} within {STEP_TIMEOUT_S:.0f} s")

    def _make_vifs(self, domain: DomainSpec, init: int) -> None:
        owner = _vifs.Owner(self._where.root, domain.uuid)
        for index, vif in enumerate(domain.config.VifList or ()):
            _vifs.make_veth(vif, owner, Path(f"/proc/{init}/ns/net"), f"eth{index}")

    def _end_parent(self, uuid: str, child: subprocess.Popen[bytes]) -> None:
        """A start failed: give the parent the time to delete the container, then see to it."""
        try:
            child.wait(SHIM_WAIT_S)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()
        with suppress(HypervisorError):  # the failure of the start is what counts; the next one sweeps again
            self._sweep(uuid)

    # Ending.

    def _end_container(self, uuid: str, init: Identity, grace_s: float) -> None:
        """Its own stop signal, `grace_s` seconds, SIGKILL. With its first process, the kernel ends all others."""
        descriptor = _proc.opened(init)
        if descriptor is None:
            return
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            _cgroup.thaw(self._group(uuid))
            if grace_s > 0:
                _signal(descriptor, _signal_number(str(self._bundle(uuid).job().get("stop_signal", ""))))
                if poll.poll(grace_s * 1000):
                    return
            _signal(descriptor, signal.SIGKILL)
            poll.poll(_cgroup.KILL_WAIT_S * 1000)
        finally:
            os.close(descriptor)

    def _wait_for_parent(self, shim: Identity) -> None:
        """It writes down how the container ended, and has runc delete it."""
        descriptor = _proc.opened(shim)
        if descriptor is None:
            return
        try:
            poll = select.poll()
            poll.register(descriptor, select.POLLIN)
            poll.poll(SHIM_WAIT_S * 1000)
        finally:
            os.close(descriptor)

    def _sweep(self, uuid: str) -> None:
        """Remove what runc and the kernel have of a dead container. Raises HypervisorError for what stays."""
        group = self._group(uuid)
        left = _cgroup.kill(group)
        if left:
            raise HypervisorError(f"processes {', '.join(map(str, left))} of the container survive SIGKILL")
        state = self._state / uuid
        with suppress(FileNotFoundError):
            shutil.rmtree(state)  # no process is left, so there is nothing that runc would have to know
        stuck = _cgroup.remove(group)
        if stuck:
            raise HypervisorError(f"the control group {stuck[0]} cannot be removed")
        if self._has_vifs(uuid):
            _vifs.remove(_vifs.Owner(self._where.root, uuid))

    # What is known of a domain.

    def _holder(self, uuid: str) -> Holder | None:
        """Who the lock file names; None when nobody is known yet."""
        try:
            fields = json.loads(self._lock(uuid).read_bytes())
            boot = str(fields["boot"])
            init = fields.get("init")
            return Holder(
                shim=Identity(int(fields["pid"]), int(fields["start_ticks"]), boot),
                phase=str(fields["phase"]),
                init=Identity(int(init["pid"]), int(init["start_ticks"]), boot) if init is not None else None,
            )
        except (FileNotFoundError, ValueError, KeyError, TypeError):
            return None

    def _ended(self, uuid: str) -> str:
        """How the last run ended, "" when it was not seen to end."""
        try:
            fields = json.loads(self._exit(uuid).read_bytes())
            return end_text(fields)
        except (FileNotFoundError, ValueError, KeyError, TypeError, AttributeError):
            return ""

    def _exit_without_parent(self, uuid: str) -> str:
        text = self._exits.told(uuid) or UNKNOWN_EXIT
        killed = _cgroup.oom_kills(self._group(uuid))
        return f"{text}; {_out_of_memory(killed)}" if killed else text

    def _reap(self, uuid: str) -> None:
        with self._guard:
            child = self._children.get(uuid)
            if child is not None and child.poll() is not None:
                del self._children[uuid]

    def _has_vifs(self, uuid: str) -> bool:
        return uuid in _vifs.owners(self._where.root, "veth")

    def _bundle(self, uuid: str) -> Bundle:
        return Bundle(self._data / uuid, self._where)

    def _group(self, uuid: str) -> str:
        return self._prefix + uuid

    def _lock(self, uuid: str) -> Path:
        return self._data / f"{uuid}.lock"

    def _exit(self, uuid: str) -> Path:
        return self._data / f"{uuid}.exit"


def end_text(fields: dict[str, int]) -> str:
    """What the parent wrote down, for a person. Raises KeyError when it says nothing."""
    text = exit_text(-int(fields["signal"]) if "signal" in fields else int(fields["status"]))
    killed = int(fields.get("out_of_memory", 0))
    return f"{text}; {_out_of_memory(killed)}" if killed else text


def _out_of_memory(killed: int) -> str:
    return f"out of memory: the kernel ended {killed} of its processes at its memory limit"


def _runc() -> str | None:
    return shutil.which("runc") or shutil.which("runc", path=PATH)


def _signal(descriptor: int, number: int) -> None:
    with suppress(ProcessLookupError):
        signal.pidfd_send_signal(descriptor, number)


def _signal_number(text: str) -> int:
    """An image's StopSignal, as name or number; SIGTERM for what is no signal."""
    if text.isdigit() and 0 < int(text) < signal.NSIG:
        return int(text)
    try:
        return signal.Signals[text if text.startswith("SIG") else f"SIG{text}"]
    except KeyError:
        return signal.SIGTERM


def _read_line(descriptor: int, timeout_s: float) -> str:
    """One line from a pipe; "" when it ends, or nothing comes in time."""
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    deadline = time.monotonic() + timeout_s
    line = b""
    while not line.endswith(b"\n"):
        if not poll.poll(max(0.0, deadline - time.monotonic()) * 1000):
            return ""
        data = os.read(descriptor, 1)
        if not data:
            return ""
        line += data
    return line.decode("utf-8", "replace").strip()


register(RuncHypervisor.name, RuncHypervisor)
