"""What stands below a directory while others work there."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from stat import S_ISREG


def everything_below(directory: Path) -> Iterator[Path]:
    """Every path below it, directories before what is in them; a link to a directory is not followed.

    A directory that goes away meanwhile has nothing in it. To `Path.rglob` and `glob` it is an error (until Python
    3.12), and an image's directory goes whenever another agent takes the image. Raises OSError for any other reason:
    what could not be looked at is not known to be empty.
    """
    for place, directories, files in os.walk(directory, onerror=_unless_gone):
        yield from (Path(place, name) for name in (*directories, *files))


def files_below(directory: Path) -> Iterator[tuple[Path, os.stat_result]]:
    """Every regular file below it, links followed, and what stat says of it.

    What goes away while it is looked at was not there. Raises OSError for any other reason.
    """
    for path in everything_below(directory):
        with contextlib.suppress(FileNotFoundError):
            status = path.stat()
            if S_ISREG(status.st_mode):
                yield path, status


def _unless_gone(err: OSError) -> None:
    if not isinstance(err, FileNotFoundError | NotADirectoryError):
        raise err
