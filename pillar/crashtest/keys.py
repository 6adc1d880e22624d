"""Keys are made once: the EID that the device makes for an app stays the same until the app is purged or removed.

Looked at from two sides: an onlooker follows the EIDs in identitymanager's statuses, and the trace of calls tells how
often a file with a key came to its place.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Final

from pillar.crashpoints import Call
from pillar.types.eid import EIDStatus

STORE: Final = "/persist/identitymanager/"


class Keys:
    """The EIDs that an onlooker saw, in the lives that they may have."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self._lives = 1
        self._seen: dict[str, list[str]] = {}  # key -> its EIDs, each once

    def begin(self, present: Iterable[tuple[str, EIDStatus]]) -> None:
        """A new story begins: what is there is the first life."""
        self.wrong = []
        self._lives = 1
        self._seen = {}
        for key, status in present:
            self.look(key, status)

    def purge(self) -> None:
        """From now on each key may have one EID more: EVE's purge drops an app's EIDs."""
        self._lives += 1

    def look(self, key: str, status: EIDStatus) -> None:
        """Take in a status. One without an EID says nothing: it is being made."""
        if not status.Allocate or not status.EID:
            return
        seen = self._seen.setdefault(key, [])
        if status.EID in seen[:-1]:
            self.wrong.append(f"keys: {key} got its EID {status.EID} back, after {seen[-1]}")
        elif status.EID not in seen:
            seen.append(status.EID)
            if len(seen) > self._lives:
                self.wrong.append(f"keys: {key} got another EID, {status.EID} after {seen[-2]}")

    def count(self) -> int:
        """How many EIDs there were in all lives."""
        return sum(map(len, self._seen.values()))


def made_twice(calls: Iterable[Call]) -> list[str]:
    """Each key that was put in its place again although it was there."""
    problems: list[str] = []
    there: set[str] = set()
    for call in calls:
        if call.result not in "+?" or not (call.path.startswith(STORE) and call.path.endswith(".json")):
            continue
        if call.call == "unlink":
            there.discard(call.path)
        elif call.call == "rename":
            if call.path in there:
                problems.append(f"keys: {call.path} was made twice")
            there.add(call.path)
    return problems
