"""Names of crash points, and the calls that a trace tells of."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable
from typing import NamedTuple, Self

# Calls that leave everything as it was: a point there is a handler's boundary (a record was about to be read).
LOOKS = frozenset({"look", "enter", "list"})


class Point(NamedTuple):
    """Right before one call. `str()` and `parse()` are each other's inverse: no member has a space in it."""

    agent: str
    call: str  # create, open, write, truncate, fsync, rename, link, unlink, mkdir, rmdir, flock, send, spawn ... or *
    path: str  # below the root, labels and marks in it; "process", "internet" ... where there is none; or *
    occurrence: int  # of agent, call and path, from 1

    def __str__(self) -> str:
        return f"{self.agent} {self.call} {self.path} {self.occurrence}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The point of this name. Raises ValueError."""
        words = text.split()
        if len(words) != 4 or not words[3].isdigit() or words[3] == "0":
            raise ValueError(
                f"{text!r} is no crash point: expected AGENT CALL PATH OCCURRENCE, the last a number from 1"
            )
        return cls(words[0], words[1], words[2], int(words[3]))


class Call(NamedTuple):
    """One call that an agent made, as the trace has it."""

    epoch: int
    time_ns: int  # CLOCK_MONOTONIC, before the call
    pid: int
    agent: str
    call: str
    path: str  # of a rename or link: where to
    other: str  # of a rename or link: where from; with data: where a write begins, how long a truncated file is
    result: str  # + it came back well, - it failed, E we made it fail, K we killed there, ? it never came back
    data: bytes  # what a write wrote, if the plan asked for it


def parse_trace(trace: bytes) -> list[Call]:
    """The calls in the order in which they began. Lines that a kill from outside left half written are left out."""
    calls = []
    for line in trace.split(b"\n"):
        words = line.lstrip(b"\0").split(b"\t")
        if len(words) != 9 or not words[0].isdigit():
            continue
        epoch, at, pid, agent, name, path, other, result, data = words
        said = [word.decode("utf-8", "replace") for word in (agent, name, path, other, result)]
        calls.append(Call(int(epoch), int(at), int(pid), said[0], said[1], said[2], said[3], said[4], _unescaped(data)))
    return calls


def points(calls: Iterable[Call], *, looks: bool = False) -> list[Point]:
    """The point of each call that may have changed something, in order; with `looks` those of LOOKS too.

    A call that failed changed nothing: it is counted, and left out.
    Calls of one agent that ran as several processes are counted per process, as the shim does: equal points of
    a second process are left out.
    """
    counts: Counter[tuple[int, str, str, str]] = Counter()
    found: dict[Point, None] = {}
    for call in calls:
        if call.call in LOOKS and not looks:
            continue
        key = (call.pid, call.agent, call.call, call.path)
        counts[key] += 1
        if call.result != "-":
            found[Point(call.agent, call.call, call.path, counts[key])] = None
    return list(found)


def _unescaped(data: bytes) -> bytes:
    return re.sub(rb"%([0-9A-F]{2})", lambda found: bytes([int(found[1], 16)]), data)
