"""The `qemu` backend: the ECO is a virtual machine.

    <root>/persist/qemu/<uuid>.lock     says which process the domain is: _launched
    <root>/persist/qemu/<uuid>/         QEMU's working directory
        console, qmp                    sockets: the serial port, the control protocol
        events.in, events.out           what QEMU told, domainmgr or not: _qmp
        qemu.log                        QEMU's own complaints
        seed.iso                        user data for cloud-init: _seed
        has-display                     QEMU has to say which VNC display it took
    <root>/persist/qemu/kvm.json        whether KVM truly works here: _kvm
    control group pillar-qemu-<root>-<uuid>     around QEMU, at the top of each hierarchy that limits something
    <root>/persist/log/<uuid>.log       the serial console

The machine: _machine. QEMU may use the guest's memory and a stated overhead, as many processors as the guest has,
MAX_THREADS threads: as far as the kernel has controllers and lets us use them. Disk images are looked at before every
start (_diskimage); read-write ones are private copies that domainmgr made. Each vif is a tap (_vifs), made by
`prepare`, gone after `stop`.

A guest that switches itself off or whose kernel panics (with its pvpanic driver loaded) ends the domain, and the exit
says which; a guest that reboots stays in its machine and the domain goes on. `stop` presses the power button, waits,
then tells QEMU to quit, which still writes out its disks, then kills it.
"""

import os
import select
import shutil
import time
import uuid as uuids
from dataclasses import replace
from pathlib import Path

from pillar.hypervisors import (
    CannotRun,
    DomainInfo,
    DomainSpec,
    HypervisorError,
    Missing,
    Phase,
    _cgroup,
    _diskimage,
    _environment,
    _image,
    _kvm,
    _machine,
    _qmp,
    _seed,
    _vifs,
    register,
)
from pillar.hypervisors._environment import LOCK_VARIABLE
from pillar.hypervisors._launched import UNKNOWN_EXIT, LaunchedDomains, Program
from pillar.locations import Locations
from pillar.types.domainmgr import DomainConfig

STARTS_WITHIN_S = 60.0  # from exec to an answer on the control socket; 0.05 s when the machine is not busy
QUIT_S = 10.0  # for writing out its disks
ASK_S = 10.0
MAX_THREADS = 1024  # one for each processor, up to 64 for each disk, a few of its own


