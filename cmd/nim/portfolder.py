"""<root>/run/nim/ports: one directory per interface that nim set up, with its lease; and <root>/run/resolv.conf.

A directory is made before its interface is touched and removed after it was cleaned: what a killed nim left is known.
/run does not outlive a boot, and neither does what was done to the kernel.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import TYPE_CHECKING, Final

from pillar.cmd.nim.leases import Lease, read_lease
from pillar.locations import Locations
from pillar.pubsub.inotify import Inotify, InotifyConstants, WatchDescriptor

if TYPE_CHECKING:
    from watchdog.observers.inotify_c import CallbackId

_LEASE: Final = "lease"
_MASK: Final = InotifyConstants.IN_MOVED_TO | InotifyConstants.IN_DELETE | InotifyConstants.IN_ONLYDIR


class PortFolder:
    """`fileno` is readable when a lease may have changed; `look` says whether one did."""

    def __init__(self, where: Locations) -> None:
        self.path = where.agent_dir("nim") / "ports"
        self.path.mkdir(parents=True, exist_ok=True)
        self._resolv_conf = where.run / "resolv.conf"
        self._inotify = Inotify()
        self._handles: dict[str, tuple[WatchDescriptor, CallbackId]] = {}
        self._touched = False

    def fileno(self) -> int:
        return self._inotify.fileno()

    def look(self) -> bool:
        """Take in what happened; True when a lease should be read again."""
        self._touched = False
        self._inotify.dispatch()
        return self._touched

    def claimed(self) -> set[str]:
        """The interfaces that nim, this one or one before, has set up."""
        return set(os.listdir(self.path))

    def claim(self, ifname: str) -> None:
        """From now on the interface is one that nim has set up."""
        if ifname not in self._handles or not (self.path / ifname).is_dir():
            (self.path / ifname).mkdir(exist_ok=True)
            self._handles[ifname] = self._inotify.watch(str(self.path / ifname), _MASK, self)

    def release(self, ifname: str) -> None:
        """Nothing of nim's is on the interface any more; its lease is forgotten."""
        handle = self._handles.pop(ifname, None)
        if handle is not None:
            self._inotify.unwatch(handle)
        shutil.rmtree(self.path / ifname, ignore_errors=True)

    def lease_path(self, ifname: str) -> Path:
        return self.path / ifname / _LEASE

    def lease(self, ifname: str) -> Lease | None:
        """What a DHCP server gave it, if there is something; it may have expired."""
        return read_lease(self.lease_path(ifname))

    def write_resolv_conf(self, servers: tuple[str, ...], domain: str) -> bool:
        """Replace run/resolv.conf by a rename; False when it said the same already."""
        lines = [f"search {domain}"] if domain else []
        text = "".join(f"{line}\n" for line in [*lines, *(f"nameserver {server}" for server in servers)])
        try:
            if self._resolv_conf.read_text() == text:
                return False
        except (OSError, UnicodeDecodeError):
            pass  # not there, or not ours: it is replaced
        staged = self._resolv_conf.with_name(".resolv.conf.new")
        staged.write_text(text)
        staged.chmod(0o644)  # everybody's resolver reads it
        staged.rename(self._resolv_conf)
        return True

    # what `Inotify` calls

    def on_event(self, mask: int, name: bytes) -> None:
        self._touched = self._touched or name == _LEASE.encode()

    def on_watch_deleted(self, wd: WatchDescriptor) -> None:
        self._touched = True

    def on_queue_overflow(self) -> None:
        self._touched = True
