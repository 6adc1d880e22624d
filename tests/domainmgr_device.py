"""A real domainmgr on its own root, fed by hand-written configurations: what its tests share."""

import contextlib
import hashlib
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import msgspec
from support import wait_for

from pillar.crashtest import processes
from pillar.hypervisors import _cgroup, _proc
from pillar.locations import Locations
from pillar.pubsub import decode, encode
from pillar.types.common import UUIDandVersion
from pillar.types.domainmgr import DiskConfig, DomainConfig, DomainStatus
from pillar.types.enums import SwState

UUID = "6f1c0a3e-0000-4000-8000-000000000001"
OTHER = "6f1c0a3e-0000-4000-8000-000000000002"
PATIENCE_S = 60.0
R = TypeVar("R", bound=msgspec.Struct)


class Device:
    """One root with at most one domainmgr; whatever it started ends with the test."""

    def __init__(self, root: Path) -> None:
        self.where = Locations(root)
        self.manager: subprocess.Popen[bytes] | None = None
        self.program = ["-m", "pillar.cmd.domainmgr"]  # for Python
        self.enter: tuple[str, ...] = ()  # put in front of its command: a network namespace
        self.environment: dict[str, str] = {}  # its own further variables

    def start(self, *options: str) -> None:
        self.manager = subprocess.Popen(
            [
                *self.enter,
                sys.executable,
                *self.program,
                "--root",
                str(self.where.root),
                "--stop-grace",
                "3",
                *options,
            ],
            env=os.environ | self.environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )

    def start_ready(self, *options: str) -> None:
        """Start it and wait until it has read its tables and looked at what an earlier one left."""
        told = self.where.agent_dir("domainmgr") / "AssignableAdapters" / "restarted"
        before = told.read_bytes() if told.exists() else b""
        self.start(*options)
        wait_for(lambda: told.exists() and told.read_bytes() != before, "domainmgr to be ready", PATIENCE_S)

    def kill(self) -> None:
        assert self.manager is not None
        self.manager.kill()
        self.manager.wait(timeout=60)
        self.manager = None

    def end(self) -> None:
        """Nothing of it is left: domainmgr, the processes of its domains, their control groups."""
        if self.manager is not None:
            self.kill()
        while pids := self.domains():  # again: one may have forked, or begun, while it was being looked for
            processes.kill(pids)
        for group in _cgroup.names(_cgroup.prefix(self.where.root, "qemu")):
            _cgroup.remove(group)

    def image(self, content: str | bytes) -> str:
        data = content.encode() if isinstance(content, str) else content
        sha = hashlib.sha256(data).hexdigest()
        directory = self.where.downloads("appImg.obj", "verified") / sha
        directory.mkdir(parents=True, exist_ok=True)
        image = directory / f"app.{sha}"
        if not image.exists():  # somebody may be reading it
            image.write_bytes(data)
        return sha

    def want(self, config: DomainConfig) -> DomainConfig:
        self.write("zedmanager", "DomainConfig", config.UUIDandVersion.UUID, config)
        return config

    def write(self, agent: str, topic: str, key: str, record: msgspec.Struct) -> None:
        directory = self.where.agent_dir(agent) / topic
        directory.mkdir(parents=True, exist_ok=True)
        staged = directory / f".{key}"
        staged.write_bytes(encode(record))
        staged.rename(directory / f"{key}.json")

    def unwant(self, uuid: str = UUID) -> None:
        (self.where.agent_dir("zedmanager") / "DomainConfig" / f"{uuid}.json").unlink()

    def read(self, record: type[R], key: str) -> R | None:
        path = self.where.agent_dir("domainmgr") / record.__name__ / f"{key}.json"
        try:
            return decode(record, path.read_bytes())
        except FileNotFoundError:
            return None

    def status(self, uuid: str = UUID) -> DomainStatus:
        return self.read(DomainStatus, uuid) or DomainStatus()

    def until(
        self, true: Callable[[DomainStatus], object], what: str, uuid: str = UUID, seconds: float = PATIENCE_S
    ) -> DomainStatus:
        def look() -> DomainStatus | None:
            found = self.status(uuid)
            return found if true(found) else None

        found = wait_for(look, f"{what}; status {self.status(uuid)}", seconds)
        assert found is not None
        return found

    def running(self, uuid: str = UUID) -> DomainStatus:
        return self.until(lambda status: status.State == SwState.RUNNING, "RUNNING", uuid)

    def says(self, text: str, uuid: str = UUID, seconds: float = PATIENCE_S) -> None:
        wait_for(lambda: text in self.output(uuid), f"{text!r} in the log of {uuid}", seconds)

    def output(self, uuid: str = UUID) -> str:
        try:
            return self.where.log(uuid).read_text(errors="replace")
        except FileNotFoundError:
            return ""

    def holds(self, pid: int) -> bool:
        """Whether domainmgr has a pidfd of this process, as the kernel shows it."""
        assert self.manager is not None
        directory = Path(f"/proc/{self.manager.pid}/fdinfo")
        for name in os.listdir(directory):
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                if f"Pid:\t{pid}\n" in (directory / name).read_text():
                    return True
        return False

    def domains(self) -> list[int]:
        """Every process that belongs to a domain of this root."""
        return [pid for pid in _proc.all_pids() if self._is_domain(pid)]

    def _is_domain(self, pid: int) -> bool:
        environment = _proc.environment(pid)
        if any(environment):
            return any(entry.startswith(f"PILLAR_ECO_LOCK={self.where.root}/".encode()) for entry in environment)
        # While a process executes a program its environment is empty; the lock it has open stays open.
        return any(path.startswith(f"{self.where.root}/") for path in _proc.open_files(pid, ".lock"))


def eco(sha: str, uuid: str = UUID, *, activate: bool = True, version: str = "1", **disk: object) -> DomainConfig:
    wanted = {"ReadOnly": True, "Format": "raw"} | disk
    return DomainConfig(
        UUIDandVersion=UUIDandVersion(UUID=uuid, Version=version),
        DisplayName="eco",
        Activate=activate,
        AppNum=4,
        DiskConfigList=(DiskConfig(ImageSha256=sha, **wanted),),  # type: ignore[arg-type]
    )


def but(config: DomainConfig, **fields: object) -> DomainConfig:
    return msgspec.structs.replace(config, **fields)
