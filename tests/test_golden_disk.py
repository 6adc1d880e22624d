"""Every recorded checkpoint tree of EVE: ours leaves the same files, and loads and follows what EVE's left."""

from __future__ import annotations

import json
import os
import stat
from pathlib import Path
from typing import Any

import msgspec
import pytest
from golden_wire import GOLDEN, Item, LargeItem, run_step, scenarios
from support import wait_for

from pillar.pubsub import Publication, PubSub, decode
from pillar.topics import find_type

Tree = dict[str, Any]

TREES: list[Tree] = [json.loads(path.read_text()) for path in sorted((GOLDEN / "disk").glob("*.json"))]
WRITTEN = [tree for tree in TREES if tree.get("publisher_steps") and not tree["scenario"].startswith("2019_global")]


def name_of(tree: Tree) -> str:
    name: str = tree["scenario"]
    return name


class Place:
    """One table of a tree: whose it is, and its files by name."""

    def __init__(self, tree: Tree, directory: Path) -> None:
        self.year = int(tree["version"])
        self.directory = directory
        self.persistent = directory.parts[0] == "persist"
        *above, self.topic = directory.parts[2:] if self.persistent else directory.parts[1:]
        self.agent, self.scope = (*above, "")[:2]
        self.files = {Path(path).name: text for path, text in tree["files"].items() if _home(path) == directory}
        self.type = _type(self.topic, self.year)

    def open(self, pubsub: PubSub) -> Publication[Any]:
        agent = "" if self.agent == "global" else self.agent
        return pubsub.publication(self.type, scope=self.scope, persistent=self.persistent, agent=agent)


def _home(path: str) -> Path:
    """The directory of a recorded file, where we have it: /var/run is /run, 2019's global tables are in /run/global."""
    directory = Path(path).parent
    if directory.parts[:3] == ("var", "tmp", "zededa") or directory.parts[:2] == ("persist", "config"):
        return Path("run/global") / directory.name
    return Path(*directory.parts[1:]) if directory.parts[0] == "var" else directory


def places(tree: Tree) -> list[Place]:
    homes = {_home(path) for path in tree["files"] if "pubsub-large" not in path}
    return [Place(tree, home) for home in sorted(homes)]


def _type(topic: str, year: int) -> type[Any]:
    if topic in ("Item", "LargeItem"):
        return {"Item": Item, "LargeItem": LargeItem}[topic]
    if year == 2019 or topic == "LedBlinkCounter":
        found = find_type(topic)
        assert found is not None
        return found
    return next(s.type for s in scenarios("2026_*") if s.header["topic"] == topic)


def found(root: Path) -> dict[str, str]:
    """Every file below the root that a reader may look at."""
    below = root.glob("**/*")
    names = {str(path.relative_to(root)): path for path in below if stat.S_ISREG(path.lstat().st_mode)}
    return {name: path.read_text() for name, path in names.items() if "/." not in name}


@pytest.mark.parametrize("tree", WRITTEN, ids=name_of)
def test_our_publisher_leaves_the_files_that_eves_left(root: Path, tree: Tree) -> None:
    (place,) = places(tree)
    with (
        PubSub(root, place.agent, driver="socket", dialect=2019 if place.year == 2019 else 2026) as pubsub,
        PubSub(root, "reader", driver="socket") as reading,
    ):
        publication = place.open(pubsub)
        for step in tree["publisher_steps"]:
            if step == ["subscriber connects"]:
                subscription = reading.subscription(
                    place.agent, place.type, scope=place.scope, persistent=place.persistent
                )
                while not subscription.is_synchronized:
                    reading.wait(0.001)
                    pubsub.wait(0.001)
            else:
                run_step(publication, step)
        sockets = sorted(str(path.relative_to(root)) for path in root.rglob("*.sock") if path.is_socket())
        files = found(root)
        modes = {path.name: stat.S_IMODE(path.stat().st_mode) for path in (root / place.directory).glob("[!.]*")}
        directory = stat.S_IMODE((root / place.directory).stat().st_mode)
    wanted = {f"{place.directory}/{name}": text for name, text in place.files.items() if not name.startswith(".")}
    if place.year == 2019:  # its `restarted` is an empty file, ours is 2026's counter; and it keeps no backups
        assert [name for name in files if name.endswith("restarted")] == [n for n in wanted if n.endswith("restarted")]
        files = {name: text for name, text in files.items() if not name.endswith((".bak", "restarted"))}
        wanted = {name: text for name, text in wanted.items() if not name.endswith("restarted")}
    assert files == wanted
    assert sockets == [name.removeprefix("var/") for name in tree["sockets"]]
    assert set(modes.values()) == {0o600}
    assert directory == 0o700


