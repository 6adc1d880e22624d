"""Real containers for the tests: a root with the runc backend, and images made on the spot."""

from __future__ import annotations

import contextlib
import json
import os
import re
from pathlib import Path
from typing import Any

import pytest
from servers import needs
from support import wait_for

from pillar.demo import container
from pillar.hypervisors import DomainInfo, DomainSpec, Phase, _cgroup
from pillar.hypervisors.runc import RuncHypervisor
from pillar.locations import Locations
from pillar.types.common import UUIDandVersion
from pillar.types.domainmgr import DiskStatus, DomainConfig

UUID = "11111111-2222-4333-8444-555555555555"
DEADLINE_S = 60.0
SERVICE = "echo started\nexec sleep 100000\n"
POLITE = "trap 'echo asked; exit 3' TERM\necho started\nwhile :; do sleep 0.05; done\n"


def needs_runc() -> None:
    """Skips the test where containers cannot run, fails it when CI=true."""
    needs("runc", "runc")
    needs("busybox", "busybox-static")
    if os.geteuid() != 0:
        reason = "containers need root"
        if os.environ.get("CI") == "true":
            pytest.fail(reason)
        pytest.skip(reason)


class Machine:
    """One root with one backend, and all that a test starts in it ends with it."""

    def __init__(self, root: Path) -> None:
        self.where = Locations(root)
        self.backend = RuncHypervisor(self.where)
        self.data = self.where.persist / "runc"
        self.group = _cgroup.prefix(root) + UUID

    def domain(self, script: str, *layers: bytes, image: dict[str, Any] | None = None, **config: Any) -> DomainSpec:
        """A domain whose entry point is a shell script. Of `config`, ReadOnly and Preserve are the drive's."""
        entry = container.layer({"entry": b"#!/bin/sh\n" + script.encode()})
        says = {"Entrypoint": ["/entry"], "Env": ["PATH=/bin"], **(image or {})}
        return self.spec(container.image("app", [container.busybox_layer(), entry, *layers], says).content, **config)

    def spec(self, content: bytes, *further: DiskStatus, **config: Any) -> DomainSpec:
        image = self.where.root / "image"
        image.write_bytes(content)
        disk = DiskStatus(
            ImageSha256="a" * 64,
            Format="container",
            Vdev="xvda",
            FileLocation=str(image),
            ActiveFileLocation=str(image),
            ReadOnly=config.pop("ReadOnly", False),
            Preserve=config.pop("Preserve", False),
        )
        identity = UUIDandVersion(UUID=UUID, Version="1")
        given = DomainConfig(UUIDandVersion=identity, DisplayName="eco", IsContainer=True, **config)
        return DomainSpec(UUID, given, (disk, *further))

    def run(self, spec: DomainSpec) -> int:
        self.backend.prepare(spec)
        return self.backend.start(spec)

    def look(self) -> DomainInfo:
        return self.backend.status(UUID)

    def ended(self) -> str:
        """Wait for the container's end; how it ended."""
        wait_for(lambda: self.look().phase is Phase.GONE, "the container's end", DEADLINE_S)
        return self.look().exit

    def says(self, text: str) -> None:
        wait_for(lambda: text in self.output, f"{text!r} in the container's log", DEADLINE_S)

    @property
    def output(self) -> str:
        path = self.where.log(UUID)
        return path.read_text() if path.exists() else ""

    @property
    def parent(self) -> int:
        return int(json.loads((self.data / f"{UUID}.lock").read_text())["pid"])

    def containers(self) -> list[int]:
        """The first processes of all containers of this root: children of others, with a namespace of their own."""
        found = []
        for pid in _cgroup.members(self.group):
            with contextlib.suppress(FileNotFoundError, ProcessLookupError):
                status = Path(f"/proc/{pid}/status").read_text()
                if re.search(r"^NSpid:\s+\d+\s+1$", status, re.MULTILINE) and "State:\tZ" not in status:
                    found.append(pid)
        return found

    def leaves_nothing(self) -> bool:
        return not _cgroup.directories(self.group) and not (self.data / "state" / UUID).exists()
