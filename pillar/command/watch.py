"""Follow tables live: what appears, what changes field by field (old → new), what goes.

  pillar watch                                every table, also those that come later
  pillar watch zedmanager                     those of one agent
  pillar watch nim/DeviceNetworkStatus        one table, which need not exist yet
  pillar watch --json --new zedmanager        one JSON object a line, only what happens from now on

Begins with what is there. Secrets are masked unless --show-secrets. This is EVE's ipcmonitor.

exit status: 0 ended by --once, --timeout or --count   1 --count was not reached in time   2 wrong usage
"""

from __future__ import annotations

import argparse
import datetime
import logging
import math
import os
import sys
import time
from typing import Any, Final

from pillar.command.render import ABSENT, FieldChange, changes, compact, masked, name_of, short
from pillar.pubsub import BadName, PubSub, Subscription
from pillar.pubsub.names import GLOBAL
from pillar.tables import Folder, Place, parts_of, restarted, tables, walk
from pillar.terminal import Palette, printable, unfailing
from pillar.types.scalars import NIL_UUID, ZERO_TIME

EXIT_MISSED = 1
_COLOURS: Final = {"create": "green", "modify": "cyan", "delete": "red", "restarted": "magenta"}
_SIGNS: Final = {"create": "+", "modify": "~", "delete": "-", "restarted": "*"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", nargs="?", default="", metavar="AGENT[/SCOPE][/TOPIC]", help="only this part")
    parser.add_argument("--json", action="store_true", help="print one JSON object per change")
    parser.add_argument("--new", action="store_true", help="leave out what is there at the start")
    parser.add_argument("--once", action="store_true", help="print what is there, then end")
    parser.add_argument("--count", type=_positive, metavar="N", help="end after N changes")
    parser.add_argument("--timeout", type=_seconds, metavar="S", help="end after S seconds")
    parser.add_argument("--show-secrets", action="store_true", help="do not mask passwords and keys")


def run(args: argparse.Namespace) -> int:
    root = os.fspath(args.root)
    if not os.path.isdir(root):
        print(f"pillar watch: {printable(root)} is no directory", file=sys.stderr)
        return EXIT_MISSED
    unfailing()
    _log_to_stderr()
    with PubSub(root) as pubsub:
        return Watcher(pubsub, root, args).follow()


class Watcher:
    """Subscribes to every table that fits, and to the directories in which further ones may appear."""

    def __init__(self, pubsub: PubSub, root: str, args: argparse.Namespace) -> None:
        self._pubsub = pubsub
        self._root = root
        self._printer = Printer(as_json=args.json, show_secrets=args.show_secrets)
        self._wanted = parts_of(args.table)
        self._new_only: bool = args.new
        self._once: bool = args.once
        self._count: int | None = args.count
        self._timeout: float | None = args.timeout
        self._tables: dict[str, Subscription[dict[str, Any]]] = {}
        self._folders: set[str] = set()
        self._from_start: dict[str, int] = {}  # tables that were there, with their restart counters
        self._changes = 0
        self._broken: BrokenPipeError | None = None
        self._look_for_tables()
        self._from_start.update({place.path: restarted(place) for place in tables(root) if place.path in self._tables})

    def follow(self) -> int:
        """Until it is told to end; returns the exit status."""
        deadline = math.inf if self._timeout is None else time.monotonic() + self._timeout
        self._pubsub.wait(0)
        while not self._loaded():
            self._pubsub.wait(0)
        while not (self._once or self._enough() or self._broken):
            left = deadline - time.monotonic()
            if left <= 0:
                return EXIT_MISSED if self._count is not None else 0
            self._pubsub.wait(None if math.isinf(left) else left)
        if self._broken is not None:
            raise self._broken
        return 0

    def _loaded(self) -> bool:
        """Everything that was there has been printed: later ones are news."""
        return self._enough() or self._broken is not None or self._pubsub.timeout() > 0

    def _enough(self) -> bool:
        return self._count is not None and self._changes >= self._count

    def _look_for_tables(self) -> None:
        """Called again whenever a directory changes in which tables stand."""
        for found in walk(self._root):
            if isinstance(found, Place):
                if self._wanted[: len(found.parts)] == found.parts[: len(self._wanted)]:
                    self._subscribe(found)
            elif found.path not in self._folders and self._may_hold(found):
                self._folders.add(found.path)
                self._pubsub.folder(found.path, self._look_for_tables)

    def _may_hold(self, folder: Folder) -> bool:
        """Could a wanted table appear in it?"""
        for base in ("run", "persist/status"):
            way = os.path.relpath(folder.path, os.path.join(self._root, base)).split(os.sep)
            parts = tuple(part for part in way if part != os.curdir)
            if parts[:1] != (os.pardir,):
                length = min(len(parts), len(self._wanted))
                return parts[:length] == self._wanted[:length]
        return False

    def _subscribe(self, place: Place) -> None:
        if place.path in self._tables or len(self._wanted) > len(place.parts) + 1:
            return
        beginning = "".join(self._wanted[len(place.parts) :])  # of the keys that are wanted; "" for all

        def tell(kind: str, key: str, new: dict[str, Any] | None = None, old: dict[str, Any] | None = None) -> None:
            if key.startswith(beginning):
                self._tell(place, kind, key, new, old)

        try:
            self._tables[place.path] = self._pubsub.subscription(
                "" if place.agent == GLOBAL else place.agent,
                None,
                topic=place.topic,
                scope=place.scope,
                persistent=place.persistent,
                create=lambda key, new: tell("create", key, new),
                modify=lambda key, new, old: tell("modify", key, new, old),
                delete=lambda key, last: tell("delete", key, None, last),
                restarted=lambda counter: self._restarted(place, counter),
            )
        except BadName:  # a scoped or persistent directory called `global`: no table can be there
            return

    def _restarted(self, place: Place, counter: int) -> None:
        if counter != self._from_start.pop(place.path, 0):  # the first one told is what stood there
            self._tell(place, "restarted", "", {"counter": counter}, None)

    def _tell(
        self,
        place: Place,
        kind: str,
        key: str,
        new: dict[str, Any] | None,
        old: dict[str, Any] | None,
    ) -> None:
        # Until the first load of a table is through, what comes was there before.
        initial = place.path in self._from_start and not self._tables[place.path].is_synchronized
        if self._enough() or (initial and self._new_only):
            return
        try:
            self._printer.show(place, kind, key, new, old, initial=initial)
        except BrokenPipeError as err:  # a handler's exception would only be logged, and this is the end
            self._broken = err
        self._changes += kind != "restarted"


class Printer:
    """One change: coloured lines for people, an object for programs."""

    def __init__(self, *, as_json: bool, show_secrets: bool) -> None:
        self._as_json = as_json
        self._show_secrets = show_secrets
        self._palette = Palette.of()

    def show(
        self,
        place: Place,
        kind: str,
        key: str,
        new: dict[str, Any] | None,
        old: dict[str, Any] | None,
        *,
        initial: bool,
    ) -> None:
        if kind != "restarted" and not self._show_secrets:
            new, old = (None if record is None else masked(place.topic, record) for record in (new, old))
        text = self._object(place, kind, key, new, old, initial) if self._as_json else ""
        print(text or self._lines(place, kind, key, new, old, initial), flush=True)

    def _object(
        self,
        place: Place,
        kind: str,
        key: str,
        new: dict[str, Any] | None,
        old: dict[str, Any] | None,
        initial: bool,
    ) -> str:
        shown: dict[str, Any] = {
            "time": datetime.datetime.now(datetime.UTC).isoformat().replace("+00:00", "Z"),
            "kind": kind,
            "table": place.name,
            "agent": place.agent,
            "scope": place.scope,
            "topic": place.topic,
            "persistent": place.persistent,
        }
        if kind == "restarted":
            return compact(shown | (new or {}))
        shown |= {"key": key, "initial": initial}
        if kind == "modify":
            shown["changes"] = [
                {"field": change.field}
                | {name: value for name, value in (("old", change.old), ("new", change.new)) if value is not ABSENT}
                for change in changes(old, new)
            ]
        return compact(shown | {name: value for name, value in (("new", new), ("old", old)) if value is not None})

    def _lines(
        self,
        place: Place,
        kind: str,
        key: str,
        new: dict[str, Any] | None,
        old: dict[str, Any] | None,
        initial: bool,
    ) -> str:
        paint = self._palette
        colour = _COLOURS[kind]
        clock = datetime.datetime.now().strftime("%H:%M:%S.%f")[:-3]
        where = printable(place.name) + (" (persistent)" if place.persistent else "")
        what = f"restarted {new['counter']}" if kind == "restarted" and new else paint.bold(printable(key))
        head = f"{paint.dim(clock)} {paint('dim' if initial else colour, _SIGNS[kind])} {where} {what}"
        if kind == "modify":
            lines = [self._change(place.topic, change) for change in changes(old, new)]
            return "\n".join([head, *(lines or ["      (only a secret changed)"])])
        if kind == "create" and not initial:
            telling = [
                f"      {printable(name)}: {paint.green(_value(place.topic, name, value))}"
                for name, value in _telling(new)
            ]
            return "\n".join([head, *telling])
        return head

    def _change(self, topic: str, change: FieldChange) -> str:
        old, new = (_value(topic, change.field, value) for value in (change.old, change.new))
        return f"      {printable(change.field)}: {self._palette.red(old)} → {self._palette.green(new)}"


def _value(topic: str, field: str, value: Any) -> str:
    return name_of(topic, field, value) or short(value)


def _telling(record: dict[str, Any] | None) -> list[tuple[str, Any]]:
    """The members of a new record that say something: neither empty nor zero, and no long lists."""
    return [
        (name, value)
        for name, value in (record or {}).items()
        if value and value not in (ZERO_TIME, NIL_UUID) and not isinstance(value, (dict, list))
    ]


def _log_to_stderr() -> None:
    """Bad records and refused watches are told by the library's logger; their text is made harmless."""

    class Harmless(logging.Formatter):
        def format(self, record: logging.LogRecord) -> str:
            return printable(f"pillar watch: {record.getMessage()}")

    handler = logging.StreamHandler()
    handler.setFormatter(Harmless())
    logger = logging.getLogger("pillar.pubsub")
    logger.handlers[:] = [handler]
    logger.propagate = False


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError("must be at least 1")
    return number


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0 <= seconds < math.inf:
        raise argparse.ArgumentTypeError("must be a number of seconds, 0 or more")
    return seconds
