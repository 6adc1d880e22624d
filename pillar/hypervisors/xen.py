"""The `xen` backend: virtual machines under the Xen hypervisor, through its `xl`, as EVE of 2019 runs them.

    <root>/persist/xen/<uuid>.json                  name, file, mode, PCI devices of the domain; written before `start`
    <root>/run/domainmgr/xen/xen<AppNum>.cfg        what xl is given, see _xlconfig
    <root>/run/domainmgr/cloudinit/<uuid>.cidata    the cloud-init disc

It runs only where `xl` and a Xen hypervisor are; anywhere else it refuses and says what to install. The hypervisor
itself knows which domains there are: one that somebody else made has another name or UUID and is never touched. xl
makes the vifs. There is no event for a domain's end: it is looked for every LOOK_S seconds.

Not tried with a real Xen: what xl is told is tested against a stand-in, and the file byte by byte against EVE's rules.
"""

import ctypes
import json
import logging
import os
import shutil
import subprocess
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

from pillar.durable import replace_file, sweep_staged
from pillar.hypervisors import (
    CannotRun,
    DomainInfo,
    DomainSpec,
    HypervisorError,
    Phase,
    _environment,
    _seed,
    _xlconfig,
    register,
)
from pillar.locations import Locations
from pillar.types.enums import VmMode

LOOK_S = 10.0  # EVE: 9 to 30
COMMAND_S = 60.0
DESTROY_S = 60.0
DRIVERS_ANSWER_S = 10.0  # EVE: a guest that may have no Xen drivers is asked by ACPI when it did not go by then
_PAUSE_S = 0.5
CAPABILITIES = Path("/proc/xen/capabilities")
_log = logging.getLogger(__name__)


class XenHypervisor:
    """Runs virtual machines under Xen. See the module's docstring; the methods are those of `Hypervisor`."""

    name = "xen"
    grace_s = 60.0  # EVE's
    takes_devices = False  # Xen has a driver of its own for PCI devices, to which xl binds them; USB goes by controller

    def __init__(self, where: Locations) -> None:
        self._data = where.persist / "xen"
        self._configs = where.agent_dir("domainmgr") / "xen"
        self._seeds = where.agent_dir("domainmgr") / "cloudinit"

    def refuses(self, domain: DomainSpec) -> str:
        if domain.config.IsContainer or any(disk.Format == "container" for disk in domain.disks):
            return "a container image needs the runc backend"
        if not domain.disks and not domain.config.Kernel:
            return "there is neither a disk nor a kernel to boot"
        if _xl() is None:  # no `Missing`: it takes more than to install something
            return "this is no Xen host: xl is not installed (apt-get install xen-system, and boot Xen)"
        if not _controls():
            return f"this is no Xen host: {CAPABILITIES} does not say control_d; boot the machine under Xen"
        return ""

    def prepare(self, domain: DomainSpec) -> None:
        reason = self.refuses(domain)
        if reason:
            raise CannotRun(reason)
        if domain.usb:
            raise CannotRun(f"USB device {domain.usb[0]} cannot be passed through singly here; list its controller")
        self.write(domain)

    def write(self, domain: DomainSpec) -> Path:
        """Write the files that xl needs; returns the configuration's path. Raises CannotRun or OSError."""
        for directory in (self._data, self._configs, self._seeds):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        data = _environment.user_data(domain)
        seed = self._seed(domain.uuid)
        content = _xlconfig.text(domain, str(seed) if data else "")
        if data:
            _seed.write(seed, data, domain.uuid, domain.config.DisplayName)
        else:
            seed.unlink(missing_ok=True)
        path = self._configs / f"xen{domain.config.AppNum}.cfg"
        record = {
            "name": _xlconfig.domain_name(domain.config),
            "config": str(path),
            "hvm": domain.config.VirtualizationMode == VmMode.HVM,
            "pci": list(dict.fromkeys(bundle.PciLong for bundle in domain.adapters if bundle.PciLong)),
        }
        sweep_staged(path)
        replace_file(path, content.encode())  # 0600: a VNC password may be in it
        replace_file(self._record(domain.uuid), json.dumps(record).encode())
        return path

    def start(self, domain: DomainSpec) -> int:
        record = self._known(domain.uuid)
        if record is None:
            raise HypervisorError("it was not prepared")
        running = self._id(domain.uuid)
        if running:
            raise HypervisorError(f"it runs already as Xen domain {running}")
        try:
            for address in record.get("pci", ()):
                xl("pci-assignable-add", address)
            xl("create", record["config"], "-p")  # paused: what fails in the making never runs
        except HypervisorError:
            self._return_devices(domain.uuid, record)
            raise
        xl("unpause", record["name"])
        found = self._id(domain.uuid)
        if not found:
            raise HypervisorError("the domain ended right after its start")
        return found

    def status(self, uuid: str) -> DomainInfo:
        found = self._id(uuid)
        return DomainInfo(Phase.RUNNING, domain_id=found) if found else DomainInfo(Phase.GONE)

    def watch(self, uuid: str) -> int | None:
        """A timer: who is told looks at the domain, and watches it again if it still runs."""
        return _timer(LOOK_S) if self._id(uuid) else None

    def stop(self, uuid: str, grace_s: float) -> None:
        record = self._known(uuid)
        if record is not None:
            if self._id(uuid):
                self._end(uuid, record, grace_s)
            self._return_devices(uuid, record)

    def _end(self, uuid: str, record: dict[str, Any], grace_s: float) -> None:
        if grace_s > 0:
            with suppress(HypervisorError):
                xl("shutdown", record["name"])
            asked_s = min(grace_s, DRIVERS_ANSWER_S) if record["hvm"] else grace_s
            if not self._is_gone_within(uuid, asked_s) and record["hvm"]:
                with suppress(HypervisorError):
                    xl("shutdown", "-F", record["name"])  # by ACPI: the guest has no Xen drivers
                self._is_gone_within(uuid, grace_s)
        if self._id(uuid):
            with suppress(HypervisorError):
                xl("destroy", record["name"])
            if not self._is_gone_within(uuid, DESTROY_S):
                raise HypervisorError(f"the Xen domain {record['name']} survives xl destroy")

    def _return_devices(self, uuid: str, record: dict[str, Any]) -> None:
        """PCI devices back to the drivers they had. One that does not go stays assignable: the next app can have it."""
        for address in record.get("pci", ()):
            try:
                xl("pci-assignable-rem", "-r", address)
            except HypervisorError as error:
                _log.warning("PCI device %s stays with Xen: %s", address, error)
        if record.get("pci"):
            replace_file(self._record(uuid), json.dumps(record | {"pci": []}).encode())

    def console(self, uuid: str) -> Path | None:
        """None: `xl console` is Xen's own."""
        return None

    def adopt(self) -> set[str]:
        return {path.stem for path in self._data.glob("*.json") if not path.name.startswith(".")}

    def cleanup(self, uuid: str) -> None:
        found = self._id(uuid)
        if found:
            raise HypervisorError(f"still running, Xen domain {found}")
        record = self._known(uuid)
        if record is not None:
            Path(record["config"]).unlink(missing_ok=True)
        self._seed(uuid).unlink(missing_ok=True)
        self._record(uuid).unlink(missing_ok=True)  # last: as long as it is there, `adopt` finds the rest

    def _id(self, uuid: str) -> int:
        """The number of the running domain, 0 when there is none; a domain of another UUID is somebody else's."""
        if not self._record(uuid).exists() or _xl() is None:
            return 0
        try:
            listed = json.loads(xl("list", "-l") or "[]")
        except ValueError as error:
            raise HypervisorError(f"xl list -l does not answer with JSON: {error}") from error
        for entry in listed:
            if str(entry.get("config", {}).get("c_info", {}).get("uuid", "")).lower() == uuid.lower():
                return int(entry.get("domid", 0))
        return 0

    def _is_gone_within(self, uuid: str, seconds: float) -> bool:
        return _within(seconds, lambda: not self._id(uuid))

    def _known(self, uuid: str) -> dict[str, Any] | None:
        try:
            found: dict[str, Any] = json.loads(self._record(uuid).read_bytes())
        except (FileNotFoundError, ValueError):
            return None
        return found

    def _record(self, uuid: str) -> Path:
        return self._data / f"{uuid}.json"

    def _seed(self, uuid: str) -> Path:
        return self._seeds / f"{uuid}.cidata"


