"""How a process that was started tells the one that started it that it is ready, or why it is not.

One pipe, one line: `<exit status> <text>`, status 0 for ready. Its end without a line means that the process
died on the way. `--daemon` and the supervisor both listen this way.
"""

from __future__ import annotations

import os
import stat
from typing import Final

READY_FD: Final = "PILLAR_READY_FD"  # environment: the descriptor to write to, for a process started by exec
_MAX_LINE: Final = 4000  # below PIPE_BUF: the line goes out in one piece, and never blocks

_fd = -1


def inherit() -> None:
    """Take over the pipe that the environment names; programs started later get neither."""
    global _fd
    text = os.environ.pop(READY_FD, "")
    if not text.isdigit():
        return
    fd = int(text)
    try:
        is_pipe = stat.S_ISFIFO(os.fstat(fd).st_mode)
    except OSError:
        return  # the variable outlived its descriptor: nobody listens
    if is_pipe:  # anything else has only got the number
        os.set_inheritable(fd, False)
        _fd = fd


def use(fd: int) -> None:
    """Report on this descriptor, from now on ours."""
    global _fd
    _fd = fd


def report(status: int = 0, text: str = "") -> None:
    """Say it once; later calls, and calls with nobody listening, do nothing."""
    global _fd
    if _fd < 0:
        return
    fd, _fd = _fd, -1
    line = f"{status} {text}".encode("utf-8", "backslashreplace")[:_MAX_LINE]
    try:
        os.write(fd, line)
    except OSError:
        return  # the listener died before us; its own death is its answer
    finally:
        os.close(fd)


def parse(line: bytes) -> tuple[int, str] | None:
    """(status, text) of what was read until the end of the pipe; None when the process died without a word."""
    status, _, text = line.decode("utf-8", "replace").partition(" ")
    return (int(status), text) if status.isdigit() else None
