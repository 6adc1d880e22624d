"""Following a directory that is no table: hand-fed files such as the device config.

The same watching as a table's, without records: `look` is called when one of the files that matter was created, closed
after writing, renamed, linked or removed, when the directory itself came, went or was replaced, when events
were lost, and by the slow re-list.
"""

from __future__ import annotations

from collections.abc import Callable, Container
from typing import TYPE_CHECKING

from pillar.pubsub.inotify import Inotify, InotifyConstants
from pillar.pubsub.pathwatch import PathWatch

if TYPE_CHECKING:
    from pillar.pubsub.hub import PubSub

_C = InotifyConstants
_MASK = (
    _C.IN_CLOSE_WRITE
    | _C.IN_CREATE
    | _C.IN_DELETE
    | _C.IN_MOVED_FROM
    | _C.IN_MOVED_TO
    | _C.IN_ATTRIB
    | _C.IN_DELETE_SELF
    | _C.IN_MOVE_SELF
)


class Folder:
    """One directory below the root, followed by its path. Made by `PubSub.folder`."""

    def __init__(
        self,
        root: str,
        parts: list[str],
        look: Callable[[], None],
        names: Container[str] | None,
        inotify: Inotify,
        hub: PubSub,
        *,
        each_write: bool = False,
    ) -> None:
        self._names = names
        self._look = look
        self._hub = hub
        self._moved = True
        self._touched = False
        self._mask = _MASK | _C.IN_MODIFY if each_write else _MASK
        self._watch = PathWatch(inotify, root, parts, self._mask, self._noted, self.list_again)
        self.path = self._watch.path

    def close(self) -> None:
        """Stop following; `look` is not called any more."""
        self._watch.close()
        self._hub.forget(self)

    # What the loop calls.

    def list_again(self) -> None:
        """Have everything looked at again."""
        self._moved = True

    def check_place(self) -> None:
        """After a mount or unmount anywhere, which gives no event."""
        if self._watch.leads_elsewhere():
            self._moved = True

    @property
    def has_work(self) -> bool:
        """`look` is due."""
        return self._moved or self._touched

    def work(self) -> None:
        """Call `look` once, however much happened. What it raises reaches the loop's caller."""
        if self._moved:
            self._watch.lookup()  # first the watch, then the look: nothing falls between
        self._moved = self._touched = False
        self._look()

    def _noted(self, name: str, mask: int) -> None:
        # Who else looks at the directory may have asked for more: masks of one process add up.
        if mask & self._mask and (self._names is None or name in self._names):
            self._touched = True
