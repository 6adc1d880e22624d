"""Where the device config comes from: files handed in below <root>/config, and the copy kept of the last good one."""

import errno
import fcntl
import os
import stat
from pathlib import Path

from pillar.controller.config_pb2 import EdgeDevConfig
from pillar.controller.device import (
    MAX_CONFIG_BYTES,
    ConfigRefused,
    decode_binary,
    decode_json,
    encode_binary,
    ignored_in_json,
)
from pillar.controller.handed import CHECKPOINT_NAME, JSON_NAME
from pillar.durable import replace_file, sweep_staged


class BeingWritten(Exception):
    """Somebody has the file open for writing; an event comes when it is closed."""


def read(path: Path) -> tuple[EdgeDevConfig, str]:
    """The config in a file of either name, and the first thing in it that was ignored, for people.

    Raises ConfigRefused, BeingWritten, or OSError when the file cannot be read.
    """
    data = _read_whole(path)
    if path.name == JSON_NAME:
        return decode_json(data), ignored_in_json(data)
    return decode_binary(data), ""


def _read_whole(path: Path) -> bytes:
    fd = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a FIFO must not hold us
    try:
        status = os.fstat(fd)
        if not stat.S_ISREG(status.st_mode):
            raise ConfigRefused("not a regular file")
        if status.st_size > MAX_CONFIG_BYTES:
            raise ConfigRefused(f"{status.st_size} bytes, a device config has at most {MAX_CONFIG_BYTES}")
        if _has_writer(fd):
            raise BeingWritten(path)
        with os.fdopen(os.dup(fd), "rb") as file:
            return file.read()
    finally:
        os.close(fd)


def _has_writer(fd: int) -> bool:
    """Whether some process has the file open for writing: the kernel grants a read lease only when none has.

    Where leases are not to be had (another owner's file, some file systems) the answer is no, and a half-written file
    is read again when it is closed. An opener who comes in between is told to us by SIGIO, which the agent ignores.
    """
    try:
        fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_RDLCK)
    except OSError as err:
        return err.errno == errno.EAGAIN
    fcntl.fcntl(fd, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    return False


class Checkpoint:
    """The last good device config, in binary, under <root>/persist/checkpoint."""

    def __init__(self, directory: Path) -> None:
        self.path = directory / CHECKPOINT_NAME
        directory.mkdir(mode=0o700, parents=True, exist_ok=True)
        sweep_staged(self.path)

    def load(self) -> EdgeDevConfig | None:
        """The config, None when there is none. Raises ConfigRefused when it cannot be used."""
        try:
            return decode_binary(self.path.read_bytes())
        except FileNotFoundError:
            return None

    def save(self, config: EdgeDevConfig) -> bool:
        """Keep `config`, durably; False when it was kept already."""
        data = encode_binary(config)
        if self.path.exists() and self.path.read_bytes() == data:
            return False
        replace_file(self.path, data)
        sweep_staged(self.path)  # a disk that refused the attempt before may have refused to remove its rest too
        return True