class QemuHypervisor:
    """Runs virtual machines. See the module's docstring; the methods are those of `Hypervisor`."""

    name = "qemu"
    grace_s = 60.0  # EVE's; an operating system that shuts down its services takes its time
    takes_devices = True

    def __init__(self, where: Locations) -> None:
        self._where = where
        self._domains = LaunchedDomains(where.persist / self.name)
        self._prefix = _cgroup.prefix(where.root, self.name)

    def refuses(self, domain: DomainSpec) -> str:
        if domain.config.IsContainer or any(disk.Format == "container" for disk in domain.disks):
            return "a container image needs the runc backend"
        if not domain.config.Kernel:
            reason = _cannot_boot(domain)
            if reason:
                return reason
        architecture = _machine.architecture()
        if architecture is None:
            return f"there is no virtual machine for {os.uname().machine} yet"
        for program, package in (
            (architecture.program, architecture.package),
            (_diskimage.TOOL, _diskimage.PACKAGE),
        ):
            if shutil.which(program) is None:
                return Missing(f"{program} is not installed: apt-get install {package}")
        return ""

    def prepare(self, domain: DomainSpec) -> None:
        reason = self.refuses(domain)
        if reason:
            raise CannotRun(reason)
        _check_resources(domain)
        data = _environment.user_data(domain)
        for disk in domain.disks:
            _diskimage.check(disk)
            _diskimage.grow(disk)
        home = self._domains.home(domain.uuid)
        for directory in (self._domains.data, home):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._write_seed(domain, home, data)
        if domain.config.EnableVnc:
            self._display_mark(domain.uuid).touch()
        else:
            self._display_mark(domain.uuid).unlink(missing_ok=True)
        self._make_vifs(domain)

    def start(self, domain: DomainSpec) -> int:
        architecture = _machine.architecture()
        program = shutil.which(architecture.program) if architecture is not None else None
        if architecture is None or program is None:
            raise CannotRun(self.refuses(domain) or "QEMU is not installed")
        kvm = _kvm.works(program, self._domains.data / "kvm.json")
        home = self._domains.home(domain.uuid)
        lock_fd = self._domains.claim(domain.uuid)
        try:
            for name in (_machine.CONSOLE, _qmp.SOCKET, "qemu.log"):
                (home / name).unlink(missing_ok=True)
            places = self._places(domain.uuid)
            places.log.parent.mkdir(parents=True, exist_ok=True)
            self._remove_group(domain.uuid)
            groups = _cgroup.make(self._group(domain.uuid), _limits(domain.config, kvm))
            config = domain.config
            events = _qmp.open_events(home, _qmp.Vnc(config.VncPasswd) if config.EnableVnc else None)
            try:
                pid = self._domains.spawn(
                    domain.uuid,
                    lock_fd,
                    Program(
                        command=_machine.command(architecture, program, domain, places, kvm),
                        environment={
                            "PATH": _environment.PATH,
                            LOCK_VARIABLE: str(self._domains.lock(domain.uuid)),
                        },
                        directory=home,
                        output=home / "qemu.log",
                        cpus=",".join(map(str, _processors(domain))),
                        descriptors=(events,),
                        groups=groups,
                    ),
                )
            finally:
                os.close(events)
        finally:
            os.close(lock_fd)
        self._await_answer(domain.uuid)
        return pid

    def status(self, uuid: str) -> DomainInfo:
        info = self._domains.status(uuid)
        if info.phase is Phase.RUNNING and self._display_mark(uuid).exists():
            display = _qmp.display(self._domains.home(uuid))
            if display is None:  # a moment after it began: the number is published with RUNNING, or never
                return DomainInfo(Phase.STARTING)
            return replace(info, vnc_display=display)
        if info.phase is Phase.GONE and info.exit and not info.rebooted:
            told = _qmp.ending(self._domains.home(uuid))
            if told:
                return replace(info, exit=told)
            if _cgroup.oom_kills(self._group(uuid)):
                return replace(info, exit="out of memory: the kernel ended QEMU at its memory limit")
            if info.exit == UNKNOWN_EXIT:
                return replace(info, exit="QEMU ended without a word: it was killed, or it crashed")
        return info

    def watch(self, uuid: str) -> int | None:
        return self._domains.watch(uuid)

    def stop(self, uuid: str, grace_s: float) -> None:
        if self._listens_to_the_button(uuid, grace_s):
            self._quit(uuid)
        self._domains.end_all(uuid, 0)
        self._remove_group(uuid)
        self._remove_vifs(uuid)

    def console(self, uuid: str) -> Path | None:
        socket = self._domains.home(uuid) / _machine.CONSOLE
        return socket if socket.exists() and self.status(uuid).phase is Phase.RUNNING else None

    def adopt(self) -> set[str]:
        return self._known() | _vifs.owners(self._where.root, "tun")

    def cleanup(self, uuid: str) -> None:
        if self._domains.status(uuid).phase is Phase.GONE:
            self._remove_group(uuid)
            self._remove_vifs(uuid)
        self._domains.cleanup(uuid)

    def _known(self) -> set[str]:
        """Those of which more is left than a vif."""
        return self._domains.adopt() | {name.removeprefix(self._prefix) for name in _cgroup.names(self._prefix)}

    def _remove_vifs(self, uuid: str) -> None:
        if uuid in _vifs.owners(self._where.root, "tun"):
            _vifs.remove(_vifs.Owner(self._where.root, uuid))

    def _group(self, uuid: str) -> str:
        return self._prefix + uuid

    def _remove_group(self, uuid: str) -> None:
        """Of a domain that does not run. Raises HypervisorError when something stays in it."""
        group = self._group(uuid)
        if not _cgroup.directories(group):
            return
        left = _cgroup.kill(group) or _cgroup.remove(group)
        if left:
            raise HypervisorError(f"the control group {group} does not get empty: {', '.join(map(str, left))} stays")

    def _places(self, uuid: str) -> _machine.Places:
        home = self._domains.home(uuid)
        seed = home / "seed.iso"
        return _machine.Places(log=self._where.log(uuid), seed=seed if seed.exists() else None)

    def _display_mark(self, uuid: str) -> Path:
        return self._domains.home(uuid) / "has-display"

    def _write_seed(self, domain: DomainSpec, home: Path, data: bytes) -> None:
        seed = home / "seed.iso"
        if data:
            staged = home / "seed.tmp"
            _seed.write(staged, data, domain.uuid, domain.config.DisplayName)
            staged.replace(seed)
        else:
            seed.unlink(missing_ok=True)

    def _make_vifs(self, domain: DomainSpec) -> None:
        """The taps; those that this domain no longer wants go, and those of domains that are kept no more."""
        wanted = domain.config.VifList or ()
        owner = _vifs.Owner(self._where.root, domain.uuid)
        if not wanted:
            return
        _vifs.sweep(self._where.root, keep=self._known(), kind="tun")
        _vifs.remove(owner, keep={vif.Vif for vif in wanted})
        for vif in wanted:
            _vifs.make_tap(vif, owner)

    def _await_answer(self, uuid: str) -> None:
        """Until QEMU serves its control socket. Raises with its own words when it ends before.

        Not when its guest ended it: that machine ran, however late anybody asked.
        """
        home = self._domains.home(uuid)
        deadline = time.monotonic() + STARTS_WITHIN_S
        process = self._domains.watch(uuid)
        try:
            while process is not None:
                if self.status(uuid).phase is Phase.RUNNING and _qmp.obeys(home, ASK_S):
                    return
                if _readable(process, 0.01):
                    break
                if time.monotonic() > deadline:
                    self._domains.end_all(uuid, 0)
                    raise HypervisorError(f"QEMU did not serve its control socket within {STARTS_WITHIN_S:g} s")
        finally:
            if process is not None:
                os.close(process)
        if _qmp.guest_ended(home):
            return
        ended = self._domains.status(uuid).exit
        raise HypervisorError(f"QEMU ended at once: {_last_line(home / 'qemu.log') or ended}")

    def _listens_to_the_button(self, uuid: str, grace_s: float) -> bool:
        """Press the power button and wait for the guest. False when QEMU itself does not take orders."""
        process = self._domains.watch(uuid) if grace_s > 0 else None
        if process is None:
            return True
        try:
            _qmp.execute(self._domains.home(uuid), "system_powerdown", timeout_s=ASK_S)
            _readable(process, grace_s)
        except HypervisorError:
            return False
        finally:
            os.close(process)
        return True

    def _quit(self, uuid: str) -> None:
        process = self._domains.watch(uuid)
        if process is None:
            return
        try:
            _qmp.execute(self._domains.home(uuid), "quit", timeout_s=ASK_S)
            _readable(process, QUIT_S)
        except HypervisorError:
            return  # it is killed next
        finally:
            os.close(process)


