"""A publisher's and its subscribers' life with the n-th file system call failing.

`fault_story.py ROOT ERRNO [FIRST STEP]`, with the library of faults.c preloaded: for every n (or those), once and for
good, in an ordinary and a persistent table by file and an ordinary one by socket; one subscriber is durable. Prints one
line of JSON per table and way: how many n there were. Anything that breaks a promise is an AssertionError.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import itertools
import json
import logging
import os
import shutil
import sys
from pathlib import Path

import msgspec

from pillar.pubsub import Publication as AnyPublication
from pillar.pubsub import (
    PublishFailed,
    PubSub,
    PubSubError,
    Subscription,
    hub,
    socketpeer,
    socketpublisher,
    socketsubscriber,
)

OPENS, READS, WRITES, WATCHES, MEMORY = 1, 2, 4, 8, 16
KINDS = {
    errno.ENOSPC: WRITES | WATCHES,
    errno.EDQUOT: WRITES,
    errno.EROFS: WRITES,
    errno.EIO: OPENS | READS | WRITES,
    errno.ENOMEM: OPENS | READS | WRITES | WATCHES | MEMORY,
    errno.EMFILE: OPENS,
}

faults = ctypes.CDLL(None)
faults.fault_arm.argtypes = [ctypes.c_long, ctypes.c_int, ctypes.c_int, ctypes.c_int]
faults.fault_disarm.restype = ctypes.c_long

TABLES = (("file", False), ("file", True), ("socket", False))


class Greeting(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    text: str = ""
    seq: int = 0


Publication = AnyPublication[Greeting]
STEPS: list[tuple[str, int | None]] = [("a", 1), ("b", 1), ("a", 2), ("a", 3), ("b", None), ("c", 1), ("b", 2)]


def story(root: Path, driver: str, persistent: bool, n: int, error: int, forever: bool) -> int:
    """One life with one fault in it; returns how many calls could have failed."""
    shutil.rmtree(root, ignore_errors=True)
    with PubSub(root, "hello") as before:
        before.publication(Greeting, persistent=persistent).publish("old", Greeting(seq=1))
    promised: dict[str, int] = {"old": 1}
    told: list[str] = []
    refused: list[tuple[str, int | None]] = []
    pubsubs = [PubSub(root, agent, driver=driver) for agent in ("hello", "me", "keeper")]
    kept: set[str] = set()
    try:
        faults.fault_arm(n, error, forever, KINDS[error])
        publication = None
        try:
            publication = pubsubs[0].publication(Greeting, persistent=persistent)
        except PubSubError as err:  # the machine's fault is an error of the library's, and says which
            assert errno_text(error) in str(err), err
        subscription = pubsubs[1].subscription(
            "hello",
            Greeting,
            persistent=persistent,
            create=lambda key, new: told.append(key),
            delete=lambda key, last: told.remove(key),
        )
        durable = keep(pubsubs[2], persistent, kept, error)
        turn(pubsubs[1:])
        for key, seq in STEPS if publication is not None else ():
            assert publication is not None
            try:
                change(publication, key, seq)
            except PubSubError as err:
                assert errno_text(error) in str(err), err
                refused.append((key, seq))
            else:
                note(promised, key, seq)
                faults.fault_pause(1)
                stands(publication, key, promised.get(key))
                faults.fault_pause(0)
            turn(pubsubs)
        if publication is not None:
            with contextlib.suppress(PublishFailed):
                publication.signal_restarted()
            turn(pubsubs)
        matched = int(faults.fault_disarm())
        # It ends: without anything being published again, all agree on what was promised.
        if publication is None:
            publication = pubsubs[0].publication(Greeting, persistent=persistent)
            refused = list(STEPS)
        assert {key: item.seq for key, item in publication.items().items()} == promised
        agree(publication, subscription, pubsubs, promised)
        for key, seq in refused:
            change(publication, key, seq)
            note(promised, key, seq)
        agree(publication, subscription, pubsubs, promised)
        assert sorted(told) == sorted(promised)
        strangers = list(Path(publication.table.path).glob(".quarantine/*"))
        assert not strangers, f"its own records were taken for a stranger's: {strangers}"
        # Whatever its ledger was refused, the next entry mends it: what vanishes while the process is dead is told.
        if durable is None:
            durable = keep(pubsubs[2], persistent, kept, error)
        assert durable is not None
        agree(publication, durable, pubsubs, promised)
        change(publication, "last", 1)
        note(promised, "last", 1)
        agree(publication, durable, pubsubs, promised)
        assert kept == set(promised)
        pubsubs.pop().close()
        change(publication, "old", None)
        note(promised, "old", None)
        pubsubs.append(PubSub(root, "keeper", driver=driver))
        durable = keep(pubsubs[2], persistent, kept, error)
        assert durable is not None
        agree(publication, durable, pubsubs, promised)
        assert kept == set(promised)
        return matched
    finally:
        faults.fault_disarm()
        for pubsub in pubsubs:
            pubsub.close()


def keep(pubsub: PubSub, persistent: bool, kept: set[str], error: int) -> Subscription[Greeting] | None:
    """A durable subscription whose handlers keep `kept`; None when the machine refuses its ledger."""
    try:
        return pubsub.subscription(
            "hello",
            Greeting,
            persistent=persistent,
            durable="kept",
            create=lambda key, new: kept.add(key),
            delete=lambda key, last: kept.discard(key),
        )
    except OSError as err:
        assert errno_text(error) in str(err), err
        return None


def turn(pubsubs: list[PubSub]) -> None:
    for pubsub in pubsubs:
        pubsub.wait(0)


def change(publication: Publication, key: str, seq: int | None) -> None:
    if seq is None:
        publication.unpublish(key)
    else:
        publication.publish(key, Greeting(text="x" * 200, seq=seq))


def note(promised: dict[str, int], key: str, seq: int | None) -> None:
    if seq is None:
        promised.pop(key, None)
    else:
        promised[key] = seq


def stands(publication: Publication, key: str, seq: int | None) -> None:
    """What was acknowledged is there, now."""
    path = Path(publication.table.file(key))
    assert (json.loads(path.read_bytes())["seq"] if path.exists() else None) == seq


def agree(
    publication: Publication, subscription: Subscription[Greeting], pubsubs: list[PubSub], promised: dict[str, int]
) -> None:
    seen: list[object] = []
    for _ in range(200):
        for pubsub in pubsubs:
            pubsub.wait(0.001)
        table = Path(publication.table.path)
        on_disk = {path.stem: json.loads(path.read_bytes())["seq"] for path in table.glob("[!.]*.json")}
        followed = {key: item.seq for key, item in subscription.items().items()}
        counter = table / "restarted"
        counters = (publication.restarted, int(counter.read_text() if counter.exists() else 0), subscription.restarted)
        staged = os.listdir(table / ".staging")
        seen = [promised, on_disk, followed, subscription.is_synchronized, counters, staged]
        if promised == on_disk == followed and seen[3] and len(set(counters)) == 1 and not staged:
            return
    raise AssertionError(f"promised, on disk, followed, synchronized, restart counters, staged: {seen}")


def errno_text(error: int) -> str:
    return os.strerror(error)


def main(root: Path, error: int, first: int, step: int) -> None:
    logging.getLogger("pillar.pubsub").addHandler(logging.NullHandler())
    hub.RETRY_SECONDS = hub.BLIND_SECONDS = 0.0
    for module, pause in (
        (socketpublisher, "_RETRY_SECONDS"),
        (socketpeer, "_RETRY_SECONDS"),
        (socketsubscriber, "_REFUSED_SECONDS"),
    ):
        assert hasattr(module, pause)
        setattr(module, pause, 0.0)
    for (driver, persistent), forever in itertools.product(TABLES, (False, True)):
        story(root, driver, persistent, 0, error, False)  # loads what is loaded late
        n = first
        while True:
            try:
                matched = story(root, driver, persistent, n, error, forever)
            except BaseException:
                print(f"driver {driver}, persistent {persistent}, call {n}, for good {forever}", file=sys.stderr)
                raise
            if matched < n:
                break
            n += step
        print(json.dumps([driver, persistent, forever, matched, len(range(first, matched + 1, step))]), flush=True)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), *([int(word) for word in sys.argv[3:5]] or (1, 1)))
