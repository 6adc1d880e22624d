"""How soon all is well again after kill -9.

A supervised device has KEYS apps that wait (their datastore is not configured, so each has its own image, order and
status in zedagent's, zedmanager's and downloader's tables) and one app that runs. An agent is killed, and in the same
moment another device config comes: the running app is out, and another one, with an image to fetch, is in. All is
well when the agent is ready again, nothing of the old app is left in any table and the new one is RUNNING.

recover_p50_s and recover_p99_s are those times, from the SIGKILL on, over all agents in turn with 1,000 keys;
recover_10_... and recover_10000_... with so many. recover_all_s is the median when all agents are killed at once.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pillar.agents import AGENTS
from pillar.bench.measure import scratch
from pillar.controller.handed import hand_in
from pillar.demo import device, eco
from pillar.demo.images import ImageServer
from pillar.locations import Locations
from pillar.pubsub import PubSub
from pillar.supervisor.record import SupervisorStatus
from pillar.supervisor.survey import SUPERVISOR
from pillar.types.domainmgr import DomainStatus
from pillar.types.downloader import DownloaderStatus
from pillar.types.enums import SwState
from pillar.types.zedmanager import AppInstanceStatus
from pillar.types.zedrouter import AppNetworkStatus

KEYS = 1000  # for which there are targets
OTHER_KEYS = (10, 10_000)
ROUNDS = 3  # so often is each agent killed
STABLE_S = 10.0  # an agent that dies sooner is waited for longer, on purpose: not what is measured
PATIENCE_S = 300.0
NOWHERE = "99999999-0000-4000-8000-000000000001"  # the datastore of the apps that wait
NAMES = tuple(entry.name for entry in AGENTS)


def recover() -> dict[str, float]:
    """Each agent killed in turn, and all at once, with few, some and many keys."""
    times, together = measure(KEYS)
    figures = {
        "recover_p50_s": statistics.median(times),
        "recover_p99_s": percentile(times, 0.99),
        "recover_all_s": statistics.median(together),
    }
    for keys in OTHER_KEYS:
        times, together = measure(keys, rounds=1)
        figures |= {
            f"recover_{keys}_p50_s": statistics.median(times),
            f"recover_{keys}_p99_s": percentile(times, 0.99),
            f"recover_{keys}_all_s": statistics.median(together),
        }
    return figures


def percentile(values: Sequence[float], share: float) -> float:
    """The smallest value that so large a share of all does not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]


def measure(keys: int, rounds: int = ROUNDS, agents: Sequence[str] = NAMES) -> tuple[list[float], list[float]]:
    """Seconds to recover from the kill of each agent in turn, and of all at once, `rounds` times each."""
    with scratch() as root, _Device(Path(root), keys) as bench:
        one: list[float] = []
        for _ in range(rounds):
            for name in agents:
                one.append(bench.recovery(name))
                print(f"  {keys} keys, {name} killed: {one[-1]:.2f} s", file=sys.stderr, flush=True)
        together = [bench.recovery(*NAMES) for _ in range(rounds)]
        print(f"  {keys} keys, all killed: {statistics.median(together):.2f} s", file=sys.stderr, flush=True)
        return one, together


