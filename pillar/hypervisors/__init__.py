"""Hypervisors: what turns the disks of an ECO into something that runs.

A backend is one module of this package that calls `register` with its name; domainmgr finds it there and touches no
other file. Modules that start with an underscore are helpers. What every backend promises is `Hypervisor` below.
domainmgr calls the slow ones (prepare, start, stop, cleanup) from worker threads, never two at once for one domain,
and the quick ones (refuses, status, watch, adopt) from its main loop.

A domain belongs to nobody's process: it outlives domainmgr, and the next domainmgr finds it by `adopt` and `status`.
"""

import importlib
import os
import pkgutil
import socket
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from enum import Enum
from pathlib import Path
from typing import Protocol

from pillar.locations import Locations
from pillar.types.adapters import IoBundle
from pillar.types.domainmgr import DiskStatus, DomainConfig

AUTO = "auto"


class HypervisorError(Exception):
    """The domain could not be started, stopped or removed now; trying again may help."""


class CannotRun(HypervisorError):
    """This image or configuration will never run here as it is. The text names what could run it."""


class Phase(Enum):
    """What the kernel says about a domain."""

    GONE = "gone"  # nothing of it runs, or only what its main process left behind
    STARTING = "starting"  # somebody is between claiming the domain and running its image; look again soon
    RUNNING = "running"


@dataclass(frozen=True)
class DomainInfo:
    """One look at a domain. `exit` says how it ended, for a person; "" when it was never seen to end."""

    phase: Phase
    domain_id: int = 0  # the backend's own number (process: the pid), 0 when not running
    exit: str = ""
    vnc_display: int = 0  # the number of the display that it really has, 0 when it has none or nobody knows
    rebooted: bool = False  # it did not end by itself: the machine was restarted under it


@dataclass(frozen=True)
class DomainSpec:
    """What is to run: the configuration, and the disks with the files they stand in.

    `uuid` is the key the configuration was published under: everything a backend keeps goes by it.
    """

    uuid: str
    config: DomainConfig
    disks: tuple[DiskStatus, ...]
    adapters: tuple[IoBundle, ...] = ()  # every member of the assignment groups that are reserved for it
    usb: tuple[str, ...] = ()  # places of the USB devices among them that are adapters singly, as 1:2.3 (bus, ports)


class Missing(str):
    """A refusal of `refuses`: the backend would run the domain if the machine had what this text names.

    The text says what to install, as "qemu-system-x86_64 is not installed: apt-get install qemu-system-x86".
    """


class Hypervisor(Protocol):
    """One way to run a domain. Every method may be called again after a crash at any instruction of an earlier call.

    What must live as long as the domain stands below <root>/persist/<name>: nothing there may be lost when somebody
    empties /run. What the domain prints goes to <root>/persist/log/<uuid>.log, appended, so that domainmgr can cut it.
    Vifs are made by `_vifs`: in `prepare`, gone when `stop` returns.
    """

    name: str
    grace_s: float  # how long `stop` should wait for a domain of this backend, when nobody says otherwise
    takes_devices: bool  # domainmgr hands adapters over to vfio-pci before `start`; else none are passed through by it

    def refuses(self, domain: DomainSpec) -> str:
        """Why this backend cannot run the domain, "" when it can; `Missing` when something only has to be installed.

        Reads no more than the heads of the images.
        """

    def prepare(self, domain: DomainSpec) -> None:
        """Make everything `start` needs. Raises CannotRun, HypervisorError or OSError."""

    def start(self, domain: DomainSpec) -> int:
        """Run a prepared domain and return its id once the image really executes.

        Raises HypervisorError when it runs already (the text names the holder) or could not be started, CannotRun
        when no other try can help. Never leaves two of one domain.
        """

    def status(self, uuid: str) -> DomainInfo:
        """What is true now. Never takes a stranger that inherited the id for the domain."""

    def watch(self, uuid: str) -> int | None:
        """A descriptor that becomes readable when the domain ends; the caller closes it. None when it does not run."""

    def stop(self, uuid: str, grace_s: float) -> None:
        """Ask the domain to end, wait `grace_s` seconds, then end it and all that it left behind.

        Nothing to stop is success. Raises HypervisorError when something of it survives.
        """

    def console(self, uuid: str) -> Path | None:
        """A UNIX socket with both directions of the domain's console, None when it has none (its log may do).

        Use `connect`: the path may be longer than a socket address holds.
        """

    def adopt(self) -> set[str]:
        """The UUIDs of all domains this backend keeps anything for, running or not, if only a vif or a control group.

        What is not marked as this root's is nobody's here.
        """

    def cleanup(self, uuid: str) -> None:
        """Remove all that `prepare` and `start` made. Raises HypervisorError when the domain still runs."""


