"""Container images on disk: what their documents say, and the one OCI image layout that holds them all.

    downloads/<objtype>/oci/oci-layout
                           /index.json            the verified images, each under the sha256 of its root document
                           /blobs/sha256/<hex>    manifests, configs and layers; a layer of two images is there once
                           /incoming/<hex>        blobs on their way

The root document is what a reference resolves to: an image manifest, or an index with one manifest per platform. It
goes the way of every image, `pending`, `verifier`, `verified`, as the one file of the directory named by its sha256;
through the digests in it, everything else is named by that too. Docker's manifests are listed in OCI's form, since
that is what unpackers read; their configs and layers are the same bytes in both.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import platform
import re
import threading
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pillar.durable import replace_file, sync_directory
from pillar.locations import Locations

MAX_DOCUMENT_BYTES = 4 * 1024 * 1024  # what registries are to take at least, and take at most as a rule
MAX_LAYERS = 512
STAGED_S = 3600.0  # nobody takes so long to write a document

_OCI, _DOCKER = "application/vnd.oci.image.", "application/vnd.docker."
INDEX_TYPES = (f"{_OCI}index.v1+json", f"{_DOCKER}distribution.manifest.list.v2+json")
MANIFEST_TYPES = (f"{_OCI}manifest.v1+json", f"{_DOCKER}distribution.manifest.v2+json")
CONFIG_TYPES = (f"{_OCI}config.v1+json", f"{_DOCKER}container.image.v1+json")
_OCI_TYPES = {  # Docker's name -> OCI's for the same bytes
    MANIFEST_TYPES[1]: MANIFEST_TYPES[0],
    CONFIG_TYPES[1]: CONFIG_TYPES[0],
    f"{_DOCKER}image.rootfs.diff.tar": f"{_OCI}layer.v1.tar",
    f"{_DOCKER}image.rootfs.diff.tar.gzip": f"{_OCI}layer.v1.tar+gzip",
    f"{_DOCKER}image.rootfs.diff.tar.zstd": f"{_OCI}layer.v1.tar+zstd",
}
LAYER_TYPES = tuple(name for name in (*_OCI_TYPES, *_OCI_TYPES.values()) if "tar" in name)
_DIGEST = re.compile(r"sha256:([0-9a-f]{64})")
_MACHINES = {
    "x86_64": ("amd64", ""),
    "aarch64": ("arm64", ""),
    "armv7l": ("arm", "v7"),
    "armv6l": ("arm", "v6"),
    "i686": ("386", ""),
    "riscv64": ("riscv64", ""),
    "ppc64le": ("ppc64le", ""),
    "s390x": ("s390x", ""),
}


class NotAnImage(Exception):
    """A document is not that of a container image that can run here; the text says why."""


class BrokenImage(Exception):
    """A blob of an image is missing (`present` is False) or not what its digest says; `actual` is what it hashes to."""

    def __init__(self, sha256: str, text: str, *, present: bool, actual: str = "") -> None:
        super().__init__(f"the blob sha256:{sha256} {text}")
        self.actual = actual
        self.sha256 = sha256
        self.present = present


@dataclass(frozen=True)
class Descriptor:
    """What a document says about a blob. `size` in bytes, `sha256` in hex."""

    media_type: str
    sha256: str
    size: int


@dataclass(frozen=True)
class Manifest:
    """One image for one platform."""

    config: Descriptor
    layers: tuple[Descriptor, ...]

    @property
    def blobs(self) -> tuple[Descriptor, ...]:
        """What there is to fetch, each once; the config first."""
        return tuple(dict.fromkeys((self.config, *self.layers)))


@dataclass(frozen=True)
class Index:
    """Manifests by platform (os/architecture[/variant])."""

    manifests: tuple[tuple[str, Descriptor], ...]


def read_document(data: bytes, media_type: str = "") -> Manifest | Index:
    """What an image's document says. `media_type` is how a registry calls it. Raises NotAnImage."""
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as err:
        raise NotAnImage("it is not JSON") from err
    if not isinstance(document, dict):
        raise NotAnImage("it is not an image manifest")
    own = document.get("mediaType", "")
    if own and media_type and own != media_type:
        raise NotAnImage(f"it calls itself {own!r} and the registry calls it {media_type!r}")
    kind = own or media_type
    if not kind:  # OCI 1.0 leaves the name to whoever refers to the document
        kind = INDEX_TYPES[0] if "manifests" in document else MANIFEST_TYPES[0]
    if kind in INDEX_TYPES and "layers" not in document:
        return _index(document)
    if kind in MANIFEST_TYPES and "manifests" not in document:
        return _manifest(document)
    raise NotAnImage(f"its media type is {kind!r}, not that of an image manifest or index")