def put_down(root: Path, place: Place) -> Path:
    """EVE's files in a table that nobody publishes."""
    table = root / place.directory
    table.mkdir(parents=True)
    for name, text in place.files.items():
        (table / name).write_text(text)
    return table


def readable_of(place: Place) -> dict[str, Any]:
    """The records that are whole, by key."""
    whole = {}
    for name, text in place.files.items():
        if name.endswith(".json") and not name.startswith(".") and text not in ("", '{"Alpha":'):
            whole[name.removesuffix(".json")] = decode(place.type, text.encode())
    return whole


@pytest.mark.parametrize("tree", TREES, ids=name_of)
def test_our_subscriber_by_file_follows_an_eve_agents_directory(root: Path, tree: Tree) -> None:
    for place in places(tree):
        with PubSub(root) as pubsub:
            follow(pubsub, root, place)


def follow(pubsub: PubSub, root: Path, place: Place) -> None:
    """An EVE agent comes, leaves these files and removes its records, under the eyes of a subscriber."""
    told: list[str] = []
    subscription = pubsub.subscription(
        "" if place.agent == "global" else place.agent,
        place.type,
        scope=place.scope,
        persistent=place.persistent,
        create=lambda key, new: told.append(key),
    )
    pubsub.wait(0)
    table = put_down(root, place)
    readable = readable_of(place)
    wait_for(lambda: pubsub.wait(0) or subscription.is_synchronized, "the table to be read")
    assert subscription.items() == readable
    assert sorted(told) == sorted(readable)
    signalled = place.files.get("restarted")
    assert subscription.restarted == (0 if signalled is None else int(signalled or "1"))
    for key in readable:
        (table / f"{key}.json").unlink()
    wait_for(lambda: pubsub.wait(0) or not subscription.keys(), "the removed records to be noticed")


@pytest.mark.parametrize("tree", TREES, ids=name_of)
def test_our_publisher_loads_what_eves_left_and_rewrites_nothing(root: Path, tree: Tree) -> None:
    for place in places(tree):
        table = put_down(root, place)
        before = {path.name: path.stat() for path in table.iterdir()}
        with PubSub(root, place.agent) as pubsub:
            publication = place.open(pubsub)
            held, restarted = publication.items(), publication.restarted
        readable = readable_of(place)
        if place.persistent and "lost.json.bak" in place.files:
            readable |= {"lost": Item(Alpha=11), "emptywithbak": Item(Alpha=12)}
        assert held == readable
        signalled = place.files.get("restarted")
        assert restarted == (0 if signalled is None else int(signalled or "1"))
        for key in readable:
            after = os.stat(table / f"{key}.json")
            if f"{key}.json" in before and key not in ("lost", "emptywithbak"):
                assert (after.st_mtime_ns, after.st_ino) == (
                    before[f"{key}.json"].st_mtime_ns,
                    before[f"{key}.json"].st_ino,
                )


def test_large_fields_stay_inline_in_the_checkpoint(root: Path) -> None:
    tree = next(tree for tree in TREES if tree["scenario"] == "2026_large_unread")
    large = {path: json.loads(text) for path, text in tree["files"].items() if "pubsub-large/" in path}
    (text,) = (text for path, text in tree["files"].items() if path.endswith("l1.json"))
    record = msgspec.json.decode(text)
    assert {name: value for file in large.values() for name, value in file.items()} == {
        name: value for name, value in record.items() if name.startswith("pubsub-large-")
    }
    assert decode(LargeItem, text.encode()).Last == 1


def test_the_golden_trees_are_there() -> None:
    assert len(TREES) == 45
    assert len(WRITTEN) == 39
