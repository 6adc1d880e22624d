"""What the crash test can be asked: a suite and the faults in it, each with a name by which it can be run again."""

from __future__ import annotations

import errno
import random
from collections import defaultdict, deque
from collections.abc import Iterable, Mapping, Sequence
from typing import Final, NamedTuple, Self

from pillar.crashpoints import Action, Fault, Point, delay, fails, fails_for_good
from pillar.crashpoints.plan import ATTRIBUTE, ERRORS, LOCK, NAME, OPEN, SEND, SPAWN, SYNC, WRITE

# flow: the whole story on a device that runs.  restart: an agent that was killed is killed again while it starts, apps
# running.  boot: an agent's first start, alone on an empty root.  core: two tiny agents that use all of
# pillar.pubsub that writes, see core.py.
SUITES = ("flow", "restart", "boot", "core")
CUT = "cut"  # power cuts, see cuts.py
MOST_OF_AN_AGENT = 2  # errors that come once, in a common run
MOST_LASTING = 6  # each holds up its agent for a while
OPEN_RUNS = 200  # that more cases are looked for


class Case(NamedTuple):
    """One run. `str()` and `parse()` are each other's inverse."""

    suite: str
    faults: tuple[Fault, ...]
    together: bool = False  # armed all at once; else one after another

    def __str__(self) -> str:
        between = " | " if self.together else " & "
        return between.join([f"{self.suite}: {self.faults[0]}", *map(str, self.faults[1:])])

    @classmethod
    def parse(cls, text: str) -> Self:
        """`SUITE: POINT[=ACTION] [& POINT[=ACTION] ...]`, with `|` if armed together. Raises ValueError."""
        suite, colon, rest = text.partition(":")
        if not colon or suite not in (*SUITES, CUT):
            raise ValueError(f"{text!r} is no case: expected SUITE: POINT[=ACTION] [& ...], SUITE one of {SUITES}")
        together = " | " in rest
        words = rest.split(" | " if together else " & ")
        return cls(suite, tuple(Fault.parse(text.strip()) for text in words), together)

    def without_one(self) -> list[Self]:
        """The same with one fault less, in every way: what is tried to find the fewest that fail."""
        if len(self.faults) == 1:
            return []
        fewer = [self.faults[:n] + self.faults[n + 1 :] for n in range(len(self.faults))]
        return [self._replace(faults=faults, together=self.together and len(faults) > 1) for faults in fewer]


def steady(recordings: Sequence[Iterable[Point]]) -> tuple[list[Point], int]:
    """The points that every undisturbed run came to, in their order, and how many only some did: the clock decides."""
    last = list(recordings[-1])
    common = set(last).intersection(*map(set, recordings))
    return [point for point in last if point in common], len(set().union(*recordings) - common)


def spread(points: Sequence[Point], seed: int) -> list[Point]:
    """All of them, in turn from every agent and every kind of call that it makes: any beginning is a fair sample."""
    chance = random.Random(seed)
    groups: defaultdict[tuple[str, str], list[Point]] = defaultdict(list)
    for point in points:
        groups[point.agent, point.call].append(point)
    queues = [chance.sample(group, len(group)) for group in groups.values()]
    chance.shuffle(queues)
    found: list[Point] = []
    while queues:
        found += [queue.pop() for queue in queues]
        queues = [queue for queue in queues if queue]
    return found


def errors(points: Iterable[Point], seed: int) -> list[Case]:
    """Each call of the flow with each errno that it may meet, once and for good.

    In rounds: the first has one of these for every call, the second another one, and so on; each is shuffled.
    """
    chance = random.Random(seed)
    kinds = {call: kind for kind, calls in _CALLS.items() for call in calls}
    rounds: defaultdict[int, list[Case]] = defaultdict(list)
    for point in points:
        failures = [
            action(number)
            for number, mask in ERRORS.items()
            for action in (fails, fails_for_good)
            if kinds.get(point.call, 0) & mask
        ]
        for number, action in enumerate(chance.sample(failures, len(failures))):
            rounds[number].append(Case("flow", (Fault(point, action),)))
    return [case for _, cases in sorted(rounds.items()) for case in chance.sample(cases, len(cases))]


