"""Files that a reader finds whole, the old or the new one, whenever the writer dies and also after a power cut.

Content goes into a staged file beside the target, onto the disk, then over the target by rename, and the rename onto
the disk. pubsub's tables and parts of downloads have contracts of their own and do not use this.

A disk that refuses a write may refuse to remove the staged file as well (a copy-on-write one that is full, one that
failed for a moment). This process remembers such files, and `remove_refused`, which every agent calls with each
touch, takes them away once it may; what a killed process has left is its successor's to sweep.
"""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import BinaryIO

_refused: set[Path] = set()  # staged files that the disk would not let go
_guard = threading.Lock()  # of the set, and of the names in it: a worker may be about to use one again


@contextmanager
def replacing(path: Path, mode: int = 0o600, staged: Path | None = None) -> Iterator[BinaryIO]:
    """Write into what it gives; when the block has ended, that stands at `path`, durable. The directory must exist.

    A block that raises leaves the old file as it was, and nothing else; so does an OSError of the disk. `staged` is
    the name used meanwhile, in the same file system, for a caller who is the only writer and looks for what a kill
    leaves (the next call takes it away); by default it is `.<name>.<random>`, see `sweep_staged`.
    """
    if staged is None:
        import tempfile  # with all that it imports: every agent has this module, few write such files

        fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        staged = Path(name)
    else:
        with _guard:
            _refused.discard(staged)
            staged.unlink(missing_ok=True)
        # Exclusively: nothing that somebody planted under this name is written to.
        fd = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, mode)
            yield file
            file.flush()
            os.fsync(fd)
        staged.rename(path)
    except BaseException:
        with _guard:
            _refused.add(staged)
        remove_refused()
        raise
    sync_directory(path.parent)


def replace_file(path: Path, data: bytes, mode: int = 0o600, staged: Path | None = None) -> None:
    """Put `data` in place of `path`; as `replacing`. Raises OSError, and the old file then stands."""
    with replacing(path, mode, staged) as file:
        file.write(data)


def remove_refused() -> None:
    """Remove the staged files that stayed when their write failed; what the disk still refuses is remembered."""
    with _guard:
        for staged in list(_refused):
            with suppress(OSError):
                staged.unlink(missing_ok=True)
                _refused.discard(staged)


def sweep_staged(path: Path) -> int:
    """Remove what killed writers of this path left; only for the path's one writer. Returns how many."""
    left = list(path.parent.glob(f".{path.name}.*"))
    for staged in left:
        staged.unlink(missing_ok=True)
    return len(left)


def sync_directory(directory: Path) -> None:
    """Put the directory's names on the disk. Raises OSError."""
    fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(fd)
    finally:
        os.close(fd)
