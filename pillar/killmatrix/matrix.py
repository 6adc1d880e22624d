"""The matrix: where an undisturbed run changes anything, kill the agent there, and compare what is left in the end."""

from __future__ import annotations

import random
import shlex
import shutil
import tempfile
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, Literal, NamedTuple

from pillar.crashpoints import KILL, Call, Control, Fault, Point
from pillar.crashpoints.points import LOOKS
from pillar.invariants import judge, look
from pillar.killmatrix.inputs import Step
from pillar.killmatrix.run import Report, Run, Settings
from pillar.killmatrix.trees import Baseline, Difference, as_expected, read_tree

UNDISTURBED_RUNS: Final = 3  # what differs between them is chance
FAULT_RETRIES: Final = 2  # a point that was not reached is tried again

Verdict = Literal["same", "differs", "no end", "not reached"]


class CannotRun(Exception):
    """The agents do not even work undisturbed; the text says what happened."""


class Oracle(NamedTuple):
    """What is right in the end. Without expected tables: what an undisturbed run leaves."""

    expected: Step | None = None
    check: Sequence[str] = ()  # a command; {root} in it is the root; exit status 0 means right
    ignore: Sequence[str] = ()  # patterns of paths that are not compared


@dataclass
class Result:
    """What came of the kills at some points, usually one."""

    kills: tuple[Point, ...]
    verdict: Verdict
    differences: list[Difference] = field(default_factory=list)
    report: Report = field(default_factory=lambda: Report(0))

    @property
    def is_failure(self) -> bool:
        return self.verdict in ("differs", "no end")


@dataclass
class Matrix:
    """All results, in the order of the undisturbed run."""

    settings: Settings
    undisturbed: Report
    results: list[Result] = field(default_factory=list)
    replay: str = "pillar killmatrix"  # the command, to which --at is added

    @property
    def failures(self) -> list[Result]:
        return [result for result in self.results if result.is_failure]

    def groups(self) -> list[list[Result]]:
        """The failures, those that end alike together, the first of each as it came."""
        alike: dict[tuple[object, ...], list[Result]] = {}
        for result in self.failures:
            alike.setdefault((result.verdict, *result.differences), []).append(result)
        return list(alike.values())

    def number(self, result: Result) -> int:
        """Its place in the matrix, from 1."""
        return next(number for number, other in enumerate(self.results, 1) if other is result)

    def replay_of(self, result: Result) -> str:
        """The command that repeats this result alone."""
        options, dashes, command = self.replay.partition(" -- ")
        at = " ".join(f"--at {shlex.quote(str(point))}" for point in result.kills)
        return f"{options} {at}{dashes}{command}"


Progress = Callable[[int, int, int], None]  # done, all, failures so far


def kill_matrix(
    settings: Settings,
    oracle: Oracle | None = None,
    *,
    at: Sequence[Point] = (),
    looks: bool = False,
    pairs: int = 0,
    seed: int = 0,
    jobs: int = 1,
    keep: Path | None = None,
    replay: str = "pillar killmatrix",
    progress: Progress = lambda done, whole, failed: None,
) -> Matrix:
    """Run the agents undisturbed, then once for each point, killed there and started again.

    `at`: only one run, with kills at these points one after another. `looks`: also where nothing is changed, right
    before a file is read. `pairs`: for each point so many more runs with a second kill, while the agent recovers from
    the first, chosen with `seed`. `keep`: a directory for the trees of the failures. Raises CannotRun, BadInput,
    crashpoints.NoCompiler.
    """
    oracle = oracle or Oracle()
    with tempfile.TemporaryDirectory(prefix="pillar-killmatrix-", dir=_fast()) as place:
        workplaces = _Workplaces(Path(place), settings)
        undisturbed, baselines, remains = _undisturbed(workplaces, settings, oracle)
        trial = _Trial(workplaces, settings, oracle, baselines, remains, keep)
        matrix = Matrix(settings, undisturbed, replay=replay)
        if at:
            matrix.results.append(trial.kill(tuple(at)))
            return matrix
        found = steps(undisturbed.calls, looks=looks)
        if not found:
            raise CannotRun(
                "the agents changed nothing below the root, so there is nowhere to kill them: is {root} among their "
                "arguments, or do they use $PILLAR_ROOT? (programs that are linked statically are not seen)"
            )
        matrix.results = _all(trial, [(point,) for point in found], jobs, progress)
        if pairs:
            second = list(_seconds(matrix.results, pairs, random.Random(seed)))
            matrix.results += _all(trial, second, jobs, progress)
        return matrix


