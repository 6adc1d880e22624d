"""Where a container image comes from: the downloader's OCI layout, or one tar file that holds a layout.

A registry's image is a root document (manifest or index) whose blobs stand in the layout of its object type, see
docs/oci.md. From any other datastore an image is one file: an OCI archive as `skopeo copy ... oci-archive:FILE`,
`podman save --format oci-archive` and `docker save` (25 or newer) write it. Its blobs are read in place.
"""

import hashlib
import json
import tarfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any, Protocol

from pillar.hypervisors import CannotRun, HypervisorError
from pillar.locations import Locations
from pillar.ociimage import (
    MAX_DOCUMENT_BYTES,
    BrokenImage,
    Descriptor,
    Index,
    Layout,
    Manifest,
    NotAnImage,
    choose,
    read_document,
    this_platform,
)

OBJTYPE = "appImg.obj"
_MAX_INDEXES = 3  # docker save puts an index into an index


class ImageSource(Protocol):
    """One image: its manifest and its blobs."""

    manifest: Manifest

    def open(self, blob: Descriptor) -> IO[bytes]:
        """The bytes of a blob. Raises HypervisorError when it is not there."""


@contextmanager
def opened(image: Path, where: Locations) -> Iterator[ImageSource]:
    """The image in a verified file. Raises CannotRun when it is none, HypervisorError or OSError."""
    try:
        with image.open("rb") as file:
            is_document = file.read(1) == b"{"
        if is_document:
            yield _FromLayout(Layout.of(where, OBJTYPE), image.read_bytes())
        else:
            with tarfile.open(image, "r:") as archive:
                yield _FromArchive(archive)
    except NotAnImage as error:
        raise CannotRun(f"{image} cannot be run: {error}") from error
    except BrokenImage as error:
        raise HypervisorError(f"{image}: {error}") from error
    except tarfile.TarError as error:
        raise CannotRun(f"{image} is neither an image manifest nor an OCI archive (a tar file): {error}") from error


def configuration(source: ImageSource) -> dict[str, Any]:
    """The image's configuration document. Raises CannotRun when it is for another platform or no configuration."""
    data = _document(source.open(source.manifest.config), source.manifest.config.sha256)
    try:
        document = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise CannotRun("the image's configuration is not JSON") from error
    if not isinstance(document, dict):
        raise CannotRun("the image's configuration is no JSON object")
    system, _, machine = this_platform().partition("/")
    machine = machine.partition("/")[0]
    theirs = (document.get("os") or system, document.get("architecture") or machine)
    if theirs != (system, machine):
        raise CannotRun(f"the image is for {theirs[0]}/{theirs[1]}, this machine is {system}/{machine}")
    return document


class _FromLayout:
    def __init__(self, layout: Layout, root: bytes) -> None:
        self._layout = layout
        _, self.manifest, _ = layout.parts(root)

    def open(self, blob: Descriptor) -> IO[bytes]:
        try:
            return self._layout.blob(blob.sha256).open("rb")
        except FileNotFoundError as error:
            raise HypervisorError(f"the blob sha256:{blob.sha256} is not in {self._layout.directory}") from error


class _FromArchive:
    def __init__(self, archive: tarfile.TarFile) -> None:
        self._archive = archive
        self._files = {member.name.removeprefix("./"): member for member in archive if member.isreg()}
        self.manifest = self._manifest()

    def open(self, blob: Descriptor) -> IO[bytes]:
        return self._file(f"blobs/sha256/{blob.sha256}")

    def _file(self, name: str) -> IO[bytes]:
        member = self._files.get(name)
        found = self._archive.extractfile(member) if member is not None else None
        if found is None:
            raise CannotRun(f"the archive has no {name}, so it is no OCI archive (skopeo copy ... oci-archive:)")
        return found

    def _manifest(self) -> Manifest:
        document = read_document(_document(self._file("index.json")))
        for _ in range(_MAX_INDEXES):
            if isinstance(document, Manifest):
                return document
            chosen = self._chosen(document)
            document = read_document(_document(self.open(chosen), chosen.sha256), chosen.media_type)
        raise NotAnImage("its indexes lead to indexes and to no manifest")

    def _chosen(self, index: Index) -> Descriptor:
        if len(index.manifests) == 1:  # an archive of one image names no platform
            return index.manifests[0][1]
        with suppress(NotAnImage):
            return choose(index)
        unnamed = [manifest for platform, manifest in index.manifests if not platform]
        if len(unnamed) == 1:
            return unnamed[0]
        raise NotAnImage(f"it holds {len(index.manifests)} images, none for {this_platform()}; put one in an archive")


def _document(file: IO[bytes], sha256: str = "") -> bytes:
    with file:
        data = file.read(MAX_DOCUMENT_BYTES + 1)
    if len(data) > MAX_DOCUMENT_BYTES:
        raise NotAnImage("one of its documents is larger than 4 MiB")
    if sha256 and hashlib.sha256(data).hexdigest() != sha256:
        raise BrokenImage(sha256, f"hashes to {hashlib.sha256(data).hexdigest()}", present=True)
    return data
