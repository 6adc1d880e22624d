"""A device to crash: a private root, all agents under a supervisor and under the shim, an image server, an observer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from pillar.agents import AGENTS
from pillar.below import files_below
from pillar.controller.handed import JSON_NAME, hand_in
from pillar.crashpoints import Control, Fault, Plan
from pillar.crashtest import processes
from pillar.crashtest.config import GOOD, Authority, Story
from pillar.crashtest.meddler import Meddler
from pillar.crashtest.observer import Observer
from pillar.crashtest.tree import Tree, snapshot
from pillar.demo.images import ImageServer
from pillar.locations import Locations

T = TypeVar("T")

PATIENCE_S = 60.0  # most is over in one; machines that run tests are busy
AGENT_NAMES = tuple(entry.name for entry in AGENTS)
# Not counted as crash points: a kill there leaves what a kill at the next point leaves, and when they happen the clock
# decides (log lines, the touch file).
NOT_COUNTED = (
    ("*", "/persist/log/*"),
    ("*", "/persist/log"),
    ("*", "/run/*.touch"),
    ("*", "netlink"),  # nim looks at the machine's interfaces whenever they change
)


class Stuck(Exception):
    """Something that had to come did not come."""


class World:
    """One device. With `with`: nothing of it is left afterwards."""

    def __init__(self, directory: Path, authority: Authority) -> None:
        self.directory = directory
        self.root = directory / "device"
        self.root.mkdir()
        (directory / "control").mkdir()
        self.where = Locations(self.root)
        self.control = Control(directory / "control", {name: f"pillar.cmd.{name}" for name in AGENT_NAMES})
        self.server = ImageServer()
        self.observer = Observer(self.root)
        self.stories = 0
        self._authority = authority
        self._supervisors: list[subprocess.Popen[bytes]] = []
        self.meddler: Meddler | None = None
        self._log_ends: dict[Path, int] = {}
        authority.trust(self.where.config)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- the device

    def up(self) -> None:
        """All agents under a supervisor; returns when all are ready. Raises Stuck."""
        self.start_supervisor()
        self.wait(self.observer.all_run, "all agents to be ready")

    def start_supervisor(self) -> None:
        """One more supervisor; the agents get what they are started under from it."""
        command = [sys.executable, "-m", "pillar.crashtest.supervise", "--root", str(self.root)]
        supervisor = subprocess.Popen(
            command,
            env=os.environ | self.control.environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )
        self._supervisors.append(supervisor)

    def begin(self, story: Story, faults: tuple[Fault, ...], *, together: bool = False) -> Meddler:
        """Arm these faults; whoever waits on this device sees to those that need a hand."""
        self.control.begin(self.plan(story, *faults, together=together))
        self.meddler = Meddler(self.control, self.where, faults, self.start_supervisor)
        return self.meddler

    def pid(self, agent: str) -> int:
        """The agent's process, 0 when there is none."""
        return processes.pid_of(self.where, agent)

    def kill(self, *agents: str) -> None:
        """kill -9 from outside; returns when they are gone."""
        processes.kill(pid for agent in agents if (pid := self.pid(agent)))

    def close(self) -> None:
        """End whatever still runs on this root."""
        for supervisor in self._supervisors:
            supervisor.kill()
            supervisor.wait()
        while pids := processes.started_on(self.root):
            processes.kill(pids)
        self.observer.close()
        self.server.close()
        self.control.close()

    def deploy(self, config: dict[str, Any]) -> None:
        """Hand in a device config, as `pillar deploy` does."""
        hand_in(self.where.config, JSON_NAME, json.dumps(config).encode())

    def new_story(self) -> Story:
        """Images and certificates that this device has not seen, on the server."""
        self.stories += 1
        self.server.fetched.clear()
        return Story(self.stories, self._authority, self.server, self.root)

    def plan(self, story: Story, *faults: Fault, together: bool = False) -> Plan:
        return Plan(self.root, story.labels, NOT_COUNTED, faults, together)

    # ---- looking at it

    def wait(self, condition: Callable[[], T], what: str, seconds: float = PATIENCE_S) -> T:
        """The first true value of `condition`, asked again whenever tables changed. Raises Stuck."""
        deadline = time.monotonic() + seconds
        while True:
            self.look()
            value = condition()
            if value:
                return value
            if time.monotonic() > deadline:
                raise Stuck(f"waited {seconds:g} s for {what}")

    def look(self) -> None:
        """Take in what was published, and see to faults that need a hand; a moment passes."""
        self.observer.look(0.02)
        if self.meddler is not None:
            self.meddler.look()

    def snapshot(self, story: Story) -> Tree:
        return snapshot(self.root, story.labels)

    def starts(self) -> int:
        """How often the good app was started in all its lives, as its own log tells."""
        log = self.where.log(GOOD)
        return log.read_text().count("started ") if log.exists() else 0

    def space_problem(self) -> str:
        """What is wrong with the downloader's count of its space; "" when it is right."""
        told = self.observer.space.get("global")
        files = files_below(self.where.persist / "downloads")
        used = sum((status.st_size + 1023) // 1024 for _, status in files)
        if told is None:
            return "there is no GlobalDownloadStatus"
        if told.UsedSpace != used or told.ReservedSpace:
            return f"{told.UsedSpace} KiB are told to be used and {told.ReservedSpace} reserved; there are {used} used"
        return ""

    def note_log_ends(self) -> None:
        """`tracebacks` looks at what is logged from now on."""
        self._log_ends = {path: status.st_size for path, status in files_below(self.where.persist / "log")}

    def tracebacks(self) -> list[str]:
        """The last line of each exception that an agent logged or died of."""
        return [f"{path.name}: {line[-300:]}" for path, line in self._new_lines() if "Traceback" in line]

    def last_words(self) -> list[str]:
        """Those of them that an agent died of: what it wrote to standard error was no line for people."""
        return [words for words in self.tracebacks() if ".stderr:" in words]

    def says(self, text: str) -> bool:
        """Whether a log line or a status tells of this."""
        if any(text in line for _, line in self._new_lines()):
            return True
        tables = (self.observer.apps, self.observer.downloads, self.observer.domains, self.observer.networks)
        return any(text in str(record) for table in tables for record in table.items().values())

    def _new_lines(self) -> Iterator[tuple[Path, str]]:
        for path, _ in files_below(self.where.persist / "log"):
            start = self._log_ends.get(path, 0)
            data = path.read_bytes()
            new = data[start if start <= len(data) else 0 :].decode(errors="replace")
            yield from ((path, line.strip()) for line in new.splitlines())

    def living_domains(self) -> list[int]:
        """Processes of domains seen in this story that still live."""
        return [pid for pid in self.observer.pids if processes.lives(pid)]


def short_directory() -> tempfile.TemporaryDirectory[str]:
    """For a world: on tmpfs where there is one, with a short path (UNIX socket paths are bounded)."""
    where = "/dev/shm" if os.access("/dev/shm", os.W_OK) else None
    return tempfile.TemporaryDirectory(prefix="pillar-crash-", dir=where, ignore_cleanup_errors=True)
