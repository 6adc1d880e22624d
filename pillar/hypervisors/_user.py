"""Who a container's program runs as: the image's User (`name`, `uid`, `name:group`, `uid:gid`) and the tree's files.

The names are looked up in /etc/passwd and /etc/group of the container's tree, opened as the container would: a link
in it leads to a place in it.
"""

import os
from dataclasses import dataclass
from pathlib import Path

from pillar.hypervisors import CannotRun
from pillar.hypervisors._unpack import open_in_root

_MAX_BYTES = 1 << 20


@dataclass(frozen=True)
class User:
    uid: int = 0
    gid: int = 0
    groups: tuple[int, ...] = ()  # the groups that name the user as a member
    home: str = "/"


def resolve(text: str, rootfs: Path) -> User:
    """The user that an image's configuration names; root when it names none. Raises CannotRun if there is none such."""
    wanted, _, group = text.partition(":")
    users, groups = _table(rootfs, "etc/passwd"), _table(rootfs, "etc/group")
    entry = next((line for line in users if len(line) >= 6 and (line[0] == wanted or line[2] == (wanted or "0"))), None)
    if entry is not None:
        uid, gid, home = _number(entry[2], text), _number(entry[3], text), entry[5] or "/"
    elif wanted == "" or wanted.isdigit():
        uid, gid, home = int(wanted or 0), 0, "/"
    else:
        raise CannotRun(f"the image is to run as the user {wanted!r}, whom its /etc/passwd does not have")
    if group:
        found = next((line[2] for line in groups if len(line) >= 3 and line[0] == group), group)
        if not found.isdigit():
            raise CannotRun(f"the image is to run in the group {group!r}, which its /etc/group does not have")
        return User(uid, int(found), (), home)
    member_of = [line[2] for line in groups if len(line) >= 4 and entry is not None and entry[0] in line[3].split(",")]
    return User(uid, gid, tuple(int(number) for number in member_of if number.isdigit()), home)


def _number(text: str, user: str) -> int:
    if not text.isdigit() or int(text) > 0xFFFFFFFE:
        raise CannotRun(f"the image is to run as the user {user!r}, whose entry in its /etc/passwd has no valid number")
    return int(text)


def _table(rootfs: Path, path: str) -> list[list[str]]:
    """The lines of a file of the tree, split at colons; [] when it is not there or no plain file."""
    root = os.open(rootfs, os.O_PATH | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        with open(open_in_root(root, path, os.O_RDONLY | os.O_NONBLOCK), "rb") as file:
            text = file.read(_MAX_BYTES).decode("utf-8", "replace")
    except OSError:
        return []
    finally:
        os.close(root)
    return [line.split(":") for line in text.splitlines()]
