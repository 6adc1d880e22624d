"""What the disk says: verified images, certificates, room. Read only; nothing here raises for what it finds."""

from __future__ import annotations

import os
import struct
from pathlib import Path
from typing import Final

from pillar.cmd.zedmanager.facts import VerifiedImage
from pillar.locations import Locations

OBJTYPE: Final = "appImg.obj"
_QCOW2_MAGIC: Final = b"QFI\xfb"
_QCOW2_SIZE_AT: Final = 24  # big-endian 64 bits, in all versions


class Disk:
    """Looks at the places below one root."""

    def __init__(self, where: Locations) -> None:
        self._verified = where.downloads(OBJTYPE, "verified")
        self._certs = where.certs
        self._persist = where.persist

    def verified(self, sha256: str) -> VerifiedImage:
        """The one file in the verified directory of this content, or what is wrong there."""
        directory = self._verified / sha256
        try:
            names = os.listdir(directory)
            if len(names) != 1:
                return VerifiedImage(error=f"{directory} has {len(names)} files, expected one")
            path = directory / names[0]
            return VerifiedImage(path=str(path), size_bytes=_disk_size(path))
        except OSError as err:
            return VerifiedImage(error=f"{err.filename or directory}: {err.strerror}")

    def certificates(self) -> frozenset[str]:
        """Names of the certificate files that are installed. An empty file is one that is still to come."""
        try:
            with os.scandir(self._certs) as entries:
                return frozenset(entry.name for entry in entries if entry.is_file() and entry.stat().st_size > 0)
        except OSError:
            return frozenset()  # not made yet, or unreadable: there are none for the verifier either

    def total_bytes(self) -> int | None:
        """Size of the file system of /persist; None when it cannot be told."""
        try:
            space = os.statvfs(self._persist)
        except OSError:
            return None
        return space.f_blocks * space.f_frsize


def _disk_size(path: Path) -> int:
    """Bytes of the disk in an image file: a qcow2 file says it, others are as long as the disk. Raises OSError."""
    with open(path, "rb") as file:
        header = file.read(_QCOW2_SIZE_AT + 8)
        size = os.fstat(file.fileno()).st_size
    if header[:4] == _QCOW2_MAGIC and len(header) == _QCOW2_SIZE_AT + 8:
        virtual: int = struct.unpack_from(">Q", header, _QCOW2_SIZE_AT)[0]
        return max(size, virtual)
    return size
