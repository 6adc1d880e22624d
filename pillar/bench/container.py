"""A container from its config to RUNNING: all agents, a real bridge and lease. Needs root, runc, nft, dnsmasq, busybox.

Everything runs in a network namespace of its own, which `unshare` makes.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
import uuid
from collections.abc import Callable
from typing import Any

import msgspec

from pillar.bench.measure import RUNS, in_own_network, scratch
from pillar.demo.images import ImageServer
from pillar.demo.kinds import Container
from pillar.locations import Locations
from pillar.pubsub import PubSub
from pillar.types.enums import SwState
from pillar.types.zedmanager import AppInstanceStatus

PATIENCE_S = 60.0


def container() -> dict[str, float]:
    """container_deploy_s: all agents up, from the config's arrival to RUNNING, with an image of about 1 MiB."""
    return in_own_network("pillar.bench.container", 10 * PATIENCE_S)


def measure() -> dict[str, float]:
    """The figures; call it in a network namespace that may be changed."""
    kind = Container()
    kind.check()
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    images = kind.build(0)
    server = ImageServer(*images)
    with scratch() as root:
        command = [sys.executable, "-m", "pillar"]
        subprocess.run([*command, "up", "--root", root, "--daemon", *kind.up], check=True, stdout=subprocess.DEVNULL)
        try:
            where = Locations(root)
            seconds = [_deployment(where, kind.config(images, server.url, str(uuid.uuid4()))) for _ in range(RUNS)]
        finally:
            subprocess.run([*command, "undeploy", "--root", root, "--wait"], check=True, stdout=subprocess.DEVNULL)
            subprocess.run([*command, "down", "--root", root], check=True, stdout=subprocess.DEVNULL)
            server.close()
    print("runs, in s:", *(f"{taken:.3f}" for taken in seconds), file=sys.stderr)
    return {"container_deploy_s": statistics.median(seconds)}


def _deployment(where: Locations, config: dict[str, Any]) -> float:
    app = config["apps"][0]["uuidandversion"]["uuid"]
    with PubSub(where.root) as pubsub:
        apps = pubsub.subscription("zedmanager", AppInstanceStatus)

        def running() -> bool:
            status = apps.get(app)
            return status is not None and status.State == SwState.RUNNING

        begin = time.perf_counter()
        _hand_in(where, config)
        until(pubsub, running)
        taken = time.perf_counter() - begin
        _hand_in(where, {**config, "apps": []})
        until(pubsub, lambda: app not in apps)
        return taken


def _hand_in(where: Locations, config: dict[str, Any]) -> None:
    where.config.mkdir(exist_ok=True)
    staged = where.config / ".device.json"
    staged.write_bytes(msgspec.json.encode(config))
    staged.rename(where.config / "device.json")


def until(pubsub: PubSub, condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        pubsub.wait(0.05)
        if time.monotonic() > deadline:
            raise TimeoutError(f"not within {PATIENCE_S:.0f} s")


if __name__ == "__main__":
    print(json.dumps(measure()))
