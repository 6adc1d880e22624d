"""`pillar deploy --wait` and `pillar undeploy --wait`: what they show, and when they are satisfied."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from device import Device, app_id, device_config, sleeper

from pillar.command.appwait import Goal, reached
from pillar.demo.images import ImageServer
from pillar.types.common import UUIDandVersion
from pillar.types.enums import SwState
from pillar.types.zedmanager import AppInstanceStatus


@pytest.fixture
def server() -> Iterator[ImageServer]:
    server = ImageServer()
    yield server
    server.close()


def pillar(root: Path, *words: object) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "pillar", str(words[0]), "--root", str(root), *map(str, words[1:])]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=100)


def written(root: Path, config: dict[str, Any]) -> Path:
    path = root / "mine.json"
    path.write_text(json.dumps(config))
    return path


def test_every_step_is_shown_until_the_app_runs_and_until_it_is_gone(root: Path, server: ImageServer) -> None:
    config = device_config(server, sleeper("nap"))
    stopped = json.loads(json.dumps(device_config(server, sleeper("rest"))["apps"][0]))
    stopped |= {"activate": False, "drives": [], "interfaces": []}
    config["apps"].append(stopped)
    with Device(root) as device:
        done = pillar(root, "deploy", written(root, config), "--wait", 60)
        assert (done.returncode, done.stderr) == (0, "")
        device.look()
        assert device.is_running(app_id(config["apps"][0]))
        shown = [" ".join(line.split()[2:]) for line in done.stdout.splitlines() if re.match(r" *\d+\.\d\d s ", line)]
        assert [words for words in shown if words.startswith("nap")][-1] == "nap RUNNING"
        assert [words for words in shown if words.startswith("rest")][-1] in ("rest INSTALLED", "rest HALTED")
        assert "ECO nap  domain " in device.pillar("down")
        device.up()
        gone = pillar(root, "undeploy", "nap", "--wait", "60", "--json")
        assert (gone.returncode, gone.stderr) == (0, "")
        said, *changes = [json.loads(line) for line in gone.stdout.splitlines()]
        assert [app["name"] for app in said["undeployed"]] == ["nap"]
        assert changes[-1]["state"] == ""
        device.look()
        assert device.apps.get(app_id(config["apps"][0])) is None


def test_an_app_that_does_not_get_there_is_named_with_what_is_wrong(root: Path, server: ImageServer) -> None:
    config = device_config(server, sleeper("lost"))
    del server.images["lost"]
    with Device(root) as device:
        path = written(root, config)
        device.pillar("deploy", str(path))
        device.wait_error(app_id(config["apps"][0]), "404")
        done = pillar(root, "deploy", path, "--wait", "0.5")
        assert done.returncode == 4
        assert re.search(r"^lost is not RUNNING after 0\.5 s: error: .*404", done.stderr)


def test_without_agents_the_wait_says_who_may_be_missing(root: Path, server: ImageServer) -> None:
    path = written(root, device_config(server, sleeper("nap")))
    done = pillar(root, "deploy", path, "--wait", "0.1")
    assert done.returncode == 4
    assert done.stderr == "nap is not RUNNING after 0.1 s: no status; does zedmanager run (pillar ps)?\n"
    assert pillar(root, "undeploy", "--wait", "0.1").returncode == 0  # nobody has a status of it
    assert pillar(root, "deploy", path, "--wait", "soon").returncode == 2


@pytest.mark.parametrize(
    ("goal", "status", "there"),
    [
        (Goal("a", "1", True), None, False),
        (Goal("a", "1", True), {"State": SwState.RUNNING, "Activated": True}, True),
        (Goal("a", "2", True), {"State": SwState.RUNNING, "Activated": True}, False),
        (Goal("a", "1", True), {"State": SwState.RUNNING, "Activated": True, "Error": "x"}, False),
        (Goal("a", "1", True), {"State": SwState.BOOTING, "Activated": True}, False),
        (Goal("a", "1", False), {"State": SwState.INSTALLED}, True),
        (Goal("a", "1", False), {"State": SwState.HALTED}, True),
        (Goal("a", "1", False), {"State": SwState.HALTING, "Activated": True}, False),
        (Goal("a"), {"State": SwState.HALTED}, False),
        (Goal("a"), None, True),
    ],
)
def test_where_an_app_should_be(goal: Goal, status: dict[str, Any] | None, there: bool) -> None:
    version = UUIDandVersion(UUID="u", Version="1")
    record = None if status is None else AppInstanceStatus(UUIDandVersion=version, **status)
    assert reached(goal, record) is there
