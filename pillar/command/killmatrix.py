"""Kill an agent at every step that changes anything, start it again, and compare what is left in the end.

    pillar killmatrix --input tables/ -- ./my_agent.py {root}

The agent is any program that uses pillar.pubsub or reads and writes files below a root. It is given a root of its
own, as {root} among its arguments and as PILLAR_ROOT. First it runs undisturbed a few times: that shows its steps, and
which of its output is chance. Then it runs once for each step: it is killed by SIGKILL right before the step, started
again, and when it rests, the tree must be as the undisturbed run left it (or as --expect says).

exit status: 0 every end is as it should be   1 some are not   2 wrong usage, or it does not even work undisturbed
"""

from __future__ import annotations

import argparse
import os
import shlex
import shutil
import sys
from pathlib import Path
from typing import Final

from pillar.crashpoints import NoCompiler, Point
from pillar.killmatrix.inputs import BadInput, read_steps, read_tables
from pillar.killmatrix.matrix import CannotRun, Matrix, Oracle, Progress, kill_matrix
from pillar.killmatrix.page import as_html
from pillar.killmatrix.run import Settings
from pillar.killmatrix.text import as_json, as_text
from pillar.terminal import Palette, is_terminal, printable, unfailing

EXIT_WRONG: Final = 1
EXIT_UNUSABLE: Final = 2
MAIN: Final = "agent"  # the name of the one behind `--`


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("command", nargs="+", metavar="COMMAND", help="the agent and its arguments, behind --")
    parser.add_argument("--also", action="append", default=[], metavar="NAME=COMMAND", help="another agent, killed too")
    parser.add_argument(
        "--input", type=Path, metavar="DIR", help="its tables: DIR/<agent>/<Topic>/<key>.json, or steps"
    )
    parser.add_argument(
        "--expect", type=Path, metavar="DIR", help="what its tables must hold in the end, laid out alike"
    )
    parser.add_argument("--check", metavar="COMMAND", help="also right only if this ends with 0; {root} is the root")
    parser.add_argument("--ignore", action="append", default=[], metavar="PATTERN", help="a path not to compare")
    parser.add_argument(
        "--ignore-call", action="append", default=[], metavar="CALL:PATTERN", help="no step: `utime:*`, `*:/cache/*`"
    )
    parser.add_argument("--looks", action="store_true", help="kill also right before a file is read")
    parser.add_argument("--pairs", type=int, default=0, metavar="N", help="N runs more for each step, killed twice")
    parser.add_argument("--seed", type=int, default=0, help="which second kills (default: 0)")
    parser.add_argument("--at", action="append", default=[], metavar="POINT", help="only this kill; several: in turn")
    parser.add_argument("--quiet", type=float, default=1.5, metavar="S", help="no step for so long: it rests (1.5)")
    parser.add_argument("--limit", type=float, default=30.0, metavar="S", help="it never rests (30)")
    parser.add_argument("-j", "--jobs", type=int, default=os.cpu_count() or 1, help="runs at a time")
    parser.add_argument("--keep", type=Path, metavar="DIR", help="leave the trees of the failures there")
    parser.add_argument("--html", type=Path, metavar="FILE", help="write one page with a time line of each failure")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    unfailing()
    screen = _Progress()
    try:
        matrix = _matrix(args, screen.show)
    except (BadInput, NoCompiler, CannotRun, ValueError, OSError) as err:
        screen.clear()
        print(f"pillar killmatrix: {err}", file=sys.stderr)
        return EXIT_UNUSABLE
    screen.clear()
    if args.html is not None:
        args.html.write_text(as_html(matrix), encoding="utf-8")
    print(as_json(matrix) if args.json else as_text(matrix, Palette.of()))
    if args.html is not None and not args.json:
        print(f"time lines: {printable(str(args.html))}")
    return EXIT_WRONG if matrix.failures else 0


def _matrix(args: argparse.Namespace, progress: Progress) -> Matrix:
    agents = {MAIN: _runnable(args.command)}
    for text in args.also:
        name, equals, command = text.partition("=")
        if not equals or not name or name in agents or any(char.isspace() for char in name):
            raise ValueError(f"--also {text!r}: expected NAME=COMMAND, a name of its own without spaces")
        agents[name] = _runnable(shlex.split(command))
    settings = Settings(
        agents=agents,
        steps=read_steps(args.input),
        quiet_s=args.quiet,
        limit_s=args.limit,
        ignore_calls=tuple(_ignored(text) for text in args.ignore_call),
    )
    oracle = Oracle(
        expected=read_tables(args.expect) if args.expect is not None else None,
        check=shlex.split(args.check) if args.check else (),
        ignore=args.ignore,
    )
    return kill_matrix(
        settings,
        oracle,
        at=[Point.parse(text) for text in args.at],
        looks=args.looks,
        pairs=args.pairs,
        seed=args.seed,
        jobs=args.jobs,
        keep=args.keep,
        replay=_replay(args),
        progress=progress,
    )


def _runnable(command: list[str]) -> list[str]:
    """The command, its program found. Raises ValueError."""
    program = shutil.which(command[0]) if command else None
    if program is None:
        raise ValueError(f"{shlex.join(command)}: there is no such program, or it is not executable (chmod +x)")
    return [os.path.abspath(program), *command[1:]]


def _ignored(text: str) -> tuple[str, str]:
    call, colon, pattern = text.partition(":")
    if not colon or not call or not pattern:
        raise ValueError(f"--ignore-call {text!r}: expected CALL:PATTERN, for example utime:* or *:/cache/*")
    return call, pattern


def _replay(args: argparse.Namespace) -> str:
    words = ["pillar", "killmatrix"]
    for name in ("input", "expect", "check"):
        if (value := getattr(args, name)) is not None:
            words += [f"--{name}", str(value)]
    for option, values in (("--also", args.also), ("--ignore", args.ignore), ("--ignore-call", args.ignore_call)):
        words += [word for value in values for word in (option, value)]
    return shlex.join([*words, "--", *args.command])


class _Progress:
    """How far it is, for a person who waits."""

    def __init__(self) -> None:
        self._shown = False

    def show(self, done: int, whole: int, failed: int) -> None:
        if not is_terminal(sys.stderr):
            return
        width = 30
        filled = width * done // max(1, whole)
        print(f"\r[{'#' * filled}{'.' * (width - filled)}] {done}/{whole}, {failed} wrong ", end="", file=sys.stderr)
        sys.stderr.flush()
        self._shown = True

    def clear(self) -> None:
        if self._shown:
            print("\r\x1b[K", end="", file=sys.stderr)
            sys.stderr.flush()
