"""What the demo does, in order. Every step waits for what it claims; one that does not come true ends the demo."""

from __future__ import annotations

import json
import os
import select
import shlex
import signal
import subprocess
import sys
import time
import urllib.request
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from pillar.agents import AGENTS
from pillar.below import files_below
from pillar.demo import device
from pillar.demo.device import Onlooker, Seen
from pillar.demo.images import ImageServer
from pillar.demo.kinds import Kind
from pillar.demo.screen import Screen
from pillar.locations import Locations
from pillar.terminal import printable
from pillar.types.enums import SwState

IMAGE_BYTES = 6 * 1024 * 1024
T = TypeVar("T")

PATIENCE_S = 120.0  # for any one step; a guest's kernel boots in three seconds, and in sixty on a busy machine
IN_FLIGHT_BYTES = 1024 * 1024  # what the network and one chunk of the downloader may hold


# The ECO is on loopback: a proxy in the environment is not meant for it.
_direct = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class DemoFailed(Exception):
    """A step did not come true; the text says which, and where to look."""


class Show:
    """One run of the demo on one root."""

    def __init__(self, root: Path, screen: Screen, kind: Kind) -> None:
        self.root = root
        self.kind = kind
        self.where = Locations(root)
        self.screen = screen
        self.app_id = str(uuid.uuid4())
        self.images = kind.build(IMAGE_BYTES)
        self._told: dict[str, str] = {}  # download -> the state last shown

    def run(self, *, keep: bool) -> None:
        """All of it. Raises DemoFailed; whatever ends it, ECO, agents and server are stopped, unless `keep` asks else.

        A device that runs on this root already is left alone.
        """
        server = ImageServer(*self.images, hold_at=IMAGE_BYTES // 2)
        onlooker = Onlooker(str(self.root), self._seen)
        try:
            self.start_agents()
            try:
                self.deploy(server)
                self.kill_the_downloader(server, onlooker)
                self.wait_until_running(onlooker)
                self.hear_the_eco(onlooker)
                url = self.ask_the_eco(onlooker)
                self.check_fetches(server)
                if keep:
                    self.leave(url)
                    return
                self.undeploy(onlooker, url)
            except BaseException:
                self._clean_up(onlooker)
                raise
            self._pillar("down")
        finally:
            onlooker.close()
            server.close()
        self.screen.step("done", f"done in {self.screen.seconds:.1f} s", ok=True)

    def start_agents(self) -> None:
        if (pid := self._other_pid("pillar", 0)) and Path(f"/proc/{pid}").exists():
            raise DemoFailed(f"a device runs on {self.root} already (supervisor {pid}): choose another --root")
        try:
            self._pillar("up", "--daemon", *self.kind.up)
        except BaseException:  # an interrupt too: some of them may run
            self._run_pillar("down")
            raise
        names = [entry.name for entry in AGENTS]
        self.screen.step(
            "up", f"{len(names)} agents run on {self.root}, {self.kind.where}", root=str(self.root), agents=names
        )

    def deploy(self, server: ImageServer) -> None:
        """Hand the config to zedagent, as a file, the way a person would."""
        path = self.root / "demo-config.json"
        path.write_text(json.dumps(self.kind.config(self.images, server.url, self.app_id), indent=1))
        mib = self._size() / 1024 / 1024
        what = "an image" if len(self.images) == 1 else f"{len(self.images)} images"
        self.screen.step(
            "deploy",
            f"pillar deploy {path.name}: the ECO {device.APP_NAME!r}, {what} of {mib:.1f} MiB from {server.url}",
            app=self.app_id,
            sha256=self.images[0].sha256,
        )
        self._pillar("deploy", str(path))

    def kill_the_downloader(self, server: ImageServer, onlooker: Onlooker) -> None:
        """kill -9 in the middle of the transfer; the server holds it there, so it is the middle on any machine."""
        self._wait(
            onlooker,
            lambda: server.held.is_set() and self._downloaded() >= server.sent - IN_FLIGHT_BYTES,
            "the download to reach its middle",
        )
        pid = int(self.where.pid("downloader").read_text())
        _kill(pid)
        self.screen.step("kill", f"kill -9 {pid}: the downloader, in the middle of the transfer", pid=pid)
        server.let_go()
        new = self._wait(onlooker, lambda: self._other_pid("downloader", pid), "the downloader to come back")
        self.screen.step("recovered", f"the supervisor started it again as {new}", pid=new)

    def wait_until_running(self, onlooker: Onlooker) -> None:
        def running() -> bool:
            status = onlooker.apps.get(self.app_id)
            return status is not None and status.State == SwState.RUNNING and status.Activated

        self._wait(onlooker, running, "the ECO to be RUNNING")

    def hear_the_eco(self, onlooker: Onlooker) -> None:
        """Show the line of its output with which it says that it is up."""
        if not self.kind.says:
            return
        log = self.where.log(self.app_id)

        def line() -> str:
            lines = log.read_text(errors="replace").splitlines() if log.exists() else []
            return next((line for line in lines if self.kind.says in line), "")

        heard = self._wait(onlooker, line, f"{self.kind.says!r} in {log}")
        self.screen.step("said", f"its output says: {printable(heard.strip())}", line=heard.strip(), log=str(log))

    def ask_the_eco(self, onlooker: Onlooker) -> str:
        """Ask the running ECO over HTTP; returns its address."""
        log = self.where.log(self.app_id)
        deadline = time.monotonic() + PATIENCE_S
        url = body = ""
        problem: object = f"it does not say where it listens; its log is {log}"
        while not body:
            if time.monotonic() > deadline:
                raise DemoFailed(f"the ECO runs but does not answer {url}: {problem}")
            onlooker.wait(0.02)
            address = self.kind.address(onlooker, log, self.app_id)
            if not address:
                continue
            url = f"{address}/hello"
            try:
                with _direct.open(url, timeout=10) as answer:
                    body = answer.read().decode().strip()
            except OSError as err:  # it is RUNNING, and its server on the way
                problem = err
        if json.loads(body)["uuid"] != self.app_id:
            raise DemoFailed(f"{url} is answered by somebody else: {body}")
        self.screen.step("answer", f"GET {url} -> {body}", url=url, answer=json.loads(body))
        return url

    def check_fetches(self, server: ImageServer) -> None:
        """The kill must not have cost more than what was in flight."""
        size = self._size()
        again = server.sent - size
        if again > IN_FLIGHT_BYTES or len(server.requests) < 2:
            raise DemoFailed(
                f"{server.sent} bytes were sent for an image of {size} (ranges asked for: {server.requests}):"
                " the transfer was not resumed"
            )
        self.screen.step(
            "fetched",
            f"fetched with {len(server.requests)} requests, the last with Range: {server.requests[-1] or 'none'};"
            f" {max(again, 0) // 1024} KiB sent twice",
            requests=len(server.requests),
            sent=server.sent,
            size=size,
        )

    def undeploy(self, onlooker: Onlooker, url: str) -> None:
        """Take the app away and look whether everything of it is gone."""
        self.screen.step("undeploy", "pillar undeploy")
        self._pillar("undeploy")
        tables = (onlooker.apps, onlooker.domains, onlooker.networks)
        self._wait(onlooker, lambda: all(self.app_id not in table for table in tables), "the ECO's records to go")
        self._wait(onlooker, lambda: not _in_use(onlooker), "the image to be let go")
        try:
            _direct.open(url, timeout=2).close()
        except OSError:  # refused, or its address is nobody's any more
            self.screen.step(
                "gone",
                "the ECO is gone: no record of it is left, nobody answers; its image stays, unused, for DownloadGCTime",
                app=self.app_id,
            )
        else:
            raise DemoFailed(f"{url} still answers after undeploy")

    def leave(self, url: str) -> None:
        """Say what there is to look at."""
        self.screen.step("kept", f"left running on {self.root}", root=str(self.root), url=url)
        root, app = shlex.quote(str(self.root)), self.app_id
        command = Path(sys.executable).with_name("pillar")
        python = shlex.quote(sys.executable)
        pillar = shlex.quote(str(command)) if command.exists() else f"{python} -m pillar"
        # The demo's network namespace goes on as long as the supervisor in it.
        inside = f"nsenter -t $(cat {root}/run/pillar.pid) -n " if self.kind.up else ""
        console = f"\n  {pillar} console --root {root} {device.APP_NAME}" if self.kind.console else ""
        self.screen.plain(
            f"""
look around:
  ls {root}/run/*/ {root}/run/*/*/
  cat {root}/run/zedmanager/AppInstanceStatus/{app}.json
  cat {root}/run/domainmgr/DomainStatus/{app}.json
  tail {root}/persist/log/downloader.log
  {inside}curl {url}{console}
  {pillar} ps --root {root}
  {pillar} watch --root {root}
kill an agent and see it come back:
  kill -9 $(cat {root}/run/zedmanager.pid); {pillar} ps --root {root}
end it:
  {pillar} undeploy --root {root}; {pillar} down --root {root}"""
        )

    def _size(self) -> int:
        return sum(len(image.content) for image in self.images)

    def _seen(self, seen: Seen) -> None:
        if seen.progress is not None and seen.topic == "DownloaderStatus":
            self.screen.progress(seen.agent, seen.topic, seen.progress)
            if seen.text == self._told.get(seen.key):
                return
            self._told[seen.key] = seen.text
        self.screen.change(seen.agent, seen.topic, seen.text)

    def _wait(self, onlooker: Onlooker, condition: Callable[[], T], what: str) -> T:
        deadline = time.monotonic() + PATIENCE_S
        while True:
            onlooker.wait(0.05)
            value = condition()
            if value:
                return value
            if time.monotonic() > deadline:
                raise DemoFailed(f"waited {PATIENCE_S:.0f} s for {what}; look into {self.where.persist / 'log'}")

    def _downloaded(self) -> int:
        """Bytes of the unfinished download on the disk."""
        return sum(status.st_size for _, status in files_below(self.where.downloads("appImg.obj", "pending")))

    def _other_pid(self, agent: str, old: int) -> int:
        try:
            pid = int(self.where.pid(agent).read_text())
        except (FileNotFoundError, ValueError):
            return 0
        return pid if pid != old else 0

    def _clean_up(self, onlooker: Onlooker) -> None:
        """Something went wrong, or somebody interrupted: leave nothing running. The files stay for a look."""
        self._run_pillar("undeploy")
        deadline = time.monotonic() + PATIENCE_S / 2
        while self.app_id in onlooker.domains and time.monotonic() < deadline:
            onlooker.wait(0.05)
        self._run_pillar("down")

    def _run_pillar(self, *words: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-m", "pillar", words[0], "--root", str(self.root), *words[1:]],
            capture_output=True,
            text=True,
            check=False,
        )

    def _pillar(self, *words: str) -> None:
        done = self._run_pillar(*words)
        if done.returncode:
            raise DemoFailed(f"pillar {' '.join(words)} failed: {(done.stderr or done.stdout).strip()}")


def _in_use(onlooker: Onlooker) -> bool:
    return any(status.RefCount for status in onlooker.downloads.items().values())


def _kill(pid: int) -> None:
    """kill -9, and wait until the kernel has taken the process's connections down."""
    process = os.pidfd_open(pid)
    try:
        signal.pidfd_send_signal(process, signal.SIGKILL)
        select.select([process], [], [], PATIENCE_S)
    finally:
        os.close(process)
