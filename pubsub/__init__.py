"""State shared as JSON files: publish typed records, follow them, survive a crash.

    PubSub          a process's tables below one root; waits for events
    Publication     one table published: publish, unpublish, get, items, signal_restarted
    Subscription    one table followed: handlers, or a `for` or `async for` loop over Change
    encode, decode  the one codec between records (msgspec Structs) and EVE's JSON

docs/pubsub.md has the promises and the file layout.
"""

if __name__ != "pillar.pubsub":
    # From a checkout this folder can also be found as a top-level `pubsub`: its classes would exist twice.
    raise ImportError(f"import pillar.pubsub, not {__name__}: a second copy of the library would not know the first")

from pillar.pubsub.codec import decode, encode
from pillar.pubsub.errors import (
    BadKey,
    BadName,
    BadRecord,
    EncodeFailed,
    InsideHandler,
    NotOpen,
    PublishFailed,
    PubSubError,
    RecordTooLarge,
    TableHeld,
    TopicMismatch,
    WatchFailed,
)
from pillar.pubsub.hub import PubSub
from pillar.pubsub.publication import Publication
from pillar.pubsub.subscription import Change, Rejected, Subscription

__all__ = [
    "BadKey",
    "BadName",
    "BadRecord",
    "Change",
    "EncodeFailed",
    "InsideHandler",
    "NotOpen",
    "PubSub",
    "PubSubError",
    "Publication",
    "PublishFailed",
    "RecordTooLarge",
    "Rejected",
    "Subscription",
    "TableHeld",
    "TopicMismatch",
    "WatchFailed",
    "decode",
    "encode",
]
