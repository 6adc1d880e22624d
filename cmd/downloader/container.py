"""What downloading containers takes beside downloading: shared blobs, and which images have them."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Callable, Iterator
from dataclasses import replace as copied
from pathlib import Path

from pillar.below import everything_below
from pillar.imagestore import STAGES, Found, ImageStore
from pillar.ociimage import MAX_DOCUMENT_BYTES, BrokenImage, Layout, NotAnImage

LOOK_AGAIN_S = 0.2


class Claims:
    """Which blobs are being fetched, so that two images with one layer fetch it once."""

    def __init__(self) -> None:
        self._taken: set[str] = set()
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, sha256: str, check: Callable[[], None]) -> Iterator[None]:
        """Have the blob to oneself; waits for who has it. `check` may raise meanwhile."""
        with self._changed:
            while sha256 in self._taken:
                self._changed.wait(LOOK_AGAIN_S)
                check()
            self._taken.add(sha256)
        try:
            yield
        finally:
            with self._changed:
                self._taken.discard(sha256)
                self._changed.notify_all()


def roots(store: ImageStore) -> Iterator[Path]:
    """Every file in the three stages that may be a root document. Lazy: a file that moves on meanwhile is met again."""
    for stage in STAGES:
        for path in sorted(everything_below(store.directory(stage))):
            with contextlib.suppress(FileNotFoundError):
                if path.is_file() and path.stat().st_size <= MAX_DOCUMENT_BYTES:
                    yield path


def whole(layout: Layout, found: Found | None) -> Found | None:
    """The same with the size of all of the image, if it is one of ours."""
    if found is None or found.size > MAX_DOCUMENT_BYTES:
        return found
    with contextlib.suppress(NotAnImage, BrokenImage, FileNotFoundError):
        _, manifest, _ = layout.parts(found.path.read_bytes())
        return copied(found, size=found.size + sum(blob.size for blob in manifest.blobs))
    return found


def stored(download: object) -> int:
    """How many bytes of blobs a download in progress has brought; 0 for one of something else."""
    return int(getattr(download, "stored", 0))
