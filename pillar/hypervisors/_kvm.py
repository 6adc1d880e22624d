"""Whether KVM truly runs a guest: proved by booting one, never by the device file.

There are machines where /dev/kvm opens and a guest can be made, but none ever executes anything (nested virtualisation
that is switched off half-way). So QEMU boots 512 bytes that write one number to a port, through the machine's
firmware: 0.2 s where KVM works. Where it does not, the proof takes its whole time limit, so the answer is kept for
as long as this boot of the machine and this QEMU.
"""

import json
import os
import subprocess
import tempfile
import threading
from pathlib import Path

from pillar.bootid import boot_id
from pillar.durable import replace_file

DEVICE = Path("/dev/kvm")
PROOF_S = 5.0
_EXIT_PORT = 0xF4
_NUMBER = 0x2A
# mov al, 0x2a; out 0xf4, al; hlt; jmp $-1
_BOOT_SECTOR = bytes([0xB0, _NUMBER, 0xE6, _EXIT_PORT, 0xF4, 0xEB, 0xFD]).ljust(510, b"\0") + b"\x55\xaa"
_one_proof = threading.Lock()  # of several workers that want to know, one boots the proof


def works(program: str, answer: Path) -> bool:
    """Whether guests of this QEMU run under KVM; `answer` is the file where the last answer stands."""
    if not os.access(DEVICE, os.R_OK | os.W_OK):
        return False
    asked = question(program)
    with _one_proof:
        try:
            known = json.loads(answer.read_bytes())
            if known["question"] == asked:
                return bool(known["works"])
        except (OSError, ValueError, KeyError, TypeError):
            pass
        found = _boots(program)
        answer.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        replace_file(answer, json.dumps({"question": asked, "works": found}).encode())
        return found


def question(program: str) -> list[str]:
    """What an answer holds for: this boot, this QEMU."""
    looks = os.stat(program)
    return [boot_id(), program, str(looks.st_mtime_ns), str(looks.st_size)]


def _boots(program: str, accelerator: str = "kvm") -> bool:
    with tempfile.TemporaryDirectory(prefix="pillar-kvm-") as directory:
        disk = Path(directory) / "proof"
        disk.write_bytes(_BOOT_SECTOR)
        command = [
            program, "-nodefaults", "-no-user-config", "-display", "none", "-m", "16",
            "-machine", f"pc,accel={accelerator}",
            "-device", f"isa-debug-exit,iobase={_EXIT_PORT},iosize=1",
            "-drive", f"file={disk},format=raw,if=floppy,readonly=on", "-boot", "a",
        ]  # fmt: skip
        try:
            done = subprocess.run(
                command,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                check=False,
                timeout=PROOF_S,
            )
        except subprocess.TimeoutExpired:
            return False
    return done.returncode == (_NUMBER << 1) | 1
