"""One run: the agents on a root of their own, fed with the inputs, started again whenever they die, until they rest."""

from __future__ import annotations

import contextlib
import os
import shlex
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

from pillar.crashpoints import Call, Control, Fault, Plan
from pillar.crashpoints.points import LOOKS
from pillar.killmatrix.inputs import Step, lay, merged

LOOK_AGAIN_S: Final = 0.02
SETTLED_S: Final = 0.15  # so long a result that is as wanted has to stay
MOST_STARTS: Final = 4  # of one agent by itself, without a kill of ours
MOST_LABELS, LONGEST_LABEL = 48, 64  # that the shim takes
TAIL: Final = 2000  # characters of what an agent said on standard error
ROOT: Final = "{root}"  # in a command: the root of the run
# Heartbeats, logs and pid files are no steps of a workflow.
UNCOUNTED: Final = (("*", "/run/*.touch"), ("*", "/run/*.pid"), ("*", "/persist/log/*"))


class Settings(NamedTuple):
    """How to run, the same for all runs of a matrix."""

    agents: Mapping[str, Sequence[str]]  # name -> command; {root} in it is the run's root
    steps: Sequence[Step] = ({},)
    quiet_s: float = 1.5  # agents that make no call for so long have come to rest
    limit_s: float = 30.0  # agents that do not rest by then never do
    ignore_calls: tuple[tuple[str, str], ...] = ()  # (call or *, pattern of the path below the root)
    environment: Mapping[str, str] = {}


class Event(NamedTuple):
    """Something that the one who runs the agents did or saw."""

    time_ns: int  # CLOCK_MONOTONIC
    agent: str  # "" for the inputs
    pid: int
    what: str  # started, killed, ended, input


@dataclass
class Report:
    """What happened in one run."""

    begin_ns: int
    calls: list[Call] = field(default_factory=list)
    events: list[Event] = field(default_factory=list)
    fired: int = 0  # faults that happened
    trouble: str = ""  # why the run came to no end: an agent that does not come back, or never rests
    seconds: float = 0.0


