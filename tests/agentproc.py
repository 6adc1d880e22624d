"""One agent as a real process on a private root, fed by hand: its config files are written, its status files read."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

from servers import eventually

from pillar.pidfile import holder


class AgentProcess:
    """`python -m pillar.cmd.<agent>`; `command` may be put in front of it (unshare and the like)."""

    def __init__(self, root: Path, agent: str, command: tuple[str, ...] = ()) -> None:
        self.root = root
        self.agent = agent
        self.command = (*command, sys.executable, "-m", f"pillar.cmd.{agent}", "--root", str(root))
        self.process: subprocess.Popen[bytes] | None = None

    def start(self) -> AgentProcess:
        """Start it; returns when it is ready (it says so in its log)."""
        log = self.root / "persist" / "log" / f"{self.agent}.log"
        before = log.read_text().count(" started, root") if log.exists() else 0
        environment = {**os.environ, "PYTHONPATH": str(Path(__file__).parent.parent)}
        self.process = subprocess.Popen(
            self.command, env=environment, stderr=subprocess.DEVNULL, start_new_session=True
        )
        started = " started, root"
        eventually(lambda: log.exists() and log.read_text().count(started) > before, f"{self.agent} is ready", 60)
        return self

    def kill(self) -> None:
        """kill -9, of everything that belongs to it."""
        if self.process is not None and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait(timeout=10)

    def wait_killed(self) -> None:
        """With a tracer in front that kills it: until it is dead. The tracer goes then, or it may wait for ever."""
        pid_file = self.root / "run" / f"{self.agent}.pid"
        eventually(lambda: holder(pid_file) is None, f"{self.agent} is killed", 60)
        self.kill()

    def cpu_s(self) -> float:
        """Seconds of processor time it has used, start included: what a busy machine does not change much."""
        assert self.process is not None
        fields = Path(f"/proc/{self.process.pid}/stat").read_text().rpartition(")")[2].split()
        return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")

    def inotify_instances(self) -> int:
        """How many it holds; a machine has few for all of its processes."""
        assert self.process is not None
        fds = Path(f"/proc/{self.process.pid}/fd")
        found = 0
        for fd in os.listdir(fds):
            with contextlib.suppress(FileNotFoundError):  # closed meanwhile
                found += os.readlink(fds / fd) == "anon_inode:inotify"
        return found

    @property
    def log_text(self) -> str:
        return (self.root / "persist" / "log" / f"{self.agent}.log").read_text()


class Table:
    """A table's files, as a person sees them."""

    def __init__(self, root: Path, agent: str, topic: str, scope: str = "") -> None:
        self.directory = root / "run" / agent / scope / topic

    def write(self, key: str, **fields: Any) -> None:
        """Put a record in place by hand, as an editor does it: written in full, then renamed."""
        self.directory.mkdir(parents=True, exist_ok=True)
        staged = self.directory / f".{key[:100]}.new"
        staged.write_text(json.dumps(fields))
        staged.rename(self.directory / f"{key}.json")

    def remove(self, key: str) -> None:
        (self.directory / f"{key}.json").unlink()

    def read(self, key: str) -> dict[str, Any] | None:
        try:
            record: dict[str, Any] = json.loads((self.directory / f"{key}.json").read_bytes())
        except FileNotFoundError:
            return None
        return record

    def keys(self) -> list[str]:
        return sorted(path.name.removesuffix(".json") for path in self.directory.glob("*.json"))

    def wait(self, key: str, deadline_s: float = 20.0, **fields: Any) -> dict[str, Any]:
        """The record once it has these values; a callable value is asked."""

        def there() -> dict[str, Any] | None:
            record = self.read(key)
            if record is None:
                return None
            fits = all(
                value(record[name]) if callable(value) else record[name] == value for name, value in fields.items()
            )
            return record if fits else None

        try:
            return eventually(there, deadline_s=deadline_s)
        except BaseException:
            print(f"{key} is {self.read(key)}, waited for {fields}")
            raise

    def wait_gone(self, key: str) -> None:
        eventually(lambda: self.read(key) is None, f"{key} is unpublished")
