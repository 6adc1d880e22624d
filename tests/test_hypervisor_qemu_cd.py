"""CD drives of a virtual machine: bootable discs, data discs, and the order in which they are asked."""

from __future__ import annotations

import io
import itertools
from pathlib import Path

from vm_images import HALT, boot_disk
from vm_machine import UUID, Machine

from pillar.hypervisors import DomainSpec, _machine, _qmp
from pillar.types.domainmgr import DiskStatus, DomainConfig

pytest_plugins = ("vm_fixtures",)
# Real mode, from a disc that the firmware booted, DL its drive: read block 16, the disc's descriptor, and send
# the eight bytes at 40, the beginning of its label, to the serial port.
SAY_LABEL = bytes.fromhex(
    "31c08ed8"  # xor ax, ax; mov ds, ax
    "be307c"  # mov si, 0x7c30: the packet
    "b442cd13"  # mov ah, 0x42; int 0x13: read
    "be2880"  # mov si, 0x8028: the label
    "b90800"  # mov cx, 8
    "baf803"  # mov dx, 0x3f8
    "acee"  # lodsb; out dx, al
    "e2fc"  # loop
    "f4ebfd"  # hlt; jmp
)
PACKET = bytes.fromhex("10000100008000001000000000000000")  # one block, to 0:0x8000, from 16


def disc(path: Path, boots: bytes = b"", label: str = "DATADISC") -> Path:
    """An ISO 9660 disc, bootable (El Torito, no emulation) when it is given a program."""
    from pycdlib import PyCdlib

    made = PyCdlib()
    made.new(vol_ident=label)
    made.add_fp(io.BytesIO(b"hello\n"), 6, "/HELLO.;1")
    if boots:
        made.add_fp(io.BytesIO(boots), len(boots), "/BOOT.;1")
        made.add_eltorito("/BOOT.;1", bootcatfile="/BOOT.CAT;1", boot_load_size=4)
    made.write(str(path))
    made.close()
    return path


def drive(path: Path, letter: str, devtype: str) -> DiskStatus:
    return DiskStatus(
        Format="raw", Devtype=devtype, Vdev=f"xvd{letter}", ActiveFileLocation=str(path), ReadOnly=devtype == "cdrom"
    )


def spec(machine: Machine, *disks: DiskStatus) -> DomainSpec:
    return DomainSpec(UUID, machine.domain().config, disks)


def program(says: str) -> bytes:
    return boot_disk(says, HALT)[:2048]


def test_a_machine_boots_from_a_disc_alone(machine: Machine) -> None:
    machine.run(spec(machine, drive(disc(machine.where.images / "a.iso", program("from the disc")), "a", "cdrom")))
    machine.says("from the disc")


def test_discs_are_asked_before_disks_wherever_they_stand(machine: Machine) -> None:
    disk = machine.file("disk.raw", boot_disk("from the disk"))
    plain = disc(machine.where.images / "plain.iso")
    bootable = disc(machine.where.images / "boots.iso", program("from the disc"))
    machine.run(spec(machine, drive(disk, "a", "hdd"), drive(bootable, "b", "cdrom")))
    machine.says("from the disc")
    machine.backend.stop(UUID, 0)
    assert "from the disk" not in machine.output()
    machine.run(spec(machine, drive(disk, "a", "hdd"), drive(plain, "b", "cdrom")))
    machine.says("from the disk")  # of a disc that is not bootable the next in order


def test_a_guest_reads_its_disc_and_cannot_write_it(machine: Machine) -> None:
    boots = (SAY_LABEL.ljust(0x30, b"\0") + PACKET).ljust(2048, b"\0")
    path = disc(machine.where.images / "a.iso", boots, "MYLABEL9")
    machine.run(spec(machine, drive(path, "a", "cdrom")))
    machine.says("MYLABEL9")
    (block,) = _qmp.execute(machine.where.persist / "qemu" / UUID, "query-block")  # type: ignore[misc]
    assert block["inserted"]["ro"]
    assert block["removable"]


def test_the_machine_of_another_architecture_has_its_processor_and_its_device_tree() -> None:
    """What booted Debian's kernel for arm64 by hand; QEMU for it is not among the packages that tests install."""
    config = DomainConfig(Memory=512 * 1024, VCpus=1, Kernel="/k", Ramdisk="/r", DeviceTree="/t")
    of = _machine.ARCHITECTURES["aarch64"]
    cd = drive(Path("/d.iso"), "a", "cdrom")
    words = _machine.command(of, "qemu", DomainSpec(UUID, config, (cd,)), _machine.Places(Path("/log")), kvm=False)
    following = dict(itertools.pairwise(words))
    assert following["-machine"] == "virt"
    assert following["-cpu"] == "cortex-a72"
    assert following["-dtb"] == "/t"
    assert "console=ttyAMA0" in following["-append"]
    assert "scsi-cd,drive=xvda,serial=xvda,bootindex=1" in words
    under_kvm = _machine.command(of, "qemu", DomainSpec(UUID, config, ()), _machine.Places(Path("/log")), kvm=True)
    assert "cortex-a72" not in under_kvm
