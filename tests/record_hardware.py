"""Record what sysfs says of a machine's PCI and USB devices, from a real kernel in a virtual machine rich in devices.

    python tests/record_hardware.py q35 tests/golden/hardware/q35.txt
    python tests/record_hardware.py pc tests/golden/hardware/pc.txt

    q35     an IOMMU; root ports, a network card of two functions, two cards behind a bridge to conventional PCI, USB 3
            with a keyboard, a tablet, a hub and a stick, sound, graphics, NVMe, SATA
    pc      no IOMMU; a network card, USB 1 with a tablet

A recording is text, one line each: `path = content`, `path -> target of the link`, `path/` for an empty directory. The
comment at its head lists the PCI devices as `lspci -Dnn` does, and the USB devices. `hardware.py` makes a tree of it.

On q35 the guest also runs the project's own code (pillar.cmd.domainmgr.passthrough): it hands devices over to the
guest kernel's vfio-pci, starts a QEMU that has them, kills it, and takes the devices back. What was changed for it
stands in <recording>.handed, as - and + lines, below what that QEMU said; that everything was as before at the end is
checked here.

Needs QEMU, and Debian's kernel package linux-image-amd64 unpacked in --kernel DIR (as `apt-get download` and `dpkg-deb
-x` leave it): the cloud kernel of the other tests' guest has neither USB nor these cards. 40 s.
"""

from __future__ import annotations

import argparse
import difflib
import gzip
import json
import lzma
import os
import re
import shutil
import stat
import subprocess
import sys
import tempfile
import time
from pathlib import Path

RECORDED = {
    "bDeviceClass", "bInterfaceClass", "class", "device", "driver_override", "idProduct", "idVendor", "product",
    "vendor",
}  # fmt: skip
LINKS = {"driver", "iommu_group"}
DEVICE = re.compile(r"[0-9a-f]{4}:[0-9a-f]{2}:[0-9a-f]{2}\.[0-7]|usb[0-9]+|[0-9]+-[0-9.:]+")  # PCI, USB, USB interface
MODULES = (
    "virtio_pci", "virtio_net", "virtio_blk", "virtio-gpu", "e1000", "e1000e", "nvme", "ahci", "ata_piix", "sd_mod",
    "ehci-pci", "uhci-hcd", "xhci-pci", "usbhid", "hid-generic", "usb-storage", "snd-hda-intel", "i2c-i801", "lpc_ich",
    "vfio_iommu_type1", "vfio-pci",
)  # fmt: skip
MARK = "RECORDING"
TOLD = "TOLD"
QEMU = "usr/bin/qemu-system-x86_64"  # Debian's, which has some of its parts in files of their own
QEMU_MODULES = Path("/usr/lib/x86_64-linux-gnu/qemu")
ASSIGNED_USB = "1:2"  # the keyboard
ASSIGNED = ("0000:01:00.0", "0000:01:00.1", "0000:00:04.0")  # both functions of the network card, and the sound chip
MACHINES = {
    "q35": [
        "-machine", "q35", "-device", "intel-iommu,intremap=on,caching-mode=on",
        "-device", "pcie-root-port,id=rp1,chassis=1,addr=1c.0,multifunction=on",
        "-device", "pcie-root-port,id=rp2,chassis=2,addr=1c.1",
        "-device", "pcie-root-port,id=rp3,chassis=3,addr=1c.2",
        "-device", "e1000e,bus=rp1,addr=0.0,multifunction=on", "-device", "e1000e,bus=rp1,addr=0.1",
        "-device", "nec-usb-xhci,id=usb,bus=rp2",
        "-device", "pcie-pci-bridge,id=old,bus=rp3",
        "-device", "e1000,bus=old,addr=1", "-device", "e1000,bus=old,addr=2",
        "-device", "virtio-vga,addr=2", "-device", "nvme,drive=d0,serial=nvme0,addr=3",
        "-audiodev", "none,id=quiet", "-device", "intel-hda,addr=4", "-device", "hda-duplex,audiodev=quiet",
        "-device", "usb-tablet,bus=usb.0,port=1", "-device", "usb-kbd,bus=usb.0,port=2",
        "-device", "usb-hub,bus=usb.0,port=3", "-device", "usb-storage,bus=usb.0,port=3.1,drive=d1",
        "-device", "ide-hd,drive=d2,bus=ide.0",
    ],
    "pc": [
        "-machine", "pc,usb=on", "-device", "e1000,addr=4", "-device", "usb-tablet",
        "-device", "ide-hd,drive=d0,bus=ide.0",
    ],
}  # fmt: skip
INIT = """\
#!/bin/busybox sh
/bin/busybox --install -s /bin
export PATH=/bin HOME=/ PYTHONHOME=/python PYTHONPATH=/project PYTHONDONTWRITEBYTECODE=1
mount -t proc proc /proc; mount -t sysfs sysfs /sys; mount -t devtmpfs devtmpfs /dev
for module in $(cat /modules/order); do insmod /modules/$module.ko; done
echo 1 >/sys/bus/pci/rescan
timeout 20 sh -c 'until [ -e /sys/block/sda ]; do usleep 100000; done'
usleep 3000000
/python/bin/python3 -S /record_hardware.py inside %s >/dev/ttyS1 2>/dev/console
poweroff -f
"""


