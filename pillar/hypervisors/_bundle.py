"""The bundle of one container: the files that runc and the container's parent process (`_shim.py`) work from.

    <root>/persist/runc/<uuid>/rootfs       the image's layers, unpacked; from a read-only or preserved drive it is
                                            kept and used again, from any other it is made anew for every start
                               rootfs.json  which image that is; written last, so a tree without it is unfinished
                               config.json  for runc
                               job.json     for the parent process: `Job`
                               user-data, meta-data, hostname, hosts, resolv.conf     mounted into the container
                               on-lease, lease.eth<n> ...  its addresses, see _address
                               drives/<vdev>               where further drives are mounted, out of the host's sight

Everything may be made again after a kill at any point. A tree is unpacked beside its place and renamed.
"""

import json
import os
import shutil
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pillar.durable import replace_file
from pillar.hypervisors import CannotRun, DomainSpec, _address, _cgroup, _environment, _ocisource, _spec, _unpack, _user
from pillar.hypervisors._cgroup import Limits
from pillar.hypervisors._spec import Bind
from pillar.locations import Locations
from pillar.types.domainmgr import DiskStatus

ROOTFS, CONFIG, JOB = "rootfs", "config.json", "job.json"
_EXT_MAGIC, _EXT_MAGIC_AT = b"\x53\xef", 1080


@dataclass(frozen=True)
class Drive:
    """A further drive that holds a file system: mounted at `at` by the container's parent."""

    file: str
    type: str
    at: str
    read_only: bool


@dataclass(frozen=True)
class Client:
    """What keeps one interface addressed.

    `lease` is there once the interface and the container's files have the address; `expected` when a server can answer.
    """

    command: list[str]
    lease: str
    expected: bool


@dataclass(frozen=True)
class Job:
    """What `_shim.py` reads; all paths are absolute."""

    runc: str
    state: str  # runc's --root
    id: str
    bundle: str
    exit: str  # where it writes how the container ended
    oom_files: list[str]
    drives: list[Drive]
    clients: list[Client]
    stop_signal: str
    lease_wait_s: float  # how long a start waits for its addresses; without a server it starts without


