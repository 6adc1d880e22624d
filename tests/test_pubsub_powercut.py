"""Persistent tables after a power cut: every state that the disk may legally hold loads, and has what was promised."""

from __future__ import annotations

import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
from powercut import Call, Disk, Tree, record

from pillar.pubsub import PubSub


class Greeting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str = ""
    seq: int = 0


# It says what it wants before each call and that it is done after it, so the trace holds both in their order.
PROGRAM = """
import contextlib, json, msgspec, os, sys
from pillar.pubsub import PubSub
class Greeting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str = ""
    seq: int = 0
def say(*words):
    os.write(1, json.dumps(words).encode())
pubsub = PubSub(sys.argv[1], "hello")
publication = pubsub.publication(Greeting, persistent=True)
def publish(*pairs, batch=False):
    for key, seq in pairs:
        say("want", key, seq)
    with publication.batch() if batch else contextlib.nullcontext():
        for key, seq in pairs:
            if seq is None:
                publication.unpublish(key)
            else:
                publication.publish(key, Greeting(text="x" * 300, seq=seq))
    for key, seq in pairs:
        say("done", key, seq)
publish(("a", 1))
publish(("b", 1))
publish(("a", 2))
publish(("b", None))
publish(("a", 3))
publish(("b", 2))
publish(("a", 4), ("c", 1), ("d", 1), ("b", 3), batch=True)
publish(("c", None), ("a", 5), ("e", 1), batch=True)
publish(("a", None))
say("want", "restarted", 1)
publication.signal_restarted()
say("done", "restarted", 1)
"""

STATES_PER_DIRECTORY = 32


class Promise:
    """What must be there, and what may be there instead, per key (and for the restart counter)."""

    def __init__(self) -> None:
        self.done: dict[str, int | None] = {}
        self.wanted: dict[str, list[int | None]] = {}

    def hear(self, said: bytes) -> None:
        word, key, seq = json.loads(said)
        if word == "want":
            self.wanted.setdefault(key, []).append(seq)
        else:
            self.done[key] = seq
            self.wanted[key] = []

    def broken_by(self, found: dict[str, int]) -> list[str]:
        keys = self.done.keys() | self.wanted.keys() | found.keys()
        return [
            f"{key}: {found.get(key)}, promised {self.done.get(key)}, under way {self.wanted.get(key, [])}"
            for key in sorted(keys)
            if found.get(key) not in (self.done.get(key), *self.wanted.get(key, []))
        ]


def trees(root: Path, calls: list[Call], at_most: int) -> Iterator[tuple[Tree, Promise]]:
    """Each different state with what is promised at its moment."""
    disk, promise = Disk(root), Promise()
    seen = set()
    for call in calls:
        if call.name == "said":
            promise.hear(call.data)
            continue
        disk.apply(call)
        for tree in disk.states(at_most):
            tree = {path: data for path, data in tree.items() if "/.staging/" not in path or data is not None}
            mark = (repr(sorted(tree.items())), repr(promise.done), repr(promise.wanted))
            if mark not in seen:
                seen.add(mark)
                yield tree, promise


def loaded(place: Path, tree: Tree) -> dict[str, int]:
    """What a publisher finds that starts after the power cut."""
    shutil.rmtree(place, ignore_errors=True)
    place.mkdir()
    for path, data in sorted(tree.items()):
        if data is None:
            (place / path).mkdir()
        else:
            (place / path).write_bytes(data)
    with PubSub(place, "hello") as pubsub:
        publication = pubsub.publication(Greeting, persistent=True)
        found = {key: item.seq for key, item in publication.items().items()}
        assert all(item.text == "x" * 300 for item in publication.items().values())
        if publication.restarted:
            found["restarted"] = publication.restarted
    return found


@pytest.fixture
def calls(root: Path) -> list[Call]:
    if shutil.which("strace") is None:
        pytest.skip("strace is not installed")
    if subprocess.run(["strace", "-o", "/dev/null", "true"], check=False).returncode:
        pytest.skip("this machine does not let a process be traced")
    (root / "device").mkdir()
    return record(root / "device", PROGRAM)


def test_every_state_that_a_power_cut_may_leave_loads_and_has_every_acknowledged_publish(
    root: Path, calls: list[Call], request: pytest.FixtureRequest
) -> None:
    count = 0
    at_most = 4096 if request.config.getoption("--full") else STATES_PER_DIRECTORY
    for tree, promise in trees(root / "device", calls, at_most):
        count += 1
        assert promise.broken_by(loaded(root / "after", tree)) == [], tree
    print(f"\n{len(calls)} calls, {count} different states after a power cut: each loads, nothing promised is missing")
    assert count > 300


@pytest.mark.parametrize("forgotten", ["the file's content", "the directory's names"])
def test_a_publisher_that_forgot_to_flush_would_be_found_out(root: Path, calls: list[Call], forgotten: str) -> None:
    names = forgotten == "the directory's names"
    kept = [call for call in calls if call.name != "fsync" or call.paths[0].endswith("record") == names]
    assert len(kept) < len(calls)
    assert any(promise.broken_by(loaded(root / "after", tree)) for tree, promise in trees(root / "device", kept, 16))


def test_a_batch_flushes_the_names_once(root: Path, calls: list[Call]) -> None:
    said = [call.data if call.name == "said" else call.name.encode() for call in calls]
    start = said.index(b'["want", "b", 3]')
    end = said.index(b'["done", "a", 4]')
    paths = [call.paths[0] for call in calls[start:end] if call.name == "fsync"]
    assert [path.endswith("/record") for path in paths] == [True] * 4 + [False]
