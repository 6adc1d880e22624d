"""Cloud-init's NoCloud disc: an ISO 9660 image labelled `cidata` with `user-data` and `meta-data`.

Attached as a read-only virtio disk, not as a CD drive: cloud-init looks for the label on any disk, and many cloud
kernels have no driver for a CD drive.
"""

import io
import re
from pathlib import Path

VOLUME = "cidata"


def write(path: Path, user_data: bytes, instance: str, name: str) -> None:
    """Make the disc. `instance` is the app's UUID: cloud-init does its first-boot work once for each."""
    from pycdlib import PyCdlib

    meta_data = f"instance-id: {instance}\nlocal-hostname: {hostname(name)}\n".encode()
    disc = PyCdlib()
    disc.new(interchange_level=3, joliet=3, rock_ridge="1.09", vol_ident=VOLUME)
    try:
        for number, (file_name, data) in enumerate((("user-data", user_data), ("meta-data", meta_data))):
            disc.add_fp(
                io.BytesIO(data),
                len(data),
                f"/FILE{number}.;1",
                rr_name=file_name,
                joliet_path=f"/{file_name}",
            )
        out = io.BytesIO()
        disc.write_fp(out)
    finally:
        disc.close()
    path.write_bytes(out.getvalue())


def hostname(name: str) -> str:
    """A display name as a host name: letters, digits and hyphens, at most 63."""
    return re.sub(r"[^a-z0-9]+", "-", name.lower()).strip("-")[:63].rstrip("-") or "eco"
