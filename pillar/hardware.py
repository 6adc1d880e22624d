"""What the kernel says about the machine's PCI and USB devices, and how a device's driver is changed.

    <root>/sys/bus/{pci,usb}    devices and their drivers
    <root>/dev/vfio             one file for each IOMMU group that vfio-pci has
    <root>/proc/self/mountinfo, <root>/proc/swaps       which disks are in use

The root is / on a device; tests have recorded machines. Nothing is remembered: every call looks again.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

VFIO: Final = "vfio-pci"
_BRIDGE: Final = "0x06"  # host bridges, ports, bridges to other buses
_PORT: Final = ("0x0604", "0x0609")  # what leads to other PCI devices, and follows them
_HUB: Final = "09"


@dataclass(frozen=True)
class PciDevice:
    """One function of a PCI device."""

    driver: str = ""  # "" when none is bound
    override: str = ""  # the only driver it may have; "" for any
    iommu_group: str = ""  # "" without an IOMMU
    interface: str = ""  # the network interface it is
    bridge: bool = False  # it leads to other PCI devices
    chipset: bool = False  # a bridge of any kind


@dataclass(frozen=True)
class UsbDevice:
    """One USB device, at its place: what is plugged in there next has the same address."""

    name: str  # the kernel's, as 1-2.3
    product: str = ""
    hub: bool = False
    controller: str = ""  # PCI address of what it hangs at, "" for another kind of controller
    interface: str = ""  # the network interface it is
    drivers: Mapping[str, str] = field(default_factory=dict)  # of each of its interfaces, as 1-2.3:1.0; "" for none


@dataclass(frozen=True)
class Devices:
    """One look at all of them, by address."""

    pci: Mapping[str, PciDevice] = field(default_factory=dict)
    usb: Mapping[str, UsbDevice] = field(default_factory=dict)


class Hardware:
    """The devices of the machine whose /sys, /dev and /proc stand below `root`."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root = root
        self._pci = root / "sys" / "bus" / "pci"
        self._usb = root / "sys" / "bus" / "usb"

    def devices(self) -> Devices:
        return Devices(self.pci(), self.usb())

    def pci(self) -> dict[str, PciDevice]:
        """Every PCI device by its long address, as 0000:00:02.0; {} on a machine without."""
        return {name: _pci_device(self._pci / "devices" / name) for name in _entries(self._pci / "devices")}

    def usb(self) -> dict[str, UsbDevice]:
        """Every USB device but root hubs by its place, as 1:2.3 (bus, ports); {} on a machine without."""
        names = [name for name in _entries(self._usb / "devices") if "-" in name and ":" not in name]
        return {name.replace("-", ":", 1): _usb_device(self._usb / "devices" / name) for name in names}

    def driver(self, address: str) -> str:
        """The driver of one PCI device; "" when it has none, or is not there."""
        return _target(self.pci_path(address) / "driver")

    def pci_path(self, address: str) -> Path:
        return self._pci / "devices" / address

    def usb_path(self, name: str) -> Path:
        """Of a device or an interface, by the kernel's name."""
        return self._usb / "devices" / name

    def knows_driver(self, name: str) -> bool:
        """Whether this PCI driver is in the kernel now."""
        return (self._pci / "drivers" / name).is_dir()

    def group_in_use(self, iommu_group: str) -> bool:
        """Whether some process has the devices of this group open through vfio."""
        try:
            os.close(os.open(self.root / "dev" / "vfio" / iommu_group, os.O_RDWR | os.O_CLOEXEC))
        except FileNotFoundError:
            return False
        except OSError as error:
            if error.errno == errno.EBUSY:
                return True
            raise
        return False

    def used_disk(self, device: Path) -> str:
        """How this machine uses a disk of the device, as `sda1 is mounted at /home`; "" when it does not."""
        mounted = self._mounted()
        for disk in _disks(Path(os.path.realpath(device))):
            for part in (disk, *sorted(disk.glob(f"{disk.name}*"))):
                if _text(part / "dev") in mounted:
                    return f"{part.name} is mounted at {mounted[_text(part / 'dev')]}"
                holder = next(iter(_entries(part / "holders")), "")
                if holder:
                    return f"{part.name} is part of {holder}"
                if part.name in self._swaps():
                    return f"{part.name} is swap space"
        return ""

    def override(self, address: str, driver: str) -> None:
        """Let a PCI device have this driver only, "" for any. Takes nothing from the driver it has."""
        self.write(self.pci_path(address) / "driver_override", f"{driver}\n")

    def unbind(self, address: str) -> None:
        """Take a PCI device from its driver."""
        self.write(self.pci_path(address) / "driver" / "unbind", address)

    def probe(self, address: str) -> None:
        """Let the kernel find a driver for a PCI device that has none."""
        self.write(self._pci / "drivers_probe", address)

    def bind(self, address: str, driver: str) -> None:
        self.write(self._pci / "drivers" / driver / "bind", address)

    def probe_usb(self, interface: str) -> None:
        """Let the kernel find a driver for an interface of a USB device that has none."""
        self.write(self._usb / "drivers_probe", interface)

    def write(self, path: Path, text: str) -> None:
        """Say something to the kernel, which has done it when this returns. Raises OSError with the path."""
        try:
            descriptor = os.open(path, os.O_WRONLY | os.O_CLOEXEC)
            try:
                os.write(descriptor, text.encode())
            finally:
                os.close(descriptor)
        except OSError as error:
            raise OSError(error.errno, error.strerror, str(path)) from error

    def _mounted(self) -> dict[str, str]:
        """Where each mounted disk is, by its number, as 8:1."""
        lines = _text(self.root / "proc" / "self" / "mountinfo").splitlines()
        return {fields[2]: fields[4] for fields in reversed([line.split() for line in lines]) if len(fields) > 4}

    def _swaps(self) -> set[str]:
        lines = _text(self.root / "proc" / "swaps").splitlines()[1:]
        return {os.path.basename(line.split()[0]) for line in lines if line.strip()}


