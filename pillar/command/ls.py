"""List the tables of one root: how many keys, when the last change was, who publishes. With a table: its keys.

  pillar ls                             every table
  pillar ls zedmanager                  those of one agent
  pillar ls zedmanager/DomainConfig     the keys of one table

Reads the files only, so it works on a tree where nothing runs. The global tables are the agent `global`.

exit status: 0 listed   1 there is no such table   2 wrong usage
"""

from __future__ import annotations

import argparse
import datetime
import os
import sys

from pillar.command.render import compact
from pillar.tables import (
    Entry,
    NotFound,
    Place,
    Selection,
    Summary,
    entries,
    one_key,
    seconds_ago,
    select,
    summary,
    tables,
)
from pillar.terminal import Cell, Palette, age, printable, size, table, unfailing

EXIT_NOT_FOUND = 1


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("table", nargs="?", default="", metavar="AGENT[/SCOPE][/TOPIC]", help="only this part")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    unfailing()
    root = os.fspath(args.root)
    try:
        selected = select(tables(root), args.table) if args.table else Selection(tables(root), False)
        if not os.path.isdir(root):
            raise NotFound(f"{root} is no directory")
        if selected.one_table:
            return _list_keys(selected.places, selected.key, as_json=args.json)
    except NotFound as err:
        print(f"pillar ls: {printable(str(err))}", file=sys.stderr)
        return EXIT_NOT_FOUND
    summaries = [summary(place) for place in selected.places]
    if args.json:
        print(compact({"root": root, "tables": [_facts(one) for one in summaries]}))
    else:
        _show_tables(root, summaries)
    return 0


def _show_tables(root: str, summaries: list[Summary]) -> None:
    palette = Palette.of()
    if not summaries:
        print(f"no tables below {printable(root)}")
        return
    rows: list[list[Cell]] = []
    for one in summaries:
        place = one.place
        rows.append(
            [
                place.name,
                (str(one.keys), "" if one.keys else "dim"),
                (age(seconds_ago(one.newest)), "dim"),
                "persistent" if place.persistent else "",
                _publisher(one),
            ]
        )
    header = ("TABLE", "KEYS", "CHANGED", "KIND", "PUBLISHER")
    print("\n".join(table(rows, palette, header, right=[1])))


def _publisher(one: Summary) -> Cell:
    if one.holder is None:
        return ("", "")
    return (f"{one.holder.pid}", "green") if one.holder.alive else (f"{one.holder.pid} (gone)", "yellow")


def _list_keys(places: list[Place], wanted: str, *, as_json: bool) -> int:
    found: list[tuple[Place, list[Entry]]] = []
    for place in places:
        records = entries(place)
        if wanted:
            try:
                key = one_key(place, wanted)
            except NotFound:
                if place is not places[-1] or found:
                    continue
                raise
            records = [entry for entry in records if entry.key == key]
        found.append((place, records))
    if as_json:
        listed = [
            _facts(summary(place)) | {"entries": [_entry(entry) for entry in records]} for place, records in found
        ]
        print(compact({"tables": listed}))
        return 0
    palette = Palette.of()
    rows: list[list[Cell]] = [
        [entry.key, size(entry.size), (age(seconds_ago(entry.changed)), "dim")]
        for _, records in found
        for entry in records
    ]
    if rows:
        print("\n".join(table(rows, palette, ("KEY", "SIZE", "CHANGED"), right=[1])))
    else:
        print("no keys")
    return 0


def _facts(one: Summary) -> dict[str, object]:
    place = one.place
    return {
        "table": place.name,
        "agent": place.agent,
        "scope": place.scope,
        "topic": place.topic,
        "persistent": place.persistent,
        "path": place.path,
        "keys": one.keys,
        "newest": _utc(one.newest),
        "age_s": seconds_ago(one.newest),
        "restarted": one.restarted,
        "publisher": None if one.holder is None else {"pid": one.holder.pid, "alive": one.holder.alive},
    }


def _entry(entry: Entry) -> dict[str, object]:
    return {"key": entry.key, "bytes": entry.size, "changed": _utc(entry.changed), "age_s": seconds_ago(entry.changed)}


def _utc(moment: float | None) -> str | None:
    if moment is None:
        return None
    return datetime.datetime.fromtimestamp(moment, datetime.UTC).isoformat().replace("+00:00", "Z")
