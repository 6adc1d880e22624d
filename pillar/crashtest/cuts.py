"""Power cuts: the device is switched off at some call of the flow, and on again with what the disk may then hold.

One undisturbed flow is recorded from the first start on, with all data written. A case draws a call of it and one of
the states that a cut behind that call may leave below /persist (`disk`); /run is memory and empty, /config is durable.
A device starts on that, with both apps configured: it has to come to rest like any other, and accept no wrong image.
The domains' private disks are left out: how the kernel copies them is not in the trace.
"""

from __future__ import annotations

import hashlib
import random
import time
from pathlib import Path
from typing import Final

from pillar.crashpoints import Call, Fault, Plan, Point
from pillar.crashtest import story
from pillar.crashtest.config import GOOD, Authority
from pillar.crashtest.disk import Disk, DiskCall, Tree
from pillar.crashtest.world import NOT_COUNTED, Stuck, World, short_directory

_CALLS: Final = frozenset(
    {"create", "open", "write", "truncate", "fsync", "rename", "link", "unlink", "mkdir", "rmdir"}
)
_NUMBERS: Final = "/persist/status/zedrouter/UuidToNum"


class Cuts:
    """A recorded flow, and devices switched on after a cut in it."""

    def __init__(self, authority: Authority) -> None:
        self._authority = authority
        self._calls = self._record()

    def cases(self, seed: int, count: int) -> list[tuple[Fault, ...]]:
        """So many cuts, spread over the flow."""
        chance = random.Random(seed)
        places = sorted(chance.randrange(1, len(self._calls) + 1) for _ in range(count))
        return [(Fault(Point("power", "cut", f"/{chance.randrange(10**6)}", place)),) for place in places]

    def run(self, faults: tuple[Fault, ...]) -> story.Outcome:
        """Switch a device on after this cut: the occurrence is the number of the call, the path draws the state."""
        began = time.monotonic()
        _, _, draw, place = faults[0].point
        calls = self._calls[:place]
        disk = Disk(Path("/"))
        for call in calls:
            disk.apply(call)
        tree = disk.one(random.Random(draw))
        with short_directory() as directory, World(Path(directory), self._authority) as world:
            _write(world.root, tree)
            config = world.new_story()
            world.begin(config, ())
            world.deploy(config.config(bad=False))  # it was handed in before
            problems = []
            try:
                world.up()
                story.deploy_config(world, config)
            except Stuck as stuck:
                problems.append(f"stuck: {stuck}")
            problems += _wrong(world, calls)
        return story.Outcome(problems, faults, time.monotonic() - began, [], {})

    def _record(self) -> list[DiskCall]:
        with short_directory() as directory, World(Path(directory), self._authority) as world:
            config = world.new_story()
            world.control.begin(Plan(world.root, ignore=NOT_COUNTED, with_data=True, plain_names=True))
            world.up()
            story.flow(world, config)
            calls = world.control.calls()
            if world.control.lost():
                raise Stuck("the trace of an undisturbed flow has no room")
        # The supervisor, which is not traced, makes the first directory.
        found = [DiskCall("mkdir", ["/persist"]), DiskCall("fsync", [""])]
        return found + [disk_call for call in calls if (disk_call := _disk_call(call)) is not None]


def _disk_call(call: Call) -> DiskCall | None:
    """A call as the model of a disk has it; None when it is none of its business."""
    path, other = (text.replace("%20", " ") for text in (call.path, call.other))
    if call.result != "+" or call.call not in _CALLS or not (path + "/").startswith("/persist/"):
        return None
    if path.startswith(("/persist/img", "/persist/process")):
        return None
    match call.call:
        case "create":
            return DiskCall("openat", [path], flags="O_CREAT|O_TRUNC")
        case "open":
            return DiskCall("openat", [path], flags="O_CREAT")
        case "write" | "truncate" as name:
            return DiskCall(name, [path], call.data, at=int(other) if other else None)
        case "rename" | "link" as name:
            return DiskCall(name, [other, path])
        case name:
            return DiskCall(name, [path])


def _write(root: Path, tree: Tree) -> None:
    for path, data in sorted(tree.items()):
        place = root / path
        if data is None:
            place.mkdir(mode=0o700, parents=True, exist_ok=True)
        else:
            place.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            place.write_bytes(data)


def _wrong(world: World, calls: list[DiskCall]) -> list[str]:
    """What must not be, whatever the disk held."""
    problems = [*world.observer.wrong, *world.tracebacks()]
    for path in (world.where.persist / "downloads").glob("*/verified/*/*"):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        if digest != path.parent.name:
            problems.append(f"a wrong image was accepted: {path.parent.name} hashes to {digest}")
    for name, count in world.server.fetched.items():
        if count > 2:
            problems.append(f"{name} was fetched {count} times")
    for agent, died in world.observer.restarts().items():
        if died:
            problems.append(f"{agent} died {died} times after the power cut")
    promised, network = _promised_number(calls), world.observer.networks.get(GOOD)
    if promised is not None and network is not None and network.AppNum != promised:
        problems.append(f"the app's number {promised} was lost: it has {network.AppNum} now")
    return problems


def _promised_number(calls: list[DiskCall]) -> int | None:
    """The app's number, if its record had been flushed, name and all, by the last of these calls."""
    import json

    number, staged, renamed = None, b"", None
    for call in calls:
        if call.name == "write" and call.paths[0].startswith(_NUMBERS):
            staged = call.data
        elif call.name == "rename" and call.paths[1] == f"{_NUMBERS}/{GOOD}.json":
            renamed = json.loads(staged)["Number"]
        elif call.name == "unlink" and call.paths[0] == f"{_NUMBERS}/{GOOD}.json":
            number = renamed = None
        elif call.name == "fsync" and call.paths[0] == _NUMBERS and renamed is not None:
            number = renamed
    return number
