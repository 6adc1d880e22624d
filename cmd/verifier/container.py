"""A container image is right when its root document is, and every blob that it leads to.

What was read once is remembered in the ledger under the blob's sha256, so a layer that many images have is read once.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import threading
from pathlib import Path

from pillar.cmd.verifier.ledger import Ledger, look
from pillar.cmd.verifier.seal import seal
from pillar.imagestore import ImageStore
from pillar.ociimage import MAX_DOCUMENT_BYTES, BrokenImage, Descriptor, Layout, NotAnImage, read_document
from pillar.quarantine import Quarantine
from pillar.workers import Cancel

HASH_BYTES = 1024 * 1024
_listing = threading.Lock()  # index.json is written by whichever worker is done


def root_of(layout: Layout, sha256: str, path: Path, *, claimed: bool = False) -> bytes | None:
    """The file's content if it is the root document of a container image from a registry; None for any other file.

    It is if the layout has it, or if its owner says that it is a container (`claimed`) and it can be read as one.
    """
    if layout.blob(sha256.lower()).exists():
        return _document(path)
    root = _document(path) if claimed else None
    if root is not None:
        try:
            read_document(root)
        except NotAnImage:
            return None  # a container in some other form, that is one file
    return root


def _document(path: Path) -> bytes | None:
    with path.open("rb") as file:
        if os.fstat(file.fileno()).st_size > MAX_DOCUMENT_BYTES or file.read(1) != b"{":
            return None
        file.seek(0)
        return file.read()


def check(layout: Layout, ledger: Ledger, quarantine: Quarantine, root: bytes, cancel: Cancel) -> int:
    """Read every blob of the image that is not proven yet; returns their size in bytes, the root's included.

    Raises BrokenImage after putting away what is wrong; NotAnImage, Cancelled, OSError.
    """
    layout.prepare()
    layout.keep(root)
    try:
        _, _, blobs = layout.parts(root)
        for blob in blobs:
            if not _is_root(blob, root) and not _proven(layout, ledger, blob):
                _read(layout, ledger, blob, cancel)
    except BrokenImage as err:
        if err.present:
            with contextlib.suppress(FileNotFoundError):
                quarantine.take(layout.blob(err.sha256), err.sha256, err.actual or "unread")
        ledger.forget(err.sha256)
        raise
    return sum({blob.sha256: blob.size for blob in blobs}.values())


def proven(layout: Layout, ledger: Ledger, sha256: str, path: Path) -> bool:
    """Does everything of the image look as when it was read? True for a file that is no container image of ours."""
    try:
        root = root_of(layout, sha256, path)
        if root is None:
            return True
        _, _, blobs = layout.parts(root)
    except NotAnImage:
        return True
    except (BrokenImage, OSError):
        return False
    return all(_is_root(blob, root) or _proven(layout, ledger, blob) for blob in blobs)


def publish(layout: Layout, store: ImageStore) -> None:
    """List the verified images in the layout's index.json. Raises OSError."""
    if not layout.directory.exists():
        return
    with _listing:
        layout.publish(found.path for sha256, found in store.verified() if layout.blob(sha256.lower()).exists())


def _is_root(blob: Descriptor, root: bytes) -> bool:
    return blob.sha256 == hashlib.sha256(root).hexdigest()


def _proven(layout: Layout, ledger: Ledger, blob: Descriptor) -> bool:
    try:
        return ledger.proves(blob.sha256, layout.blob(blob.sha256).lstat())
    except FileNotFoundError:
        return False


def _read(layout: Layout, ledger: Ledger, blob: Descriptor, cancel: Cancel) -> None:
    path = layout.blob(blob.sha256)
    digest = hashlib.sha256()
    try:
        seal(path, cancel.raise_if_set)
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError as err:
        raise BrokenImage(blob.sha256, "is not here", present=False) from err
    try:
        before = os.fstat(fd)
        while block := os.read(fd, HASH_BYTES):
            digest.update(block)
            cancel.raise_if_set()
        after = os.fstat(fd)
    finally:
        os.close(fd)
    if digest.hexdigest() != blob.sha256 or look(before) != look(after):
        actual = digest.hexdigest()
        raise BrokenImage(blob.sha256, f"hashes to {actual}", present=True, actual=actual)
    ledger.write(blob.sha256, look(after))
