"""The pubsub core alone: two tiny agents whose every pair of kills can be tried, a tenth of a second each.

See `coreagents` for what they do. A case starts both on an empty root and starts again whoever dies, until they rest.
"""

from __future__ import annotations

import os
import random
import shutil
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Final

from pillar.crashpoints import Call, Control, Fault, Plan, Point, points
from pillar.crashtest.cases import Case
from pillar.crashtest.coreagents import AGENTS, EFFECTS, Order, Setting, Told, follow
from pillar.crashtest.processes import kill, lives, state_of
from pillar.crashtest.story import Outcome
from pillar.crashtest.tree import Tree, differences, snapshot
from pillar.crashtest.world import PATIENCE_S, Stuck
from pillar.pubsub import PubSub

LOOK_AGAIN_S: Final = 0.004
SETTLED_S: Final = 0.03  # a tree that is as wanted stays so for so long
RECORDED_S: Final = 1.0  # the undisturbed run: nobody knows yet what is wanted
UNCHANGED_S: Final = 5.0  # one that is not gets no better
RETRIES: Final = 3  # of a case whose faults were not all reached: the agents race
PAIRED_RUNS: Final = 2  # only what follows a first kill each time is a second point


class Core:
    """Runs of the two agents, one after another, below one directory."""

    def __init__(self, directory: Path, unchanged_s: float = UNCHANGED_S) -> None:
        self._root = directory / "core"
        (directory / "core.control").mkdir()
        self._unchanged_s = unchanged_s
        self._control = Control(directory / "core.control", trace_bytes=1 << 20)
        self.expected: Tree = {}  # of an undisturbed run; empty before one
        self.effects = Counter[str]()  # what worker did in it
        self._pids: dict[str, int] = {}
        self._starts: Counter[str] = Counter()
        self._forker = subprocess.Popen(
            [sys.executable, "-m", "pillar.crashtest.coreagents"],
            env=os.environ | self._control.environment(),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            start_new_session=True,
        )

    def close(self) -> None:
        self._end()
        self._forker.kill()
        self._forker.communicate()
        self._control.close()

    def record(self) -> list[Point]:
        """The points of an undisturbed run; its tree is what the others are compared with. Raises Stuck."""
        self._begin(())
        self._rest(0, None)
        calls, tree = self._control.calls(), self._tree()
        self._end()
        self.expected, self.effects = tree, self._done()
        return points(calls)

    def seconds(self, first: Point) -> list[Point]:
        """Where a second kill may fall when one fell at `first`: each point of the recovery and all that follows."""
        found: list[Point] = []
        for number in range(PAIRED_RUNS):
            after = _after_the_kill(self.run((Fault(first),)).calls)
            found = [point for point in found if point in set(after)] if number else after
        return found

    def run(self, faults: tuple[Fault, ...]) -> Outcome:
        """Both agents until all faults have happened and they rest; once more when some were not reached."""
        if not self.expected:
            self.record()
        for _ in range(RETRIES):
            outcome = self._once(faults)
            if outcome.problems or outcome.happened == faults:
                break
        return outcome

    def _once(self, faults: tuple[Fault, ...]) -> Outcome:
        began = time.monotonic()
        self._begin(faults)
        problems = []
        try:
            self._rest(len(faults), self.expected)
        except Stuck as stuck:
            problems.append(f"stuck: {stuck}")
        calls, happened, tree = self._control.calls(), self._control.happened(faults), self._tree()
        self._end()
        victims = [fault.point.agent for fault in happened]
        problems += differences(self.expected, tree)
        problems += self._wrong_effects(victims.count("worker"))
        problems += [f"worker is told again of {line}" for line in self._told_again()]
        for agent, count in self._starts.items():
            if (died := count - 1) != victims.count(agent):
                problems.append(f"{agent} died {died} times, killed {victims.count(agent)} times")
        return Outcome(problems, happened, time.monotonic() - began, calls, tree)

    # ---- processes

    def _begin(self, faults: tuple[Fault, ...]) -> None:
        shutil.rmtree(self._root, ignore_errors=True)
        self._root.mkdir()
        self._control.begin(Plan(self._root, faults=faults))
        self._starts.clear()
        for agent in AGENTS:
            self._start(agent)

    def _start(self, agent: str) -> None:
        assert self._forker.stdin is not None and self._forker.stdout is not None
        self._forker.stdin.write(f"{agent} {self._root}\n")
        self._forker.stdin.flush()
        self._pids[agent] = int(self._forker.stdout.readline())
        self._starts[agent] += 1

    def _end(self) -> None:
        kill(self._pids.values())
        self._pids = {}

    def _rest(self, faults: int, expected: Tree | None) -> None:
        """Start again who died, until nothing happens any more: soon when all is as expected. Raises Stuck."""
        deadline = time.monotonic() + PATIENCE_S
        long_enough = SETTLED_S if expected is not None else RECORDED_S
        made, since, met = -1, time.monotonic(), None
        while time.monotonic() < deadline:
            for agent, pid in list(self._pids.items()):
                if not lives(pid):
                    self._start(agent)
            if (now := self._control.traced_bytes()) != made or any(
                state_of(pid) in ("R", "D") for pid in self._pids.values()
            ):
                made, since, met = now, time.monotonic(), None
            quiet_s = time.monotonic() - since
            if met is None and quiet_s >= SETTLED_S:
                met = self._control.fired() == faults and expected in (None, self._tree())
            if met is not None and quiet_s >= (long_enough if met else self._unchanged_s):
                return
            time.sleep(LOOK_AGAIN_S)
        raise Stuck("the agents do not come to rest")

    # ---- what became of it

    def _tree(self) -> Tree:
        tree = snapshot(self._root, {str(self._root): "<root>"})
        tree.pop(f"/{EFFECTS}", None)  # is looked at by itself
        return tree

    def _done(self) -> Counter[str]:
        effects = self._root / EFFECTS
        return Counter(effects.read_text().splitlines() if effects.exists() else ())

    def _wrong_effects(self, kills: int) -> list[str]:
        """Each handler ran once, and the one that a kill interrupted may have run twice."""
        done = self._done()
        problems = [f"the effect {line!r} is missing" for line in self.effects - done]
        if (more := (done - self.effects).total()) > kills:
            problems.append(f"{more} handlers were run again for {kills} kills: {dict(done - self.effects)}")
        return problems

    def _told_again(self) -> list[str]:
        """What a new worker would be told of, now that both have ended: nothing, it has finished everything."""
        told = Told()
        with PubSub(self._root, "worker") as pubsub:
            for record_type in (Order, Setting):
                follow(pubsub, record_type, told)
            while pubsub.process():
                pass
        return told.lines


def all_pairs(core: Core, firsts: Iterable[Point], say: Callable[[str], None]) -> Iterator[Case]:
    """Each first kill with each second one: of whichever agent, during the recovery or anywhere after it."""
    for number, first in enumerate(firsts):
        say(f"core: what follows kill {number} at {first}")
        for second in core.seconds(first):
            yield Case("core", (Fault(first), Fault(second)))


def some_pairs(core: Core, firsts: Sequence[Point], seed: int, count: int) -> Iterator[Case]:
    """So many of them, drawn by chance."""
    chance = random.Random(seed)
    for _ in range(count):
        first = chance.choice(firsts)
        if seconds := core.seconds(first):
            yield Case("core", (Fault(first), Fault(chance.choice(seconds))))


def _after_the_kill(calls: Iterable[Call]) -> list[Point]:
    """The points behind the one kill of a run, counted from there."""
    after, killed = [], False
    for call in calls:
        if killed:
            after.append(call)
        killed = killed or call.result == "K"
    return points(after)
