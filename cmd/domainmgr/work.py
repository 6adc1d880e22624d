"""What takes long, for one domain: runs in a worker thread, touches disk and processes, publishes nothing.

Every function may be repeated after a crash at any point of an earlier run.
"""

import logging
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from pillar.cmd.domainmgr.adapters import not_passable
from pillar.cmd.domainmgr.decide import Done, Kind, Work
from pillar.cmd.domainmgr.disks import (
    copies_of,
    delete_copies,
    delete_unlisted_copies,
    locate,
    make_copy,
)
from pillar.cmd.domainmgr.passthrough import Passthrough
from pillar.hypervisors import CannotRun, DomainSpec, HypervisorError, Hypervisors
from pillar.locations import Locations
from pillar.types.adapters import IoBundle
from pillar.types.domainmgr import DomainConfig
from pillar.workers import Outcome


@dataclass(frozen=True)
class Tools:
    """What the work needs of its agent."""

    hypervisors: Hypervisors
    where: Locations
    passthrough: Passthrough
    grace_s: float | None = None  # between asking a domain to end and ending it; None: as its backend says


@dataclass(frozen=True)
class Reserved:
    """The adapters that a domain has, and the place of each one that is a USB device."""

    bundles: tuple[IoBundle, ...] = ()
    places: Mapping[str, str] = field(default_factory=dict)


def run(work: Work, uuid: str, tools: Tools, stopped: Callable[[], None], reserved: Reserved) -> Done:
    """Do a piece of work; `stopped` raises when it is no longer wanted. Raises what went wrong."""
    match work.kind:
        case Kind.PREPARE:
            return prepare(work, uuid, tools, stopped)
        case Kind.BOOT:
            return boot(work, uuid, tools, stopped, reserved)
        case Kind.HALT:
            stop(uuid, tools)
            delete_copies(work.disks, preserved=False)
        case Kind.SWEEP:
            end(uuid, tools)
        case Kind.REMOVE:
            remove(uuid, tools)
    return Done(work.kind)


def done(work: Work, outcome: Outcome[Done], log: logging.Logger, uuid: str) -> Done | None:
    """How the work ended, as the decision wants to know it: None when it was cancelled."""
    if outcome.cancelled:
        return None
    error = outcome.error
    if error is None:
        return outcome.value
    if isinstance(error, OSError):
        place = f": {error.filename}" if error.filename else ""
        return Done(work.kind, error=f"{error.strerror or error}{place}")
    if not isinstance(error, HypervisorError):
        log.error("%s: %s failed in a way nobody expected", uuid, work.kind.value, exc_info=error)
        return Done(work.kind, error=f"{type(error).__name__}: {error}")
    return Done(work.kind, error=str(error), lasting=isinstance(error, CannotRun))


def prepare(work: Work, uuid: str, tools: Tools, stopped: Callable[[], None]) -> Done:
    """Find every image, drop copies of unlisted disks, make those to preserve where they are missing."""
    disks = locate(uuid, work.disks, tools.where)
    delete_unlisted_copies(uuid, disks, tools.where)
    for disk in disks:
        if not disk.ReadOnly and disk.Preserve and not Path(disk.ActiveFileLocation).exists():
            make_copy(disk, stopped)
    return Done(Kind.PREPARE, disks=disks)


def boot(work: Work, uuid: str, tools: Tools, stopped: Callable[[], None], reserved: Reserved) -> Done:
    """Make the other copies from the image again, hand its adapters over and run the domain."""
    usb = tuple(dict.fromkeys(reserved.places[each.Name] for each in reserved.bundles if each.Name in reserved.places))
    spec = DomainSpec(uuid, _config(work), work.disks, reserved.bundles, usb)
    end(uuid, tools)  # what an earlier run left behind may still write to the copies
    for disk in work.disks:
        if not disk.ReadOnly and not (disk.Preserve and Path(disk.ActiveFileLocation).exists()):
            make_copy(disk, stopped)
    backend = tools.hypervisors.select(spec)
    backend.prepare(spec)
    stopped()
    if backend.takes_devices:
        hand_over(spec, reserved, tools.passthrough)
    return Done(Kind.BOOT, domain_id=backend.start(spec))


def hand_over(spec: DomainSpec, reserved: Reserved, passthrough: Passthrough) -> None:
    """Take the domain's adapters from this machine. They are given back when the domain is stopped, or swept."""
    reason = not_passable(reserved.bundles, reserved.places)
    if reason:
        raise CannotRun(reason)
    pci = [bundle.PciLong for bundle in reserved.bundles if bundle.PciLong]
    passthrough.take(spec.uuid, list(dict.fromkeys(pci)), spec.usb)


def stop(uuid: str, tools: Tools) -> None:
    """Ask the domain to end, whichever backend runs it, end it when it does not, and give back what it had."""
    for backend in tools.hypervisors.backends:
        backend.stop(uuid, backend.grace_s if tools.grace_s is None else tools.grace_s)
    tools.passthrough.give_back(uuid)


def end(uuid: str, tools: Tools) -> None:
    """End all that there is of the domain without asking it, and give back what it had."""
    for backend in tools.hypervisors.backends:
        backend.stop(uuid, 0)
    tools.passthrough.give_back(uuid)


def remove(uuid: str, tools: Tools) -> None:
    """End the domain and delete all that was made for it."""
    stop(uuid, tools)
    for path in copies_of(uuid, tools.where):
        path.unlink(missing_ok=True)
    for backend in tools.hypervisors.backends:
        backend.cleanup(uuid)  # last: as long as a backend keeps something, a restart finds the rest


def _config(work: Work) -> DomainConfig:
    if work.config is None:
        raise ValueError("booting needs a configuration")
    return work.config
