"""Kill every agent at every state-changing call of the ECO flow, and prove that it ends as if nothing had happened.

    pillar crashtest --quick              a seeded sample, under two minutes
    pillar crashtest                      every point of every agent: flow, restart and first boot
    pillar crashtest --looks              right before a handler reads its record, where nothing is changed
    pillar crashtest --errors             each call fails with each errno that it may meet, once and for a while; eight
                                          of these in one run, and if it fails, fewer until it is clear which
    pillar crashtest --pairs --runs 200   a second kill while the first one is being recovered from, or after it
    pillar crashtest --pairs --suite core every pair of kills of two tiny agents that use all of pillar.pubsub
    pillar crashtest --random --seed 7 --runs 200
                                          one to three faults a run: kill, stop, errors, delays, clock jumps, overflow
                                          of inotify, a killed supervisor, a second supervisor
    pillar crashtest --powercut --runs 50 switched off at some call, on again with what the disk may then hold
    pillar crashtest --at 'CASE'          one case again, as a failure prints it

A case is `SUITE: AGENT CALL PATH OCCURRENCE[=FAULT]`, more faults behind ` & `, or behind ` | ` if they are armed at
once and not one after another. Faults: kill, error:ERRNO (once), errors:ERRNO (1.5 s long), delay:MS, delays:MS, stop,
overflow, clock:SECONDS, supervisor (killed), second (supervisor).
The suites: `flow` (deploy, restart, purge, deactivate, activate, undeploy, two apps that share an image, one of them
with a bad signature), `restart` (an agent is killed while the apps run, and again at each point of its start), `boot`
(an agent's first start, alone), `core` (two tiny agents that only publish and follow tables).

Each case is compared with the undisturbed run: the whole tree below the root, how often images were fetched and domains
started, the legal steps of every status, the space, the deaths of every agent, exceptions in logs.

exit status: 0 all cases end as they should, if not at once then on a fresh device
             1 some do not   2 wrong usage   130 interrupted
"""

from __future__ import annotations

import argparse
import os
import random
import signal
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from pillar import terminal
from pillar.crashpoints import Fault, NoCompiler
from pillar.crashtest import cases
from pillar.crashtest.cases import SUITES, Case
from pillar.crashtest.config import Authority
from pillar.crashtest.core import all_pairs, some_pairs
from pillar.crashtest.cuts import Cuts
from pillar.crashtest.journal import Journal
from pillar.crashtest.progress import Progress
from pillar.crashtest.report import figures, replay, write_report
from pillar.crashtest.runner import RECORDINGS, Device, Failed, Record, Result, record, run_all, shrink
from pillar.crashtest.world import AGENT_NAMES, Stuck

