"""zedrouter killed before each of its changes of the kernel's network, while it makes and while it removes an app's.

A sample of the steps; all of them with --full.
"""

from __future__ import annotations

import random
import sys
from pathlib import Path

import pytest
from agentproc import AgentProcess
from routerlab import LAN, PORT_MAP, Router, comes, rule, uuid

from pillar.locations import Locations
from pillar.netplan.dnsmasq import find

pytest_plugins = ("netlab_fixtures", "routerlab_fixtures")

SAMPLE = 1


def test_wherever_it_is_killed_the_next_one_ends_with_the_same(router: Router, tmp_path: Path) -> None:
    kill_at_steps(router, tmp_path, SAMPLE)


@pytest.mark.full
@pytest.mark.timeout(1800)
def test_at_every_single_step(router: Router, tmp_path: Path) -> None:
    kill_at_steps(router, tmp_path, None)


def kill_at_steps(router: Router, directory: Path, sample: int | None) -> None:
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chance = random.Random(seed)
    router.plug("eth0")
    router.lab.device.run("ip", "link", "add", "nbu1x1", "type", "veth", "peer", "name", "guest")
    configure(router)
    steps = run(router, directory, 0)  # never dies: how many steps are there?
    ended(router)
    withdraw(router)
    steps_back = run(router, directory, 0)
    gone(router)
    print(f"{steps} steps there, {steps_back} back")
    assert steps > 10 and steps_back > 2
    there = list(range(1, steps + 1))
    back = list(range(1, steps_back + 1))
    if sample is not None:
        there, back = chance.sample(there, sample), chance.sample(back, sample)
    for number in range(max(len(there), len(back))):
        configure(router)
        run(router, directory, there[number % len(there)])
        run(router, directory, 0)
        ended(router)
        withdraw(router)
        run(router, directory, back[number % len(back)])
        run(router, directory, 0)
        gone(router)


def configure(router: Router) -> None:
    router.instance()
    router.app(1, LAN, acls=[PORT_MAP, rule(2, ip="203.0.113.0/24")])


def withdraw(router: Router) -> None:
    router.app_configs.remove(uuid(1))
    router.instance_configs.remove(LAN)


def run(router: Router, directory: Path, at: int) -> int:
    """Let a zedrouter work until it is killed before step `at`, or has done everything; how many steps it began.

    How many passes there are, and so how often files are looked at, is chance: a late `at` may not come.
    """
    log = directory / "steps"
    log.write_text("")
    agent = AgentProcess(router.root, "zedrouter", router.lab.device.enter)
    driver = str(Path(__file__).with_name("dying_router.py"))
    agent.command = (
        *router.lab.device.enter,
        *(sys.executable, driver, str(at), str(log), "--root", str(router.root), "--network", "kernel"),
    )
    agent.start()
    router.agent.process = agent.process  # whatever happens, it is ended with the router
    process = agent.process
    assert process is not None
    comes(lambda: process.poll() is not None or done(router), "it dies or everything is done")
    assert at or process.poll() is None
    agent.kill()
    return len(log.read_text().splitlines())


def done(router: Router) -> bool:
    return "as it should be" in router.pillar_net_unchecked("--diff")


def ended(router: Router) -> None:
    links = router.links()
    assert links["bn1"]["operstate"] and links["nbu1x1"]["master"] == "bn1"
    assert "dport 8080" in router.nft()
    assert [running.bridge for running in find(Locations(router.root))] == ["bn1"]


def gone(router: Router) -> None:
    assert "bn1" not in router.links() and "pillar" not in router.nft()
    assert find(Locations(router.root)) == []
    assert not list((router.root / "run" / "zedrouter").glob("*.bn1*"))
