"""A real guest for tests of virtual machines: Debian's cloud kernel and an initramfs of our own (pillar.demo.guest).

    pytest_plugins = ("vm_fixtures",)
    def test_x(guest: Guest, ...)         the files, made once a session; the kernel is fetched once for all and kept
                                          below .venv

Skips with the reason when QEMU, busybox or the kernel cannot be had; fails with CI=true. A boot takes 3 s and two CPU
seconds on an idle machine and many times that on a busy one: wait for what the guest prints, 120 s, one VM at a time.

Most tests need no Linux: `boot_disk` makes a disk whose boot sector says something on the serial port and then does
one thing (HALT, SWITCH_OFF, PANIC, RESET, ECHO); the firmware has it running in 0.2 s.
`seed_kvm_answer` spares a new root the five seconds in which a machine where KVM does not work proves just that.
"""

from __future__ import annotations

import json
import shutil
import subprocess
from dataclasses import dataclass
from pathlib import Path

from pillar.durable import replace_file
from pillar.hypervisors import _kvm

BOOT_S = 120.0
MEMORY_KIB = 128 * 1024

# Real-mode code for the end of a boot sector.
HALT = b"\xf4\xeb\xfd"  # hlt; jmp: takes no notice of the power button
SWITCH_OFF = b"\xba\x04\x06\xb8\x00\x20\xef" + HALT  # ACPI's sleep register: 0x2000 to port 0x604
PANIC = b"\xba\x05\x05\xb0\x01\xee" + HALT  # the panic notifier: 1 to port 0x505
RESET = b"\xba\xf9\x0c\xb0\x06\xee" + HALT  # the reset register: 6 to port 0xcf9
ECHO = b"\xfb\xf4\xba\xfd\x03\xec\xa8\x01\x74\xf7\xba\xf8\x03\xec\xee\xeb\xf1"  # what the serial port gets, it sends


def boot_disk(says: str, then: bytes = HALT) -> bytes:
    """A raw disk that prints `says` on the serial port when it is booted, and goes on with `then`.

    1 MiB: the firmware boots from no disk that is smaller than a cylinder.
    """
    printing = b"\xba\xf8\x03" + b"".join(b"\xb0" + bytes([letter]) + b"\xee" for letter in says.encode())
    sector = (printing + then).ljust(510, b"\0") + b"\x55\xaa"
    assert len(sector) == 512, "too long for a boot sector"
    return sector.ljust(1 << 20, b"\0")


@dataclass(frozen=True)
class Guest:
    kernel: Path
    ramdisk: Path


def seed_kvm_answer(root: Path) -> None:
    """Let domains of this root run under TCG without the proof; the proof has a test of its own."""
    program = shutil.which("qemu-system-x86_64")
    assert program is not None
    answer = root / "persist" / "qemu" / "kvm.json"
    answer.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(answer, json.dumps({"question": _kvm.question(program), "works": False}).encode())


def qemu_img(*arguments: object) -> str:
    done = subprocess.run(["qemu-img", *map(str, arguments)], capture_output=True, text=True, check=False, timeout=60)
    assert done.returncode == 0, done.stderr
    return done.stdout
