"""Every place an agent uses, below one root.

The root is `/` on a device; with another one the same tree stands below it, so several devices live
side by side on one machine and no test touches the real /run. Nothing here looks at the disk.
"""

from __future__ import annotations

import os
from pathlib import Path
from typing import Literal

Stage = Literal["pending", "verifier", "verified"]  # EVE's three directories of an image on its way


class Locations:
    """The paths below one root; the root is made absolute, because a daemon changes its directory."""

    __slots__ = ("config", "persist", "root", "run")

    def __init__(self, root: str | Path = "/") -> None:
        self.root = Path(os.path.abspath(root))
        self.run = self.root / "run"
        self.persist = self.root / "persist"
        self.config = self.root / "config"  # what the device was given: server, certificates, local device config

    def __repr__(self) -> str:
        return f"Locations({str(self.root)!r})"

    def agent_dir(self, agent: str) -> Path:
        """Where the ordinary tables of one agent stand."""
        return self.run / agent

    def pid(self, agent: str) -> Path:
        return self.run / f"{agent}.pid"

    def touch(self, agent: str) -> Path:
        """The file whose modification time says that the agent's main loop turns."""
        return self.run / f"{agent}.touch"

    def log(self, agent: str) -> Path:
        return self.persist / "log" / f"{agent}.log"

    def stderr(self, agent: str) -> Path:
        """What an agent started by the supervisor wrote to standard error: the last words of one that crashed."""
        return self.persist / "log" / f"{agent}.stderr"

    def downloads(self, objtype: str, stage: Stage) -> Path:
        """Images of one object type: `pending` is the downloader's, the others are the verifier's."""
        return self.persist / "downloads" / objtype / stage

    @property
    def certs(self) -> Path:
        return self.persist / "certs"

    @property
    def images(self) -> Path:
        """Private copies of read-write disks, one per app and image."""
        return self.persist / "img"

    @property
    def checkpoint(self) -> Path:
        """The last device config and the like, kept over reboots."""
        return self.persist / "checkpoint"
