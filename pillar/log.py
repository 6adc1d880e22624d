"""Logs: JSON lines in <root>/persist/log/<agent>.log, readable text on a terminal.

One line is one object: time (RFC 3339, UTC), level (EVE's names), source (the agent), pid, msg, and where
there is one, error (the traceback). Secrets and record bodies have no place in a message; as a second
fence only our own loggers may say less than a warning (HTTP libraries log headers and bodies at debug).

The file is bounded: above MAX_BYTES it becomes <agent>.log.1, that one <agent>.log.2, and the oldest goes.
A disk that refuses a line costs this line, never the agent; how many were lost is said once it works again.
"""

from __future__ import annotations

import errno
import logging
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final, TextIO

import msgspec

if TYPE_CHECKING:
    from pillar.terminal import Palette

MAX_BYTES: Final = 5 * 1024 * 1024
KEPT_FILES: Final = 2  # besides the one being written
MAX_MESSAGE: Final = 16 * 1024  # characters; longer ones are cut

TRACE: Final = 5
PANIC: Final = 60

_LEVELS: Final = {  # EVE's names (logrus), any case
    "panic": PANIC,
    "fatal": logging.CRITICAL,
    "error": logging.ERROR,
    "warn": logging.WARNING,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
    "trace": TRACE,
}
_COLOURS: Final = {"panic": "bold red", "fatal": "bold red", "error": "red", "warning": "yellow", "debug": "dim"}


def parse_level(name: str) -> int | None:
    """The logging level of one of EVE's names; None when there is no such level."""
    return _LEVELS.get(name.strip().lower())


def level_name(level: int) -> str:
    """EVE's name of a logging level: the most severe one that is not above it."""
    for name in ("panic", "fatal", "error", "warning", "info", "debug"):
        if level >= _LEVELS[name]:
            return name
    return "trace"


def open_log(agent: str, path: Path, *, terminal: TextIO | None = None) -> logging.Logger:
    """The logger of this process' agent, writing to `path` and, when it is a terminal, to `terminal` too.

    All of `pillar.*` and, from warnings up, everybody else's loggers end in the same file. Raises OSError
    when the file cannot be opened.
    """
    logging.addLevelName(TRACE, "TRACE")
    logging.addLevelName(PANIC, "PANIC")
    logging.raiseExceptions = False  # a log line must not write to a standard error that nobody reads
    root = logging.getLogger()
    for old in [handler for handler in root.handlers if isinstance(handler, JsonLines | TerminalLines)]:
        root.removeHandler(old)
        old.close()
    root.setLevel(logging.WARNING)
    root.addHandler(JsonLines(agent, path))
    if terminal is not None and terminal.isatty():
        root.addHandler(TerminalLines(agent, terminal))
    set_level(logging.INFO)
    logging.captureWarnings(True)
    return logging.getLogger(f"pillar.{agent}")


def set_level(level: int) -> None:
    """How much the agent and the libraries of this project say from now on."""
    logging.getLogger("pillar").setLevel(level)


def text_of(record: logging.LogRecord) -> str:
    """The message with its arguments, cut to MAX_MESSAGE."""
    message = record.getMessage()
    if len(message) > MAX_MESSAGE:
        message = f"{message[:MAX_MESSAGE]}… ({len(message)} characters)"
    return message


class JsonLines(logging.Handler):
    """Appends one JSON object per line; a line is one write, so a reader never sees two mixed."""

    def __init__(self, agent: str, path: Path) -> None:
        super().__init__()
        self._agent = agent
        self._path = str(path)
        self._lost = 0
        self._why = ""
        os.makedirs(path.parent, mode=0o700, exist_ok=True)
        self._fd = self._open()
        self._size = os.fstat(self._fd).st_size

    def emit(self, record: logging.LogRecord) -> None:
        seconds = int(record.created)
        line: dict[str, object] = {
            "time": f"{time.strftime('%Y-%m-%dT%H:%M:%S', time.gmtime(seconds))}.{int(record.msecs * 1000):06d}Z",
            "level": level_name(record.levelno),
            "source": self._agent,
            "pid": os.getpid(),
            "msg": text_of(record),
        }
        if not record.name.startswith("pillar."):
            line["logger"] = record.name  # a library's, not ours
        if record.exc_info and record.exc_info[0] is not None:
            line["error"] = _traceback(record)
        if self._lost:
            line["lost"] = f"{self._lost} lines before this one: {self._why}"
        # Text that is not Unicode (a file name) must not cost the line.
        data = msgspec.json.encode({k: _clean(v) for k, v in line.items()}) + b"\n"
        try:
            if self._size + len(data) > MAX_BYTES:
                self._rotate()
            self._append(data)
            self._lost = 0
        except OSError as err:  # full or broken disk: count, and say so when it works again
            self._lost += 1
            self._why = str(err)

    def _append(self, line: bytes) -> None:
        """Write all of it or, on a disk that takes only a part, nothing. Raises OSError."""
        written = os.write(self._fd, line)
        if written < len(line):
            os.ftruncate(self._fd, os.fstat(self._fd).st_size - written)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), self._path)
        self._size += written

    def close(self) -> None:
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1
        super().close()

    def _open(self) -> int:
        return os.open(self._path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)

    def _rotate(self) -> None:
        for number in range(KEPT_FILES, 0, -1):
            older = f"{self._path}.{number}"
            newer = f"{self._path}.{number - 1}" if number > 1 else self._path
            if os.path.exists(newer):
                os.replace(newer, older)
        fd = self._open()
        os.close(self._fd)
        self._fd, self._size = fd, 0


class TerminalLines(logging.Handler):
    """One readable line per message: time, level in colour, text. Foreign text cannot steer the terminal."""

    def __init__(self, agent: str, stream: TextIO) -> None:
        from pillar.terminal import Palette  # only a person at a terminal needs it

        super().__init__()
        self._stream = stream
        self._palette: Palette = Palette.of(stream)

    def emit(self, record: logging.LogRecord) -> None:
        from pillar.terminal import printable

        name = level_name(record.levelno)
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        lines = [printable(text_of(record))]
        if record.exc_info and record.exc_info[0] is not None:
            lines += [f"    {printable(line)}" for line in _traceback(record).splitlines()]
        lines[0] = f"{self._palette.dim(clock)} {self._palette(_COLOURS.get(name, ''), f'{name:7}')} {lines[0]}"
        try:
            self._stream.write("\n".join(lines) + "\n")
            self._stream.flush()
        except (OSError, ValueError):
            logging.getLogger().removeHandler(self)  # the terminal has gone; the file goes on


def stderr() -> TextIO | None:
    """Standard error if the process has one."""
    return sys.stderr


def _traceback(record: logging.LogRecord) -> str:
    import traceback

    assert record.exc_info is not None
    return "".join(traceback.format_exception(*record.exc_info)).rstrip()


def _clean(value: object) -> object:
    return value.encode("utf-8", "backslashreplace").decode() if isinstance(value, str) else value