def _fast() -> str | None:
    shm = Path("/dev/shm")
    return str(shm) if shm.is_dir() else None


class _Workplaces:
    """Roots and controls for runs that go on at the same time; each is used again, empty."""

    def __init__(self, directory: Path, settings: Settings) -> None:
        self._directory = directory
        self._names = {agent: f"unused argument of {agent}" for agent in settings.agents}
        self._free: list[tuple[Path, Control]] = []
        self._lock = threading.Lock()
        self._made = 0

    @contextmanager
    def one(self) -> Iterator[tuple[Path, Control]]:
        with self._lock:
            if self._free:
                root, control = self._free.pop()
            else:
                self._made += 1
                base = self._directory / str(self._made)
                root, tools = base / "root", base / "tools"
                tools.mkdir(parents=True)
                control = Control(tools)
        shutil.rmtree(root, ignore_errors=True)
        root.mkdir(mode=0o700)
        (control.directory / "stderr").unlink(missing_ok=True)
        try:
            yield root, control
        finally:
            with self._lock:
                self._free.append((root, control))


def _undisturbed(
    workplaces: _Workplaces, settings: Settings, oracle: Oracle
) -> tuple[Report, list[Baseline], frozenset[Difference]]:
    """The first run without a kill; what all of them leave after each step; what they leave that nobody should."""
    reports: list[Report] = []
    runs: list[list[dict[str, bytes]]] = []  # the trees of each run, one a step
    remains: set[Difference] = set()

    def take(root: Path) -> None:
        runs[-1].append(read_tree(root, oracle.ignore))

    for number in range(UNDISTURBED_RUNS if oracle.expected is None else 1):
        with workplaces.one() as (root, control):
            likes = [_is_like(root, oracle, Baseline([tree])) for tree in runs[0]] if runs else []
            runs.append([])
            with Run(settings, root, control) as run:
                report = run.through(likes, lambda root=root: take(root))  # type: ignore[misc]
                remains.update(_remains(root))
            if report.trouble:
                raise CannotRun(f"undisturbed run {number + 1}: {report.trouble}")
            if wrong := _wrong(root, runs[-1][-1], oracle):
                raise CannotRun(f"undisturbed run {number + 1} does not leave what is expected: {wrong[0]}")
            reports.append(report)
    return reports[0], [Baseline(trees) for trees in zip(*runs, strict=True)], frozenset(remains)


def _is_like(root: Path, oracle: Oracle, baseline: Baseline) -> Callable[[], bool]:
    """Is the tree as it was undisturbed?"""
    return lambda: not baseline.differences(read_tree(root, oracle.ignore))


def steps(calls: Sequence[Call], *, looks: bool = False) -> list[Point]:
    """The points at which a kill may matter: not those right before a call that failed, and so changed nothing."""
    counts: Counter[tuple[int, str, str, str]] = Counter()
    found: dict[Point, None] = {}
    for call in calls:
        if call.call in LOOKS and not looks:
            continue
        counts[call.pid, call.agent, call.call, call.path] += 1
        if call.result != "-":
            occurrence = counts[call.pid, call.agent, call.call, call.path]
            found[Point(call.agent, call.call, call.path, occurrence)] = None
    return list(found)