def _pci_device(path: Path) -> PciDevice:
    override = _text(path / "driver_override")
    kind = _text(path / "class")
    return PciDevice(
        driver=_target(path / "driver"),
        override="" if override == "(null)" else override,
        iommu_group=_target(path / "iommu_group"),
        interface=_interface(path),
        bridge=kind.startswith(_PORT),
        chipset=kind.startswith(_BRIDGE),
    )


def _usb_device(path: Path) -> UsbDevice:
    interfaces = [name for name in _entries(path) if name.startswith(f"{path.name}:")]
    on_the_way = [part for part in Path(os.path.realpath(path)).parts if part.count(":") == 2 and "." in part]
    return UsbDevice(
        name=path.name,
        product=_text(path / "product"),
        hub=_text(path / "bDeviceClass") == _HUB,
        controller=on_the_way[-1] if on_the_way else "",
        interface=_interface(path),
        drivers={name: _target(path / name / "driver") for name in interfaces},
    )


def _interface(path: Path) -> str:
    """The network interface of a device; virtio cards and USB devices have it one level down."""
    found = sorted(_entries(path / "net"))
    for name in _entries(path) if not found else ():
        if name.startswith(("virtio", f"{path.name}:")):
            found += _entries(path / name / "net")
    return min(found, default="")


def _disks(device: Path) -> Iterator[Path]:
    """Every whole disk below a device."""
    for directory, names, _ in os.walk(device):
        if Path(directory).name in ("block", "nvme") or Path(directory).parent.name == "nvme":
            yield from (Path(directory, name) for name in sorted(names) if (Path(directory, name) / "dev").exists())


def _entries(directory: Path) -> list[str]:
    try:
        return sorted(os.listdir(directory))
    except OSError:
        return []


def _target(link: Path) -> str:
    try:
        return os.path.basename(os.readlink(link))
    except OSError:
        return ""


def _text(file: Path) -> str:
    try:
        return file.read_text(errors="replace").strip()
    except OSError:
        return ""
