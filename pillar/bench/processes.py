"""The agents' figures: memory, start, and a deployment from end to end."""

from __future__ import annotations

import os
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from pathlib import Path

import msgspec

from pillar.agents import AGENTS
from pillar.bench.measure import RUNS, scratch, take_turns
from pillar.demo import device, eco
from pillar.demo.images import ImageServer
from pillar.locations import Locations
from pillar.pubsub import PubSub, encode
from pillar.types.common import UUIDandVersion, VmConfig
from pillar.types.enums import SwState
from pillar.types.zedmanager import AppInstanceConfig, AppInstanceStatus

PATIENCE_S = 30.0
SMALL_IMAGE_BYTES = 4096
FLOOR_OF_A_START = "import msgspec, watchdog.observers.inotify_c"


def memory() -> dict[str, float]:
    """zedmanager_rss_mib: resident memory of a zedmanager that has nothing to do."""
    with scratch() as root:
        touch = Locations(root).touch("zedmanager")
        with agent("zedmanager", root) as zedmanager:
            try:
                until(lambda: touch.exists() and (Path(root) / "run/zedmanager/AppInstanceStatus/restarted").exists())
                time.sleep(0.5)  # what a start needs is given back
                status = Path(f"/proc/{zedmanager.pid}/status").read_text()
            finally:
                zedmanager.kill()
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmRSS:"))
    return {"zedmanager_rss_mib": kib / 1024}


def start() -> dict[str, float]:
    """start_ratio: from fork to an agent's first record, against Python importing what the library needs."""
    pair = take_turns(_start_of_zedmanager, _start_of_python)
    return {"start_ratio": pair.ratio}


def deploy() -> dict[str, float]:
    """deploy_s: all agents up, from the config's arrival to RUNNING, with an image of 4 KiB."""
    with scratch() as root:
        processes = [agent(entry.name, root) for entry in AGENTS]
        try:
            where = Locations(root)
            until(lambda: all(where.touch(entry.name).exists() for entry in AGENTS))
            seconds = statistics.median(_deployment(where) for _ in range(RUNS))
        finally:
            # The last ECO would go on without the agents.
            command = [sys.executable, "-m", "pillar", "undeploy", "--root", root, "--wait", "30"]
            subprocess.run(command, check=False, stdout=subprocess.DEVNULL)
            for process in processes:
                process.terminate()
            for process in processes:
                process.wait(timeout=PATIENCE_S)
    return {"deploy_s": seconds}


def _deployment(where: Locations) -> float:
    image = eco.build("small.img", 0)
    image = eco.build("small.img", SMALL_IMAGE_BYTES - len(image.content) + 32)
    app = str(uuid.uuid4())
    server = ImageServer(image)
    try:
        with PubSub(where.root) as pubsub:
            apps = pubsub.subscription("zedmanager", AppInstanceStatus)

            def running() -> bool:
                pubsub.wait(0.05)
                status = apps.get(app)
                return status is not None and status.State == SwState.RUNNING

            where.config.mkdir(exist_ok=True)
            staged = where.config / ".device.json"
            staged.write_bytes(msgspec.json.encode(device.config(image, server.url, app)))
            begin = time.perf_counter()
            staged.rename(where.config / "device.json")
            until(running)
            return time.perf_counter() - begin
    finally:
        server.close()


def _start_of_zedmanager() -> float:
    app = str(uuid.uuid4())
    config = AppInstanceConfig(
        UUIDandVersion=UUIDandVersion(UUID=app, Version="1"),
        DisplayName="bench",
        FixedResources=VmConfig(Memory=1024, VCpus=1),
    )
    with scratch() as root:
        asked = Path(root) / "run/zedagent/AppInstanceConfig"
        asked.mkdir(parents=True)
        (asked / f"{app}.json").write_bytes(encode(config))
        answer = Path(root) / f"run/zedmanager/AppInstanceStatus/{app}.json"
        begin = time.perf_counter()
        with agent("zedmanager", root) as zedmanager:
            try:
                until(answer.exists, every=0.0005)
                return time.perf_counter() - begin
            finally:
                zedmanager.kill()


def _start_of_python() -> float:
    begin = time.perf_counter()
    subprocess.run([sys.executable, "-c", FLOOR_OF_A_START], check=True)
    return time.perf_counter() - begin


def agent(name: str, root: str, *options: str) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-m", f"pillar.cmd.{name}", "--root", root, *options],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        cwd="/",
        env=os.environ,
    )


def until(condition: Callable[[], bool], every: float = 0.005) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {PATIENCE_S:.0f} s")
        time.sleep(every)
