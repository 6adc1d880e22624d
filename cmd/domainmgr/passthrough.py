"""Devices that a virtual machine has to itself: from the host's drivers to vfio-pci, and back.

    who may have what      DomainStatus.IoAdapterList and AssignableAdapters, published before anything is touched
    what was changed       <persist>/adapters/<app uuid>.json, written and on the disk before the first change: boot of
                           the machine, former driver and driver_override of each PCI device, drivers of each USB device
    what is bound          the kernel's sysfs, read anew each time; no table and no memory is believed

The tables cannot tell what was changed: the controller's list may lose a device while a guest has it, and they know no
former driver. From this record everything is given back whatever became of the list, the app and /run.

    take        look whether all can be had -> record -> for each PCI device: driver_override, unbind, drivers_probe
    give back   for each PCI device: unbind, former driver_override, drivers_probe -> USB drivers -> remove the record

USB devices are taken by QEMU itself, which detaches their drivers; the kernel does not attach them again when QEMU is
killed (seen in the recorded machine), so that is done here.

domainmgr dies           what stands                                     what the next domainmgr does
before the record        nothing was changed                             boots as if nothing had been
between any two steps    record, some devices changed, BOOTING           boot: gives all back, takes all again
before QEMU runs         record, all changed, BOOTING                    the same
while QEMU runs          record, RUNNING                                 adopts the domain; the devices stay
while giving back        record, HALTING, HALTED or PendingDelete        gives back what is still there to give
after the last step      no record                                       nothing
QEMU dies meanwhile      record, domain gone                             sweeps: gives back
the machine restarts     record of another boot; sysfs is fresh          removes the record

Each arrow can be taken twice. What an administrator bound to vfio-pci without this code stays there afterwards.
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, Final

from pillar.bootid import boot_id
from pillar.durable import replace_file, sweep_staged
from pillar.hardware import VFIO, Hardware, PciDevice
from pillar.hypervisors import CannotRun, HypervisorError

_HARMLESS: Final = ("", VFIO, "pci-stub")  # drivers that a device may have whose IOMMU group goes to a guest
_log: Final = logging.getLogger(__name__)


class Passthrough:
    """Takes devices from the host and gives them back. One domain at a time has a device: reservations see to that.

    Methods may be called from worker threads, for one domain by one at a time.
    """

    def __init__(self, ledger: Path, hardware: Hardware) -> None:
        self._ledger = ledger
        self._hardware = hardware

    def holders(self) -> set[str]:
        """The domains for which devices were taken, and not yet given back."""
        with suppress(FileNotFoundError):
            return {name.removesuffix(".json") for name in os.listdir(self._ledger) if not name.startswith(".")}
        return set()

    def take(self, uuid: str, pci: Sequence[str], usb: Sequence[str]) -> None:
        """Hand over PCI devices to vfio-pci, and remember the drivers of USB devices, which QEMU takes.

        All or none. Raises CannotRun, with nothing touched, for what this machine cannot give; HypervisorError or
        OSError when the kernel refused, and then all is given back.
        """
        self.give_back(uuid)
        if not pci and not usb:
            return
        found = self._hardware.pci()
        drivers = self._usb_drivers(usb)
        self._check_nobody_else_has(uuid, [*pci, *drivers])
        for address in pci:
            reason = self._obstacle(address, pci, found)
            if reason:
                raise CannotRun(f"PCI device {address} cannot be passed through: {reason}")
        former = {address: {"driver": found[address].driver, "override": found[address].override} for address in pci}
        self._write(uuid, {"boot": boot_id(), "pci": former, "usb": drivers})
        try:
            for address in pci:
                self._to_vfio(address, found[address])
        except BaseException:
            self.give_back(uuid)
            raise

    def give_back(self, uuid: str) -> None:
        """Return what was taken for a domain to the drivers it had. Nothing must use it any more.

        A device that has gone is forgotten; one that its driver does not want back stays without, which is logged.
        Raises OSError when the kernel refuses, and then another call goes on.
        """
        record = self._read(uuid)
        if record.get("boot") == boot_id():
            for address, former in record["pci"].items():
                self._from_vfio(address, former["driver"], former["override"])
            for interface, driver in record["usb"].items():
                self._reattach(interface, driver)
        sweep_staged(self._record(uuid))
        self._record(uuid).unlink(missing_ok=True)

    def _check_nobody_else_has(self, uuid: str, wanted: Collection[str]) -> None:
        """Raises HypervisorError for devices that are still to be given back for another domain."""
        for holder in sorted(self.holders() - {uuid}):
            record = self._read(holder)
            if record.get("boot") == boot_id():
                both = {*record["pci"], *record["usb"]}.intersection(wanted)
                if both:
                    raise HypervisorError(f"device {min(both)} is still held for app {holder}")

    def _obstacle(self, address: str, together: Sequence[str], found: Mapping[str, PciDevice]) -> str:
        """Why this PCI device cannot be handed over now; "" when it can."""
        device = found.get(address)
        if device is None:
            return "it is not there"
        if device.chipset:
            return "it is a bridge; list the devices behind it"
        if not device.iommu_group:
            return (
                "this machine has no IOMMU in use; switch it on in the firmware (VT-d, AMD-Vi), and for Intel boot the"
                " kernel with intel_iommu=on"
            )
        if not self._hardware.knows_driver(VFIO):
            return "this kernel has no vfio-pci; load it: modprobe vfio-pci"
        if device.override not in ("", VFIO):
            return f"it is pinned to the driver {device.override}; clear its driver_override"
        if device.driver == VFIO and self._hardware.group_in_use(device.iommu_group):
            return f"another process has its IOMMU group {device.iommu_group}"
        for other, neighbour in found.items():
            same = neighbour.iommu_group == device.iommu_group and not neighbour.bridge
            if same and other not in together and neighbour.driver not in _HARMLESS:
                return (
                    f"{other} in the same IOMMU group {device.iommu_group} is used by this machine ({neighbour.driver})"
                )
        return self._hardware.used_disk(self._hardware.pci_path(address))

    def _usb_drivers(self, places: Sequence[str]) -> dict[str, str]:
        """The drivers of the interfaces of these USB devices. Raises CannotRun for one that cannot be passed on."""
        found = self._hardware.usb() if places else {}
        drivers: dict[str, str] = {}
        for place in places:
            device = found.get(place)
            if device is None:
                reason = "nothing is plugged in there"
            elif device.hub:
                reason = "it is a hub; list the devices at it"
            else:
                reason = self._hardware.used_disk(self._hardware.usb_path(device.name))
                drivers |= {name: driver for name, driver in device.drivers.items() if driver not in ("", "usbfs")}
            if reason:
                raise CannotRun(f"USB device {place} cannot be passed through: {reason}")
        return drivers

    def _to_vfio(self, address: str, device: PciDevice) -> None:
        if device.driver == VFIO:
            return
        self._hardware.override(address, VFIO)
        if device.driver:
            self._hardware.unbind(address)
        self._hardware.probe(address)
        driver = self._hardware.driver(address)
        if driver != VFIO:
            raise HypervisorError(
                f"PCI device {address} did not go to vfio-pci, it has {driver or 'no driver'} now; the kernel's log"
                " says why"
            )

    def _from_vfio(self, address: str, driver: str, override: str) -> None:
        device = self._hardware.pci().get(address)
        if device is None or driver == VFIO:
            return
        if device.driver == VFIO:
            self._hardware.unbind(address)
        if device.override != override:
            self._hardware.override(address, override)
        if not driver or self._hardware.driver(address):
            return
        self._hardware.probe(address)
        if not self._hardware.driver(address):  # it was bound by hand, and does not match by itself
            with suppress(OSError):
                self._hardware.bind(address, driver)
        if not self._hardware.driver(address):
            _log.warning("PCI device %s stays without a driver: %s does not take it back", address, driver)

    def _reattach(self, interface: str, driver: str) -> None:
        path = self._hardware.usb_path(interface)
        if not path.exists() or (path / "driver").exists():
            return
        with suppress(OSError):
            self._hardware.probe_usb(interface)
        if not (path / "driver").exists():
            _log.warning("USB interface %s stays without a driver: %s does not take it back", interface, driver)

    def _record(self, uuid: str) -> Path:
        return self._ledger / f"{uuid}.json"

    def _write(self, uuid: str, record: Mapping[str, object]) -> None:
        self._ledger.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(self._record(uuid), json.dumps(record).encode())

    def _read(self, uuid: str) -> dict[str, Any]:
        """{} for a domain that nothing was taken for."""
        path = self._record(uuid)
        try:
            found: dict[str, Any] = json.loads(path.read_bytes())
        except FileNotFoundError:
            return {}
        except ValueError as error:
            raise HypervisorError(
                f"{path} is damaged ({error}): give its devices back by hand and remove it"
            ) from error
        return found
