"""Look for what is wrong below one root and under it, and say how to mend it. Changes nothing.

Checks limits (inotify, open files), the clock, space, and of every table modes, locks of dead publishers, left-over
files, records that no reader takes, quarantined ones; and the ledgers of durable subscriptions.

exit status: 0 nothing is wrong (notes may be shown)   1 something is   2 wrong usage
"""

from __future__ import annotations

import argparse
import os
import sys
from typing import Final

from pillar.command.checkup import Finding, checkup
from pillar.command.render import compact
from pillar.terminal import Palette, printable, unfailing

EXIT_WRONG: Final = 1

_COLOURS: Final = {"warning": "bold red", "note": "yellow"}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    unfailing()
    root = os.fspath(args.root)
    if not os.path.isdir(root):
        print(f"pillar doctor: {printable(root)} is no directory", file=sys.stderr)
        return EXIT_WRONG
    found = sorted(checkup(root), key=lambda finding: finding.level != "warning")
    if args.json:
        print(compact({"root": root, "findings": [finding._asdict() for finding in found]}))
    else:
        _show(root, found)
    return EXIT_WRONG if any(finding.level == "warning" for finding in found) else 0


def _show(root: str, found: list[Finding]) -> None:
    palette = Palette.of()
    for finding in found:
        level = palette(_COLOURS[finding.level], finding.level)
        print(f"{level} {finding.check}: {printable(finding.where)}: {printable(finding.what)}")
        print(palette.dim(f"    mend: {printable(finding.mend)}"))
    warnings = sum(finding.level == "warning" for finding in found)
    verdict = f"{warnings} wrong, {len(found) - warnings} notes" if found else "nothing is wrong"
    print(f"root {printable(root)}: {verdict}")
