"""<root>/run/nim/ports: one directory per interface that nim set up, with its lease; and <root>/run/resolv.conf.

A directory is made before its interface is touched and removed after it was cleaned: what a killed nim left is known.
/run does not outlive a boot, and neither does what was done to the kernel.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Final

from pillar.cmd.nim.leases import Lease, read_lease
from pillar.locations import Locations
from pillar.pubsub import PubSub
from pillar.pubsub.folder import Folder

_LEASE: Final = "lease"


class PortFolder:
    """`changed` is called when a lease should be read again."""

    def __init__(self, where: Locations, pubsub: PubSub, changed: Callable[[], None]) -> None:
        self.path = where.agent_dir("nim") / "ports"
        self.path.mkdir(parents=True, exist_ok=True)
        self._resolv_conf = where.run / "resolv.conf"
        self._pubsub = pubsub
        self._changed = changed
        self._folders: dict[str, Folder] = {}

    def claimed(self) -> set[str]:
        """The interfaces that nim, this one or one before, has set up."""
        return set(os.listdir(self.path))

    def claim(self, ifname: str) -> None:
        """From now on the interface is one that nim has set up."""
        (self.path / ifname).mkdir(exist_ok=True)
        if ifname not in self._folders:
            self._folders[ifname] = self._pubsub.folder(self.path / ifname, self._changed, {_LEASE})

    def release(self, ifname: str) -> None:
        """Nothing of nim's is on the interface any more; its lease is forgotten."""
        if (folder := self._folders.pop(ifname, None)) is not None:
            folder.close()
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
