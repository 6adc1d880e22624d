"""A small Linux guest for VMs: Debian's cloud kernel and an initramfs of busybox, made without installing anything.

    kernel(cache)        fetch Debian's kernel package once (27 MB, `apt-get download`: no root) and unpack it there
    initramfs(kernel)    the guest's user space in 1.5 MB, made with plain Python in a tenth of a second

The guest needs 128 MiB of memory, boots in about 3 s without KVM, and prints to its serial console:

    GUEST-READY                     it is up
    GUEST-ADDRESS eth0 10.1.0.2     what DHCP gave to an interface
    GUEST-DISK vda 33554432         a disk and its size in bytes
    GUEST-POWERDOWN                 the power button was pressed: it switches itself off

As cloud-init does, it looks for a disk labelled `cidata` and runs its user data when they are a script. Port 80 answers
with what stands in /www. A shell waits on the console. On the kernel command line, `nopower` makes it ignore the power
button.
"""

from __future__ import annotations

import contextlib
import fcntl
import gzip
import lzma
import os
import platform
import shutil
import stat
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

META_PACKAGE = "linux-image-cloud-amd64"
# In this order: busybox's insmod resolves no dependencies, and all of virtio is modular in this kernel.
MODULES = (
    "virtio_ring",
    "virtio",
    "virtio_pci_legacy_dev",
    "virtio_pci_modern_dev",
    "virtio_pci",
    "failover",
    "net_failover",
    "virtio_net",
    "virtio_blk",
    "evdev",
    "button",
    "cdrom",
    "isofs",
    "pvpanic",
    "pvpanic-mmio",
)
INIT = """\
#!/bin/busybox sh
/bin/busybox mkdir -p /proc /sys /dev /tmp /run /seed /www
/bin/busybox mount -t proc proc /proc
/bin/busybox mount -t sysfs sysfs /sys
/bin/busybox mount -t devtmpfs devtmpfs /dev
/bin/busybox --install -s /bin
export PATH=/bin HOME=/
for module in $(cat /modules/order); do insmod /modules/$module.ko; done
for disk in /sys/block/vd*; do
    [ -e $disk ] && echo "GUEST-DISK ${disk##*/} $(($(cat $disk/size) * 512))"
done
ip link set lo up
for card in /sys/class/net/eth*; do
    [ -e $card ] || continue
    ip link set ${card##*/} up
    udhcpc -i ${card##*/} -b -q -t 30 -T 1 -s /dhcp >/dev/null 2>&1 &
done
echo "{\\"hello\\": \\"from a VM\\", \\"kernel\\": \\"$(uname -r)\\"}" >/www/index.html
httpd -p 80 -h /www
for disk in /dev/vd*; do
    mount -t iso9660 -o ro $disk /seed 2>/dev/null || continue
    [ -e /seed/user-data ] && break
    umount /seed
done
if ! grep -q nopower /proc/cmdline; then
    for event in /sys/class/input/event*; do
        grep -q 'Power Button' $event/device/name || continue
        exec 3</dev/input/${event##*/} # before it is said to be up: a press that nobody waits for is lost
        (head -c 24 <&3 >/dev/null; echo GUEST-POWERDOWN; poweroff -f) &
        exec 3<&-
    done
fi
echo GUEST-READY
if [ "$(head -c 2 /seed/user-data 2>/dev/null)" = '#!' ]; then
    cp /seed/user-data /tmp/user-data; chmod +x /tmp/user-data; /tmp/user-data
fi
while :; do setsid cttyhack sh; done
"""
DHCP = """\
#!/bin/sh
case $1 in
bound|renew)
    ip addr flush dev $interface
    ip addr add $ip/${mask:-24} dev $interface
    [ -n "$router" ] && ip route replace default via ${router%% *} dev $interface
    for server in $dns; do echo "nameserver $server"; done >/etc/resolv.conf
    [ $1 = bound ] && echo "GUEST-ADDRESS $interface $ip" >/dev/console ;;
esac
"""


class GuestError(Exception):
    """The guest cannot be made; the text says what is missing."""


@dataclass(frozen=True)
class Kernel:
    """An unpacked kernel package."""

    vmlinuz: Path
    modules: Path  # the directory below which all modules stand


def default_cache() -> Path:
    """Below the virtual environment, where there is one: it is removed with it."""
    if sys.prefix != sys.base_prefix:
        return Path(sys.prefix) / "guest"
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "pillar" / "guest"


def kernel(cache: Path) -> Kernel:
    """Debian's current cloud kernel; one that is in the cache is taken without asking the network.

    Several processes may ask at once: one fetches, the others wait. Raises GuestError.
    """
    found = _unpacked(cache)
    if found is not None:
        return found
    if platform.machine() != "x86_64":
        raise GuestError(f"there is a guest for x86_64 only, this machine is {platform.machine()}")
    for program, package in (("apt-get", "apt"), ("apt-cache", "apt"), ("dpkg-deb", "dpkg")):
        if shutil.which(program) is None:
            raise GuestError(f"the guest's kernel is a Debian package, and {program} ({package}) is not installed")
    cache.mkdir(parents=True, exist_ok=True)
    with _locked(cache / ".lock"):
        found = _unpacked(cache)
        if found is None:
            _fetch(cache)
            found = _unpacked(cache)
    if found is None:
        raise GuestError(f"the kernel package unpacked in {cache} has no boot/vmlinuz-* or no modules")
    return found


