"""What stands below a directory while others work there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path


def everything_below(directory: Path) -> Iterator[Path]:
    """Every path below it, directories before what is in them; a link to a directory is not followed.

    A directory that goes away meanwhile has nothing in it. To `Path.rglob` and `glob` it is an error (until Python
    3.12), and an image's directory goes whenever another agent takes the image. Raises OSError for any other reason:
    what could not be looked at is not known to be empty.
    """
    for place, directories, files in os.walk(directory, onerror=_unless_gone):
        yield from (Path(place, name) for name in (*directories, *files))


def _unless_gone(err: OSError) -> None:
    if not isinstance(err, FileNotFoundError | NotADirectoryError):
        raise err