_factories: dict[str, Callable[[Locations], Hypervisor]] = {}
_before: dict[str, str] = {}


def register(name: str, factory: Callable[[Locations], Hypervisor], before: str = "") -> None:
    """Make a backend available under `name`. A backend's module calls this when it is imported.

    With `auto` backends are asked in the order of their names, but this one no later than just before another, for
    what both could run.
    """
    _factories[name] = factory
    if before:
        _before[name] = before


def names() -> list[str]:
    """The names of all backends in this package, without importing them."""
    return sorted(module.name for module in pkgutil.iter_modules(__path__) if not module.name.startswith("_"))


class Hypervisors:
    """The backends one domainmgr works with.

    `wanted` is a backend's name, or `auto` for all of them: then each ECO goes to the first that accepts it.
    Raises ValueError for a name that no module has.
    """

    def __init__(self, where: Locations, wanted: str) -> None:
        if wanted != AUTO and wanted not in names():
            raise ValueError(f"no hypervisor is called {wanted!r}; there are {', '.join([AUTO, *names()])}")
        for name in names() if wanted == AUTO else [wanted]:
            importlib.import_module(f"{__name__}.{name}")
            if name not in _factories:
                raise ValueError(f"the module {__name__}.{name} registers no hypervisor of its name")
        chosen = sorted(names(), key=_place) if wanted == AUTO else [wanted]
        self.backends: list[Hypervisor] = [_factories[name](where) for name in chosen]

    def select(self, domain: DomainSpec) -> Hypervisor:
        """The backend for this domain: the one that already keeps it, else the first that does not refuse.

        Raises CannotRun: with what to install when that is all it takes, else with every backend's reason.
        """
        holder = self.holder(domain.uuid)
        if holder is not None and holder.status(domain.uuid).phase is not Phase.GONE:
            return holder
        refusals = []
        for backend in self.backends:
            reason = backend.refuses(domain)
            if not reason:
                return backend
            refusals.append((backend.name, reason))
        missing = [refusal for refusal in refusals if isinstance(refusal[1], Missing)]
        raise CannotRun("; ".join(f"{name}: {reason}" for name, reason in missing or refusals))

    def holder(self, uuid: str) -> Hypervisor | None:
        """The backend that keeps something for this domain, a running one first."""
        keeping = [backend for backend in self.backends if uuid in backend.adopt()]
        running = [backend for backend in keeping if backend.status(uuid).phase is not Phase.GONE]
        return next(iter(running or keeping), None)

    def status(self, uuid: str) -> DomainInfo:
        """What is true now of this domain, whichever backend runs it."""
        return _most_alive(backend.status(uuid) for backend in self.backends)

    def watch(self, uuid: str) -> int | None:
        """A descriptor that becomes readable when the domain ends; None when it does not run."""
        for backend in self.backends:
            descriptor = backend.watch(uuid)
            if descriptor is not None:
                return descriptor
        return None

    def console(self, uuid: str) -> Path | None:
        """The socket of the domain's console, whichever backend runs it; None when there is none."""
        holder = self.holder(uuid)
        return None if holder is None else holder.console(uuid)

    def adopt(self) -> set[str]:
        """The UUIDs of all domains that any backend keeps something for."""
        return set().union(*(backend.adopt() for backend in self.backends))


def _place(name: str) -> tuple[str, bool]:
    """Where a backend stands in the order in which they are asked."""
    return min((name, True), (_before.get(name, name), False)) if name in _before else (name, True)


def connect(path: Path, timeout_s: float) -> socket.socket:
    """A connection to this UNIX socket, however long its path is. Raises OSError; `timeout_s` stays its timeout."""
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_CLOEXEC)
    try:
        connection.settimeout(timeout_s)
        connection.connect(f"/proc/self/fd/{directory}/{path.name}")
    except BaseException:
        connection.close()
        raise
    finally:
        os.close(directory)
    return connection


def _most_alive(looks: Iterable[DomainInfo]) -> DomainInfo:
    found = list(looks)
    for phase in (Phase.RUNNING, Phase.STARTING):
        for info in found:
            if info.phase is phase:
                return info
    return next((info for info in found if info.exit), DomainInfo(Phase.GONE))
