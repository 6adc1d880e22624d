"""One root with the qemu backend, for machines that boot from a sector: the fixture is `machine` of vm_fixtures."""

from __future__ import annotations

from pathlib import Path

from servers import needs
from support import wait_for
from vm_images import HALT, boot_disk, seed_kvm_answer

from pillar.hypervisors import DomainSpec, Phase, _cgroup, _members
from pillar.hypervisors.qemu import QemuHypervisor
from pillar.locations import Locations
from pillar.types.common import UUIDandVersion
from pillar.types.domainmgr import DiskStatus, DomainConfig

UUID = "6f1c0a3e-0000-4000-8000-000000000001"


class Machine:
    """One root and its backend; whatever runs on it ends with the test."""

    def __init__(self, root: Path) -> None:
        needs("qemu-system-x86_64", "qemu-system-x86")
        needs("qemu-img", "qemu-utils")
        self.where = Locations(root)
        self.where.images.mkdir(parents=True)
        seed_kvm_answer(root)
        self.backend = QemuHypervisor(self.where)
        self.group = _cgroup.prefix(root, "qemu") + UUID

    def file(self, name: str, content: bytes) -> Path:
        path = self.where.images / name
        path.write_bytes(content)
        return path

    def domain(self, *paths: Path, **config: object) -> DomainSpec:
        disks = tuple(
            DiskStatus(Format=path.suffix[1:], Devtype="hdd", Vdev=f"xvd{letter}", ActiveFileLocation=str(path))
            for letter, path in zip("abcd", paths, strict=False)
        )
        fields = {"Memory": 16 * 1024, "VCpus": 1, "DisplayName": "a, b", "AppNum": 1} | config
        return DomainSpec(UUID, DomainConfig(UUIDandVersion=UUIDandVersion(UUID=UUID), **fields), disks)  # type: ignore[arg-type]

    def booting(self, says: str, then: bytes = HALT, **config: object) -> DomainSpec:
        return self.domain(self.file("disk.raw", boot_disk(says, then)), **config)

    def run(self, spec: DomainSpec) -> int:
        self.backend.prepare(spec)
        return self.backend.start(spec)

    def phase(self) -> Phase:
        return self.backend.status(UUID).phase

    def output(self) -> str:
        path = self.where.log(UUID)
        return path.read_text() if path.exists() else ""

    def says(self, text: str) -> None:
        wait_for(lambda: text in self.output(), f"{text!r} on the console", 60)

    def kept(self) -> set[str]:
        return {path.name for path in (self.where.persist / "qemu").iterdir()} - {"kvm.json"}

    def end(self) -> None:
        lock = self.where.persist / "qemu" / f"{UUID}.lock"
        _members.end_all(lock, None, 0)
        _cgroup.remove(self.group)
