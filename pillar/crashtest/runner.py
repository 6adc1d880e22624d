"""Runs cases: each worker has a device of its own for one case after another, and a fresh one after a failure."""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Collection, Iterable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from pillar.crashpoints import Point
from pillar.crashtest import story
from pillar.crashtest.boot import Boots
from pillar.crashtest.boundaries import boundaries
from pillar.crashtest.cases import CUT, SUITES, Case, steady
from pillar.crashtest.config import Authority
from pillar.crashtest.core import Core
from pillar.crashtest.cuts import Cuts
from pillar.crashtest.restart import Restarts
from pillar.crashtest.tree import Tree, differences
from pillar.crashtest.world import AGENT_NAMES, Stuck, World, short_directory

STORIES = 60  # on one device: what they leave (unused images) makes it slower, and is collected after ten minutes
RECORDINGS = 3


class Result(NamedTuple):
    """What became of a case."""

    case: Case
    problems: list[str]
    fired: int
    seconds: float
    again: bool | None = None  # a failure was run again on a fresh device: did it fail there too?
    armed: int = 1  # cases in the same run, this one counted

    @property
    def kind(self) -> str:
        """ok, not reached, or what is wrong: lost, duplicated, stuck, left over, died, other."""
        if not self.problems:
            return "ok" if self.fired == len(self.case.faults) else "not reached"
        text = self.problems[0]
        for kind, words in (
            ("stuck", ("stuck", "not all agents run")),
            ("lost", ("is missing",)),
            ("duplicated", ("was started", "was fetched", "domains live on", "keys: ", "run again", "told again")),
            ("left over", ("left over",)),
            ("died", (" died ", "Traceback")),
        ):
            if any(word in text for word in words):
                return kind
        return "other"


class Record(NamedTuple):
    """What undisturbed runs did."""

    points: dict[str, list[Point]]  # suite -> the points that each run came to
    unsteady: dict[str, int]  # suite -> how many points only some runs came to
    tree: Tree  # at the end of the flow
    seconds: float  # of one undisturbed flow
    looks: list[Point]  # of the flow, where handlers begin and nothing is changed


class Failed(Exception):
    """An undisturbed run is not as it should be: nothing can be compared with it."""


