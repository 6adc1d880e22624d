"""`--wait` of `pillar deploy` and `pillar undeploy`: follow AppInstanceStatus until the apps are where they should be.

Nothing is asked of anybody: the statuses stand in files, and a deployment goes on whether somebody waits or not. So
ending the wait, by its time or by Ctrl-C, changes nothing.
"""

from __future__ import annotations

import argparse
import json
import math
import sys
import time
from collections.abc import Mapping
from functools import partial
from typing import Final, NamedTuple

from pillar.locations import Locations
from pillar.pubsub import PubSub, Subscription
from pillar.terminal import Palette, printable
from pillar.types.enums import SwState
from pillar.types.zedmanager import AppInstanceStatus

PATIENCE_S: Final = 300.0
EXIT_NOT_YET: Final = 4  # it did not come about within the time; it may still
_COLOURS: Final = {"RUNNING": "green", "gone": "dim", "error": "red"}


class Goal(NamedTuple):
    """Where one app is to end up. `version` is that of its config, "" for any; `runs` None: it is to be gone."""

    name: str
    version: str = ""
    runs: bool | None = None


def add_argument(parser: argparse.ArgumentParser, until: str) -> None:
    """--wait [SECONDS]."""
    parser.add_argument(
        "--wait",
        nargs="?",
        type=_seconds,
        const=PATIENCE_S,
        metavar="SECONDS",
        help=f"show what happens until {until}; exit with {EXIT_NOT_YET} after SECONDS (default {PATIENCE_S:.0f})",
    )


def reached(goal: Goal, status: AppInstanceStatus | None) -> bool:
    """Is the app where it should be? One that is not to run is when all is there for it and nothing runs."""
    if status is None or goal.runs is None:
        return status is None and goal.runs is None
    if goal.version and status.UUIDandVersion.Version != goal.version:
        return False  # zedmanager has not seen this config yet
    if status.Error:
        return False
    if goal.runs:
        return status.State == SwState.RUNNING and status.Activated
    return status.State in (SwState.INSTALLED, SwState.HALTED) and not status.Activated


def follow(where: Locations, goals: Mapping[str, Goal], patience_s: float, *, as_json: bool) -> int:
    """Print each app's changes until all `goals` (by UUID) are reached; 0 then, EXIT_NOT_YET when time is up."""
    screen = _Screen(goals, as_json=as_json)
    with PubSub(where.root) as pubsub:
        apps = pubsub.subscription("zedmanager", AppInstanceStatus)
        while pubsub.process():  # what is there, before anything is said of it
            continue
        told: dict[str, str] = {}
        deadline = time.monotonic() + patience_s
        while True:
            for uuid, goal in goals.items():
                status = apps.get(uuid)
                text = _words(status)
                if told.get(uuid) != text:
                    told[uuid] = text
                    screen.line(uuid, goal, status)
            # A table that has not been read whole says nothing of who is gone.
            if _known(apps, where) and all(reached(goal, apps.get(uuid)) for uuid, goal in goals.items()):
                return 0
            left = deadline - time.monotonic()
            if left <= 0:
                return _too_late(apps, goals, patience_s)
            pubsub.wait(left)


def _known(apps: Subscription[AppInstanceStatus], where: Locations) -> bool:
    return apps.is_synchronized or not (where.agent_dir("zedmanager") / AppInstanceStatus.__name__).exists()


def _too_late(apps: Subscription[AppInstanceStatus], goals: Mapping[str, Goal], patience_s: float) -> int:
    late = {uuid: goal for uuid, goal in goals.items() if not reached(goal, apps.get(uuid))}
    for uuid, goal in late.items():
        hint = "" if apps.get(uuid) else "; does zedmanager run (pillar ps)?" if goal.runs is not None else ""
        text = f"{printable(goal.name)} is not {_wanted(goal)} after {patience_s:g} s: {_words(apps.get(uuid))}{hint}"
        print(text, file=sys.stderr)
    return EXIT_NOT_YET


def _wanted(goal: Goal) -> str:
    return "gone" if goal.runs is None else "RUNNING" if goal.runs else "installed"


def _words(status: AppInstanceStatus | None) -> str:
    """One status in a few words: the state, or the first line of what is wrong."""
    if status is None:
        return "no status"
    if status.Error:
        return f"error: {printable(status.Error.splitlines()[0])}"
    images = status.StorageStatusList or ()
    if status.State == SwState.DOWNLOAD_STARTED and images:
        return f"{status.State.name} {sum(image.Progress for image in images) // len(images)} %"
    return status.State.name


class _Screen:
    """A line per change: seconds, name, words; as JSON one object a line."""

    def __init__(self, goals: Mapping[str, Goal], *, as_json: bool) -> None:
        self._began = time.monotonic()
        self._width = max((len(printable(goal.name)) for goal in goals.values()), default=0)
        self._as_json = as_json
        self._palette = Palette.of()

    def line(self, uuid: str, goal: Goal, status: AppInstanceStatus | None) -> None:
        seconds = time.monotonic() - self._began
        words = "gone" if status is None and goal.runs is None else _words(status)
        if self._as_json:
            state = status.State.name if status is not None else ""
            error = status.Error if status is not None else ""
            said = {"seconds": round(seconds, 3), "app": uuid, "name": goal.name, "state": state, "error": error}
            print(json.dumps(said), flush=True)
            return
        colour = partial(self._palette, _COLOURS.get(words.partition(":")[0], ""))
        print(f"{seconds:7.2f} s  {printable(goal.name):{self._width}}  {colour(words)}", flush=True)


def _seconds(text: str) -> float:
    try:
        seconds = float(text)
    except ValueError:
        seconds = -1.0
    if not (0 <= seconds < math.inf):
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds")
    return seconds
