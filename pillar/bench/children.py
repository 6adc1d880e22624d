"""The receiving end of a measurement, in a process of its own: `python -m pillar.bench.children KIND PLACE COUNT`.

Receives COUNT records through PubSub (`subject`, PLACE is a root) or bare (`floor`, PLACE is a directory). Prints
`ready` first. With COUNT 0 it goes on for ever and prints for each record the nanoseconds from the stamp in it to its
handling; else it prints, once it has them all, the time of the end.
"""

from __future__ import annotations

import sys

from pillar.bench.floor import bare_reader, now
from pillar.bench.measure import AGENT


def subject(root: str, count: int) -> None:
    from pillar.pubsub import PubSub
    from pillar.types.downloader import DownloaderStatus

    handled = 0

    def handle(key: str, new: DownloaderStatus, old: DownloaderStatus | None = None) -> None:
        nonlocal handled
        handled += 1
        if not count and subscription.is_synchronized:  # what an earlier turn left is no measurement
            print(now() - new.Size, flush=True)

    pubsub = PubSub(root)
    subscription = pubsub.subscription(AGENT, DownloaderStatus, create=handle, modify=handle)
    while not subscription.is_synchronized:
        pubsub.wait()
    print("ready", flush=True)
    while not count or handled < count:
        pubsub.wait()


def floor(directory: str, count: int) -> None:
    for handled, record in enumerate(bare_reader(directory), start=1):
        if not count:
            print(now() - record.Size, flush=True)
        elif handled == count:
            return


def main() -> None:
    kind, place, count = sys.argv[1:]
    (subject if kind == "subject" else floor)(place, int(count))
    print(now(), flush=True)


if __name__ == "__main__":
    main()
