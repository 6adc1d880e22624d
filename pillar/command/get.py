"""Print a record, or all records of a table, as JSON.

  pillar get zedmanager/AppInstanceStatus              all of one table: an object, key by key
  pillar get zedmanager/AppInstanceStatus/7b026db8     one record; the beginning of its key is enough
  pillar get downloader/appImg.obj/DownloaderStatus    a scoped table
  pillar get global/GlobalConfig/global                a global one

Persistent tables are found without saying so. Secrets are masked unless --show-secrets.

exit status: 0 printed   1 there is no such table or key, or a record cannot be read   2 wrong usage
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Any

from pillar.command.render import compact, masked, parse, pretty
from pillar.pubsub.errors import BadRecord
from pillar.tables import NotFound, Place, Selection, content, entries, one_key, select, tables
from pillar.terminal import Palette, printable, unfailing

EXIT_NOT_FOUND = 1
EXIT_USAGE = 2


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", metavar="AGENT[/SCOPE]/TOPIC[/KEY]", help="what to print")
    parser.add_argument("--json", action="store_true", help="print one line of JSON")
    parser.add_argument("--show-secrets", action="store_true", help="do not mask passwords and keys")


def run(args: argparse.Namespace) -> int:
    unfailing()
    try:
        selected = select(tables(os.fspath(args.root)), args.table)
        if not selected.one_table:
            names = ", ".join(dict.fromkeys(place.name for place in selected.places))
            return _complain(f"{args.table} is not the name of a table; there are {names}", EXIT_USAGE)
        place, key = _choose(selected)
    except NotFound as err:
        return _complain(str(err), EXIT_NOT_FOUND)
    found: dict[str, Any] = {}
    problems = 0
    for one in [key] if key else [entry.key for entry in entries(place)]:
        try:
            data = content(place, one)
            if data is not None:
                record = parse(data)
                found[one] = record if args.show_secrets else masked(place.topic, record)
        except (BadRecord, ValueError, RecursionError) as err:
            _complain(f"{place.path}/{one}.json: {err}", EXIT_NOT_FOUND)
            problems += 1
    if key and not found:  # it went away, or cannot be read
        return EXIT_NOT_FOUND if problems else _complain(f"{place.name} has no key {key!r}", EXIT_NOT_FOUND)
    shown = found[key] if key else found
    print(compact(shown) if args.json else pretty(shown, Palette.of()))
    return EXIT_NOT_FOUND if problems else 0


def _choose(selected: Selection) -> tuple[Place, str]:
    """(table, key or ""): of an ordinary and a persistent table of one name, the first that has the key."""
    *others, last = selected.places
    if not selected.key:
        return selected.places[0], ""
    for place in others:
        try:
            return place, one_key(place, selected.key)
        except NotFound:
            continue
    return last, one_key(last, selected.key)


def _complain(text: str, status: int) -> int:
    print(f"pillar get: {printable(text)}", file=sys.stderr)
    return status
