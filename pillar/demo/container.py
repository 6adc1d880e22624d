"""Container images made here, in plain Python: an OCI archive, which is one tar file with an OCI image layout in it.

An archive travels like every other image, by any datastore, and its sha256 is known beforehand. The demo's image is
busybox and a web server's document root; it needs nothing that the machine does not have anyway.
"""

from __future__ import annotations

import gzip
import hashlib
import io
import json
import os
import shutil
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from pillar.demo.eco import Image
from pillar.ociimage import CONFIG_TYPES, INDEX_TYPES, MANIFEST_TYPES, this_platform

LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
HTTP_PORT = 80
APPLETS = ("sh", "httpd", "ip", "awk", "tr", "cat", "echo", "sleep", "id", "env", "wget", "ls", "mount", "ps")
_ENTRY = f"""#!/bin/sh
echo "hello from $PILLAR_ECO_NAME" >/www/index.html
echo '{{"hello": "from '"$PILLAR_ECO_NAME"'", "uuid": "'"$PILLAR_ECO_UUID"'"}}' >/www/hello
addresses=$(ip -4 -o address | awk '{{print $2, $4}}' | tr '\\n' ' ')
echo "$PILLAR_ECO_NAME serves HTTP on port {HTTP_PORT}, addresses: $addresses"
exec httpd -f -v -p {HTTP_PORT} -h /www
"""


class MissingProgram(Exception):
    """The image cannot be built; the text says what to install."""


def build(name: str, size: int) -> Image:
    """The demo's container: an image of at least `size` bytes, different each time. Raises MissingProgram."""
    files = {"entry": _ENTRY.encode(), "www/ballast": os.urandom(max(size, 32))}
    return image(name, [busybox_layer(), layer(files)], {"Entrypoint": ["/entry"], "StopSignal": "SIGKILL"})


def busybox_layer() -> bytes:
    """A layer with busybox and a link for each of its programs. Raises MissingProgram."""
    program = shutil.which("busybox")
    content = Path(program).read_bytes() if program else b""
    if not content or b"/ld-linux" in content[:4096]:
        raise MissingProgram("the container's image is made of a static busybox; install busybox-static")
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for directory, mode in (("bin", 0o755), ("etc", 0o755), ("tmp", 0o1777), ("www", 0o755), ("root", 0o700)):
            _add(archive, directory, b"", mode, tarfile.DIRTYPE)
        _add(archive, "bin/busybox", content, 0o755)
        for applet in APPLETS:
            link = tarfile.TarInfo(f"bin/{applet}")
            link.type, link.linkname = tarfile.SYMTYPE, "/bin/busybox"
            archive.addfile(link)
    return buffer.getvalue()


def layer(files: Mapping[str, bytes]) -> bytes:
    """A layer with these executable files."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for name, content in files.items():
            _add(archive, name, content, 0o755)
    return buffer.getvalue()


def image(name: str, layers: Iterable[bytes], config: Mapping[str, Any]) -> Image:
    """An OCI archive of one image for this machine. `layers` are tar files, `config` what the image says of itself."""
    blobs: dict[str, bytes] = {}

    def blob(data: bytes, media_type: str) -> dict[str, Any]:
        sha256 = hashlib.sha256(data).hexdigest()
        blobs[sha256] = data
        return {"mediaType": media_type, "digest": f"sha256:{sha256}", "size": len(data)}

    system, _, machine = this_platform().partition("/")
    described = {
        "os": system,
        "architecture": machine.partition("/")[0],
        "config": dict(config),
        "rootfs": {"type": "layers", "diff_ids": []},
    }
    packed = []
    for content in layers:
        described["rootfs"]["diff_ids"].append(f"sha256:{hashlib.sha256(content).hexdigest()}")  # type: ignore[index]
        packed.append(blob(gzip.compress(content, 1, mtime=0), LAYER_TYPE))
    manifest = {
        "schemaVersion": 2,
        "mediaType": MANIFEST_TYPES[0],
        "config": blob(json.dumps(described).encode(), CONFIG_TYPES[0]),
        "layers": packed,
    }
    listed = blob(json.dumps(manifest).encode(), MANIFEST_TYPES[0])
    index = {
        "schemaVersion": 2,
        "mediaType": INDEX_TYPES[0],
        "manifests": [listed | {"annotations": {"org.opencontainers.image.ref.name": "latest"}}],
    }
    files = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": json.dumps(index).encode()}
    files |= {f"blobs/sha256/{sha256}": data for sha256, data in blobs.items()}
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w") as archive:
        for path, data in files.items():
            _add(archive, path, data, 0o644)
    content = buffer.getvalue()
    return Image(name, content, hashlib.sha256(content).hexdigest())


def _add(archive: tarfile.TarFile, name: str, content: bytes, mode: int, kind: bytes = tarfile.REGTYPE) -> None:
    member = tarfile.TarInfo(name)
    member.type, member.mode, member.size = kind, mode, len(content)
    archive.addfile(member, io.BytesIO(content))
