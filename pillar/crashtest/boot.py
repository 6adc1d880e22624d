"""An agent alone on an empty root is killed at each point of its very first start."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

from pillar.crashpoints import Control, Fault, Plan, Point, points
from pillar.crashtest.story import SETTLE_S, Outcome
from pillar.crashtest.tree import Tree, differences, snapshot
from pillar.crashtest.world import NOT_COUNTED, PATIENCE_S, Stuck
from pillar.locations import Locations


class Boots:
    """First starts of one agent after another, below one directory."""

    def __init__(self, directory: Path) -> None:
        self._root = directory / "boot"
        (directory / "boot.control").mkdir()
        self._control = Control(directory / "boot.control")
        self._expected: dict[str, Tree] = {}
        self._ended = ""  # how the last process did

    def close(self) -> None:
        self._control.close()

    def record(self, agent: str) -> list[Point]:
        """The points of this agent's first start; its tree afterwards is what other starts are compared with."""
        self._empty()
        self._control.begin(self._plan())
        if not self._start(agent, None):
            raise Stuck(f"{agent} does not start on an empty root")
        return points(self._control.calls())

    def run(self, faults: tuple[Fault, ...]) -> Outcome:
        """Start it until all faults have happened, and once more."""
        began, agent = time.monotonic(), faults[0].point.agent
        if agent not in self._expected:
            self.record(agent)
        self._empty()
        self._control.begin(self._plan(*faults))
        problems = []
        for _ in range(len(faults) + 1):
            if self._start(agent, self._expected[agent]):
                break
        else:
            problems.append(
                f"stuck: {agent} does not start after {self._control.fired()} faults: {self._last_words(agent)}"
            )
        if not problems:
            problems = differences(self._expected[agent], self._tree())
        calls = self._control.calls()
        return Outcome(problems, self._control.happened(faults), time.monotonic() - began, calls, {})

    def _last_words(self, agent: str) -> str:
        log = Locations(self._root).log(agent)
        lines = log.read_text().splitlines()[-3:] if log.exists() else ["no log"]
        return f"{self._ended}; {' | '.join(lines)}"

    def _plan(self, *faults: Fault) -> Plan:
        return Plan(self._root, {}, NOT_COUNTED, faults)

    def _empty(self) -> None:
        shutil.rmtree(self._root, ignore_errors=True)
        self._root.mkdir()

    def _tree(self) -> Tree:
        return snapshot(self._root, {str(self._root): "<root>"})

    def _start(self, agent: str, expected: Tree | None) -> bool:
        """Start it; True when it became ready and came to rest (and was ended then), False when it died before."""
        log = Locations(self._root).log(agent)
        before = _started(log)
        process = subprocess.Popen(
            [sys.executable, "-m", f"pillar.cmd.{agent}", "--root", str(self._root)],
            env=os.environ | self._control.environment(agent),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        deadline = time.monotonic() + PATIENCE_S
        try:
            while _started(log) == before:
                if process.poll() is not None or time.monotonic() > deadline:
                    return False
                time.sleep(0.01)
            return self._rest(agent, expected, process)
        finally:
            self._ended = f"ended with {process.poll()}" if process.poll() is not None else "not ready in time"
            process.kill()
            process.wait()

    def _rest(self, agent: str, expected: Tree | None, process: subprocess.Popen[bytes]) -> bool:
        """Wait for the tree that is expected, or for one that stays; False when it dies meanwhile."""
        deadline = time.monotonic() + SETTLE_S
        last, since = self._tree(), time.monotonic()
        while time.monotonic() < deadline and process.poll() is None:
            time.sleep(0.02)
            tree = self._tree()
            if expected is not None:
                if tree == expected:
                    return True
            elif tree != last:
                since = time.monotonic()
            elif time.monotonic() - since > 1.0:
                self._expected[agent] = tree
                return True
            last = tree
        return process.poll() is None


def _started(log: Path) -> int:
    return log.read_text().count(" started, root") if log.exists() else 0
