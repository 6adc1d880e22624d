"""The `process` backend: the ECO's first disk is a program, run in its own session on the host.

No isolation: the program has domainmgr's rights and the host's network. Good for trying things out and for trusted
services.

    <root>/persist/process/<uuid>.lock          says which process the domain is: _launched
    <root>/persist/process/<uuid>/work          working directory and HOME; kept over restarts of the ECO
    <root>/persist/process/<uuid>/<sha>         executable copy of a read-only image (0555): a verified file is not
                                                executable and belongs to the verifier
    <root>/persist/log/<uuid>.log               what it prints; domainmgr bounds it

The main process is the domain: when it ends, whatever it left behind is ended too, as in a container.

Sizes, memory limits and vifs are not enforced. The exit status is known unless the domain ends while no domainmgr runs
(_exits). What the program finds in its environment: _environment.
"""

import os
import shutil
from pathlib import Path

from pillar.durable import replace_file, replacing, sweep_staged
from pillar.hypervisors import (
    CannotRun,
    DomainInfo,
    DomainSpec,
    _environment,
    _image,
    register,
)
from pillar.hypervisors._launched import LaunchedDomains, Program
from pillar.locations import Locations
from pillar.types.domainmgr import DiskStatus

DISK_FORMATS = ("qcow", "qcow2", "vhd", "vmdk", "ova", "vhdx")
USER_DATA = "user-data"


class ProcessHypervisor:
    """Runs programs. See the module's docstring; the methods are those of `Hypervisor`."""

    name = "process"
    grace_s = 10.0
    takes_devices = False

    def __init__(self, where: Locations) -> None:
        self._domains = LaunchedDomains(where.persist / self.name)
        self._where = where

    def refuses(self, domain: DomainSpec) -> str:
        if domain.config.IsContainer or any(disk.Format == "container" for disk in domain.disks):
            return "a container image needs the runc backend"
        if domain.config.Kernel:
            return "a configuration with a kernel needs the qemu backend"
        if not domain.disks:
            return "there is no disk to take the program from"
        first = domain.disks[0]
        if first.Format in DISK_FORMATS:
            return f"an image of format {first.Format} needs the qemu backend"
        try:
            kind = _image.kind_of(_source(first))
        except OSError as error:
            return f"cannot read {_source(first)}: {error.strerror}"
        if kind.backend == self.name:
            return ""
        advice = f" and needs the {kind.backend} backend" if kind.backend else ""
        return f"{_source(first)} is {kind.what}{advice}"

    def prepare(self, domain: DomainSpec) -> None:
        reason = self.refuses(domain)
        if reason:
            raise CannotRun(reason)
        _environment.arguments(domain)
        data = _environment.user_data(domain)
        home = self._domains.home(domain.uuid)
        for directory in (self._domains.data, home, home / "work"):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        file = home / USER_DATA
        sweep_staged(file)
        if data:
            replace_file(file, data)
        else:
            file.unlink(missing_ok=True)
        self._make_executable(domain)

    def start(self, domain: DomainSpec) -> int:
        lock_fd = self._domains.claim(domain.uuid)
        try:
            home = self._domains.home(domain.uuid)
            data_file = home / USER_DATA
            image = self._copy(domain) if domain.disks[0].ReadOnly else _source(domain.disks[0])
            program = Program(
                command=[str(image), *_environment.arguments(domain)],
                environment=_environment.environment(
                    domain,
                    home / "work",
                    self._domains.lock(domain.uuid),
                    data_file if data_file.exists() else None,
                ),
                directory=home / "work",
                output=self._where.log(domain.uuid),
            )
            return self._domains.spawn(domain.uuid, lock_fd, program)
        finally:
            os.close(lock_fd)  # the domain has its own copy; if it was not born, the lock is free again

    def status(self, uuid: str) -> DomainInfo:
        return self._domains.status(uuid)

    def watch(self, uuid: str) -> int | None:
        return self._domains.watch(uuid)

    def stop(self, uuid: str, grace_s: float) -> None:
        self._domains.end_all(uuid, grace_s)

    def console(self, uuid: str) -> Path | None:
        return None  # it prints into its log and reads nothing

    def adopt(self) -> set[str]:
        return self._domains.adopt()

    def cleanup(self, uuid: str) -> None:
        self._domains.cleanup(uuid)

    def _make_executable(self, domain: DomainSpec) -> None:
        """Give the program its execute permission: our own copy gets it in place, a verified file is copied first."""
        first = domain.disks[0]
        source = _source(first)
        if not first.ReadOnly:
            source.chmod(0o755)
            return
        copy = self._copy(domain)
        if copy.exists():  # complete, because it came by rename, and named by its content
            return
        for old in copy.parent.iterdir():
            if old.is_file() and old.name != USER_DATA:
                old.unlink()
        staged = copy.with_name(copy.name + ".tmp")
        with source.open("rb") as reader, replacing(copy, 0o555, staged) as writer:
            shutil.copyfileobj(reader, writer, 1 << 20)

    def _copy(self, domain: DomainSpec) -> Path:
        return self._domains.home(domain.uuid) / domain.disks[0].ImageSha256.lower()


def _source(disk: DiskStatus) -> Path:
    return Path(disk.ActiveFileLocation or disk.FileLocation)


register(ProcessHypervisor.name, ProcessHypervisor)