def in_common_runs(cases: Iterable[Case], most: int) -> list[list[Case]]:
    """Cases of one error each, shared out to runs in which up to `most` of them are armed; nearly in their order.

    A run has errors that come once, at most two of an agent, in different directories, so that one hardly shifts the
    count of the other's calls; or errors that last, one of an agent and of each errno: a log line has to tell of it.
    """
    found: list[list[Case]] = []
    open_runs: deque[list[Case]] = deque(maxlen=OPEN_RUNS)
    for case in cases:
        run = next((run for run in open_runs if _goes_with(case, run)), None)
        if run is None:
            found.append(run := [])
            open_runs.append(run)
        run.append(case)
        if len(run) >= (most if case.faults[0].action.name == "error" else min(most, MOST_LASTING)):
            open_runs.remove(run)
    return found


def _goes_with(case: Case, run: Sequence[Case]) -> bool:
    point, action = case.faults[0]
    others = [other.faults[0] for other in run]
    if any(other.action.name != action.name for other in others):
        return False
    if action.name == "errors" and any(other.action == action for other in others):
        return False
    same = [other.point for other in others if other.point.agent == point.agent]
    most = MOST_OF_AN_AGENT if action.name == "error" else 1
    return len(same) < most and all(_directory(other) != _directory(point) for other in same)


def _directory(point: Point) -> str:
    """Of the table, or whatever else the path is in."""
    path, staged, _ = point.path.partition("/.")
    return path if staged else path.rpartition("/")[0]


def pairs(record: Mapping[str, Sequence[Point]], seed: int, count: int) -> list[Case]:
    """Two kills in one run: of the flow, the second one while the first one's agent starts again or anywhere after it;
    and two kills in a row of an agent that starts. Half of each.
    """
    chance = random.Random(seed)
    found = []
    for number in range(count):
        suite = "restart" if number % 2 and record.get("restart") else "flow"
        first = chance.choice(record[suite])
        again = [point for point in record.get("restart", ()) if point.agent == first.agent]
        second = chance.choice(again) if again and chance.random() < 0.6 else chance.choice(record["flow"])
        if suite == "restart":
            second = chance.choice(again)
        found.append(Case(suite, (Fault(first), Fault(second))))
    return found


def mixed(points: Sequence[Point], seed: int, count: int) -> list[Case]:
    """Runs of the flow with one to three faults of every kind there is; equal for equal seeds and points."""
    found = []
    for number in range(count):
        chance = random.Random(f"{seed} {number}")
        places = sorted(chance.sample(range(len(points)), chance.randint(1, 3)))
        # The second fault's occurrence counts from the first one: the next call of that name will do.
        faults = [
            Fault(points[place]._replace(occurrence=1) if n else points[place], _draw(chance))
            for n, place in enumerate(places)
        ]
        found.append(Case("flow", tuple(faults)))
    return found


def _draw(chance: random.Random) -> Action:
    match chance.choice(
        ("kill", "kill", "kill", "stop", "error", "errors", "delays", "clock", "overflow", "supervisor", "second")
    ):
        case "error":
            return fails(chance.choice(list(ERRORS)))
        case "errors":
            return fails_for_good(chance.choice([errno.ENOSPC, errno.EIO, errno.EDQUOT]))
        case "delays":
            return delay(chance.choice((5, 50)), for_good=True)
        case "clock":
            return Action("clock", chance.choice((-7200, 7200)))
        case name:
            return Action(name)


# Of the calls that the shim names, what they do (see plan.py).
_CALLS: Final = {
    NAME | WRITE | OPEN: ("create",),
    OPEN | NAME: ("open",),
    WRITE: ("write", "truncate"),
    NAME: ("rename", "link", "unlink", "mkdir", "rmdir", "symlink"),
    SYNC: ("fsync",),
    LOCK: ("flock",),
    SEND: ("send", "connect", "bind"),
    SPAWN: ("spawn",),
    ATTRIBUTE: ("chmod", "utime"),
}
