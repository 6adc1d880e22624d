"""Where a table stands and what its parts may be called.

    /run/<agent>[/<scope>]/<Topic>                 an ordinary table
    /persist/status/<agent>[/<scope>]/<Topic>      a persistent one
    /run/global/<Topic>                            the empty agent: what belongs to nobody

all below one root (EVE's pubsub of 2026 has the same places and the same root prefix).
A record is `<key>.json`; every name that starts with a dot is ours and no record.
"""

from __future__ import annotations

import os
from typing import NamedTuple

from pillar.pubsub.errors import BadKey, BadName

SUFFIX = ".json"
RESTARTED = "restarted"
STAGING = ".staging"
LOCK = ".lock"
QUARANTINE = ".quarantine"
LEDGERS = ".seen"
GLOBAL = "global"

NAME_MAX = 255  # bytes in one file name, on every file system Linux has
# A key shares its file name with the suffix, and in persistent tables with `.bak` behind it.
MAX_KEY_BYTES = NAME_MAX - len(SUFFIX)
MAX_PERSISTENT_KEY_BYTES = MAX_KEY_BYTES - len(".bak")


class Table(NamedTuple):
    """One table's identity: which agent's, which scope's, which topic's records, and below which root."""

    root: str
    agent: str
    scope: str
    topic: str
    persistent: bool

    @property
    def name(self) -> str:
        """`agent/Topic` or `agent/scope/Topic`, as people and EVE write it; `global/Topic` for the empty agent."""
        return "/".join(part for part in (self.agent or GLOBAL, self.scope, self.topic) if part)

    @property
    def base(self) -> str:
        """The directory that all tables of this kind share: `<root>/run` or `<root>/persist/status`."""
        return os.path.join(self.root, "persist/status" if self.persistent else "run")

    @property
    def path(self) -> str:
        """The table's directory."""
        return os.path.join(self.base, self.name)

    def file(self, key: str) -> str:
        """The path of one record, for messages."""
        return os.path.join(self.path, key + SUFFIX)


def table(root: str, agent: str, scope: str, topic: str, *, persistent: bool) -> Table:
    """Name a table.

    Raises BadName when a part cannot be a directory name, or for a persistent or scoped global table.
    """
    _check_part("topic", topic)
    if agent:
        _check_part("agent", agent)
    elif persistent or scope:
        kind = "persistent" if persistent else "scoped"
        raise BadName(f"a {kind} table needs an agent: the global table {topic} is neither persistent nor scoped")
    if scope:
        _check_part("scope", scope)
    return Table(root, agent, scope, topic, persistent)


def ledger_path(table: Table, agent: str, name: str) -> str:
    """The directory of a durable subscription's ledger: in its owner's own place, beside the table's kind.

    Raises BadName when the agent or the name cannot be a directory name.
    """
    if not agent:
        raise BadName(f"a durable subscription to {table.name} needs an owner: PubSub(root, agent)")
    _check_part("agent", agent)
    _check_part("durable", name)
    return os.path.join(table.base, agent, LEDGERS, name)


def check_key(key: str, *, persistent: bool) -> None:
    """Refuse a key that cannot be a file name of its own in a table; spaces and any UTF-8 are fine. Raises BadKey."""
    if not isinstance(key, str):
        raise BadKey(f"key {key!r} is of type {type(key).__name__}, a key is text")
    limit = MAX_PERSISTENT_KEY_BYTES if persistent else MAX_KEY_BYTES
    # The common key is short ASCII: three scans in C and done.
    if key.isascii() and 0 < len(key) <= limit and key[0] != "." and "/" not in key and "\0" not in key:
        return
    reason = _why_not_a_name(key, limit)
    if reason:
        raise BadKey(f"key {key!r} {reason}")


def key_of(filename: str) -> str | None:
    """The key of a record's file name, None for a name that is no record (dot files, `restarted`, `.bak`, ...)."""
    if filename.endswith(SUFFIX) and filename[0] != "." and len(filename) > len(SUFFIX):
        return filename[: -len(SUFFIX)]
    return None


def _check_part(what: str, part: str) -> None:
    reason = _why_not_a_name(part, NAME_MAX)
    if reason:
        raise BadName(f"{what} {part!r} {reason}")


def _why_not_a_name(name: str, limit: int) -> str:
    if not name:
        return "is empty"
    if name[0] == ".":
        return "starts with a dot: such names are the table's own"
    if "/" in name:
        return "holds a slash"
    if "\0" in name:
        return "holds a NUL"
    try:
        size = len(name.encode())
    except UnicodeEncodeError:
        return "is not UTF-8 text"
    if size > limit:
        return f"has {size} bytes of UTF-8, at most {limit} fit into a file name"
    return ""
