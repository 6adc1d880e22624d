"""Certificate files in the certs directory: whole or not at all, and nothing that is no certificate."""

from __future__ import annotations

from pathlib import Path

from pillar.durable import replace_file

MAX_BYTES = 1024 * 1024
MARK = b"-----BEGIN CERTIFICATE-----"


class NotACertificate(Exception):
    """What was downloaded is something else; the text says what it looks like."""


def install(source: Path, target: Path) -> bool:
    """Make `target` a copy of `source`. False: it was one already.

    Raises NotACertificate, and OSError (the old target then stands).
    """
    data = read(source)
    if target.is_file() and not target.is_symlink() and target.read_bytes() == data:
        return False
    target.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    replace_file(target, data, 0o644, staged=target.with_name(f".{target.name[:200]}.new"))
    return True


def read(source: Path) -> bytes:
    """The content, if it can be PEM certificates. Raises NotACertificate, OSError."""
    with source.open("rb") as file:
        data = file.read(MAX_BYTES + 1)
    if len(data) > MAX_BYTES:
        raise NotACertificate(f"is larger than {MAX_BYTES} bytes")
    if MARK not in data:
        raise NotACertificate(f"is not a PEM certificate, it begins with {data[:40]!r}")
    return data
