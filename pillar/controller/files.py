"""Replacing a file so that a reader finds the old or the new one, whole, also after a power cut."""

import os
import tempfile
from pathlib import Path


def replace_file(path: Path, data: bytes, mode: int = 0o600) -> None:
    """Put `data` in place of `path`; its directory must exist. Durable when this returns.

    What stands beside it meanwhile begins with a dot. Raises OSError, and the old file then stands.
    """
    fd, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
    staged = Path(name)
    try:
        with os.fdopen(fd, "wb") as file:
            os.fchmod(fd, mode)
            file.write(data)
            file.flush()
            os.fsync(fd)
        staged.rename(path)
    except BaseException:
        staged.unlink(missing_ok=True)
        raise
    directory = os.open(path.parent, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(directory)
    finally:
        os.close(directory)


def sweep_staged(path: Path) -> int:
    """Remove what a killed `replace_file` of this path left; only for the path's one writer. Returns how many."""
    left = list(path.parent.glob(f".{path.name}.*"))
    for staged in left:
        staged.unlink(missing_ok=True)
    return len(left)
