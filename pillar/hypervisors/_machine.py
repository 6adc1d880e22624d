"""The machine that a configuration describes, as QEMU's command line. Pure.

    Kernel, Ramdisk, DeviceTree   -kernel, -initrd, -dtb; without a kernel the firmware boots from the disks
    RootDev, ExtraArgs            the kernel's command line: root=, console=, appuuid=, then ExtraArgs
    Memory                        KiB, rounded up to MiB as EVE does; MaxMem is not used: a guest cannot be made larger
    VCpus, MaxCpus                -smp
    disks                         virtio disks with their Vdev as serial number, CD drives for Devtype cdrom;
                                  boot order as EVE's "dc": CD drives first, then disks, each in their order
    VifList                       virtio network cards on taps of the vif's name, with the vif's MAC
    EnableVnc, VncDisplay         a display on 127.0.0.1; 0 is the first free one from 1 on, which QEMU tells (_qmp).
                                  VncPasswd is told to QEMU once it runs: it stands on no command line and in no file
    adapters                      each PCI address by vfio, which has it when QEMU starts; each place of a USB device by
                                  usb-host, at a USB 3 controller: whatever is plugged in there

Besides: the serial console, a memory balloon, random numbers, a panic notifier. The guest's kernel sees virtio disks
as vda, vdb ... where EVE's paravirtual guests see xvda, xvdb ...; a RootDev of the latter form is translated.
"""

import json
import platform
from dataclasses import dataclass
from pathlib import Path

from pillar.hypervisors import DomainSpec, _diskimage
from pillar.hypervisors._qmp import EVENTS, SOCKET
from pillar.types.domainmgr import DiskStatus, DomainConfig
from pillar.types.zedrouter import VifInfo

CONSOLE = "console"  # the socket's name, in the working directory
CDROM = "cdrom"
# QEMU makes twice the room and 10,000 bytes for what it adds, and a kernel for arm64 takes no more than 2 MiB.
LARGEST_TREE_BYTES = ((2 << 20) - 10_000) // 2
LAST_DISPLAY = 99  # of those that are tried when the configuration names none
TRANSLATIONS_MIB = 256  # the most that QEMU keeps of translated code without KVM
SANDBOX = "on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny"


@dataclass(frozen=True)
class Architecture:
    """What differs between the machines that this project knows."""

    program: str
    package: str  # Debian's
    machine: str
    console: str  # the kernel's name of the serial port
    panic_device: str
    cd_drive: tuple[str, ...]  # devices that a CD drive needs, the drive itself last
    cpu: str = ""  # without KVM; "": QEMU's default serves


ARCHITECTURES = {
    "x86_64": Architecture("qemu-system-x86_64", "qemu-system-x86", "pc", "ttyS0", "pvpanic", ("ide-cd",)),
    "aarch64": Architecture(
        "qemu-system-aarch64",
        "qemu-system-arm",
        "virt",
        "ttyAMA0",
        "pvpanic-pci",
        ("virtio-scsi-pci", "scsi-cd"),
        cpu="cortex-a72",  # by default the machine has a processor of 32 bits
    ),
}


def architecture() -> Architecture | None:
    """That of this machine, None when the project knows none."""
    return ARCHITECTURES.get(platform.machine())


@dataclass(frozen=True)
class Places:
    """Files that the backend made for a domain; None where it has none."""

    log: Path
    seed: Path | None = None  # the disc with user data


