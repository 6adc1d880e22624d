"""What the checks are given and what they say. Nothing here touches the world."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any, Final, Literal, NamedTuple

SUPERVISOR: Final = "pillar"  # its published name


class File(NamedTuple):
    """One regular file."""

    size: int  # bytes
    allocated: int  # bytes of the disk that it takes
    changed: float  # seconds since 1970


@dataclass(frozen=True)
class Tree:
    """One look at everything below a root. Not taken at one instant: what moves may disagree with itself for a moment.

    Tables go by `agent/Topic` or `agent/scope/Topic`; records are those of pillar.types, or dicts for other topics.
    """

    tables: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # ordinary tables
    stored: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)  # persistent ones
    ages: Mapping[tuple[str, str], float] = field(default_factory=dict)  # (ordinary table, key) -> seconds unchanged
    unreadable: Mapping[str, str] = field(default_factory=dict)  # path -> why
    counters: Mapping[str, str] = field(default_factory=dict)  # path of a `restarted` -> its text
    live: frozenset[str] = frozenset()  # agents that a process runs for
    supervised: frozenset[str] = frozenset()  # agents that the supervisor, dead or alive, was asked to run
    files: Mapping[str, File] = field(default_factory=dict)  # path below the root -> the file: all of persist
    staged: frozenset[str] = frozenset()  # paths of files that are on their way to another name
    limit_kib: int = 0  # what downloads may take when no table says so; 0 when it cannot be told
    domains: Mapping[str, bool] = field(default_factory=dict)  # app -> runs its `process` domain? of those with a lock
    now: float = 0.0  # seconds since 1970

    def table(self, name: str) -> Mapping[str, Any]:
        """The records of an ordinary table, none when it does not exist."""
        return self.tables.get(name, {})

    def ran(self, agent: str) -> bool:
        """Did this agent ever publish here, or should it run? What a tree without it lacks is nobody's fault."""
        return (
            agent in self.live or agent in self.supervised or any(name.split("/")[0] == agent for name in self.tables)
        )

    def age(self, table: str, key: str) -> float:
        """Seconds since this record last changed, 0 when there is none."""
        return self.ages.get((table, key), 0.0)


Level = Literal["wrong", "note"]


class Problem(NamedTuple):
    """One thing that does not fit."""

    check: str  # the kind: refcounts, pairs, ...
    where: str  # table/key, or a path below the root
    what: str  # in words, with both values that disagree
    mend: str  # what to do
    agent: str = ""  # who puts it right by itself when it looks again; "" when nobody does
    level: Level = "wrong"


def app_name(tree: Tree, uuid: str) -> str:
    """How people call this app: its display name and UUID."""
    for table in ("zedagent/AppInstanceConfig", "zedmanager/AppInstanceStatus"):
        record = tree.table(table).get(uuid)
        if record is not None and record.DisplayName:
            return f"app {record.DisplayName} ({uuid})"
    return f"app {uuid}"


def images_of_apps(tree: Tree) -> Iterator[tuple[str, Any]]:
    """(app, StorageStatus) of every image that any app's status lists."""
    for app, status in tree.table("zedmanager/AppInstanceStatus").items():
        for image in status.StorageStatusList or ():
            yield app, image
