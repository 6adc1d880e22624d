"""What the crash test can be asked: a suite and the faults in it, each with a name by which it can be run again."""

from __future__ import annotations

import random
from collections import defaultdict
from collections.abc import Iterable, Sequence
from typing import NamedTuple, Self

from pillar.crashpoints import Fault, Point

# flow: the whole story on a device that runs.  restart: an agent that was killed is killed again while it starts, apps
# running.  boot: an agent's first start, alone on an empty root.
SUITES = ("flow", "restart", "boot")


class Case(NamedTuple):
    """One run. `str()` and `parse()` are each other's inverse."""

    suite: str
    faults: tuple[Fault, ...]

    def __str__(self) -> str:
        return " & ".join([f"{self.suite}: {self.faults[0]}", *map(str, self.faults[1:])])

    @classmethod
    def parse(cls, text: str) -> Self:
        """`SUITE: POINT[=ACTION] [& POINT[=ACTION] ...]`. Raises ValueError."""
        suite, colon, rest = text.partition(":")
        if not colon or suite not in SUITES:
            raise ValueError(f"{text!r} is no case: expected SUITE: POINT[=ACTION] [& ...], SUITE one of {SUITES}")
        return cls(suite, tuple(Fault.parse(words.strip()) for words in rest.split(" & ")))

    def without_one(self) -> list[Self]:
        """The same with one fault less, in every way: what is tried to find the fewest that fail."""
        if len(self.faults) == 1:
            return []
        return [self._replace(faults=self.faults[:n] + self.faults[n + 1 :]) for n in range(len(self.faults))]


def steady(recordings: Sequence[Iterable[Point]]) -> tuple[list[Point], int]:
    """The points that every undisturbed run came to, in their order, and how many only some did: the clock decides."""
    last = list(recordings[-1])
    common = set(last).intersection(*map(set, recordings))
    return [point for point in last if point in common], len(set().union(*recordings) - common)


def sample(points: Sequence[Point], count: int, seed: int) -> list[Point]:
    """So many points, in turn from every agent and from every kind of call that it makes, so that none is left out."""
    chance = random.Random(seed)
    groups: defaultdict[tuple[str, str], list[Point]] = defaultdict(list)
    for point in points:
        groups[point.agent, point.call].append(point)
    queues = [chance.sample(group, len(group)) for group in groups.values()]
    chance.shuffle(queues)
    found: list[Point] = []
    while queues and len(found) < count:
        found += [queue.pop() for queue in queues][: count - len(found)]
        queues = [queue for queue in queues if queue]
    return found