def inside(machine: str) -> None:
    """In the guest: print the recording; on q35 also those with the devices handed over, and after their return."""
    print(MARK, *snapshot(Path("/sys")), sep="\n")
    if machine == "q35":
        from pillar.cmd.domainmgr.passthrough import Passthrough
        from pillar.hardware import Hardware

        ledger = Path("/persist/adapters")
        passthrough = Passthrough(ledger, Hardware())
        passthrough.take("guest", ASSIGNED, (ASSIGNED_USB,))
        print(MARK, *snapshot(Path("/sys")), sep="\n")
        told = qemu_with_the_devices()
        passthrough.give_back("guest")
        print(*(f"{TOLD} {line}" for line in told), sep="\n")
        print(MARK, *snapshot(Path("/sys")), sep="\n")
    print(MARK)


def qemu_with_the_devices() -> list[str]:
    """In the guest: run a QEMU that has what was taken, and kill it; what it, and the kernel, said of the devices."""
    from pillar.hardware import Hardware
    from pillar.hypervisors import DomainSpec, _machine
    from pillar.types.adapters import IoBundle
    from pillar.types.domainmgr import DomainConfig

    bundles = tuple(IoBundle(PciLong=address) for address in ASSIGNED)
    spec = DomainSpec("guest", DomainConfig(), (), bundles, (ASSIGNED_USB,))
    words = ["-nodefaults", "-no-user-config", "-display", "none", "-L", "/firmware", "-accel", "tcg", "-m", "32"]
    qemu = subprocess.Popen(
        [f"/{QEMU}", *words, "-sandbox", _machine.SANDBOX, *_machine._adapters(spec), "-qmp", "stdio"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    _ask(qemu, "qmp_capabilities")
    told = [line for line in _ask(qemu, "info pci") if "PCI device" in line]
    deadline = time.monotonic() + 120
    while "Product USB Host Device" in (usb := _ask(qemu, "info usb"))[0] and time.monotonic() < deadline:
        time.sleep(1)  # the name of a device that QEMU has not opened; it looks for it when the guest runs
    told += usb
    hardware = Hardware()
    groups = sorted({device.iommu_group for address, device in hardware.pci().items() if address in ASSIGNED})
    told.append(f"IOMMU groups in use meanwhile: {[group for group in groups if hardware.group_in_use(group)]}")
    told.append(f"drivers of the USB device meanwhile: {dict(hardware.usb()[ASSIGNED_USB].drivers)}")
    qemu.kill()
    qemu.wait()
    told.append(f"drivers of the USB device after SIGKILL: {dict(hardware.usb()[ASSIGNED_USB].drivers)}")
    told.append(f"IOMMU groups in use then: {[group for group in groups if hardware.group_in_use(group)]}")
    return told


def _ask(qemu: subprocess.Popen[str], question: str) -> list[str]:
    """The lines of QEMU's answer to a question of its human monitor, or to the one order by which a talk begins."""
    human = {"execute": "human-monitor-command", "arguments": {"command-line": question}}
    assert qemu.stdin is not None
    assert qemu.stdout is not None
    qemu.stdin.write(json.dumps({"execute": question} if "_" in question else human) + "\n")
    qemu.stdin.flush()
    for line in qemu.stdout:
        answer = json.loads(line)
        if "return" in answer:
            return [part.strip() for part in str(answer["return"]).splitlines()]
    raise SystemExit("QEMU ended")


def snapshot(sys_: Path) -> list[str]:
    """The lines of a recording."""
    lines = []
    for root in sorted((sys_ / "devices").glob("pci*")):
        for directory, names, files in os.walk(root):
            is_device = DEVICE.fullmatch(Path(directory).name)
            is_disk = Path(directory).parent.name in ("block", "nvme") or Path(directory).parent.parent.name == "nvme"
            for name in sorted([*names, *files]):
                path = Path(directory, name)
                if is_device and path.is_symlink() and name in LINKS:
                    lines.append(f"{path} -> {os.readlink(path)}")
                elif path.is_file() and ((is_device and name in RECORDED) or (is_disk and name == "dev")):
                    text = path.read_text(errors="replace").strip()
                    if "\n" not in text:
                        lines.append(f"{path} = {text}")
            names[:] = [name for name in names if name not in ("power", "msi_irqs", "link", "firmware_node")]
            if Path(directory).name == "net":
                lines += [f"{directory}/{name}/" for name in names]
    for bus in ("pci", "usb"):
        for link in sorted((sys_ / "bus" / bus / "devices").glob("*")):
            lines.append(f"{link} -> {os.readlink(link)}")
        lines += [f"{driver}/" for driver in sorted((sys_ / "bus" / bus / "drivers").glob("*"))]
    for link in sorted((sys_ / "kernel" / "iommu_groups").glob("*/devices/*")):
        lines.append(f"{link} -> {os.readlink(link)}")
    return sorted(line.removeprefix("/") for line in lines)


def head(lines: list[str], machine: str, kernel: str) -> list[str]:
    """The comment that says what this is."""
    facts = {}
    for line in lines:
        path, _, value = line.replace(" -> ", " = ").partition(" = ")
        facts[path] = value
    version = subprocess.run(["qemu-system-x86_64", "--version"], capture_output=True, text=True, check=True).stdout
    found = [f"# {machine}: Linux {kernel} in {version.splitlines()[0]}", "#"]
    for path in sorted((path for path in facts if path.startswith("sys/bus/pci/devices/")), key=os.path.basename):
        base = f"sys/{facts[path].removeprefix('../../../')}"
        ids = f"{facts[f'{base}/vendor'][2:]}:{facts[f'{base}/device'][2:]}"
        driver = os.path.basename(facts.get(f"{base}/driver", "-"))
        group = os.path.basename(facts.get(f"{base}/iommu_group", "-"))
        found.append(
            f"# {os.path.basename(path)} class {facts[f'{base}/class'][2:]} [{ids}] {driver}, IOMMU group {group}"
        )
    found.append("#")
    for path in sorted(path for path in facts if path.startswith("sys/bus/usb/devices/")):
        base = f"sys/{facts[path].removeprefix('../../../')}"
        if f"{base}/idVendor" in facts:
            ids = f"{facts[f'{base}/idVendor']}:{facts[f'{base}/idProduct']}"
            found.append(f"# usb {os.path.basename(path)} [{ids}] {facts.get(f'{base}/product', '')}")
    return found


def modules(tree: Path) -> dict[str, bytes]:
    """The modules with those they need before them, from what each says of itself."""
    there = {path.name.partition(".ko")[0].replace("-", "_"): path for path in tree.rglob("*.ko*")}
    found: dict[str, bytes] = {}

    def add(name: str) -> None:
        name = name.replace("-", "_")
        if name in found or name not in there:
            return
        data = there[name].read_bytes()
        data = lzma.decompress(data) if there[name].suffix == ".xz" else data
        needs = re.search(rb"\0depends=([^\0]*)\0", data)
        for other in needs.group(1).decode().split(",") if needs else ():
            if other:
                add(other)
        found[name] = data

    for name in MODULES:
        add(name)
    return found


def userspace(tree: Path, machine: str) -> bytes:
    """The guest's file system: busybox, the modules, this Python with the modules that the recording takes."""
    from pillar.demo.guest import _cpio

    files: dict[str, tuple[int, bytes]] = {}

    def add(name: str, data: bytes, mode: int = 0o644) -> None:
        parts = name.split("/")
        for depth in range(1, len(parts)):
            files.setdefault("/".join(parts[:depth]), (stat.S_IFDIR | 0o755, b""))
        files[name] = (stat.S_IFREG | mode, data)

    for directory in ("proc", "sys", "dev", "tmp", "persist/adapters", "bin"):
        add(f"{directory}/.keep", b"")
    files["dev/console"] = (stat.S_IFCHR | 0o600, b"")
    add("bin/busybox", Path(shutil.which("busybox") or "busybox").read_bytes(), 0o755)
    add("init", (INIT % machine).encode(), 0o755)
    add("record_hardware.py", Path(__file__).read_bytes())
    loaded = modules(tree)
    for name, data in loaded.items():
        add(f"modules/{name}.ko", data)
    add("modules/order", "\n".join(loaded).encode())
    for name, path in _python().items():
        add(name, path.read_bytes(), 0o755)
    return gzip.compress(_cpio(files), compresslevel=1, mtime=0)


def _python() -> dict[str, Path]:
    """Where what the guest's Python needs comes from: the program, its libraries, every module it will import."""
    program = Path(os.path.realpath(sys.executable))
    code = (
        "import argparse, difflib, encodings.ascii, gzip, json, lzma, re, shutil, subprocess, sys, tempfile, time\n"
        "import pillar.cmd.domainmgr.passthrough, pillar.hypervisors._machine\n"
        "print(*(m.__file__ for m in list(sys.modules.values()) if getattr(m, '__file__', None)), sep='\\n')\n"
        "print(*(m.__path__[0] for m in list(sys.modules.values()) if hasattr(m, '__path__')), sep='\\n')\n"
    )
    told = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    library = Path(os.__file__).parent
    found = {"python/bin/python3": program}
    for path in map(Path, told):
        if not path.is_file():
            continue
        if "site-packages" in path.parts:
            found[f"project/{str(path).rpartition('site-packages/')[2]}"] = path
        elif path.is_relative_to(library):
            found[f"python/lib/{library.name}/{path.relative_to(library)}"] = path
        elif path.resolve().is_relative_to(PROJECT):
            found[f"project/{_imported_as(path.resolve().relative_to(PROJECT))}"] = path
    found[QEMU] = Path("/", QEMU)
    found |= {str(path)[1:]: path for name in ("accel-tcg-*", "hw-usb-host*") for path in QEMU_MODULES.glob(name)}
    for directory in (Path("/usr/share/seabios"), Path("/usr/share/qemu")):
        for name in ("bios-256k.bin", "kvmvapic.bin"):
            if (directory / name).is_file():
                found[f"firmware/{name}"] = directory / name
    for binary in [program, found[QEMU], *(path for path in found.values() if path.suffix == ".so")]:
        told = subprocess.run(["ldd", binary], capture_output=True, text=True, check=False).stdout.split()
        for word in told:
            if word.startswith("/") and Path(word).is_file():
                found[f"lib64/{Path(word).name}" if "ld-linux" in word else f"lib/{Path(word).name}"] = Path(word)
    return found


PROJECT = Path(__file__).resolve().parent.parent


def _imported_as(path: Path) -> Path:
    """The project's rooms are linked into the package; a file system of plain files has them inside."""
    return Path("pillar", path) if path.parts[0] in ("types", "cmd", "pubsub") else path


def record(machine: str, kernel: Path) -> list[list[str]]:
    """Boot the machine; the recordings that it printed."""
    (vmlinuz,) = kernel.glob("boot/vmlinuz-*")
    with tempfile.TemporaryDirectory() as text:
        directory = Path(text)
        (directory / "initrd").write_bytes(userspace(kernel, machine))
        for number in range(3):
            (directory / f"d{number}").write_bytes(bytes(1 << 20))
        drives = [f"file={directory}/d{number},if=none,id=d{number},format=raw" for number in range(3)]
        command = [
            "qemu-system-x86_64", "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-accel", "tcg",
            "-m", "1536", "-kernel", vmlinuz, "-initrd", directory / "initrd",
            "-append", "console=ttyS0 quiet panic=1 tsc=reliable no_timer_check intel_iommu=on",
            "-serial", "stdio", "-serial", f"file:{directory}/out",
            *[word for drive in drives for word in ("-drive", drive)], *MACHINES[machine],
        ]  # fmt: skip
        subprocess.run(command, stdin=subprocess.DEVNULL, check=True, timeout=600, stdout=sys.stderr)
        lines = (directory / "out").read_text().splitlines()
    found: list[list[str]] = []
    for line in lines:
        if line == MARK:
            found.append([])
        else:
            found[-1].append(line)
    return found[:-1]


def main() -> int:
    parser = argparse.ArgumentParser(description="Record a machine's PCI and USB devices.")
    parser.add_argument("machine", choices=list(MACHINES))
    parser.add_argument("target", type=Path)
    parser.add_argument("--kernel", type=Path, required=True, metavar="DIR", help="an unpacked linux-image-amd64")
    options = parser.parse_args()
    recordings = record(options.machine, options.kernel)
    if not recordings:
        sys.stderr.write("the guest printed no recording\n")
        return 1
    (vmlinuz,) = options.kernel.glob("boot/vmlinuz-*")
    before = recordings[0]
    comment = head(before, options.machine, vmlinuz.name.removeprefix("vmlinuz-"))
    options.target.write_text("\n".join([*comment, *before]) + "\n")
    if len(recordings) == 3:
        told = [line.removeprefix(TOLD) for line in recordings[1] if line.startswith(TOLD)]
        during = [line for line in recordings[1] if not line.startswith(TOLD)]
        changed = difflib.unified_diff(before, during, lineterm="", n=0)
        lines = [line for line in changed if not line.startswith(("---", "+++", "@@"))]
        about = ["# A QEMU with what is handed over here says:", *(f"#{line}" for line in told)]
        options.target.with_suffix(".handed").write_text("\n".join([*about, *lines]) + "\n")
        left = list(difflib.unified_diff(before, recordings[2], lineterm="", n=0))
        sys.stderr.write("\n".join(["after the return:", *(left or ["everything is as it was"])]) + "\n")
    return 0


if __name__ == "__main__":
    if sys.argv[1:2] == ["inside"]:
        inside(sys.argv[2])
    else:
        sys.exit(main())
