"""A whole device for a test: all agents as real processes on a root of its own, watched through their tables."""

from __future__ import annotations

import contextlib
import hashlib
import json
import subprocess
import sys
import uuid
from collections.abc import Callable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeVar

from support import wait_for

from pillar.agents import AGENTS
from pillar.below import files_below
from pillar.controller.handed import hand_in
from pillar.crashtest import processes
from pillar.demo import device as demo
from pillar.demo.eco import Image
from pillar.demo.images import ImageServer
from pillar.hypervisors import _cgroup
from pillar.hypervisors.runc import RuncHypervisor
from pillar.locations import Locations
from pillar.pubsub import PubSub, Subscription
from pillar.supervisor.record import SupervisorStatus
from pillar.types.domainmgr import DomainStatus
from pillar.types.downloader import DownloaderStatus, GlobalDownloadStatus
from pillar.types.enums import SwState
from pillar.types.zedmanager import AppInstanceStatus

T = TypeVar("T")

AGENT_NAMES = tuple(entry.name for entry in AGENTS)
SUPERVISOR = "pillar"
PATIENCE_S = 60.0
LOG_LINES = 12  # of each log, in the message of a failed test
CONFIG_NAME = "device.json"


def sleeper(name: str, size: int = 4096) -> Image:
    """The smallest ECO: it says in its log that it was started, then it is only there. Different each time."""
    ballast = uuid.uuid4().hex + "#" * size
    content = f'#!/bin/sh\necho "started $$ as $PILLAR_ECO_NAME"\nexec sleep 100000\n# {ballast}\n'.encode()
    return Image(name, content, hashlib.sha256(content).hexdigest())


def device_config(server: ImageServer, *images: Image) -> dict[str, Any]:
    """The demo's config with one app per image, named after it, all on one network instance and one datastore."""
    whole: dict[str, Any] = {}
    for image in images:
        whole = with_app(whole, server, image)
    return whole


def with_app(config: dict[str, Any], server: ImageServer, image: Image) -> dict[str, Any]:
    """A copy of the config with one app more."""
    server.images[image.name] = image
    one = demo.config(image, server.url, str(uuid.uuid4()))
    app = one["apps"][0]
    app["displayname"] = image.name
    if not config:
        return one
    app["drives"][0]["image"]["dsId"] = config["datastores"][0]["id"]
    app["interfaces"][0]["networkId"] = config["networkInstances"][0]["uuidandversion"]["uuid"]
    return {**config, "apps": [*config["apps"], app]}


def app_id(app: dict[str, Any]) -> str:
    """The UUID of an app of a device config."""
    return str(app["uuidandversion"]["uuid"])


