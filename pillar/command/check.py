"""Compare all records and files below one root with one another, and say in words what does not fit.

Finds: references to what is not there, reference counts that do not add up, a config without its status and the
reverse, apps that can make no transition, sums of space, numbers given twice, counters, unreadable records,
left-over files. Works on a live tree (a moment between two writes is no fault: what does not stay is not told) and on
one where nothing runs (what the next start of an agent puts right is a note). Changes nothing. For the machine under
it there is `pillar doctor`.

exit status: 0 all fits (there may be notes)   1 something is wrong   2 it could not be looked at, or wrong usage
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Final

from pillar.command.render import compact
from pillar.invariants import SETTLE_S, Problem, Verdict, examine
from pillar.terminal import Palette, printable, unfailing

EXIT_WRONG: Final = 1
EXIT_UNSEEN: Final = 2

_COLOURS: Final = {"wrong": "bold red", "note": "yellow"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--settle",
        type=_seconds,
        default=SETTLE_S,
        metavar="S",
        help=f"on a live tree: what stays for so many seconds is wrong (default: {SETTLE_S:g})",
    )
    parser.add_argument(
        "--settled",
        action="store_true",
        help="the tree was at rest when its agents ended: what a start would put right is wrong as well",
    )


def run(args: argparse.Namespace) -> int:
    unfailing()
    root = os.fspath(args.root)
    try:
        verdict = examine(root, args.settle, settled=args.settled)
    except OSError as err:
        print(f"pillar check: {printable(root)} cannot be looked at: {err.strerror}", file=sys.stderr)
        return EXIT_UNSEEN
    if args.json:
        problems = [problem._asdict() for problem in verdict.problems]
        print(compact({"root": root, "live": verdict.live, "looks": verdict.looks, "problems": problems}))
    else:
        _show(root, verdict)
    return EXIT_WRONG if verdict.wrong else 0


def _show(root: str, verdict: Verdict) -> None:
    palette = Palette.of()
    width = max((len(problem.check) for problem in verdict.problems), default=0)
    for problem in verdict.problems:
        _show_one(problem, palette, width)
    tree = verdict.tree
    records = sum(map(len, tree.tables.values())) + sum(map(len, tree.stored.values()))
    seen = f"{len(tree.tables) + len(tree.stored)} tables, {records} records, {len(tree.files)} files"
    life = f"{len(tree.live)} agents run" if verdict.live else "nothing runs"
    wrong, notes = len(verdict.wrong), len(verdict.problems) - len(verdict.wrong)
    result = palette.green("all fits") if not wrong else palette("bold red", f"{wrong} wrong")
    if notes:
        result += f", {notes} {'note' if notes == 1 else 'notes'}"
    print(f"root {printable(root)}: {result} ({seen}; {life})")


def _show_one(problem: Problem, palette: Palette, width: int) -> None:
    level = palette(_COLOURS[problem.level], f"{problem.level:5}")
    print(f"{level}  {problem.check:{width}}  {palette.bold(printable(problem.where))}")
    print(f"{'':5}  {'':{width}}  {printable(problem.what)}")
    print(f"{'':5}  {'':{width}}  {palette.dim(f'mend: {printable(problem.mend)}')}")


def _seconds(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no number of seconds") from None
    if not 0 <= value <= 3600:
        raise argparse.ArgumentTypeError(f"{text} is not between 0 and 3600 s")
    return value