def choose(index: Index, wanted: str = "") -> Descriptor:
    """The manifest for a platform, this machine's unless one is given. Raises NotAnImage, naming those there are."""
    wanted = wanted or this_platform()
    there = dict(reversed(index.manifests))  # of two for one platform the first counts
    generic = "/".join(wanted.split("/")[:2])
    for name in (wanted, generic):  # an index may leave the variant out
        if name in there:
            return there[name]
    names = ", ".join(name for name, _ in index.manifests) or "no platform at all"
    raise NotAnImage(f"it has no image for {wanted}, only for {names}")


def this_platform() -> str:
    """os/architecture[/variant] in the words of image indexes."""
    machine = platform.machine()
    architecture, variant = _MACHINES.get(machine, (machine, ""))
    return "/".join(part for part in ("linux", architecture, variant) if part)


def sha256_of(digest: object) -> str:
    """The hex of a `sha256:<hex>` digest. Raises NotAnImage for any other, which could not be checked."""
    match = _DIGEST.fullmatch(digest) if isinstance(digest, str) else None
    if match is None:
        raise NotAnImage(f"the digest {digest!r} is not sha256: and 64 hexadecimal digits")
    return match[1]


def sha256_of_id(container_id: str) -> str:
    """The hex of a ContainerImageID of ours; empty for any other text (rkt's are sha512)."""
    match = _DIGEST.fullmatch(container_id)
    return match[1] if match else ""


class Layout:
    """The OCI image layout of one object type. The downloader brings blobs, the verifier lists images."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.blobs = directory / "blobs" / "sha256"
        self.incoming = directory / "incoming"

    @classmethod
    def of(cls, where: Locations, objtype: str) -> Layout:
        return cls(where.downloads(objtype, "pending").parent / "oci")

    def blob(self, sha256: str) -> Path:
        return self.blobs / sha256

    def prepare(self) -> None:
        """Have the directories and the file that says what they are. Raises OSError."""
        for directory in (self.blobs, self.incoming):
            directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        marker = self.directory / "oci-layout"
        if not marker.exists():
            _write(marker, b'{"imageLayoutVersion":"1.0.0"}')

    def accept(self, sha256: str) -> None:
        """Make the checked blob in `incoming` one that counts: on disk, then by rename. Raises OSError."""
        arrived = self.incoming / sha256
        arrived.chmod(0o400)
        arrived.rename(self.blob(sha256))
        sync_directory(self.blobs)

    def keep(self, data: bytes) -> str:
        """Have a small blob; returns its sha256. Raises OSError."""
        sha256 = hashlib.sha256(data).hexdigest()
        if not self.blob(sha256).exists():
            _write(self.blob(sha256), data)
            self.blob(sha256).chmod(0o400)
        return sha256

    def parts(self, root: bytes) -> tuple[Descriptor, Manifest, tuple[Descriptor, ...]]:
        """The platform manifest of a root document, read, and every blob of the image, documents included.

        Raises NotAnImage; BrokenImage when the index's manifest is not here or another one.
        """
        root_sha256 = hashlib.sha256(root).hexdigest()
        document = read_document(root)
        own = Descriptor(MANIFEST_TYPES[0], root_sha256, len(root))
        if isinstance(document, Manifest):
            return own, document, (own, *document.blobs)
        chosen = choose(document)
        try:
            data = self.blob(chosen.sha256).read_bytes()
        except FileNotFoundError as err:
            raise BrokenImage(chosen.sha256, "is not here", present=False) from err
        digest = hashlib.sha256(data).hexdigest()
        if digest != chosen.sha256:
            raise BrokenImage(chosen.sha256, f"hashes to {digest}", present=True)
        manifest = read_document(data, chosen.media_type)
        if not isinstance(manifest, Manifest):
            raise NotAnImage("its index leads to another index")
        return chosen, manifest, (own, chosen, *manifest.blobs)

    def publish(self, roots: Iterable[Path]) -> None:
        """Make `index.json` list these images (files of root documents), and only these. Raises OSError.

        An image that cannot be read is left out; whoever verified it says so.
        """
        self.prepare()
        entries = []
        for path in roots:
            with contextlib.suppress(NotAnImage, BrokenImage, FileNotFoundError):
                entries.append(self._entry(path))
        text = json.dumps({"schemaVersion": 2, "mediaType": INDEX_TYPES[0], "manifests": entries}, indent=1).encode()
        index = self.directory / "index.json"
        if not index.exists() or index.read_bytes() != text:
            _write(index, text)

    def _entry(self, path: Path) -> dict[str, Any]:
        root = path.read_bytes()
        chosen, _, _ = self.parts(root)
        data = root if hashlib.sha256(root).hexdigest() == chosen.sha256 else self.blob(chosen.sha256).read_bytes()
        data = as_oci(data)
        sha256 = self.keep(data)
        return {
            "mediaType": MANIFEST_TYPES[0],
            "digest": f"sha256:{sha256}",
            "size": len(data),
            "annotations": {"org.opencontainers.image.ref.name": hashlib.sha256(root).hexdigest()},
        }

    def sweep(self, roots: Iterable[Path]) -> list[str]:
        """Remove every blob that none of these images has, and what is on its way; returns the names. Raises OSError.

        Nothing may be on its way to be used. An image whose own documents are broken keeps none of its blobs.
        """
        wanted: set[str] = set()
        for path in roots:
            with contextlib.suppress(NotAnImage, BrokenImage, FileNotFoundError):
                chosen, _, blobs = self.parts(path.read_bytes())
                wanted |= {blob.sha256 for blob in blobs}
                manifest = self.blob(chosen.sha256)
                data = manifest.read_bytes() if manifest.exists() else path.read_bytes()
                wanted.add(hashlib.sha256(as_oci(data)).hexdigest())
        removed = []
        for directory in (self.blobs, self.incoming):
            for path in _files(directory):
                if path.name.startswith("."):
                    with contextlib.suppress(FileNotFoundError):
                        if path.stat().st_mtime < time.time() - STAGED_S:  # left by a kill, not being written
                            path.unlink()
                elif directory != self.blobs or path.name not in wanted:
                    path.unlink(missing_ok=True)
                    removed.append(path.name)
        return removed


def as_oci(manifest: bytes) -> bytes:
    """A manifest in OCI's form: itself, or Docker's with OCI's media types."""
    document = json.loads(manifest)
    if document.get("mediaType", MANIFEST_TYPES[0]) == MANIFEST_TYPES[0]:
        return manifest
    document["mediaType"] = MANIFEST_TYPES[0]
    for part in (document["config"], *document["layers"]):
        part["mediaType"] = _OCI_TYPES.get(part["mediaType"], part["mediaType"])
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _index(document: dict[str, Any]) -> Index:
    manifests = []
    for entry in _list(document, "manifests"):
        descriptor = _descriptor(entry, (*MANIFEST_TYPES, *INDEX_TYPES), "manifest")
        told = entry.get("platform")
        told = told if isinstance(told, dict) else {}
        parts = (told.get("os"), told.get("architecture"), told.get("variant"))
        name = "/".join(part for part in parts if isinstance(part, str) and part)
        manifests.append((name.replace("arm64/v8", "arm64"), descriptor))
    return Index(tuple(manifests))