class Run:
    """The agents of one run. Use with `with`: nothing of them is left afterwards."""

    def __init__(self, settings: Settings, root: Path, control: Control, faults: tuple[Fault, ...] = ()) -> None:
        self.settings = settings
        self.root = root
        self.control = control
        self.report = Report(time.monotonic_ns())
        self._processes: dict[str, subprocess.Popen[bytes]] = {}
        self._all: list[subprocess.Popen[bytes]] = []
        self._starts: dict[str, int] = {}
        self._errors = control.directory / "stderr"
        self._seen = 0
        ignore = (*UNCOUNTED, *settings.ignore_calls)
        control.begin(Plan(root, labels=_own_names(settings), ignore=ignore, faults=faults, with_data=True))

    def __enter__(self) -> Run:
        return self

    def __exit__(self, *exception: object) -> None:
        for process in self._all:  # what a killed agent had started may outlive it
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def through(
        self,
        is_done: Sequence[Callable[[], bool]] = (),
        after: Callable[[], None] = lambda: None,
    ) -> Report:
        """All steps, each until the agents rest. `is_done`, one a step: it is as wanted, so no long rest is needed.

        `after` is called after each step, when the agents rest.
        """
        begin = time.monotonic()
        before: Step = {}
        for number, step in enumerate(self.settings.steps):
            if step:
                self._note("", 0, f"input {number + 1}" if len(self.settings.steps) > 1 else "input")
                lay(self.root, step, before)
                before = merged(step, before)
            for agent in self.settings.agents:
                if self._is_over(agent):
                    self._start(agent)
            self._rest(is_done[number] if is_done else None)
            if self.report.trouble:
                break
            after()
        self.report.calls = self.control.calls()
        self.report.fired = self.control.fired()
        self.report.seconds = time.monotonic() - begin
        return self.report

    # ---- processes

    def _start(self, agent: str) -> None:
        command = [word.replace(ROOT, str(self.root)) for word in self.settings.agents[agent]]
        environment = {
            **os.environ,
            **self.settings.environment,
            **self.control.environment(agent),
            "PILLAR_ROOT": str(self.root),
        }
        with open(self._errors, "ab") as errors:
            process = subprocess.Popen(
                command,
                env=environment,
                stdin=subprocess.DEVNULL,
                stdout=errors,
                stderr=errors,
                start_new_session=True,
            )
        self._processes[agent] = process
        self._all.append(process)
        self._note(agent, process.pid, "started")

    def _is_over(self, agent: str) -> bool:
        process = self._processes.get(agent)
        return process is None or process.poll() is not None

    def _tend(self) -> bool:
        """Start again who died. True while some agent still runs."""
        alive = False
        for agent, process in list(self._processes.items()):
            status = process.poll()
            if status is None:
                alive = True
                continue
            if not any(event.pid == process.pid and event.what != "started" for event in self.report.events):
                killed = status == -signal.SIGKILL and self.control.fired() > self._seen
                self._note(agent, process.pid, "killed" if killed else f"ended: {_how(status)}")
                if killed:
                    self._seen = self.control.fired()
                elif status != 0:
                    self._starts[agent] = self._starts.get(agent, 1) + 1
                    if self._starts[agent] > MOST_STARTS:
                        said = self._errors.read_bytes()[-TAIL:].decode("utf-8", "replace").strip()
                        command = shlex.join(self.settings.agents[agent])
                        self.report.trouble = f"{agent} ({command}) does not stay: {_how(status)}; it said:\n{said}"
                        return False
                if killed or status != 0:
                    self._start(agent)
                    alive = True
        return alive

    def _rest(self, is_done: Callable[[], bool] | None) -> None:
        """Until no agent makes a call or wants the processor, or all have ended well."""
        now = time.monotonic()
        deadline, quiet_since, looked_at, calls = now + self.settings.limit_s, now, now, -1
        while True:
            alive = self._tend()
            if self.report.trouble:
                return
            made = sum(call.call not in LOOKS for call in self.control.calls())
            now = time.monotonic()
            if made != calls or (alive and any(_is_busy(p.pid) for p in self._processes.values())):
                calls, quiet_since = made, now
            quiet_s = now - quiet_since
            if not alive or quiet_s >= self.settings.quiet_s:
                return
            if is_done is not None and quiet_s >= SETTLED_S and now - looked_at >= SETTLED_S:
                if is_done():
                    return
                looked_at = now
            if now > deadline:
                last = [f"{call.agent} {call.call} {call.path}" for call in self.control.calls()[-3:]]
                self.report.trouble = (
                    f"the agents did not come to rest within {self.settings.limit_s:g} s; last calls: "
                    + (", ".join(last) or "none")
                )
                return
            time.sleep(LOOK_AGAIN_S)

    def _note(self, agent: str, pid: int, what: str) -> None:
        self.report.events.append(Event(time.monotonic_ns(), agent, pid, what))


def _own_names(settings: Settings) -> dict[str, str]:
    """The keys of the inputs stay as they are in the names of points: they are no numbers of chance."""
    keys = {path.rpartition("/")[2].removesuffix(".json") for step in settings.steps for path in step}
    return {key: key for key in sorted(keys, key=len, reverse=True)[:MOST_LABELS] if 3 <= len(key) < LONGEST_LABEL}


def _how(status: int) -> str:
    if status >= 0:
        return f"exit status {status}"
    with contextlib.suppress(ValueError):
        return signal.Signals(-status).name
    return f"signal {-status}"


def _is_busy(pid: int) -> bool:
    """Does the process, or a thread of it, run or want to, or wait for the disk?"""
    try:
        threads = os.listdir(f"/proc/{pid}/task")
    except FileNotFoundError:
        return False
    for thread in threads:
        try:
            with open(f"/proc/{pid}/task/{thread}/stat", "rb") as file:
                state = file.read().rpartition(b")")[2].split()[0]
        except OSError:
            continue
        if state in (b"R", b"D"):
            return True
    return False
