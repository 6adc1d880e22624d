"""Which boot of the machine this is: what counts from it (start times, unflushed bytes) ends with it."""

from __future__ import annotations

from pathlib import Path
from typing import Final

_FILE: Final = Path("/proc/sys/kernel/random/boot_id")


def boot_id() -> str:
    """The kernel's name for this boot; "" where it does not say, and then nothing is known to be of this boot."""
    try:
        return _FILE.read_text("ascii").strip()
    except OSError:
        return ""
