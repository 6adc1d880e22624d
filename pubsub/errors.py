"""What can go wrong in the library, one class per reaction of the caller.

fix your code        BadKey, BadName, TopicMismatch, EncodeFailed, NotOpen, InsideHandler
try again later      PublishFailed (the disk refused; the previous record still stands)
give up the table    TableHeld (another live process publishes it)
report, go on        BadRecord (a record that cannot be read; the last good value stays)
tell the operator    WatchFailed (inotify refuses; the slow re-list carries on)
"""

from __future__ import annotations


class PubSubError(Exception):
    """Base of every error this library raises."""


class BadKey(PubSubError, ValueError):
    """The key cannot be a file name in a table; nothing was changed."""


class BadName(PubSubError, ValueError):
    """The agent, scope or topic cannot be a directory name; nothing was opened."""


class TopicMismatch(PubSubError, TypeError):
    """The record is not of the type this table holds; nothing was changed."""


class RecordTooLarge(PubSubError, ValueError):
    """The encoded record exceeds the table's limit; the previous record still stands."""


class EncodeFailed(PubSubError, ValueError):
    """The record holds a value that JSON cannot carry; the previous record still stands."""


class NotOpen(PubSubError, RuntimeError):
    """The publication, subscription or PubSub was closed before this call."""


class InsideHandler(PubSubError, RuntimeError):
    """A handler waited for changes. Handlers run one at a time, so it would have waited for itself for ever."""


class PublishFailed(PubSubError):
    """The file system refused (the OSError is the cause); the previous record still stands."""


class TableHeld(PubSubError):
    """Another live process publishes this table (or uses this durable subscription's ledger).

    `pid` is what the holder wrote into the lock file, None when that could not be read or is not its holder's.
    """

    def __init__(self, table: str, pid: int | None, use: str = "published") -> None:
        self.table = table
        self.pid = pid
        holder = f"process {pid}" if pid is not None else "a process that has not written its pid (yet)"
        rule = "a table has one publisher" if use == "published" else "two processes cannot share it"
        super().__init__(f"{table}: already {use} by {holder}; stop it first, {rule}")


class BadRecord(PubSubError, ValueError):
    """The bytes are not a record of this type; the message says where and why."""


class WatchFailed(PubSubError):
    """inotify refused a watch; changes are found by the slow re-list until it recovers."""