QUICK_POINTS = {"flow": 6, "restart": 2, "boot": 2, "core": 4}
QUICK_PAIRS = 4  # of the core
QUICK_LOOKS, QUICK_ERRORS, QUICK_MIXED, QUICK_CUTS = 2, 2, 1, 1
EXIT_INTERRUPTED = 130
RUNS = 100
TOGETHER, MOST_TOGETHER = 8, 16
QUICK_AGENTS = 1  # whose starts are looked at; the flow has all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="a seeded sample, in under two minutes")
    parser.add_argument("--at", metavar="CASE", type=_case, action="append", help="only this case (may be repeated)")
    parser.add_argument("--looks", action="store_true", help="kills between handlers, where nothing is changed")
    parser.add_argument("--errors", action="store_true", help="calls that fail, instead of kills")
    parser.add_argument(
        "--together",
        type=int,
        default=TOGETHER,
        choices=range(1, MOST_TOGETHER + 1),
        metavar="N",
        help=f"errors: up to N in one run, if it fails fewer (default {TOGETHER}; 1: each alone)",
    )
    parser.add_argument("--pairs", action="store_true", help="two kills a run")
    parser.add_argument("--random", action="store_true", help="runs with faults of every kind")
    parser.add_argument("--powercut", action="store_true", help="starts on what a power cut may leave of /persist")
    parser.add_argument(
        "--runs",
        type=int,
        metavar="N",
        help="so many cases at most (errors, looks, kills, pairs of the core: all; else 100)",
    )
    parser.add_argument("--suite", choices=SUITES, action="append", help="only this suite (may be repeated)")
    parser.add_argument("--agent", choices=AGENT_NAMES, action="append", help="only kills of this agent")
    parser.add_argument("--seed", type=int, default=1, help="of samples (default 1)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="devices at once (default: one per core)")
    parser.add_argument("--journal", type=Path, metavar="FILE", help="note results there, and go on where it ends")
    parser.add_argument("--list", action="store_true", help="only print the cases")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the figures into this Markdown file")
    parser.add_argument("--json", action="store_true", help="print one object with all figures")


def run(args: argparse.Namespace) -> int:
    signal.signal(signal.SIGTERM, lambda *_: _interrupt())  # the devices are taken down, as after a Ctrl-C
    began = time.monotonic()
    progress = Progress(quiet=args.json)
    authority = Authority()
    suites = args.suite or _suites(args)
    try:
        recorded = _record(args, suites, authority, progress)
    except (Failed, Stuck, NoCompiler) as err:
        print(f"pillar crashtest: {err}", file=sys.stderr)
        return 1
    wanted = args.at or _wanted(args, recorded, authority, progress)
    if args.list:
        print("\n".join(map(str, wanted)))
        return 0
    journal = Journal(args.journal)
    known = journal.read()
    results = [known[str(case)] for case in wanted if str(case) in known]
    results += [result for result in known.values() if result.case.together and result.case not in wanted]
    progress.begin(len(wanted), results)

    def told(result: Result) -> None:
        results.append(result)
        journal.add(result)
        progress.told(result)

    interrupted = False
    try:
        left = [case for case in wanted if str(case) not in known]
        runs = cases.in_common_runs(left, args.together) if args.errors else [[case] for case in left]
        run_all(runs, recorded.tree, args.jobs, authority, told)
    except KeyboardInterrupt:
        interrupted = True  # what was found so far is told all the same
    progress.end()
    summary = figures(recorded, wanted, results, time.monotonic() - began)
    _print(summary, results, args, recorded, authority)
    if args.report is not None:
        write_report(args.report, _mode(args), summary)
    if interrupted:
        return EXIT_INTERRUPTED
    return 1 if any(result.problems and result.again is not False for result in results) else 0


def _record(
    args: argparse.Namespace, suites: Sequence[str], authority: Authority, progress: Progress, tries: int = 2
) -> Record:
    """The undisturbed runs; once more on another device when they were not alike. Raises Failed, NoCompiler."""
    agents = args.agent or AGENT_NAMES
    if args.quick:
        agents = random.Random(args.seed).sample(agents, k=QUICK_AGENTS)
    device = Device(authority)
    try:
        return record(device, progress.say, suites, agents, 2 if args.quick else RECORDINGS)
    except (Failed, Stuck):
        if tries == 1:
            raise
        return _record(args, suites, authority, progress, tries - 1)
    finally:
        device.close()


def _mode(args: argparse.Namespace) -> str:
    if args.powercut:
        return "power cuts"
    if args.looks:
        return "looks"
    if args.pairs and args.suite == ["core"]:
        return "core pairs"
    return "errors" if args.errors else "pairs" if args.pairs else "random" if args.random else "kills"


def _interrupt() -> None:
    raise KeyboardInterrupt


def _suites(args: argparse.Namespace) -> Sequence[str]:
    """Whose undisturbed runs are needed."""
    if args.at:
        return [case.suite for case in args.at if case.suite == "flow"]  # the others compare with their own
    if args.errors or args.looks or args.random:
        return ["flow"]
    if args.powercut:
        return []
    return ["flow", "restart"] if args.pairs else SUITES


def _cuts(args: argparse.Namespace, authority: Authority) -> list[Case]:
    return [Case(cases.CUT, faults) for faults in Cuts(authority).cases(args.seed, args.runs or RUNS)]


def _wanted(args: argparse.Namespace, recorded: Record, authority: Authority, progress: Progress) -> list[Case]:
    """What is to be run, in an order whose beginning is a fair sample."""
    if args.powercut:
        return _cuts(args, authority)
    if args.pairs and args.suite == ["core"]:
        return _core_pairs(args, recorded, authority, progress, args.runs)
    found = _cases(args, recorded)
    if args.quick:
        found += _core_pairs(args, recorded, authority, progress, QUICK_PAIRS)
        found += [Case(cases.CUT, faults) for faults in Cuts(authority).cases(args.seed, QUICK_CUTS)]
    return found


def _core_pairs(
    args: argparse.Namespace, recorded: Record, authority: Authority, progress: Progress, count: int | None
) -> list[Case]:
    """All pairs of kills of the core, in an order drawn by the seed; or so many, without looking for all."""
    device = Device(authority)
    try:
        points = recorded.points["core"]
        if count is not None:
            return list(some_pairs(device.core(), points, args.seed, count))
        found = list(all_pairs(device.core(), points, progress.say))
    finally:
        device.close()
    random.Random(args.seed).shuffle(found)
    return found


def _cases(args: argparse.Namespace, recorded: Record) -> list[Case]:
    points = {
        suite: cases.spread([point for point in points if not args.agent or point.agent in args.agent], args.seed)
        for suite, points in recorded.points.items()
    }
    looks = [point for point in recorded.looks if not args.agent or point.agent in args.agent]
    looked = [Case("flow", (Fault(point),)) for point in cases.spread(looks, args.seed)]
    if args.looks:
        found = looked
    elif args.errors:
        found = cases.errors(points["flow"], args.seed)
    elif args.pairs:
        found = cases.pairs(points, args.seed, args.runs or RUNS)
    elif args.random:
        found = cases.mixed(recorded.points["flow"], args.seed, args.runs or RUNS)
    else:
        found = [
            Case(suite, (Fault(point),))
            for suite, some in points.items()
            for point in (some[: QUICK_POINTS[suite]] if args.quick else some)
        ]
        if args.quick:
            found += looked[:QUICK_LOOKS]
            found += cases.errors(points["flow"], args.seed)[:QUICK_ERRORS]
            found += cases.mixed(recorded.points["flow"], args.seed, QUICK_MIXED)
        else:
            found = _in_turn(found)
    return found[: args.runs] if args.runs else found


def _in_turn(found: list[Case]) -> list[Case]:
    """Spread over the suites too, so that a run that is stopped has tried some of each."""
    numbers = Counter[str]()
    totals = Counter(case.suite for case in found)
    placed = []
    for case in found:
        placed.append((numbers[case.suite] / totals[case.suite], case))
        numbers[case.suite] += 1
    return [case for _, case in sorted(placed, key=lambda entry: entry[0])]


def _print(
    summary: dict[str, object],
    results: list[Result],
    args: argparse.Namespace,
    recorded: Record,
    authority: Authority,
) -> None:
    if args.json:
        import json

        print(json.dumps(summary | {"failures": [(str(r.case), r.problems, r.again) for r in results if r.problems]}))
        return
    palette = terminal.Palette.of()
    for result in results:
        if result.problems:
            case = result.case
            if len(case.faults) > 1:
                device = Device(authority)
                try:
                    case = shrink(case, recorded.tree, device)
                finally:
                    device.close()
            again = {True: "", False: " (not when run again)", None: ""}[result.again]
            print(palette.red(f"{result.kind}{again}: {case}"))
            for problem in result.problems[:6]:
                print(f"    {terminal.printable(problem)}")
            print(f"    {replay(case)}")
    for name, value in summary.items():
        print(f"{name:22} {value}")


def _case(text: str) -> Case:
    try:
        return Case.parse(text)
    except ValueError as err:
        raise argparse.ArgumentTypeError(str(err)) from err
