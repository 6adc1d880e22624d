"""The process's one inotify descriptor, read from its own loop.

watchdog's InotifyFD knows the kernel's structures and which callback belongs to which watch. Its thread is
not started: on two cores the hop to another thread more than doubles the idle latency. What differs
from watchdog: the descriptor is CLOEXEC and never blocks, a watch that the kernel refuses is an error (watchdog
swallows EACCES), and masks add up when several parts of the process look at one directory.
"""

from __future__ import annotations

import ctypes
import errno
import os
import struct
from collections.abc import Callable
from typing import Protocol

from watchdog.observers.inotify_c import (
    CallbackId,
    InotifyConstants,
    InotifyEvent,
    InotifyFD,
    Mask,
    Watch,
    WatchDescriptor,
    inotify_add_watch,
    libc,
)

from pillar.pubsub.errors import WatchFailed

__all__ = ["Inotify", "InotifyConstants", "InotifyEvent", "Mask", "WatchDescriptor"]

_init1: Callable[[int], int] = ctypes.CFUNCTYPE(ctypes.c_int, ctypes.c_int, use_errno=True)(("inotify_init1", libc))

_READ_BYTES = 64 * 1024
_unpack = struct.Struct("iIII").unpack_from  # struct inotify_event: wd, mask, cookie, bytes of the name behind it
_HEADER = 16
_LARGEST_EVENT = _HEADER + 256  # and a name of NAME_MAX bytes
_RARE = InotifyConstants.IN_IGNORED | InotifyConstants.IN_Q_OVERFLOW

_LIMITS = {
    errno.EMFILE: "fs.inotify.max_user_instances (or this process's open files, ulimit -n)",
    errno.ENOSPC: "fs.inotify.max_user_watches",
}


class Watcher(Protocol):
    """Whom `Inotify` tells. Not watchdog's protocol: an event comes as its mask and name, see `Inotify.dispatch`."""

    def on_event(self, mask: int, name: bytes) -> None: ...

    def on_watch_deleted(self, wd: WatchDescriptor) -> None: ...

    def on_queue_overflow(self) -> None: ...


class Inotify(InotifyFD):
    """A non-blocking inotify descriptor.

    When the kernel grants none, `missing` says why, naming the sysctl; then every watch is refused with that
    until `acquire` succeeds. `blind` holds who goes without a watch that it needs, and has to re-list instead.
    """

    def __init__(self) -> None:
        super().__init__()
        self.missing = ""
        self.blind: set[object] = set()
        self._next_id = 0
        self.acquire()

    @classmethod
    def _create_inotify_fd(cls) -> int:
        return os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)  # keeps the number for `acquire`; never readable

    def acquire(self) -> bool:
        """Get the descriptor from the kernel; False when it grants none. It keeps its number: register it again."""
        fd = _init1(os.O_CLOEXEC | os.O_NONBLOCK)  # the values in watchdog are not those of the kernel
        if fd == -1:
            self.missing = str(refused("inotify_init1", ctypes.get_errno()))
            return False
        os.dup2(fd, self._inotify_fd, inheritable=False)
        os.close(fd)
        self.missing = ""
        return True

    def fileno(self) -> int:
        """The descriptor: readable when events wait."""
        return self._inotify_fd

    def watch(self, path: str, mask: int, callback: Watcher) -> tuple[WatchDescriptor, CallbackId]:
        """Have `callback` told of events on `path`; the handle goes to `unwatch`.

        Raises FileNotFoundError or NotADirectoryError when the path is not there, WatchFailed when the kernel refuses.
        """
        if self.missing:
            raise WatchFailed(self.missing)
        self._next_id += 1
        handle = CallbackId(self._next_id)
        # MASK_ADD: another part of this process may watch the same directory for other events.
        bits = Mask(mask | InotifyConstants.IN_MASK_ADD)
        return self.add_callback(os.fsencode(path), bits, callback, handle), handle  # type: ignore[arg-type]

    def unwatch(self, handle: tuple[WatchDescriptor, CallbackId]) -> None:
        """Forget one `watch`; the kernel's watch goes with its last one."""
        self.remove_callbacks([handle])

    def dispatch(self) -> None:
        """Read every event that waits now and hand it to the callbacks. Never blocks.

        An event on a name goes straight to the callbacks of its watch, which only take notes. watchdog's own
        way (an object an event, a lock, a copy of the callbacks) costs more than all the rest of an event here; it has
        the rare ones: a watch that ended, a queue that overflowed.
        """
        more = True
        while more:
            data = self._read_now()
            # With room left for the largest event, the queue was empty when this read returned.
            more = len(data) > _READ_BYTES - _LARGEST_EVENT
            place = 0
            while place < len(data):
                wd, mask, cookie, length = _unpack(data, place)
                start = place + _HEADER
                place = start + length
                name = data[start:place].rstrip(b"\0")
                if mask & _RARE:
                    self.handle_event(InotifyEvent(wd, mask, cookie, name))
                elif (watch := self._watch_for_wd.get(wd)) is not None:
                    for callback in watch.callbacks.values():
                        callback.on_event(mask, name)  # type: ignore[call-arg]

    def close(self) -> None:
        self._is_reading = False  # no thread of watchdog's is inside read(2), so close() may free everything itself
        super().close()

    def _read_now(self) -> bytes:
        try:
            return os.read(self._inotify_fd, _READ_BYTES)
        except BlockingIOError:
            return b""

    def _get_or_create_watch(self, path: bytes, mask: Mask) -> Watch:
        wd = inotify_add_watch(self._inotify_fd, path, mask)
        if wd == -1:
            err = ctypes.get_errno()
            if err in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise OSError(err, os.strerror(err), os.fsdecode(path))
            raise refused(f"inotify_add_watch {os.fsdecode(path)}", err)
        watch = self._watch_for_wd.get(wd)
        if watch is None:
            watch = self._watch_for_wd[wd] = Watch(wd, mask, path)
        return watch


def refused(call: str, err: int) -> WatchFailed:
    """The error for a refusal of the kernel's, naming the limit to raise where there is one."""
    limit = _LIMITS.get(err)
    mend = f"; raise {limit}" if limit else ""
    return WatchFailed(f"{call}: {os.strerror(err)}{mend}")