def _manifest(document: dict[str, Any]) -> Manifest:
    config = document.get("config")
    if isinstance(config, dict) and config.get("mediaType") not in CONFIG_TYPES:
        raise NotAnImage(f"it is an artifact of type {config.get('mediaType')!r}, not a container image")
    layers = tuple(_descriptor(entry, LAYER_TYPES, "layer") for entry in _list(document, "layers"))
    if len(layers) > MAX_LAYERS:
        raise NotAnImage(f"it has {len(layers)} layers, more than {MAX_LAYERS}")
    return Manifest(_descriptor(config, CONFIG_TYPES, "config"), layers)


def _list(document: dict[str, Any], name: str) -> list[Any]:
    entries = document.get(name)
    if not isinstance(entries, list):
        raise NotAnImage(f"its {name} are missing")
    return entries


def _descriptor(entry: Any, types: Iterable[str], what: str) -> Descriptor:
    if not isinstance(entry, dict):
        raise NotAnImage(f"a {what} is not described")
    media_type, size = entry.get("mediaType"), entry.get("size")
    if not isinstance(media_type, str) or media_type not in types:
        raise NotAnImage(f"a {what} has the media type {media_type!r}, which cannot be used here")
    if not isinstance(size, int) or isinstance(size, bool) or size < 0:
        raise NotAnImage(f"a {what} has no size")
    return Descriptor(media_type, sha256_of(entry.get("digest")), size)


def _files(directory: Path) -> Iterator[Path]:
    with contextlib.suppress(FileNotFoundError):
        yield from sorted(path for path in directory.iterdir() if path.is_file())


def _write(path: Path, data: bytes) -> None:
    """Whole or not at all, and on disk. Raises OSError."""
    # Several threads may write the same.
    replace_file(path, data, staged=path.with_name(f".{path.name}.{os.getpid()}-{threading.get_ident()}.new"))
