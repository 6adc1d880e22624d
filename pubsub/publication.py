"""Publishing one table.

The publisher's memory and its files say the same at every return; when the process dies, the files are
what it promised. The table is its publisher's as long as that lives: what others delete, overwrite or
drop into it is put right again (see `repair`), while hand-written files are inputs in tables that nobody holds.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Generic, TypeVar

from pillar.pubsub.codec import decode, encode
from pillar.pubsub.drivers import Audience, Driver, Store
from pillar.pubsub.errors import BadRecord, NotOpen, PublishFailed, RecordTooLarge, TopicMismatch
from pillar.pubsub.inotify import InotifyConstants
from pillar.pubsub.names import LOCK, RESTARTED, STAGING, SUFFIX, Table, check_key, key_of
from pillar.pubsub.pathwatch import PathWatch
from pillar.pubsub.records import MAX_RECORD_BYTES

if TYPE_CHECKING:
    from pillar.pubsub.hub import PubSub

T = TypeVar("T")

log = logging.getLogger("pillar.pubsub")

_C = InotifyConstants
# No MOVED_TO: our own publishes are renames and must cost us nothing. A foreign rename is mended by the slow re-list.
_OWNER_MASK = _C.IN_CLOSE_WRITE | _C.IN_DELETE | _C.IN_MOVED_FROM | _C.IN_DELETE_SELF | _C.IN_MOVE_SELF


class Publication(Generic[T]):
    """One table, published by this process. Made by `PubSub.publication`.

    Opening takes the table's lock and loads what a previous publisher left: the table is the agent's
    own memory across its death. To be used from one thread.
    """

    def __init__(
        self, table: Table, record_type: type[T], driver: Driver, hub: PubSub, group: int | None = None
    ) -> None:
        self.table = table
        self.record_type = record_type
        self._driver = driver
        self._hub = hub
        self._held: dict[str, bytes] = {}  # key -> the bytes of its file
        self._as_found: set[str] = set()  # keys whose bytes another process wrote, perhaps in another form than ours
        self.group = group
        self._closed = False
        self._batching = False
        self._audience: Audience | None = None  # None: the files are all the news
        self._checkpoint: Store | None = None  # None: closed, or lost and not yet taken anew
        self._restarted = 0
        self._suspects: set[str] = set()  # file names that somebody else touched
        self._all_suspect = False
        self._doubtful: set[str] = set()  # keys whose last change failed, perhaps after readers could see it
        parts = table.path[len(table.root) :].strip("/").split("/")
        self._watch = PathWatch(hub.inotify, table.root, parts, _OWNER_MASK, self._noted, self._note_all)
        try:
            checkpoint = self._checkpoint = driver.store(table, group)
            self._load(checkpoint)
            self._watch.lookup()
            self._audience = driver.audience(self, hub)
            self._all_suspect = not checkpoint.stands_at_its_path()  # it was moved before it was watched
        except BaseException as err:
            self._watch.close()
            if self._audience is not None:  # else nobody could publish here while this process lives
                self._audience.close()
            self._release()
            if isinstance(err, OSError):
                raise PublishFailed(f"{table.path}: cannot be opened: {err.strerror}") from err
            raise

    @property
    def restarted(self) -> int:
        """The restart counter; subscribers are told of a change after everything that was published before it."""
        return self._restarted

    def publish(self, key: str, item: T) -> bool:
        """Make `item` what every subscriber sees under `key`. Returns False, and writes nothing, when it is already so.

        When this returns, the record is in place whole: a reader finds the old one or the new one, never a
        mixture, however either process dies. In a persistent table it is also on the disk.
        Subscribers are not waited for.

        Raises BadKey, TopicMismatch, EncodeFailed or RecordTooLarge for a caller's mistake, PublishFailed when
        the file system refuses; the previous record then still stands, here and on disk. Raises TableHeld when
        the directory was taken away and another process publishes in its place.
        """
        self._check_open()
        if type(item) is not self.record_type:
            raise TopicMismatch(f"{self.table.name}: {key}: a {type(item).__name__} is no {self.record_type.__name__}")
        data = encode(item)
        held = self._held.get(key)
        if held is None:
            check_key(key, persistent=self.table.persistent)
        elif key in self._doubtful:
            pass  # what stands there is not sure to be what is held
        elif held == data or (key in self._as_found and decode(self.record_type, held) == item):
            if self.table.persistent and not self._batching:
                self._flush()  # only after a flush that failed is there anything to do
            return False
        if len(data) > MAX_RECORD_BYTES:
            raise RecordTooLarge(
                f"{self.table.file(key)}: the record has {len(data)} bytes, at most {MAX_RECORD_BYTES} are read back;"
                " publish a path to large content instead"
            )
        if self._audience is not None:
            self._audience.check(key, data)
        self._change_record(key, lambda checkpoint: checkpoint.write(key, data))
        self._held[key] = data
        self._as_found.discard(key)
        if self._audience is not None:
            self._audience.changed(key)
        return True

    def unpublish(self, key: str) -> bool:
        """Take the record away; False when there is none. Raises PublishFailed, and the record then still stands."""
        self._check_open()
        if key not in self._held:
            if key in self._doubtful:
                self._change_record(key, lambda checkpoint: checkpoint.remove(key))
            return False
        self._change_record(key, lambda checkpoint: checkpoint.remove(key))
        del self._held[key]
        self._as_found.discard(key)
        if self._audience is not None:
            self._audience.changed(key)
        return True

    @contextlib.contextmanager
    def batch(self) -> Iterator[None]:
        """Changes to a persistent table that become durable together, at the end of the block, by one flush of names.

        Inside, `publish` and `unpublish` work as ever, except that a power cut before the end of the block may take
        back any of them, each as a whole. Ordinary tables lose nothing by it. Raises PublishFailed at its end. An
        `unpublish` of a key that has a backup flushes once by itself (see Checkpoint.remove).
        """
        self._check_open()
        self._set_batching(True)
        try:
            yield
        finally:
            self._set_batching(False)
            self._flush()

    def as_encoded(self, key: str) -> bytes | None:
        """The record's JSON as this process encodes it, None when there is none; for audiences."""
        data = self._held.get(key)
        if data is None or key not in self._as_found:
            return data
        return encode(decode(self.record_type, data))

    def as_held(self, key: str) -> bytes | None:
        """The bytes of the record's file, perhaps those of an earlier publisher; None when there is none."""
        return self._held.get(key)

    def get(self, key: str) -> T | None:
        """What is published under `key`, None when nothing is. Each call gives a value of its own."""
        data = self._held.get(key)
        return None if data is None else decode(self.record_type, data)

    def items(self) -> dict[str, T]:
        """Everything published, as a copy."""
        return {key: decode(self.record_type, data) for key, data in self._held.items()}

    def keys(self) -> list[str]:
        """The keys published now, oldest first."""
        return list(self._held)

    def __contains__(self, key: object) -> bool:
        return key in self._held

    def __len__(self) -> int:
        return len(self._held)

    def __iter__(self) -> Iterator[str]:
        return iter(self.keys())

    def signal_restarted(self) -> None:
        """Tell subscribers that what this publisher has to say at its start is said; each call adds one to the counter.

        Raises PublishFailed.
        """
        self._set_restarted(self._restarted + 1)

    def clear_restarted(self) -> None:
        """Set the counter back to 0; subscribers are not told. Raises PublishFailed."""
        self._set_restarted(0)

    def close(self) -> None:
        """Stop publishing; the records stay for readers and for the next publisher. Closing twice is fine."""
        if not self._closed:
            self._closed = True
            self._watch.close()
            if self._audience is not None:
                self._audience.close()
            self._release()
            self._hub.forget(self)

    # What the loop calls.

    @property
    def needs_repair(self) -> bool:
        """Somebody else touched the table since the last `repair`."""
        return self._all_suspect or bool(self._suspects)

    def check_place(self) -> None:
        """After a mount or unmount anywhere, which gives no event: repair if the path leads elsewhere now."""
        if self._watch.leads_elsewhere():
            self._all_suspect = True

    def repair(self, *, everything: bool = False) -> None:
        """Put back what this publisher holds where others changed it; the directory included.

        Called by the loop after foreign events, and with `everything` by the slow re-list. Raises TableHeld when the
        directory was removed and another process has meanwhile published a new one.
        """
        self._check_open()
        everything = everything or self._all_suspect
        names, self._suspects, self._all_suspect = self._suspects, set(), False
        try:
            checkpoint = self._taken()
            if everything:
                if not checkpoint.stands_at_its_path():
                    checkpoint = self._retake()
                self._watch.lookup()
                names = {key + SUFFIX for key in (*checkpoint.recorded_keys(), *self._held)}
                if self._audience is not None:
                    self._audience.check_place()
            for name in names:
                self._repair_one(checkpoint, name)
            if (everything or RESTARTED in names) and checkpoint.read_restarted() != self._restarted:
                checkpoint.write_restarted(self._restarted)
            checkpoint.tidy()
        except OSError as err:
            self._hub.retry_soon()
            log.error("%s: cannot be put right: %s; tried again in a moment", self.table.path, err.strerror)

    def _repair_one(self, checkpoint: Store, name: str) -> None:
        key = key_of(name)
        if key is None:
            return
        held = self._held.get(key)
        try:
            found = checkpoint.read(key)
        except BadRecord as err:
            log.warning("%s: %s", self.table.file(key), err)
            checkpoint.quarantine(name)
            found = None
        if found == held:
            pass
        elif held is None and key in self._doubtful:
            checkpoint.remove(key)  # our own: it was in place, and then could not be made durable
        elif held is None:
            where = checkpoint.quarantine(name)
            log.warning(
                "%s: was put into a table that this process publishes; moved to %s", self.table.file(key), where
            )
        else:
            log.warning(
                "%s: was %s by another process; put back", self.table.file(key), "changed" if found else "removed"
            )
            checkpoint.write(key, held)
        self._doubtful.discard(key)

    def _noted(self, name: str, mask: int) -> None:
        if name in (LOCK, STAGING):
            self._all_suspect = self._all_suspect or bool(mask & (_C.IN_DELETE | _C.IN_MOVED_FROM))
        elif not name.startswith("."):
            self._suspects.add(name)

    def _note_all(self) -> None:
        self._all_suspect = True

    def _check_open(self) -> None:
        if self._closed:
            raise NotOpen(f"{self.table.name}: this publication was closed")

    def _release(self) -> None:
        if self._checkpoint is not None:
            self._checkpoint.close()
            self._checkpoint = None

    def _set_batching(self, batching: bool) -> None:
        self._batching = batching
        if self._checkpoint is not None:
            self._checkpoint.batching = batching

    def _flush(self) -> None:
        try:
            self._taken().flush()
        except OSError as err:
            raise PublishFailed(f"{self.table.path}: may not be on the disk yet: {err.strerror}") from err

    def _change_record(self, key: str, change: Callable[[Store], None]) -> None:
        try:
            self._change(key + SUFFIX, change)
        except PublishFailed:
            self._doubtful.add(key)
            raise
        if self._doubtful:
            self._doubtful.discard(key)

    def _change(self, name: str, change: Callable[[Store], None]) -> None:
        """Change one file of the table, taking the table anew when it was taken away under us.

        A change that failed half-way (a name not flushed) is undone by the repair that follows.
        """
        try:
            checkpoint = self._taken()
            try:
                change(checkpoint)
            except FileNotFoundError:
                change(self._retake())
        except OSError as err:
            self._hub.retry_soon()
            path = f"{self.table.path}/{name}"  # put together here only: it would be a fifth of a publish
            raise PublishFailed(f"{path}: cannot be changed: {err.strerror}; the previous record stands") from err

    def _set_restarted(self, counter: int) -> None:
        self._check_open()
        self._change(RESTARTED, lambda checkpoint: checkpoint.write_restarted(counter))
        self._restarted = counter
        if self._audience is not None:
            self._audience.restarted()

    def _taken(self) -> Store:
        """The table's files; taken anew when an earlier attempt at that failed. Raises TableHeld, OSError."""
        return self._retake() if self._checkpoint is None else self._checkpoint

    def _retake(self) -> Store:
        """Take the table anew where its path leads now, and publish there everything that is held."""
        log.warning("%s: was removed or replaced; published again", self.table.path)
        self._all_suspect = True  # the new directory is not watched yet, and may hold what is not ours
        self._release()  # the lock first: it may be the same file still
        fresh = self._checkpoint = self._driver.store(self.table, self.group)
        for key, data in self._held.items():
            if _read_or_none(fresh, key) != data:
                fresh.write(key, data)
        if fresh.read_restarted() != self._restarted:
            fresh.write_restarted(self._restarted)
        fresh.batching = self._batching
        return fresh

    def _load(self, checkpoint: Store) -> None:
        """Take over what the previous publisher left; a record that cannot be read is set aside, nothing is lost."""
        self._restarted = checkpoint.read_restarted()
        for key in checkpoint.recorded_keys():
            data, reason = self._readable(checkpoint.read, key)
            if data is not None:
                self._held[key] = data
                self._as_found.add(key)
                continue
            if self.table.persistent:
                data, _ = self._readable(checkpoint.read_backup, key)
            if data is not None:
                log.warning("%s: %s; the value before it is used", self.table.file(key), reason)
                checkpoint.write(key, data)
                self._held[key] = data
                self._as_found.add(key)
            elif reason != _MISSING:
                where = checkpoint.quarantine(key + SUFFIX)
                log.error("%s: %s; moved to %s", self.table.file(key), reason, where)

    def _readable(self, read: Callable[[str], bytes | None], key: str) -> tuple[bytes | None, str]:
        """The bytes of a record that decodes, else why not."""
        try:
            data = read(key)
            if data is None:
                return None, _MISSING
            decode(self.record_type, data)
        except BadRecord as err:
            return None, str(err)
        return data, ""


def _read_or_none(checkpoint: Store, key: str) -> bytes | None:
    try:
        return checkpoint.read(key)
    except BadRecord:
        return None


_MISSING = "is missing"