def command(of: Architecture, program: str, domain: DomainSpec, places: Places, kvm: bool) -> list[str]:
    """The whole command line. Sockets are named relative to the working directory: their paths are bounded."""
    config = domain.config
    memory_mib = -(-config.Memory // 1024)
    cpus = max(1, config.VCpus)
    name = _escaped(f"{config.DisplayName}.{config.AppNum}".replace("\0", ""))
    return [
        program,
        "-nodefaults", "-no-user-config", "-display", "none", "-sandbox", SANDBOX,
        "-name", f"guest={name}", "-uuid", domain.uuid,
        "-machine", of.machine,
        *_accelerator(of, kvm),
        "-m", f"{memory_mib}M", "-smp", f"cpus={cpus},maxcpus={max(cpus, config.MaxCpus)}",
        *_console(places.log),
        *_monitors(),
        *_kernel(of, domain, kvm),
        *_drives(of, domain.disks, places.seed),
        *_cards(config.VifList or ()),
        *_vnc(config),
        *_adapters(domain),
        "-device", "virtio-balloon-pci", "-device", "virtio-rng-pci", "-device", of.panic_device,
    ]  # fmt: skip


def overhead_bytes(of: DomainConfig, kvm: bool) -> int:
    """What QEMU itself may need besides the guest's memory: as EVE estimates it, and what translating takes.

    EVE: 370 MiB, 2.5 % of the guest's memory and 3 MiB for each processor.
    """
    own = (370 << 20) + of.Memory * 1024 * 25 // 1000 + (3 << 20) * max(1, of.VCpus, of.MaxCpus)
    return own if kvm else own + (TRANSLATIONS_MIB + 64 << 20)


def pci_addresses(domain: DomainSpec) -> list[str]:
    """The PCI addresses that go to this domain, each once."""
    return list(dict.fromkeys(bundle.PciLong for bundle in domain.adapters if bundle.PciLong))


def _accelerator(of: Architecture, kvm: bool) -> list[str]:
    if kvm:
        return ["-accel", "kvm", "-cpu", "host"]
    translating = ["-accel", f"tcg,thread=multi,tb-size={TRANSLATIONS_MIB}"]
    return [*translating, "-cpu", of.cpu] if of.cpu else translating


def _console(log: Path) -> list[str]:
    socket = f"socket,id=serial0,path={CONSOLE},server=on,wait=off"
    return ["-chardev", f"{socket},logfile={_escaped(str(log))},logappend=on", "-serial", "chardev:serial0"]


def _monitors() -> list[str]:
    return [
        "-chardev", f"socket,id=qmp0,path={SOCKET},server=on,wait=off", "-mon", "chardev=qmp0,mode=control",
        "-chardev", f"pipe,id=events0,path={EVENTS}", "-mon", "chardev=events0,mode=control",
    ]  # fmt: skip


def _kernel(of: Architecture, domain: DomainSpec, kvm: bool) -> list[str]:
    config = domain.config
    if not config.Kernel:
        return []
    words = [f"console={of.console}", f"appuuid={domain.uuid}"]
    if config.RootDev or domain.disks:
        words.insert(0, f"root={_root_device(config.RootDev)}")
    if not kvm and of.machine == "pc":
        # A kernel under KVM skips this check by itself; under TCG on a busy host it can fail, and that is a panic.
        words.append("no_timer_check")
    if config.ExtraArgs.strip():
        words.append(config.ExtraArgs.strip())
    found = ["-kernel", config.Kernel, "-append", " ".join(words)]
    if config.Ramdisk:
        found += ["-initrd", config.Ramdisk]
    if config.DeviceTree:
        found += ["-dtb", config.DeviceTree]
    return found


def _root_device(wanted: str) -> str:
    return (wanted or "/dev/xvda1").replace("/dev/xvd", "/dev/vd", 1)


def _drives(of: Architecture, disks: tuple[DiskStatus, ...], seed: Path | None) -> list[str]:
    found = []
    order = sorted(range(len(disks)), key=lambda number: (disks[number].Devtype != CDROM, number))
    boot_index = {number: place for place, number in enumerate(order, start=1)}
    if any(disk.Devtype == CDROM for disk in disks):
        for controller in of.cd_drive[:-1]:
            found += ["-device", controller]
    for number, disk in enumerate(disks):
        is_cd = disk.Devtype == CDROM
        found += ["-blockdev", _blockdev(disk.Vdev, disk.Format, Path(disk.ActiveFileLocation), is_cd or disk.ReadOnly)]
        device = of.cd_drive[-1] if is_cd else "virtio-blk-pci"
        found += ["-device", f"{device},drive={disk.Vdev},serial={disk.Vdev},bootindex={boot_index[number]}"]
    if seed is not None:
        found += ["-blockdev", _blockdev("seed", "raw", seed, read_only=True)]
        found += ["-device", "virtio-blk-pci,drive=seed,serial=cidata"]
    return found


def _blockdev(node: str, image_format: str, path: Path, read_only: bool) -> str:
    """As JSON, in which no character of a path means anything."""
    driver = _diskimage.driver(image_format)
    options: dict[str, object] = {
        "node-name": node,
        "driver": driver,
        "read-only": read_only,
        "file": {"driver": "file", "filename": str(path)},
    }
    if driver in ("qcow", "qcow2", "vmdk"):
        options["backing"] = None  # whatever the image says: no other file is opened
    if not read_only:
        options["discard"] = "unmap"
    return json.dumps(options)


def _cards(vifs: tuple[VifInfo, ...]) -> list[str]:
    found = []
    for number, vif in enumerate(vifs):
        found += ["-netdev", f"tap,id=net{number},ifname={_escaped(vif.Vif)},script=no,downscript=no"]
        mac = f",mac={vif.Mac}" if vif.Mac else ""
        found += ["-device", f"virtio-net-pci,netdev=net{number}{mac},romfile="]
    return found


def _vnc(config: DomainConfig) -> list[str]:
    if not config.EnableVnc:
        return []
    display = f"127.0.0.1:{config.VncDisplay}" if config.VncDisplay else f"127.0.0.1:1,to={LAST_DISPLAY}"
    if config.VncPasswd:
        display += ",password=on"  # until it is told which one, nobody gets in
    return ["-device", "VGA", "-vnc", display]


def _adapters(domain: DomainSpec) -> list[str]:
    found = []
    for address in pci_addresses(domain):
        found += ["-device", f"vfio-pci,host={_escaped(address)}"]
    if domain.usb:
        found += ["-device", "qemu-xhci,id=usb"]
    for place in domain.usb:
        bus, _, port = place.partition(":")
        found += ["-device", f"usb-host,bus=usb.0,hostbus={int(bus)},hostport={_escaped(port)}"]
    return found


def _escaped(text: str) -> str:
    """A value inside an option list: QEMU takes a doubled comma for one comma."""
    return text.replace(",", ",,")
