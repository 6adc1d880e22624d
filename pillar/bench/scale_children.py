"""One process of a measurement of whole tables: `python -m pillar.bench.scale_children TASK PLACE [NUMBER]`.

    load-subject, load-floor    a publisher that starts: the table is read and checked, its bytes kept
    sync-subject, sync-floor    a new subscriber's first load, a handler per record, up to `synchronized`
    publish-subject             publish NUMBER keys into an empty table
    follow-subject              NUMBER subscriptions to the table, in one process
    follow-floor                as many bare watches

PLACE is a root directory. The first five print nanoseconds and how many bytes of resident memory it cost. The
followers print `ready`, or why not, and when each has had the key LAST, the time.
"""

from __future__ import annotations

import os
import select
import sys
from collections.abc import Callable

from pillar.bench.floor import bare_load, bare_watch, now, read_watch
from pillar.bench.measure import AGENT, record, table_directory
from pillar.pubsub import PubSub
from pillar.types.downloader import DownloaderStatus

LAST = "last"
_PAGE = os.sysconf("SC_PAGESIZE")


def load_subject(root: str) -> object:
    return PubSub(root, AGENT).publication(DownloaderStatus)


def load_floor(root: str) -> object:
    return bare_load(table_directory(root))


def sync_subject(root: str) -> object:
    handled: list[str] = []
    pubsub = PubSub(root)
    subscription = pubsub.subscription(AGENT, DownloaderStatus, create=lambda key, new: handled.append(key))
    while not subscription.is_synchronized:
        pubsub.wait()
    return subscription, handled


def sync_floor(root: str) -> object:
    handled: list[str] = []
    watch = bare_watch(table_directory(root))
    return watch, bare_load(table_directory(root), lambda key, new: handled.append(key)), handled


def publish_subject(root: str, count: int) -> object:
    publication = PubSub(root, AGENT).publication(DownloaderStatus)
    for number in range(count):
        publication.publish(f"key{number}", record(number))
    return publication


def follow_subject(root: str, count: int) -> None:
    done = 0

    def handle(key: str, new: DownloaderStatus, old: DownloaderStatus | None = None) -> None:
        nonlocal done
        done += key == LAST

    pubsub = PubSub(root)
    subscriptions = [pubsub.subscription(AGENT, DownloaderStatus, create=handle, modify=handle) for _ in range(count)]
    while not all(subscription.is_synchronized for subscription in subscriptions):
        pubsub.wait()
    print("ready", flush=True)
    while done < count:
        pubsub.wait()


def follow_floor(root: str, count: int) -> None:
    directory = table_directory(root)
    poll = select.epoll()
    for _ in range(count):
        try:
            poll.register(bare_watch(directory), select.EPOLLIN)
        except OSError as err:
            print(err.strerror, flush=True)
            return
        bare_load(directory)
    print("ready", flush=True)
    done = 0
    while done < count:
        for watch, _ in poll.poll():
            for key, _new in read_watch(watch, directory):
                done += key == LAST


WHOLE: dict[str, Callable[[str], object]] = {
    "load-subject": load_subject,
    "load-floor": load_floor,
    "sync-subject": sync_subject,
    "sync-floor": sync_floor,
}
FOLLOWERS = {"follow-subject": follow_subject, "follow-floor": follow_floor}


def main() -> None:
    task, root, *rest = sys.argv[1:]
    if task in FOLLOWERS:
        FOLLOWERS[task](root, int(rest[0]))
        print(now(), flush=True)
        return
    before = _resident()
    start = now()
    # What it made must live until the memory is counted.
    kept = WHOLE[task](root) if task in WHOLE else publish_subject(root, int(rest[0]))
    print(now() - start, _resident() - before)
    del kept


def _resident() -> int:
    with open("/proc/self/statm", encoding="ascii") as statm:
        return int(statm.read().split()[1]) * _PAGE


if __name__ == "__main__":
    main()
