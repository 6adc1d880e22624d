"""The disks of a domain: which there are, where each file stands, and private copies of the read-write ones.

A read-only disk is used in place, from the one file of its verified directory. A read-write disk is a private copy,
/persist/img/<sha>-<app uuid>.<format>. `Preserve` keeps the copy while the ECO is inactive; without it each
activation starts from the image again. All copies end with the domain. EVE gives two read-write disks of one image
the same file; here the second one's name also has its device: <sha>-<app uuid>-xvdb.<format>.

Copies appear by rename when they are whole and on the disk. `<name>.tmp` beside them is a copy in the making or what
a kill left of it.
"""

import os
import re
import string
from collections.abc import Callable
from pathlib import Path

import msgspec

from pillar.durable import replacing
from pillar.hypervisors import HypervisorError
from pillar.locations import Locations
from pillar.types.domainmgr import DiskStatus, DomainConfig

CHUNK_BYTES = 8 << 20
TMP_SUFFIX = ".tmp"
_PLAIN = re.compile(r"[A-Za-z0-9]+")  # what may become a part of a file name, and is then found in it again


class DiskError(HypervisorError):
    """A disk cannot be provided; the text says which and why."""


def vdev(index: int) -> str:
    """EVE's device names: xvda, xvdb ... xvdz, then xvdaa."""
    letters = string.ascii_lowercase
    return "xvd" + (letters[index // 26 - 1] if index >= 26 else "") + letters[index % 26]


def wanted_disks(config: DomainConfig) -> tuple[DiskStatus, ...]:
    """The disks of a configuration, without the files: FileLocation and ActiveFileLocation are empty."""
    return tuple(
        DiskStatus(
            ImageSha256=disk.ImageSha256,
            ReadOnly=disk.ReadOnly,
            Preserve=disk.Preserve,
            Maxsizebytes=disk.Maxsizebytes,
            Format=disk.Format,
            Devtype=disk.Devtype,
            Vdev=vdev(index),
        )
        for index, disk in enumerate(config.DiskConfigList or ())
    )


def same_disks(wanted: tuple[DiskStatus, ...], have: tuple[DiskStatus, ...]) -> bool:
    """Whether two lists ask for the same disks, wherever their files stand."""
    return wanted == tuple(msgspec.structs.replace(disk, FileLocation="", ActiveFileLocation="") for disk in have)


def are_located(disks: tuple[DiskStatus, ...]) -> bool:
    """Whether every disk's image was found."""
    return all(disk.FileLocation and disk.ActiveFileLocation for disk in disks)


def locate(uuid: str, disks: tuple[DiskStatus, ...], where: Locations) -> tuple[DiskStatus, ...]:
    """Fill in the files of every disk. Raises DiskError when an image is not there, or not exactly one file."""
    located: list[DiskStatus] = []
    for disk in disks:
        image = verified_image(disk.ImageSha256, where)
        active = image
        if not disk.ReadOnly:
            active = where.images / f"{disk.ImageSha256}-{uuid}.{_plain(disk.Format, 'image format')}"
            if any(other.ActiveFileLocation == str(active) for other in located):
                active = active.with_name(f"{disk.ImageSha256}-{uuid}-{disk.Vdev}.{disk.Format}")
        located.append(msgspec.structs.replace(disk, FileLocation=str(image), ActiveFileLocation=str(active)))
    return tuple(located)


def verified_image(sha: str, where: Locations) -> Path:
    """The one file of an image's verified directory. Raises DiskError."""
    if not sha:
        raise DiskError("a disk names no image (its sha256 is empty)")
    directory = where.downloads("appImg.obj", "verified") / _plain(sha, "image sha256")
    if not directory.is_dir():
        directory = directory.with_name(sha.lower())
    try:
        files = [entry.name for entry in os.scandir(directory) if not entry.name.startswith(".")]
    except (FileNotFoundError, NotADirectoryError):
        raise DiskError(f"image {sha} is not verified: there is no {directory}") from None
    if len(files) != 1:
        raise DiskError(f"{directory} holds {len(files)} files, expected exactly one")
    return directory / files[0]


def make_copy(disk: DiskStatus, stopped: Callable[[], None]) -> None:
    """Make the private copy of a read-write disk anew, whole or not at all, and grow it to Maxsizebytes.

    `stopped` is called between chunks and raises to give up. Raises DiskError with the reason when the disk is full.
    """
    source, target = Path(disk.FileLocation), Path(disk.ActiveFileLocation)
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    staged = target.with_name(target.name + TMP_SUFFIX)
    try:
        with source.open("rb") as reader, replacing(target, staged=staged) as writer:
            _copy(reader.fileno(), writer.fileno(), stopped)
            _grow(disk, writer.fileno())
    except OSError as error:
        raise DiskError(f"cannot copy {source} to {target}: {error.strerror}") from error


def delete_copies(disks: tuple[DiskStatus, ...], preserved: bool) -> None:
    """Delete the private copies; those to preserve only when asked to."""
    for disk in disks:
        if not disk.ReadOnly and disk.ActiveFileLocation and (preserved or not disk.Preserve):
            Path(disk.ActiveFileLocation).unlink(missing_ok=True)


def delete_unlisted_copies(uuid: str, listed: tuple[DiskStatus, ...], where: Locations) -> None:
    """Delete every copy that belongs to this app and is no longer one of its disks."""
    keep = {disk.ActiveFileLocation for disk in listed}
    for path in copies_of(uuid, where):
        if str(path) not in keep:
            path.unlink(missing_ok=True)


def copies_of(uuid: str, where: Locations) -> list[Path]:
    """All private copies, finished or not, that carry the app's UUID in their name."""
    mine = re.compile(re.escape(uuid) + r"(-xvd[a-z]+)?\.[^/]*")
    try:
        entries = list(os.scandir(where.images))
    except FileNotFoundError:
        return []
    return [Path(entry.path) for entry in entries if mine.fullmatch(entry.name.partition("-")[2])]


def sweep(where: Locations) -> None:
    """Remove what killed copies left. Call it before any copy is made."""
    for path in where.images.glob("*" + TMP_SUFFIX):
        path.unlink(missing_ok=True)


def _copy(reader: int, writer: int, stopped: Callable[[], None]) -> None:
    """All bytes, inside the kernel where it can (a reflink on file systems that share blocks)."""
    use_kernel = True
    while True:
        stopped()
        if use_kernel:
            try:
                if os.copy_file_range(reader, writer, CHUNK_BYTES) == 0:
                    return
                continue
            except OSError:  # across file systems on an old kernel, or not at all on this one
                use_kernel = False
        data = os.read(reader, CHUNK_BYTES)
        if not data:
            return
        view = memoryview(data)
        while view:
            view = view[os.write(writer, view) :]


def _grow(disk: DiskStatus, file: int) -> None:
    """Make a raw disk as large as asked for, without using the space. A script is no disk: zeros would break it."""
    size = os.fstat(file).st_size
    if disk.Maxsizebytes <= size:
        return
    if disk.Format != "raw":
        return  # the backend that knows the format grows it
    with Path(disk.FileLocation).open("rb") as image:
        if image.read(2) == b"#!":
            return
    os.ftruncate(file, disk.Maxsizebytes)


def _plain(text: str, what: str) -> str:
    if not _PLAIN.fullmatch(text):
        raise DiskError(f"{text!r} is no {what}")
    return text
