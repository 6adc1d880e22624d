"""What a file is, told from its first bytes and its last: who could run it as a domain.

Used for error texts and for the choice of a backend. Nothing is executed and nothing beyond a few kilobytes is read.
"""

import os
import platform
from dataclasses import dataclass
from pathlib import Path

HEAD_BYTES = 34 * 1024  # reaches the ISO 9660 descriptor at 32 KiB
ELF_MACHINES = {"x86_64": 62, "aarch64": 183, "riscv64": 243, "ppc64le": 21, "s390x": 22, "armv7l": 40, "i686": 3}


@dataclass(frozen=True)
class ImageKind:
    """`what` for a person; `backend` that could run it, "" when none that we know of."""

    what: str
    backend: str


def kind_of(path: Path) -> ImageKind:
    """Look at an image. Raises OSError when it cannot be read."""
    with path.open("rb") as file:
        head = file.read(HEAD_BYTES)
        size = file.seek(0, os.SEEK_END)
        file.seek(max(0, size - 512))
        tail = file.read(512)
    if not head:
        return ImageKind("an empty file", "")
    return _executable(head) or _disk(head, tail) or _archive(head) or _unknown(head)


def _executable(head: bytes) -> ImageKind | None:
    if head.startswith(b"#!"):
        interpreter = head[2:].split(b"\n", 1)[0].split()
        if not interpreter:
            return ImageKind("a script without an interpreter in its first line", "")
        program = os.fsdecode(interpreter[0])
        if not os.access(program, os.X_OK):
            return ImageKind(f"a script for {program}, which this machine does not have", "")
        return ImageKind(f"a script for {program}", "process")
    if head.startswith(b"\x7fELF") and len(head) >= 20:
        little = head[5] != 2
        machine = int.from_bytes(head[18:20], "little" if little else "big")
        ours = ELF_MACHINES.get(platform.machine())
        if ours is not None and machine != ours:
            return ImageKind(f"an ELF program for machine type {machine}, this one is {platform.machine()}", "qemu")
        return ImageKind("an ELF program", "process")
    return None


def _disk(head: bytes, tail: bytes) -> ImageKind | None:
    magics = {
        b"QFI\xfb": "a qcow2 disk",
        b"KDMV": "a VMDK disk",
        b"# Disk DescriptorFile": "a VMDK disk",
        b"vhdxfile": "a VHDX disk",
        b"conectix": "a VHD disk",
        b"hsqs": "a squashfs file system",
    }
    for magic, what in magics.items():
        if head.startswith(magic):
            return ImageKind(what, "qemu")
    if tail.startswith(b"conectix"):
        return ImageKind("a VHD disk", "qemu")
    if head[32769:32774] == b"CD001":
        return ImageKind("an ISO 9660 disc", "qemu")
    if head[1080:1082] == b"\x53\xef":
        return ImageKind("an ext file system", "qemu")
    if head[510:512] == b"\x55\xaa":
        return ImageKind("a raw disk with a boot record", "qemu")
    return None


def _archive(head: bytes) -> ImageKind | None:
    if head[257:262] == b"ustar":
        return ImageKind("a tar archive, perhaps a container", "runc")
    if head.startswith(b"\x1f\x8b"):
        return ImageKind("gzip-compressed data, perhaps a container layer", "runc")
    if head.startswith(b"\x28\xb5\x2f\xfd"):
        return ImageKind("zstd-compressed data, perhaps a container layer", "runc")
    if head.lstrip().startswith(b"{") and b'"schemaVersion"' in head:
        return ImageKind("a container manifest", "runc")
    return None


def _unknown(head: bytes) -> ImageKind:
    return ImageKind(f"neither a program nor a script (it starts with {head[:8]!r})", "")
