"""What the disk says: verified images, certificates, room. Read only."""

from __future__ import annotations

import os
import stat
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
        """The one file in the verified directory of this content, or what is wrong there.

        A container's content may stand there in another form; nobody asks this for its file. Raises OSError when it
        cannot be looked at: what is there is not known then.
        """
        directory = self._verified / sha256
        try:
            names = os.listdir(directory)
            if len(names) != 1:
                return VerifiedImage(error=f"{directory} has {len(names)} files, expected one")
            path = directory / names[0]
            return VerifiedImage(path=str(path), size_bytes=_disk_size(path))
        except (FileNotFoundError, NotADirectoryError, IsADirectoryError) as err:
            return VerifiedImage(error=f"{err.filename or directory}: {err.strerror}")

    def certificates(self) -> frozenset[str]:
        """Names of the certificate files that are installed. An empty file is one that is still to come.

        Raises OSError when the directory cannot be read: then they are not known to be missing, and what was handed to
        the verifier stays with it.
        """
        try:
            names = os.listdir(self._certs)
        except FileNotFoundError:  # not made yet
            return frozenset()
        return frozenset(name for name in names if _has_content(self._certs / name))

    def total_bytes(self) -> int | None:
        """Size of the file system of /persist; None when it cannot be told."""
        try:
            space = os.statvfs(self._persist)
        except OSError:
            return None
        return space.f_blocks * space.f_frsize


def _has_content(path: Path) -> bool:
    try:
        found = path.stat()
    except FileNotFoundError:  # removed since it was listed, or a link to nowhere
        return False
    return stat.S_ISREG(found.st_mode) and found.st_size > 0


def _disk_size(path: Path) -> int:
    """Bytes of the disk in an image file: a qcow2 file says it, others are as long as the disk. Raises OSError."""
    with open(path, "rb") as file:
        header = file.read(_QCOW2_SIZE_AT + 8)
        size = os.fstat(file.fileno()).st_size
    if header[:4] == _QCOW2_MAGIC and len(header) == _QCOW2_SIZE_AT + 8:
        virtual: int = struct.unpack_from(">Q", header, _QCOW2_SIZE_AT)[0]
        return max(size, virtual)
    return size