def _wrong(root: Path, tree: dict[str, bytes], oracle: Oracle) -> list[Difference]:
    """What the oracle's own tables and command say of a tree."""
    found = as_expected(oracle.expected, tree) if oracle.expected is not None else []
    if oracle.check:
        import subprocess

        command = [word.replace("{root}", str(root)) for word in oracle.check]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            said = (done.stdout + done.stderr).strip()[-1000:]
            found.append(Difference("", shlex.join(command), "exit status 0", f"exit status {done.returncode}: {said}"))
    return found


class _Trial:
    """One kill after another, each with a fresh root."""

    def __init__(
        self,
        workplaces: _Workplaces,
        settings: Settings,
        oracle: Oracle,
        baselines: Sequence[Baseline],
        remains: frozenset[Difference],
        keep: Path | None,
    ) -> None:
        self.workplaces = workplaces
        self.settings = settings
        self.oracle = oracle
        self.baselines = baselines  # one a step of the inputs
        self.remains = remains
        self.keep = keep

    def kill(self, kills: tuple[Point, ...]) -> Result:
        """Kill at these points, one after another, and compare in the end."""
        for _ in range(FAULT_RETRIES):
            result = self._once(kills)
            if result.verdict != "not reached":
                return result
        return result

    def _once(self, kills: tuple[Point, ...]) -> Result:
        with self.workplaces.one() as (root, control):
            with Run(self.settings, root, control, tuple(Fault(point, KILL) for point in kills)) as run:
                on_the_way = [_is_like(root, self.oracle, baseline) for baseline in self.baselines[:-1]]
                report = run.through(
                    [*on_the_way, lambda: control.fired() == len(kills) and not self._differences(root)]
                )
                differences = self._differences(root)
            if report.fired < len(kills) and not report.trouble:
                return Result(kills, "not reached", [], report)
            if report.trouble:
                result = Result(kills, "no end", differences, report)
            else:
                result = Result(kills, "differs" if differences else "same", differences, report)
            if result.is_failure and self.keep is not None:
                name = " then ".join(str(point).replace("/", "_") for point in kills)
                shutil.copytree(root, self.keep / name, symlinks=True, dirs_exist_ok=True, ignore=_sockets)
            return result

    def _differences(self, root: Path) -> list[Difference]:
        tree = read_tree(root, self.oracle.ignore)
        found = self.baselines[-1].differences(tree) if self.oracle.expected is None else []
        found += _wrong(root, tree, self.oracle)
        return found + [remain for remain in _remains(root) if remain not in self.remains]


def _remains(root: Path) -> list[Difference]:
    """Files that were never finished, and records that no reader takes."""
    return [
        Difference(problem.where, "", "no such file", f"it {problem.what}")
        for problem in judge(look(root))
        if problem.check in ("left-over", "unreadable record") and problem.level == "wrong"
    ]


def _sockets(directory: str, names: list[str]) -> list[str]:
    return [name for name in names if (Path(directory) / name).is_socket()]


def _all(trial: _Trial, kills: Sequence[tuple[Point, ...]], jobs: int, progress: Progress) -> list[Result]:
    results: list[Result] = []
    failed = 0
    progress(0, len(kills), 0)
    with ThreadPoolExecutor(max_workers=max(1, jobs)) as pool:
        try:
            for result in pool.map(trial.kill, kills):
                results.append(result)
                failed += result.is_failure
                progress(len(results), len(kills), failed)
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return results


def _seconds(results: Sequence[Result], count: int, chance: random.Random) -> Iterator[tuple[Point, ...]]:
    """For each first kill some of the points of the recovery that followed it."""
    for result in results:
        if result.verdict != "same":
            continue
        killed = next((event for event in result.report.events if event.what == "killed"), None)
        if killed is None:
            continue
        after = [call for call in result.report.calls if call.time_ns >= killed.time_ns]
        found = steps(after)
        for point in chance.sample(found, min(count, len(found))):
            yield (*result.kills, point)