class Bundle:
    """The directory of one container."""

    def __init__(self, directory: Path, where: Locations) -> None:
        self.directory = directory
        self._where = where

    def prepare(self, domain: DomainSpec, job: Job, group: str) -> None:
        """Unpack the image unless the tree is still good, and write the files. `job` lacks what depends on the image.

        Raises CannotRun, HypervisorError or OSError.
        """
        self.directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        data = _environment.user_data(domain)
        limits = limits_of(domain)
        first = domain.disks[0]
        with _ocisource.opened(Path(first.FileLocation or first.ActiveFileLocation), self._where) as source:
            image = _ocisource.configuration(source).get("config") or {}
            if not isinstance(image, dict):
                raise CannotRun("the image's configuration is broken: its config is no JSON object")
            _spec.command(image, domain)  # refuse before the long work
            self._unpack(first, source)
        user_name = image.get("User")
        user = _user.resolve(user_name if isinstance(user_name, str) else "", self.rootfs)
        drives, drive_binds = self._drives(domain.disks[1:])
        clients = self._clients(domain)
        binds = [*self._files(domain, data), *drive_binds]
        document = _spec.document(domain, image, user, data, binds, limits, group)
        _write(self.directory / CONFIG, json.dumps(document, indent=1).encode())
        whole = asdict(job) | {
            "drives": [asdict(drive) for drive in drives],
            "clients": [asdict(client) for client in clients],
            "stop_signal": _spec.stop_signal(image),
        }
        _write(self.directory / JOB, json.dumps(whole, indent=1).encode())

    @property
    def rootfs(self) -> Path:
        return self.directory / ROOTFS

    def job(self) -> dict[str, Any]:
        """What was written last for the parent process; {} before `prepare`, or when somebody spoilt it."""
        try:
            found = json.loads((self.directory / JOB).read_bytes())
        except (FileNotFoundError, ValueError):
            return {}
        return found if isinstance(found, dict) else {}

    def forget_leases(self) -> None:
        """A new start must not take an earlier run's addresses for its own."""
        for pattern in ("lease.*", "address.*", "resolver.*"):
            for path in self.directory.glob(pattern):
                path.unlink(missing_ok=True)

    def drop_unfinished(self) -> None:
        """Remove a tree that was being unpacked when domainmgr was killed: it may be large."""
        with suppress(FileNotFoundError):
            shutil.rmtree(self.directory / f"{ROOTFS}.tmp")

    def remove(self) -> None:
        with suppress(FileNotFoundError):
            shutil.rmtree(self.directory)

    def _unpack(self, disk: DiskStatus, source: _ocisource.ImageSource) -> None:
        marker = self.directory / "rootfs.json"
        kept = disk.ReadOnly or disk.Preserve
        image = {"manifest": source.manifest.config.sha256, "layers": [blob.sha256 for blob in source.manifest.layers]}
        if kept and self.rootfs.is_dir() and _read(marker) == image:
            return
        marker.unlink(missing_ok=True)
        staged = self.directory / f"{ROOTFS}.tmp"
        for old in (staged, self.rootfs):
            with suppress(FileNotFoundError):
                shutil.rmtree(old)
        staged.mkdir(mode=0o755)
        staged.chmod(0o755)
        try:
            for layer in source.manifest.layers:
                with source.open(layer) as blob:
                    _unpack.unpack(blob, layer.media_type, layer.sha256, staged)
        except BaseException:
            shutil.rmtree(staged, ignore_errors=True)
            raise
        if kept:
            _unpack.sync_file_system(staged)  # a marker must not outlive the files it vouches for
        staged.rename(self.rootfs)
        if kept:
            replace_file(marker, json.dumps(image).encode())

    def _files(self, domain: DomainSpec, data: bytes) -> list[Bind]:
        """The files that every container gets, and the user data where there is some."""
        meta = json.dumps({"instance-id": domain.uuid, "local-hostname": domain.uuid}).encode()
        files = {"hostname": f"{domain.uuid}\n".encode(), _address.HOSTS_FILE: _address.HOSTS.encode()}
        binds = [Bind(self.directory / name, f"/etc/{name}", read_only=False) for name in files]
        files[_address.RESOLVER] = b""
        if domain.config.VifList:
            binds.append(Bind(self.directory / _address.RESOLVER, "/etc/resolv.conf", read_only=False))
        if data:
            files |= {"user-data": data, "meta-data": meta}
            binds += [
                Bind(self.directory / "user-data", _spec.USER_DATA),
                Bind(self.directory / "meta-data", _spec.META_DATA),
            ]
        for name, content in files.items():
            # World-readable: the container's user is not always root. The bundle's own directory keeps others out.
            _write(self.directory / name, content, mode=0o644)
        return binds

    def _clients(self, domain: DomainSpec) -> list[Client]:
        vifs = domain.config.VifList or ()
        if vifs:
            _write(self.directory / _address.SCRIPT_FILE, _address.script(domain.uuid, self.directory), mode=0o700)
        return [
            Client(
                command=_address.client(f"eth{index}", domain.uuid, self.directory),
                lease=str(self.directory / f"lease.eth{index}"),
                expected=bool(vif.Bridge),
            )
            for index, vif in enumerate(vifs)
        ]

    def _drives(self, disks: Sequence[DiskStatus]) -> tuple[list[Drive], list[Bind]]:
        """A drive with a file system stands at /media/<vdev>, any other as the file /media/<vdev>.<format>."""
        drives, binds = [], []
        for disk in disks:
            if disk.Format == "container":
                raise CannotRun(f"drive {disk.Vdev} is a container image; only the first drive can be one")
            file = Path(disk.ActiveFileLocation or disk.FileLocation)
            kind = file_system(file) if disk.Format in ("raw", "") else ""
            if not kind:
                binds.append(Bind(file, f"/media/{disk.Vdev}.{disk.Format or 'raw'}", disk.ReadOnly))
                continue
            at = self.directory / "drives" / disk.Vdev
            at.mkdir(mode=0o700, parents=True, exist_ok=True)
            drives.append(Drive(str(file), kind, str(at), disk.ReadOnly))
            binds.append(Bind(at, f"/media/{disk.Vdev}", disk.ReadOnly))
        return drives, binds


def file_system(file: Path) -> str:
    """ext4 (for all of its family) or squashfs when the file begins with one, else "". Raises OSError."""
    with file.open("rb") as opened:
        head = opened.read(_EXT_MAGIC_AT + 2)
    if head[_EXT_MAGIC_AT:] == _EXT_MAGIC:
        return "ext4"
    return "squashfs" if head.startswith(b"hsqs") else ""


def limits_of(domain: DomainSpec) -> Limits:
    """The limits that the configuration asks for, as far as the kernel has the controllers for them.

    Raises CannotRun for memory that this machine does not have, and for a CPU list that is none.
    """
    there = _cgroup.controllers()
    config = domain.config
    memory = max(config.Memory, config.MaxMem) * 1024
    most = os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    if memory > most:
        raise CannotRun(f"it asks for {memory >> 20} MiB of memory, this machine has {most >> 20} MiB")
    # More CPUs than there are cannot be used up, so that is no limit.
    cpus = config.VCpus if 0 < config.VCpus < (os.cpu_count() or 1) else 0
    if config.CPUs and not set(config.CPUs) <= set("0123456789,- "):
        raise CannotRun(f"the CPU list {config.CPUs!r} is not of the form 0-2,4")
    return Limits(
        memory_bytes=memory if "memory" in there else 0,
        swap_too=_cgroup.limits_swap(),
        cpus=cpus if "cpu" in there else 0,
        cpu_list=config.CPUs.replace(" ", "") if "cpuset" in there else "",
        processes=_spec.MAX_PROCESSES if "pids" in there else 0,
    )


def _write(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Whole or not at all, but not on disk yet: every start writes these files anew, also after a power cut."""
    staged = path.with_name(f"{path.name}.tmp")
    staged.write_bytes(data)
    staged.chmod(mode)
    staged.rename(path)


def _read(path: Path) -> object:
    try:
        return json.loads(path.read_bytes())
    except (FileNotFoundError, ValueError):
        return None