def _limits(config: DomainConfig, kvm: bool) -> _cgroup.Limits:
    """What QEMU may use. As many processors as there are is no limit."""
    return _cgroup.Limits(
        memory_bytes=config.Memory * 1024 + _machine.overhead_bytes(config, kvm),
        cpus=config.VCpus if 0 < config.VCpus < (os.cpu_count() or 1) else 0,
        processes=MAX_THREADS,
    )


def _cannot_boot(domain: DomainSpec) -> str:
    """Why the firmware finds nothing to boot from; "" when it may."""
    if not domain.disks:
        return "there is neither a kernel nor a disk to boot from"
    first = domain.disks[0]
    path = Path(first.ActiveFileLocation or first.FileLocation)
    try:
        kind = _image.kind_of(path)
    except OSError as error:
        return f"cannot read {path}: {error.strerror}"
    if kind.backend == QemuHypervisor.name or first.Format in ("qcow", "qcow2", "vhd", "vmdk", "vhdx", "ova"):
        return ""  # of another format than declared: an error of its own, in `prepare`
    advice = f" and needs the {kind.backend} backend" if kind.backend else ""
    return f"{path} is {kind.what}{advice}"


def _check_resources(domain: DomainSpec) -> None:
    """Raises CannotRun for what this machine does not have."""
    config = domain.config
    try:
        uuids.UUID(domain.uuid)
    except ValueError:
        raise CannotRun(f"{domain.uuid!r} is no UUID") from None
    if config.Memory <= 0:
        raise CannotRun(f"Memory is {config.Memory} KiB: a virtual machine needs some")
    host_kib = _host_memory_kib()
    if config.Memory > host_kib:
        raise CannotRun(f"Memory is {config.Memory} KiB, more than this machine has ({host_kib} KiB)")
    _processors(domain)
    for what, name in (("kernel", config.Kernel), ("ramdisk", config.Ramdisk), ("device tree", config.DeviceTree)):
        if name and not os.access(name, os.R_OK):
            raise CannotRun(f"the {what} {name} cannot be read")
    if config.DeviceTree and Path(config.DeviceTree).stat().st_size > _machine.LARGEST_TREE_BYTES:
        raise CannotRun(
            f"the device tree {config.DeviceTree} has {Path(config.DeviceTree).stat().st_size} bytes, more than"
            f" {_machine.LARGEST_TREE_BYTES}: a kernel would not find it; pack it (dtc -I dtb -O dtb)"
        )
    if config.Ramdisk and not config.Kernel:
        raise CannotRun(f"there is a ramdisk, {config.Ramdisk}, but no kernel to go with it")


def _processors(domain: DomainSpec) -> list[int]:
    """The processors of CPUs ("0-1,3"), [] for all. Raises CannotRun when one is not there."""
    text = domain.config.CPUs.replace(" ", "")
    if not text or text == "all":
        return []
    found: set[int] = set()
    try:
        for part in text.split(","):
            first, _, last = part.partition("-")
            found |= set(range(int(first), int(last or first) + 1))
    except ValueError:
        raise CannotRun(f"CPUs is {domain.config.CPUs!r}, expected a list as 0-1,3") from None
    there = os.sched_getaffinity(0)
    if not found or not found <= there:
        raise CannotRun(f"CPUs is {domain.config.CPUs!r}, but this machine has {sorted(there)}")
    return sorted(found)


def _host_memory_kib() -> int:
    for line in Path("/proc/meminfo").read_text().splitlines():
        if line.startswith("MemTotal:"):
            return int(line.split()[1])
    raise HypervisorError("/proc/meminfo does not say how much memory there is")


def _readable(descriptor: int, wait_s: float) -> bool:
    poll = select.poll()
    poll.register(descriptor, select.POLLIN)
    return bool(poll.poll(wait_s * 1000))


def _last_line(path: Path) -> str:
    """The newest complaint of QEMU, without its name in front."""
    try:
        lines = [line for line in path.read_text(errors="replace").splitlines() if line.strip()]
    except FileNotFoundError:
        return ""
    return lines[-1].partition(": ")[2] or lines[-1] if lines else ""


register(QemuHypervisor.name, QemuHypervisor)