def initramfs(of: Kernel, busybox: Path | None = None) -> bytes:
    """The guest's user space for this kernel, a compressed cpio archive. Raises GuestError."""
    if busybox is None:
        found = shutil.which("busybox")
        if found is None:
            raise GuestError("busybox is not installed: apt-get install busybox-static")
        busybox = Path(found)
    program = busybox.read_bytes()
    if b"ld-linux" in program[:4096]:
        raise GuestError(f"{busybox} needs shared libraries, a guest has none: apt-get install busybox-static")
    files: dict[str, tuple[int, bytes]] = {
        "init": (stat.S_IFREG | 0o755, INIT.encode()),
        "dhcp": (stat.S_IFREG | 0o755, DHCP.encode()),
        "bin": (stat.S_IFDIR | 0o755, b""),
        "bin/busybox": (stat.S_IFREG | 0o755, program),
        "etc": (stat.S_IFDIR | 0o755, b""),
        "modules": (stat.S_IFDIR | 0o755, b""),
        "dev": (stat.S_IFDIR | 0o755, b""),
        "dev/console": (stat.S_IFCHR | 0o600, b""),
    }
    order = []
    for name in MODULES:
        content = _module(of.modules, name)
        if content is not None:
            order.append(name)
            files[f"modules/{name}.ko"] = (stat.S_IFREG | 0o644, content)
    files["modules/order"] = (stat.S_IFREG | 0o644, "\n".join(order).encode())
    return gzip.compress(_cpio(files), compresslevel=1, mtime=0)


def _unpacked(cache: Path) -> Kernel | None:
    for vmlinuz in sorted(cache.glob("linux-image-*/boot/vmlinuz-*"), reverse=True):
        modules = vmlinuz.parent.parent / "lib" / "modules"
        if not modules.is_dir():
            modules = vmlinuz.parent.parent / "usr" / "lib" / "modules"
        if modules.is_dir():
            return Kernel(vmlinuz, modules)
    return None


def _fetch(cache: Path) -> None:
    """Download and unpack the package that the meta package depends on; it appears by rename, whole."""
    packages = _packages(cache)
    if not packages and os.geteuid() == 0:  # a fresh machine has no lists yet
        _run(["apt-get", "update", "-qq"], cache)
        packages = _packages(cache)
    if not packages:
        raise GuestError(f"apt knows no {META_PACKAGE}: run apt-get update on a Debian machine")
    with tempfile.TemporaryDirectory(dir=cache) as text:
        directory = Path(text)
        _run(["apt-get", "download", packages[0]], directory)
        (archive,) = directory.glob("*.deb")
        _run(["dpkg-deb", "-x", str(archive), "tree"], directory)
        (directory / "tree").rename(cache / packages[0])


def _packages(directory: Path) -> list[str]:
    """The kernel packages that the meta package stands for; [] when apt does not know it."""
    done = subprocess.run(
        ["apt-cache", "depends", META_PACKAGE], cwd=directory, capture_output=True, text=True, check=False
    )
    return [line.split()[1] for line in done.stdout.splitlines() if line.strip().startswith("Depends: linux-image")]


def _run(command: list[str], directory: Path) -> str:
    done = subprocess.run(command, cwd=directory, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise GuestError(f"{' '.join(command)}: {done.stderr.strip() or f'exit status {done.returncode}'}")
    return done.stdout


@contextlib.contextmanager
def _locked(path: Path) -> Iterator[None]:
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _module(directory: Path, name: str) -> bytes | None:
    """A kernel module's bytes, None when this kernel has it built in."""
    for path in directory.rglob(f"{name}.ko*"):
        data = path.read_bytes()
        return lzma.decompress(data) if path.suffix == ".xz" else data
    return None


def _cpio(files: dict[str, tuple[int, bytes]]) -> bytes:
    """A `newc` archive, the form that the kernel unpacks. /dev/console is the only device in it: 5, 1."""
    out = bytearray()
    for number, (name, (mode, content)) in enumerate([*files.items(), ("TRAILER!!!", (0, b""))], start=1):
        major, minor = (5, 1) if stat.S_ISCHR(mode) else (0, 0)
        fields = (number, mode, 0, 0, 1, 0, len(content), 0, 0, major, minor, len(name) + 1, 0)
        out += b"070701" + b"".join(b"%08X" % field for field in fields) + name.encode() + b"\0"
        out += b"\0" * (-len(out) % 4)
        out += content
        out += b"\0" * (-len(out) % 4)
    return bytes(out)
