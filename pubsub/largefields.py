"""Members that travel as files beside the wire, EVE 2026's way round the size of a packet.

A member `pubsub-large-X` is taken out of the record: its value goes, as the only member of a JSON object, into a new
file `<root>/persist/pubsub-large/<table name>/pubsub-file-X<random>`, and a member `pubsub-file-X` takes its place,
whose text is the file's path in JSON's quotes. The receiver reads the file, removes it and puts the member back. So
each subscriber gets files of its own. The checkpoint always holds the whole record.

EVE's receiver opens and removes whatever path the packet names; here it must stand in the table's own directory.
"""

from __future__ import annotations

import contextlib
import os
import tempfile
from collections.abc import Callable
from typing import Any

import msgspec

from pillar.pubsub.codec import encode_tree
from pillar.pubsub.depth import MAX_DEPTH, too_deep
from pillar.pubsub.errors import BadRecord, EncodeFailed
from pillar.pubsub.names import Table
from pillar.pubsub.records import read_file

MAX_FILE_BYTES = 1024 * 1024 - 1  # EVE refuses a file of 1 MiB

_LARGE = "pubsub-large-"
_FILE = "pubsub-file-"


def has_large_fields(data: bytes) -> bool:
    """Whether the JSON text may hold such a member; the text inside of a string counts too."""
    return _LARGE.encode() in data


def has_files(data: bytes) -> bool:
    """Whether a received JSON text may name such a file."""
    return _FILE.encode() in data


def directory(table: Table) -> str:
    """Where this table's files stand."""
    return os.path.join(table.root, "persist/pubsub-large", table.name)


def move_out(tree: Any, place: Callable[[str, bytes], str]) -> Any:
    """The tree with each large member replaced by a path: what `place` returns for the file's name and content."""
    if isinstance(tree, list):
        return [move_out(item, place) for item in tree]
    if not isinstance(tree, dict):
        return tree
    result = {}
    for name, item in tree.items():
        if name.startswith(_LARGE):
            rest = name[len(_LARGE) :]
            path = place(_FILE + rest, encode_tree({name: item}))
            result[_FILE + rest] = msgspec.json.encode(path).decode()
        else:
            result[name] = move_out(item, place)
    return result


class Outbox:
    """Writes the files of one packet; a packet that is never sent takes its files back."""

    def __init__(self, table: Table) -> None:
        self._directory = directory(table)
        self._written: list[str] = []

    def __bool__(self) -> bool:
        """Whether anything was written."""
        return bool(self._written)

    def place(self, name: str, content: bytes) -> str:
        """Write one file, returning its path. Raises OSError."""
        os.makedirs(self._directory, mode=0o700, exist_ok=True)
        fd, path = tempfile.mkstemp(prefix=name.replace("/", "_"), dir=self._directory)
        self._written.append(path)
        with os.fdopen(fd, "wb") as file:
            file.write(content)
        return path

    def take_back(self) -> None:
        """Remove what was written; the packet does not reach its reader."""
        for path in self._written:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(path)
        self._written = []


def move_in(data: bytes, table: Table) -> bytes:
    """The record whole again; its files are removed.

    Raises BadRecord when a file is missing, too large, or not this table's, and OSError when the machine is at fault.
    """
    used: list[str] = []
    try:
        if too_deep(data):
            raise BadRecord(f"nested deeper than {MAX_DEPTH} levels")
        whole = encode_tree(_restore(msgspec.json.decode(data), directory(table), used))
    except (msgspec.DecodeError, UnicodeDecodeError, EncodeFailed, RecursionError) as err:
        raise BadRecord(str(err)) from err
    for path in used:  # only when all of it could be read
        with contextlib.suppress(FileNotFoundError):
            os.unlink(path)
    return whole


def _restore(tree: Any, directory: str, used: list[str]) -> Any:
    if isinstance(tree, list):
        return [_restore(item, directory, used) for item in tree]
    if not isinstance(tree, dict):
        return tree
    result = {}
    for name, item in tree.items():
        if name.startswith(_FILE) and isinstance(item, str):
            result.update(_read(name, item, directory, used))
        else:
            result[name] = _restore(item, directory, used)
    return result


def _read(name: str, quoted: str, directory: str, used: list[str]) -> dict[str, Any]:
    """The one member that stands in the file which member `name` refers to."""
    wanted = _LARGE + name[len(_FILE) :]
    try:
        path = msgspec.json.decode(quoted, type=str)
    except msgspec.DecodeError:
        raise BadRecord(f"member {name} holds no path in quotes") from None
    where, filename = os.path.split(path)
    if where != directory or not filename.startswith(_FILE):
        raise BadRecord(f"member {name} names {path!r}, which is not in {directory}")
    try:
        fd = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    except FileNotFoundError:
        raise BadRecord(f"member {name}: {path} is missing") from None
    try:
        content = read_file(fd, filename, MAX_FILE_BYTES)
    finally:
        os.close(fd)
    if content is None:
        raise BadRecord(f"member {name}: {path} is missing")
    try:
        member = msgspec.json.decode(content)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as err:
        raise BadRecord(f"member {name}: {path}: {err}") from None
    if not isinstance(member, dict) or list(member) != [wanted]:
        raise BadRecord(f"member {name}: {path} does not hold {wanted}")
    used.append(path)
    return member
