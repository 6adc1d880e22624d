"""Disk images for QEMU: whether one is what its configuration says, and safe to hand to a guest's machine.

An image comes from outside. One that names other files (a backing file, a data file, extents) would show the guest
those files of the host, so it is refused, and so is one that QEMU itself calls corrupt.
"""

import json
import struct
import subprocess
from pathlib import Path
from typing import Any

from pillar.hypervisors import CannotRun, HypervisorError, _image
from pillar.types.domainmgr import DiskStatus

DRIVERS = {"raw": "raw", "qcow": "qcow", "qcow2": "qcow2", "vhd": "vpc", "vmdk": "vmdk", "vhdx": "vhdx"}
GROWABLE = ("qcow2", "raw", "vhdx")
TOOL = "qemu-img"
PACKAGE = "qemu-utils"
TOOL_LIMIT_S = 300.0
_QCOW_MAGIC = b"QFI\xfb"
_EXTERNAL_DATA_FILE = 1 << 2  # an incompatible feature of the qcow2 header
_LEAKS_ONLY = 3  # qemu-img check: lost clusters, as a killed QEMU leaves them; the guest's data is whole
_CANNOT_CHECK = 63
_CONTAINERS = {"a qcow2 disk": "qcow2", "a VMDK disk": "vmdk", "a VHDX disk": "vhdx", "a VHD disk": "vhd"}


def driver(image_format: str) -> str:
    """QEMU's name of a format of EVE. Raises CannotRun."""
    try:
        return DRIVERS[image_format]
    except KeyError:
        raise CannotRun(
            f"QEMU cannot use an image of format {image_format!r}; it can {', '.join(sorted(DRIVERS))}"
        ) from None


def check(disk: DiskStatus) -> None:
    """Raises CannotRun for an image that is not of its format, names other files, or is corrupt."""
    path = Path(disk.ActiveFileLocation)
    wanted = driver(disk.Format)
    _check_kind(path, disk.Format)
    if wanted == "raw":
        return
    if wanted in ("qcow", "qcow2"):
        _check_qcow_header(path)
    facts = _info(path, wanted)
    others = [str(facts["backing-filename"])] if facts.get("backing-filename") else []
    details = (facts.get("format-specific") or {}).get("data") or {}
    others += [extent["filename"] for extent in details.get("extents") or () if extent["filename"] != str(path)]
    if others:
        raise CannotRun(f"{path} refers to another file, {others[0]}; an image must be whole in itself")
    if wanted == "qcow2":
        _check_consistency(path, wanted)


def grow(disk: DiskStatus) -> None:
    """Make a private copy as large as Maxsizebytes asks for. Raises CannotRun when its format cannot grow."""
    if disk.ReadOnly or disk.Maxsizebytes == 0 or disk.Format == "raw":  # raw: the copy was made in that size
        return
    path, wanted = Path(disk.ActiveFileLocation), driver(disk.Format)
    if int(_info(path, wanted)["virtual-size"]) >= disk.Maxsizebytes:
        return
    if wanted not in GROWABLE:
        raise CannotRun(f"{path} is to grow to {disk.Maxsizebytes} bytes, but a {disk.Format} image cannot")
    done = _run(["resize", "-f", wanted, str(path), str(disk.Maxsizebytes)])
    if done.returncode != 0:
        raise HypervisorError(f"cannot grow {path} to {disk.Maxsizebytes} bytes: {_reason(done, path)}")


def _check_kind(path: Path, image_format: str) -> None:
    kind = _image.kind_of(path)
    found = _CONTAINERS.get(kind.what, "raw")
    if found == "vhd" and image_format == "raw":  # a fixed VHD is a raw disk with a footer
        return
    if image_format == "qcow":
        found = {"qcow2": "qcow"}.get(found, found)  # one magic for both
    if found != image_format:
        raise CannotRun(f"{path} should be an image of format {image_format}, but it is {kind.what}")


def _check_qcow_header(path: Path) -> None:
    """What `qemu-img info` would only tell after it had opened the other file."""
    with path.open("rb") as file:
        head = file.read(104)
    if len(head) < 20 or not head.startswith(_QCOW_MAGIC):
        raise CannotRun(f"{path} is no qcow image: it is cut or has another beginning")
    version, backing_offset, backing_size = struct.unpack_from(">IQI", head, 4)
    if backing_offset:
        with path.open("rb") as file:
            file.seek(backing_offset)
            name = file.read(min(backing_size, 1023)).decode(errors="replace")
        raise CannotRun(f"{path} refers to another file, {name}; an image must be whole in itself")
    if version >= 3 and len(head) >= 80:
        (incompatible,) = struct.unpack_from(">Q", head, 72)
        if incompatible & _EXTERNAL_DATA_FILE:
            raise CannotRun(f"{path} keeps its data in another file; an image must be whole in itself")


def _check_consistency(path: Path, wanted: str) -> None:
    done = _run(["check", "-f", wanted, "--output=json", str(path)])
    if done.returncode in (0, _LEAKS_ONLY, _CANNOT_CHECK):
        return
    raise CannotRun(f"{path} is a corrupt {wanted} image: {_check_reason(done, path)}")


def _check_reason(done: "subprocess.CompletedProcess[str]", path: Path) -> str:
    try:
        told = json.loads(done.stdout)
        return f"{told['corruptions']} corruptions in its tables"
    except (ValueError, KeyError, TypeError):
        return _reason(done, path)


def _info(path: Path, wanted: str) -> dict[str, Any]:
    # -U: the image may be in use by another domain, which only reads it as we do.
    done = _run(["info", "-U", "-f", wanted, "--output=json", str(path)])
    if done.returncode != 0:
        raise CannotRun(f"{path} is a corrupt {wanted} image: {_reason(done, path)}")
    told = json.loads(done.stdout)
    assert isinstance(told, dict)
    return told


def _run(arguments: list[str]) -> "subprocess.CompletedProcess[str]":
    try:
        return subprocess.run(
            [TOOL, *arguments],
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
            errors="replace",
            check=False,
            timeout=TOOL_LIMIT_S,
        )
    except FileNotFoundError:
        raise CannotRun(f"{TOOL} is not installed: apt-get install {PACKAGE}") from None
    except subprocess.TimeoutExpired:
        raise HypervisorError(f"{TOOL} {' '.join(arguments)} did not end within {TOOL_LIMIT_S:g} s") from None


def _reason(done: "subprocess.CompletedProcess[str]", path: Path) -> str:
    """The last line that qemu-img wrote, without its own name and the path in front."""
    lines = [line for line in done.stderr.splitlines() if line.strip()]
    text = lines[-1] if lines else f"{TOOL} ended with status {done.returncode}"
    for prefix in (f"{TOOL}: ", f"Could not open '{path}': "):
        text = text.removeprefix(prefix)
    return text