def xl(*words: str) -> str:
    """What xl answers. Raises HypervisorError with what it says when it fails."""
    try:
        done = subprocess.run(
            [_xl() or "xl", *words], stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=COMMAND_S
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise HypervisorError(f"xl {words[0]}: {error}") from error
    if done.returncode:
        raise HypervisorError(f"xl {words[0]}: {' '.join((done.stderr or done.stdout).split())}")
    return done.stdout


def _controls() -> bool:
    """Whether this machine runs under Xen and may start domains: xl alone is only a package."""
    try:
        return "control_d" in CAPABILITIES.read_text()
    except OSError:
        return False


def _xl() -> str | None:
    return shutil.which("xl") or shutil.which("xl", path="/usr/sbin:/sbin:/usr/lib/xen/bin")


def _within(seconds: float, condition: Callable[[], bool]) -> bool:
    """Whether the condition comes true in time; xl has no way to wait for a shutdown with a limit."""
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() >= deadline:
            return False
        time.sleep(min(_PAUSE_S, max(0.0, deadline - time.monotonic())))
    return True


class _TimerSpec(ctypes.Structure):
    _fields_ = tuple((name, ctypes.c_long) for name in ("interval_s", "interval_ns", "first_s", "first_ns"))


def _timer(seconds: float) -> int:
    """A descriptor that becomes readable after this time. Python has one from 3.13 on."""
    libc = ctypes.CDLL(None, use_errno=True)
    descriptor = libc.timerfd_create(time.CLOCK_MONOTONIC, os.O_NONBLOCK | os.O_CLOEXEC)
    if descriptor < 0:
        number = ctypes.get_errno()
        raise OSError(number, os.strerror(number))
    spec = _TimerSpec(0, 0, int(seconds), int(seconds % 1 * 1e9))
    libc.timerfd_settime(descriptor, 0, ctypes.byref(spec), None)
    return int(descriptor)


register(XenHypervisor.name, XenHypervisor, before="qemu")  # which has no hardware to itself on a Xen host
