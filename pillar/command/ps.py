"""Show the supervisor and the agents of one root: pid, uptime, restarts, last exit, age of the touch file.

What runs is asked of the kernel, so it is right when the supervisor is dead and on a tree where nothing
ever ran.

exit status: 0 every agent that `pillar up` was asked for runs   1 some do not   2 wrong usage   3 nothing runs
"""

from __future__ import annotations

import argparse
import json
from typing import Final

from pillar.locations import Locations
from pillar.supervisor.screen import STATE_COLOURS
from pillar.supervisor.survey import Row, survey
from pillar.terminal import Cell, Palette, age, table

EXIT_ALL: Final = 0
EXIT_SOME: Final = 1
EXIT_NOTHING: Final = 3

_HEADER: Final = ("AGENT", "STATE", "PID", "UPTIME", "RESTARTS", "TOUCHED", "LAST EXIT")
_STALE_S: Final = 30.0  # agents touch every 5 s, EVE asks for 25


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    where = Locations(args.root)
    supervisor, rows = survey(where)
    if args.json:
        print(
            json.dumps(
                {
                    "root": str(where.root),
                    "supervisor": _supervisor_facts(supervisor),
                    "agents": [row._asdict() for row in rows],
                }
            )
        )
    else:
        _show(where, supervisor, rows)
    if all(row.pid is None for row in rows):
        return EXIT_NOTHING
    return EXIT_ALL if all(row.pid is not None for row in rows if row.wanted) else EXIT_SOME


def _supervisor_facts(row: Row | None) -> dict[str, object] | None:
    if row is None:
        return None
    return {"pid": row.pid, "uptime_s": row.uptime_s, "touch_age_s": row.touch_age_s}


def _show(where: Locations, supervisor: Row | None, rows: list[Row]) -> None:
    palette = Palette.of()
    if supervisor is None:
        print(f"root {where.root}, {palette.yellow('no supervisor')}")
    else:
        print(f"root {where.root}, supervisor pid {supervisor.pid}, up {age(supervisor.uptime_s)}")
    for line in table([_cells(row) for row in rows], palette, header=_HEADER, right=(2, 3, 4, 5)):
        print(line)


def _cells(row: Row) -> list[Cell]:
    stale = row.pid is not None and (row.touch_age_s is None or row.touch_age_s > _STALE_S)
    last = row.reason or (f"{row.last_exit} ({row.last_exit_time[:19]}Z)" if row.last_exit else "-")
    return [
        row.agent,
        (row.state, STATE_COLOURS.get(row.state, "")),
        str(row.pid) if row.pid is not None else "-",
        age(row.uptime_s),
        str(row.restarts),
        (age(row.touch_age_s), "bold red" if stale else ""),
        last,
    ]
