"""Machines from recordings of sysfs, with a stand-in for the kernel: what it does when a driver is changed.

    machine(tmp_path / "hardware", "q35")   a tree of /sys as it was recorded: golden/hardware, record_hardware.py
    RecordedHardware(root)                  pillar's Hardware on it: whatever is written has the effect that it had in
                                            the recorded machine's own kernel (q35.handed shows that)
    python recorded_hardware.py ARGUMENTS   a domainmgr on such a tree, for tests with real processes

Only hardware that no test machine has is made up. The tree is the whole state: processes may come and go.
"""

from __future__ import annotations

import contextlib
import os
import sys
from pathlib import Path
from typing import Final

from pillar.agent import run
from pillar.cmd.domainmgr import agent
from pillar.cmd.domainmgr.agent import DomainMgr
from pillar.hardware import VFIO, Hardware

RECORDINGS: Final = Path(__file__).parent / "golden" / "hardware"
_NATURAL: Final = ".natural"  # in a device's directory: the driver that claims it when it may
_NO_NET: Final = ".net"  # what a device without driver has of `net`


def lines(name: str) -> list[str]:
    """A recording without its comment."""
    return [line for line in (RECORDINGS / name).read_text().splitlines() if line and not line.startswith("#")]


def machine(root: Path, name: str) -> Path:
    """Make the recorded machine's tree at `root`; returns it."""
    for line in lines(f"{name}.txt"):
        path, link, target = line.partition(" -> ")
        if link:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).symlink_to(target)
            if path.endswith("/driver"):
                (root / path).with_name(_NATURAL).write_text(os.path.basename(target))
            continue
        path, content, text = line.partition(" = ")
        if content:
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_text(f"{text}\n")
        else:
            (root / path).mkdir(parents=True, exist_ok=True)
    (root / "dev" / "vfio").mkdir(parents=True)
    return root


def snapshot(root: Path) -> dict[str, str]:
    """Every link and file of the tree with what is in it."""
    found = {}
    for directory, names, files in os.walk(root):
        for path in (Path(directory, name) for name in [*names, *files]):
            with contextlib.suppress(FileNotFoundError):  # a domainmgr is changing it
                if path.is_symlink():
                    found[str(path.relative_to(root))] = os.readlink(path)
                elif path.is_file():
                    found[str(path.relative_to(root))] = path.read_text()
    return found


class RecordedHardware(Hardware):
    """Hardware whose kernel is `write`. `refusing` are addresses whose device vfio-pci does not take."""

    refusing: frozenset[str] = frozenset()

    def write(self, path: Path, text: str) -> None:
        if path.name == "driver_override":
            path.write_text(f"{text.strip() or '(null)'}\n")
        elif path.name == "unbind":
            self._unbind(path.parent.parent)
        elif path.name == "bind":
            self._bind(self._device(path, text), path.parent.name)
        elif path.name == "drivers_probe":
            device = self._device(path, text)
            override = _text(device / "driver_override").replace("(null)", "")
            if not (device / "driver").is_symlink():
                self._bind(device, override or _text(device / _NATURAL))
        else:
            raise AssertionError(f"nothing writes {path}")

    def _device(self, path: Path, name: str) -> Path:
        bus = path
        while bus.parent.name != "bus":
            bus = bus.parent
        if not (bus / "devices" / name).exists():
            raise OSError(19, "No such device", str(path))
        return bus / "devices" / name

    def _bind(self, device: Path, driver: str) -> None:
        if not driver or (driver == VFIO and device.name in self.refusing):
            return
        bus = "usb" if ":" in device.name and "-" in device.name else "pci"
        to = self.root.resolve() / "sys" / "bus" / bus / "drivers" / driver
        (device / "driver").symlink_to(os.path.relpath(to, device.resolve()))
        if driver == VFIO:
            (self.root / "dev" / "vfio" / self._group(device)).touch()
        elif (device / _NO_NET).exists():
            (device / _NO_NET).rename(device / "net")

    def _unbind(self, device: Path) -> None:
        driver = os.path.basename(os.readlink(device / "driver"))
        (device / "driver").unlink()
        if driver == VFIO:
            group = self._group(device)
            others = [found for found in self.pci().values() if found.iommu_group == group and found.driver == VFIO]
            if not others:
                (self.root / "dev" / "vfio" / group).unlink()
        if (device / "net").exists():
            (device / "net").rename(device / _NO_NET)

    @staticmethod
    def _group(device: Path) -> str:
        return os.path.basename(os.readlink(device / "iommu_group"))


def _text(path: Path) -> str:
    return path.read_text().strip() if path.exists() else ""


if __name__ == "__main__":
    setattr(agent, "Hardware", RecordedHardware)  # noqa: B010  mypy would call the plain form an error
    sys.exit(run(DomainMgr))
