"""Identities on the disk: /persist/identitymanager/<app UUID>:<IID>.json, 0600 in a directory of 0700.

A file appears whole (fsync, rename, fsync of the directory) before its identity is published, so an EID that anybody
ever saw is there after a power cut.
"""

from pathlib import Path

import msgspec

from pillar.cmd.identitymanager.identity import Identity
from pillar.durable import replace_file, sync_directory


class BadStore(Exception):
    """A stored identity cannot be read. It is not replaced: the EID would change under a running app."""


def load(directory: Path, key: str) -> Identity | None:
    """The stored identity, durable now; None when there is none. Raises BadStore or OSError."""
    path = _path(directory, key)
    try:
        found = msgspec.json.decode(path.read_bytes(), type=Identity)
        sync_directory(directory)  # who put it there may have died before its name was on the disk
        return found
    except FileNotFoundError:
        return None
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        raise BadStore(f"{path}: {error}; remove the file to let a new identity be made") from error


def save(directory: Path, key: str, identity: Identity) -> None:
    """Make it durable. Raises OSError."""
    directory.mkdir(mode=0o700, parents=True, exist_ok=True)
    path = _path(directory, key)
    replace_file(path, msgspec.json.encode(identity), staged=path.with_suffix(".tmp"))


def remove(directory: Path, key: str) -> None:
    """Forget an identity; fine when there is none."""
    _path(directory, key).unlink(missing_ok=True)
    if directory.is_dir():
        sync_directory(directory)


def _path(directory: Path, key: str) -> Path:
    return directory / f"{key}.json"
