"""What is to happen in one run: which calls are named how, and which of them meet a fault."""

from __future__ import annotations

import errno
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, NamedTuple, Self

from pillar.crashpoints.points import Point

# What a call does; the same numbers stand in shim.c.
NAME, WRITE, OPEN, SYNC, LOCK, SEND, SPAWN, LOOK, ATTRIBUTE = (1 << bit for bit in range(9))

# Which calls may fail with which errno: only what the kernel may really answer.
ERRORS: Final[Mapping[int, int]] = {
    errno.ENOSPC: NAME | WRITE | SYNC,
    errno.EDQUOT: NAME | WRITE | SYNC,
    errno.EROFS: NAME | WRITE | ATTRIBUTE,
    errno.EIO: NAME | WRITE | OPEN | SYNC | LOOK | ATTRIBUTE,
    errno.EMFILE: OPEN,
    errno.ENOMEM: NAME | OPEN | LOOK | SPAWN,
    errno.EINTR: WRITE | OPEN | LOCK | SEND,
}

# The process stops (SIGSTOP), and whoever runs the agents does what it wants and sends SIGCONT.
OUTSIDE: Final = ("stop", "supervisor", "second", "overflow", "clock")


class Action(NamedTuple):
    """What happens at a point. `str()` and `parse()` are each other's inverse."""

    name: str  # kill, stop, error, errors, delay, delays; the plurals: from there on, for good. Or one of OUTSIDE
    number: int = 0  # an errno, milliseconds, or seconds of a clock

    def __str__(self) -> str:
        if self.name.startswith("error"):
            return f"{self.name}:{errno.errorcode[self.number]}"
        return f"{self.name}:{self.number}" if self.name in ("delay", "delays", "clock") else self.name

    @classmethod
    def parse(cls, text: str) -> Self:
        """kill, stop, error:ENOSPC (once), errors:EIO (for good), delay:200 (ms), delays:50. Raises ValueError."""
        name, _, value = text.partition(":")
        if name in ("kill", *OUTSIDE) and name != "clock" and not value:
            return cls(name)
        if name == "clock" and value.lstrip("+-").isdigit():
            return cls(name, int(value))
        if name in ("error", "errors") and getattr(errno, value, None) in ERRORS:
            return cls(name, getattr(errno, value))
        if name in ("delay", "delays") and value.isdigit():
            return cls(name, int(value))
        known = ", ".join(errno.errorcode[number] for number in ERRORS)
        raise ValueError(
            f"{text!r} is no fault: kill, stop, error:E, errors:E, delay:MS or delays:MS, E one of {known}"
        )

    @property
    def outside(self) -> bool:
        """The process is stopped, and whoever runs it does the rest."""
        return self.name in OUTSIDE

    @property
    def kinds(self) -> int:
        """Which calls may meet it, as bits; 0 for all."""
        return ERRORS[self.number] if self.name.startswith("error") else 0


KILL: Final = Action("kill")
STOP: Final = Action("stop")  # SIGSTOP; whoever runs the agents sends SIGCONT


def fails(number: int) -> Action:
    """The call fails once with this errno, one of ERRORS."""
    return Action("error", number)


def fails_for_good(number: int) -> Action:
    """From this call on each one of the agent that may fails with this errno, until `Control.lift`."""
    return Action("errors", number)


def delay(milliseconds: int, *, for_good: bool = False) -> Action:
    """The call happens so much later, and with `for_good` each one of the agent after it."""
    return Action("delays" if for_good else "delay", milliseconds)


class Fault(NamedTuple):
    """An action at a point. `str()` is `POINT=ACTION`."""

    point: Point
    action: Action = KILL

    def __str__(self) -> str:
        return f"{self.point}={self.action}"

    @classmethod
    def parse(cls, text: str) -> Self:
        """The fault of this name; without `=ACTION` a kill. Raises ValueError."""
        point, equals, action = text.rpartition("=")
        return cls(Point.parse(point), Action.parse(action)) if equals else cls(Point.parse(text))


class Plan(NamedTuple):
    """One epoch."""

    root: Path  # only what happens below it is counted
    labels: Mapping[str, str] = {}  # text in a path -> what stands for it; the first that fits
    ignore: tuple[tuple[str, str], ...] = ()  # (call or *, fnmatch pattern of the path): not counted at all
    faults: tuple[Fault, ...] = ()  # one after another: the second is looked for once the first has fired; 32 at most
    together: bool = False  # all are looked for from the beginning, and each counts for itself
    with_data: bool = False  # have the trace hold what was written, and where in the file
    plain_names: bool = False  # paths without labels and marks: for building the files again, not for naming points

    def text(self) -> str:
        """As the shim reads it."""
        lines = [
            f"root\t{os.path.realpath(self.root)}",
            f"data\t{int(self.with_data)}",
            f"plain\t{int(self.plain_names)}",
            f"together\t{int(self.together)}",
        ]
        lines += [f"label\t{text}\t{label}" for text, label in self.labels.items()]
        lines += [f"ignore\t{call}\t{pattern}" for call, pattern in self.ignore]
        for (agent, call, path, occurrence), action in self.faults:
            name = "stop" if action.outside else action.name
            words = ("fault", agent, call, path, occurrence, name, action.number, action.kinds)
            lines.append("\t".join(map(str, words)))
        return "".join(f"{line}\n" for line in lines)