class _Device:
    """The device, its supervisor and an onlooker."""

    def __init__(self, root: Path, keys: int) -> None:
        self.where = Locations(root)
        self.server = ImageServer()
        self._started: dict[str, float] = {}
        self._waiting = [_waiting_app(number) for number in range(keys)]
        self._base = device.config(eco.build("bench.img", 0), self.server.url, str(uuid.uuid4()))
        self._app = ""
        self.pubsub = PubSub(root)
        self.agents = self.pubsub.subscription(SUPERVISOR, SupervisorStatus)
        self.apps = self.pubsub.subscription("zedmanager", AppInstanceStatus)
        self.networks = self.pubsub.subscription("zedrouter", AppNetworkStatus)
        self.domains = self.pubsub.subscription("domainmgr", DomainStatus)
        self.downloads = self.pubsub.subscription("downloader", DownloaderStatus, scope="appImg.obj")
        command = [sys.executable, "-m", "pillar", "up", "--daemon", "--root", str(root)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        try:
            self._deploy()
            self._wait(self._is_well)
            self._wait(lambda: len(self.apps.keys()) == keys + 1 and len(self.downloads.keys()) >= keys)
        except BaseException:
            self.close()
            raise

    def __enter__(self) -> _Device:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def close(self) -> None:
        """End the supervisor, the agents and what runs."""
        domains = [status.DomainId for status in self.domains.items().values() if status.DomainId]
        command = [sys.executable, "-m", "pillar", "down", "--root", str(self.where.root)]
        subprocess.run(command, check=False, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        for pid in domains:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(pid, signal.SIGKILL)
        self.pubsub.close()
        self.server.close()

    def recovery(self, *names: str) -> float:
        """Kill these agents, change the config, and wait until all is well; in seconds."""
        ready = max(self._started.get(name, 0.0) for name in names) + STABLE_S
        while time.monotonic() < ready:
            self.pubsub.wait(0.1)
        before = {name: self._pid(name) for name in names}
        begin = time.monotonic()
        for pid in before.values():
            os.kill(pid, signal.SIGKILL)
        old = self._deploy()
        self._wait(lambda: self._is_well() and self._is_gone(old) and self._are_new(before))
        end = time.monotonic()
        for name in names:
            self._started[name] = end
        return end - begin

    def _deploy(self) -> str:
        """Another config; returns the app that is not in it any more."""
        old, self._app = self._app, str(uuid.uuid4())
        image = eco.build(f"bench-{self._app}.img", 4096)
        self.server.images[image.name] = image
        app = json.loads(json.dumps(self._base["apps"][0]))
        app["uuidandversion"]["uuid"] = self._app
        app["drives"][0]["image"] |= {"name": image.name, "sha256": image.sha256, "sizeBytes": str(len(image.content))}
        self.where.config.mkdir(exist_ok=True)
        whole = {**self._base, "apps": [*self._waiting, app]}
        hand_in(self.where.config, "device.json", json.dumps(whole).encode())
        return old

    def _is_well(self) -> bool:
        status = self.apps.get(self._app)
        return status is not None and status.State == SwState.RUNNING and not status.Error

    def _is_gone(self, app: str) -> bool:
        return not any(app in table for table in (self.apps, self.networks, self.domains))

    def _are_new(self, before: dict[str, int]) -> bool:
        return all(
            (status := self.agents.get(name)) is not None and status.State == "running" and status.Pid != pid
            for name, pid in before.items()
        )

    def _pid(self, name: str) -> int:
        status = self.agents.get(name)
        assert status is not None and status.Pid, f"{name} does not run"
        return status.Pid

    def _wait(self, condition: Any) -> None:
        deadline = time.monotonic() + PATIENCE_S
        while not condition():
            if time.monotonic() > deadline:
                raise TimeoutError(f"not within {PATIENCE_S:.0f} s: {self.apps.get(self._app)}")
            self.pubsub.wait(0.05)


def _waiting_app(number: int) -> dict[str, Any]:
    name = f"waits-{number}.img"
    return {
        "uuidandversion": {"uuid": f"77777777-0000-4000-8000-{number:012d}", "version": "1"},
        "displayname": f"waits-{number}",
        "fixedresources": {"memory": 65536, "vcpus": 1},
        "drives": [
            {
                "image": {
                    "uuidandversion": {"uuid": f"88888888-0000-4000-8000-{number:012d}", "version": "1"},
                    "name": name,
                    "sha256": f"{number:064x}",
                    "iformat": "RAW",
                    "siginfo": {},
                    "dsId": NOWHERE,
                    "sizeBytes": "4096",
                },
                "readonly": True,
                "drvtype": "HDD",
                "target": "Disk",
            }
        ],
        "interfaces": [],
        "activate": True,
    }