class Device:
    """A root with all agents on it, and an onlooker on its tables. With `with`: nothing of it is left afterwards.

    `enter` is put in front of every command (a namespace: `netlab.device.enter`); `up` are options of `pillar up`.
    """

    def __init__(self, root: Path, enter: tuple[str, ...] = (), up: tuple[str, ...] = ()) -> None:
        self.where = Locations(root)
        self._enter = enter
        self._up = up
        self.pubsub = PubSub(root)
        self._tables: dict[tuple[str, str, str], Subscription[Any]] = {}
        self.apps = self.table("zedmanager", AppInstanceStatus)
        self.domains = self.table("domainmgr", DomainStatus)
        self.downloads = self.table("downloader", DownloaderStatus, "appImg.obj")
        self.supervised = self.table(SUPERVISOR, SupervisorStatus)

    def __enter__(self) -> Self:
        try:
            self.up()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    # ---- what a person does

    def up(self) -> None:
        """All agents under a supervisor; or a new supervisor that adopts them."""
        self.pillar("up", "--daemon", *self._up)

    def deploy(self, config: dict[str, Any]) -> None:
        """Hand in a device config, as `pillar deploy` does."""
        hand_in(self.where.config, CONFIG_NAME, json.dumps(config).encode())

    def pillar(self, *words: str) -> str:
        command = [*self._enter, sys.executable, "-m", "pillar", words[0], "--root", str(self.where.root), *words[1:]]
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=120)
        assert done.returncode == 0, f"pillar {' '.join(words)}: {done.stderr or done.stdout}\n{self.logs()}"
        return done.stdout

    # ---- looking at it

    def table(self, agent: str, record_type: type[T], scope: str = "", **handlers: Any) -> Subscription[T]:
        """A table, followed from now on; one with handlers of its own each time it is asked for."""
        if handlers:  # create, modify, delete, synchronized, restarted
            return self.pubsub.subscription(agent, record_type, scope=scope, **handlers)
        place = agent, scope, record_type.__name__
        if place not in self._tables:
            self._tables[place] = self.pubsub.subscription(agent, record_type, scope=scope)
        return self._tables[place]

    def when(
        self,
        agent: str,
        record_type: type[T],
        condition: Callable[[T], bool],
        action: Callable[[], None],
        scope: str = "",
    ) -> list[str]:
        """Do `action` once, as soon as a record of this table meets `condition`; its key is in the list then."""
        met: list[str] = []

        def look(key: str, new: T, old: T | None = None) -> None:
            if not met and condition(new):
                met.append(key)
                action()

        self.table(agent, record_type, scope, create=look, modify=look)
        return met

    def look(self) -> None:
        """Take in what was published meanwhile."""
        while self.pubsub.process():
            pass

    def wait(self, condition: Callable[[], T], what: str, seconds: float = PATIENCE_S) -> T:
        """The first true value of `condition`, asked again whenever tables changed."""

        def look() -> T:
            self.pubsub.wait(0.02)
            return condition()

        return wait_for(look, what, seconds)

    def wait_running(self, *apps: str, seconds: float = PATIENCE_S) -> None:
        """Until these apps are RUNNING without an error."""

        def running() -> bool:
            return all(self.is_running(app) for app in apps)

        try:
            self.wait(running, "the apps to be RUNNING", seconds)
        except BaseException as error:
            for key in apps:
                app = self.apps.get(key)
                error.add_note(
                    f"{key}: {f'{app.DisplayName} {app.State!r} {app.Error}' if app is not None else 'no status'}"
                )
            raise

    def app(self, key: str) -> AppInstanceStatus:
        """The app's status, which there must be."""
        status = self.apps.get(key)
        assert status is not None, f"app {key} has no status"
        return status

    def domain(self, key: str) -> DomainStatus:
        """The status of the app's domain, which there must be. Not older than what the app's own status tells."""
        self.look()
        status = self.domains.get(key)
        assert status is not None, f"app {key} has no domain"
        return status

    def is_running(self, app: str) -> bool:
        status = self.apps.get(app)
        return status is not None and status.State == SwState.RUNNING and status.Activated and not status.Error

    def wait_error(self, app: str, text: str, seconds: float = PATIENCE_S) -> AppInstanceStatus:
        """Until the app's Error has this in it; the error has its source and time then."""

        def wrong() -> AppInstanceStatus | None:
            status = self.apps.get(app)
            return status if status is not None and text in status.Error else None

        try:
            status = self.wait(wrong, f"an error with {text!r}", seconds)
        except BaseException as error:
            error.add_note(f"{app}: {self.apps.get(app)}")
            raise
        assert status is not None and status.ErrorSource and not status.ErrorTime.startswith("0001-"), status
        return status

    def wait_gone(self, *apps: str, seconds: float = PATIENCE_S) -> None:
        """Until no table has a record of these apps, the processes they were included."""
        pids = [domain.DomainId for app in apps if (domain := self.domains.get(app)) is not None]
        self.wait(lambda: not any(self.records(app) for app in apps), "the apps' records to go", seconds)
        for pid in pids:
            assert not processes.lives(pid), f"process {pid} is left"

    def records(self, key: str) -> list[str]:
        """The paths of all records with this text in their key, in the tables of every agent."""
        return [str(path) for path in self._record_paths() if key in path.name]

    def snapshot(self) -> dict[str, Any]:
        """Every record of every agent by its path, times and the supervisor's bookkeeping excepted."""
        found = {}
        for path in self._record_paths():
            if self.where.agent_dir(SUPERVISOR) in path.parents:
                continue
            with contextlib.suppress(FileNotFoundError):
                found[str(path.relative_to(self.where.root))] = timeless(json.loads(path.read_bytes()))
        return found

    def settled(self) -> dict[str, Any]:
        """A snapshot once the downloader has counted its space anew, which it does a moment after each change."""
        space = self.table("downloader", GlobalDownloadStatus)

        def counted() -> bool:
            told = space.get("global")
            return told is not None and told.UsedSpace == self.stored_kib()

        self.wait(counted, "the space to be counted")
        return self.snapshot()

    def wait_like(self, before: dict[str, Any], what: str, but: tuple[str, ...] = ()) -> None:
        """Until every record is again as in this snapshot, those with one of the words `but` in their path aside."""

        def differences() -> dict[str, Any]:
            now = self.snapshot()
            paths = [path for path in before | now if not any(word in path for word in but)]
            return {path: (before.get(path), now.get(path)) for path in paths if before.get(path) != now.get(path)}

        try:
            self.wait(lambda: not differences(), f"all records to be as {what}")
        except BaseException as error:
            error.add_note(f"(before, now): {differences()}")
            raise

    def starts(self, app: str) -> int:
        """How often this app's ECO was started, as its own log tells."""
        log = self.where.log(app)
        return sum(line.startswith("started ") for line in log.read_text().splitlines()) if log.exists() else 0

    def pending_bytes(self) -> int:
        """Of images on their way to the downloader, what is on the disk."""
        return sum(status.st_size for _, status in files_below(self.where.downloads("appImg.obj", "pending")))

    def stored_kib(self) -> int:
        """What all complete images take of the disk, each file rounded up."""
        return sum((status.st_size + 1023) // 1024 for _, status in files_below(self.where.persist / "downloads"))

    def restarts(self) -> dict[str, int]:
        """The agents that the supervisor had to start again."""
        self.look()
        return {name: status.Restarts for name, status in self.supervised.items().items() if status.Restarts}

    def logs(self) -> str:
        """The last lines of every log."""
        parts = []
        for path in sorted((self.where.persist / "log").glob("*")):
            lines = path.read_text(errors="replace").splitlines()[-LOG_LINES:]
            parts.append("\n".join([f"--- {path.name}", *lines]))
        return "\n".join(parts)

    def _record_paths(self) -> Iterator[Path]:
        for directory in (self.where.run, self.where.persist / "status"):
            for path, _ in files_below(directory):
                staged = any(part.startswith(".") for part in path.relative_to(directory).parts)
                if path.suffix == ".json" and not staged:
                    yield path

    # ---- kill -9

    def pid(self, agent: str) -> int:
        """The agent's process, 0 when there is none."""
        return processes.pid_of(self.where, agent)

    def kill(self, *agents: str) -> None:
        """kill -9, all of them together; returns when the kernel has taken them down."""
        processes.kill(pid for agent in agents if (pid := self.pid(agent)))

    def wait_back(self, *agents: str, restarts: int = 1) -> None:
        """Until the supervisor has started each of these again, so many times in all, and it is ready."""

        def back() -> bool:
            found = [self.supervised.get(agent) for agent in agents]
            return all(
                status is not None and status.State == "running" and status.Restarts >= restarts for status in found
            )

        self.wait(back, f"{', '.join(agents)} to come back")

    def close(self) -> None:
        """End whatever still runs on this root: supervisor first, then agents and ECOs."""
        self.pubsub.close()
        self.kill(SUPERVISOR)
        while pids := processes.started_on(self.where.root):
            processes.kill(pids)
        containers = RuncHypervisor(self.where)  # they do not know whose they are; it does
        for app in containers.adopt():
            containers.stop(app, 0)
        for group in _cgroup.names(_cgroup.prefix(self.where.root, "qemu")):
            _cgroup.remove(group)


def timeless(value: Any) -> Any:
    """A record without its times: EVE's names for them all end alike."""
    if isinstance(value, dict):
        return {
            name: timeless(member) for name, member in value.items() if not name.endswith(("Time", "LastUse", "Age"))
        }
    if isinstance(value, list):
        return [timeless(member) for member in value]
    return value