class Device:
    """A worker's device, made anew when it has been used up."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._stack = contextlib.ExitStack()
        self._world: World | None = None
        self._boots: Boots | None = None
        self._restarts: Restarts | None = None
        self._core: Core | None = None
        self._cuts: Cuts | None = None

    def close(self) -> None:
        """End the device; the next use makes another one."""
        self._stack.close()
        self._stack = contextlib.ExitStack()
        self._world = self._boots = self._restarts = self._core = None

    def world(self) -> World:
        """A running device without apps."""
        if self._world is not None and self._world.stories >= STORIES:
            self.close()
        if self._world is None:
            self._world = self._new_world()
        return self._world

    def restarts(self) -> Restarts:
        """A running device with both apps deployed; another one than `world`, so that suites may take turns."""
        if self._restarts is None:
            self._restarts = Restarts(self._new_world())
        return self._restarts

    def boots(self) -> Boots:
        """A place for first starts."""
        if self._boots is None:
            directory = Path(self._stack.enter_context(short_directory()))
            self._boots = self._stack.enter_context(contextlib.closing(Boots(directory)))
        return self._boots

    def core(self) -> Core:
        """A place for runs of the two tiny agents."""
        if self._core is None:
            directory = Path(self._stack.enter_context(short_directory()))
            self._core = self._stack.enter_context(contextlib.closing(Core(directory)))
        return self._core

    def cuts(self) -> Cuts:
        """A recorded flow with all data; it does not use up."""
        if self._cuts is None:
            self._cuts = Cuts(self._authority)
        return self._cuts

    def _new_world(self) -> World:
        directory = Path(self._stack.enter_context(short_directory()))
        world = self._stack.enter_context(World(directory, self._authority))
        world.up()
        outcome = story.run(world)  # the first is another one than those after it: nothing is there yet
        if outcome.problems:
            raise Failed(f"the undisturbed flow: {'; '.join(outcome.problems)}")
        return world

    def run(self, case: Case, expected: Tree) -> story.Outcome:
        """One case."""
        if case.suite == CUT:
            return self.cuts().run(case.faults)
        if case.suite == "boot":
            return self.boots().run(case.faults)
        if case.suite == "core":
            return self.core().run(case.faults)
        if case.suite == "restart":
            return self.restarts().run(case.faults)
        return story.run(self.world(), case.faults, expected, together=case.together)


def record(
    device: Device,
    say: Callable[[str], None],
    suites: Collection[str] = SUITES,
    agents: Iterable[str] = AGENT_NAMES,
    recordings: int = RECORDINGS,
) -> Record:
    """Undisturbed runs: the points of each suite, starts of these agents only. Raises Failed when they differ."""
    found: dict[str, list[Point]] = {}
    unsteady: dict[str, int] = {}
    outcomes: list[story.Outcome] = []
    if "flow" in suites:
        say("flow: undisturbed runs")
        outcomes = [story.run(device.world()) for _ in range(recordings)]
        for outcome in outcomes:
            if outcome.problems:
                raise Failed(f"the undisturbed flow: {'; '.join(outcome.problems)}")
            if lines := differences(outcomes[0].tree, outcome.tree):
                raise Failed(f"two undisturbed runs end differently: {'; '.join(lines)}")
        found["flow"], unsteady["flow"] = steady([story.points_of(outcome) for outcome in outcomes])
    for suite, source in (("boot", device.boots), ("restart", device.restarts)):
        if suite in suites:
            found[suite], unsteady[suite] = [], 0
            for agent in agents:
                say(f"{suite}: undisturbed runs of {agent}")
                points, some = steady([source().record(agent) for _ in range(recordings - 1)])
                found[suite] += points
                unsteady[suite] += some
    if "core" in suites:
        say("core: undisturbed runs")
        found["core"], unsteady["core"] = steady([device.core().record() for _ in range(recordings)])
    return Record(
        found,
        unsteady,
        tree=outcomes[0].tree if outcomes else {},
        seconds=min((outcome.seconds for outcome in outcomes), default=0.0),
        looks=steady([boundaries(outcome.calls) for outcome in outcomes])[0] if outcomes else [],
    )


def run_all(
    runs: Iterable[Sequence[Case]], expected: Tree, jobs: int, authority: Authority, told: Callable[[Result], None]
) -> None:
    """Every run of one or more cases, on so many devices at once; `told` is called from the workers, one at a time."""
    waiting: queue.SimpleQueue[Sequence[Case]] = queue.SimpleQueue()
    for cases in runs:
        waiting.put(cases)
    lock, ends = threading.Lock(), threading.Event()
    errors: list[BaseException] = []

    def work() -> None:
        device = Device(authority)
        try:
            while not ends.is_set():
                for result in run_together(waiting.get_nowait(), expected, device):
                    with lock:
                        told(result)
        except queue.Empty:
            pass
        except BaseException as error:  # noqa: BLE001 - whatever it is, it is raised again where somebody waits
            errors.append(error)
            ends.set()
        finally:
            device.close()

    # Not `join`: in Python 3.11 one that Ctrl-C interrupts takes its thread for ended, and devices were left behind.
    over = [threading.Event() for _ in range(jobs)]

    def work_to_the_end(mine: threading.Event) -> None:
        try:
            work()
        finally:
            mine.set()

    workers = [
        threading.Thread(target=work_to_the_end, args=(event,), name=f"device {n}") for n, event in enumerate(over)
    ]
    for worker in workers:
        worker.start()
    try:
        for event in over:
            event.wait()
    except BaseException:
        ends.set()  # Ctrl-C: the cases under way are finished, the devices taken down
        for event in over:
            event.wait()
        raise
    if errors:
        raise errors[0]


def run_together(cases: Sequence[Case], expected: Tree, device: Device) -> Iterator[Result]:
    """The results of cases that share a run: if it fails, of each half, and so on; alone if it did not come to one.

    A run that fails and whose halves do not has a result of its own.
    """
    if len(cases) == 1:
        yield run_one(cases[0], expected, device)
        return
    whole = Case(cases[0].suite, tuple(case.faults[0] for case in cases), together=True)
    outcome = _run(whole, expected, device)
    if not outcome.problems:
        for case in cases:
            if case.faults[0] in outcome.happened:
                yield Result(case, [], 1, outcome.seconds / len(cases), armed=len(cases))
            else:
                yield run_one(case, expected, device)
        return
    device.close()
    middle = len(cases) // 2
    fails = False
    for half in (cases[:middle], cases[middle:]):
        for result in run_together(half, expected, device):
            fails = fails or bool(result.problems)
            yield result
    if not fails:
        again = _run(whole, expected, device)
        device.close()
        yield Result(whole, outcome.problems, len(outcome.happened), outcome.seconds, bool(again.problems))


def run_one(case: Case, expected: Tree, device: Device) -> Result:
    """One case; a failure is run again on a fresh device, to tell a bug from what another one has left."""
    outcome = _run(case, expected, device)
    if not outcome.problems:
        return Result(case, [], len(outcome.happened), outcome.seconds)
    device.close()
    again = _run(case, expected, device)
    if again.problems:
        device.close()
    return Result(case, outcome.problems, len(outcome.happened), outcome.seconds, bool(again.problems))


def shrink(case: Case, expected: Tree, device: Device) -> Case:
    """The fewest of its faults that still fail."""
    for smaller in case.without_one():
        outcome = _run(smaller, expected, device)
        device.close()
        if outcome.problems:
            return shrink(smaller, expected, device)
    return case


def _run(case: Case, expected: Tree, device: Device) -> story.Outcome:
    try:
        return device.run(case, expected)
    except Stuck as stuck:
        return story.Outcome([f"stuck: {stuck}"], (), 0.0, [], {})
