"""Kill every agent at every state-changing call of the ECO flow, and prove that it ends as if nothing had happened.

    pillar crashtest --quick              a seeded sample, under two minutes
    pillar crashtest                      every point of every agent: flow, restart and first boot
    pillar crashtest --at 'CASE'          one case again, as a failure prints it

A case is `SUITE: AGENT CALL PATH OCCURRENCE[=FAULT]`, more faults behind ` & `. The suites: `flow` (deploy, restart,
purge, deactivate, activate, undeploy, two apps that share an image, one of them with a bad signature), `restart` (an
agent is killed while the apps run, and again at each point of its start), `boot` (an agent's first start, alone).

Each case is compared with the undisturbed run: the whole tree below the root, how often images were fetched and domains
started, the legal steps of every status, the space, the deaths of every agent, exceptions in logs.

exit status: 0 all cases end as they should   1 some do not   2 wrong usage
"""

from __future__ import annotations

import argparse
import os
import random
import sys
import time
from pathlib import Path

from pillar import terminal
from pillar.crashpoints import Fault, NoCompiler, Point
from pillar.crashtest import cases
from pillar.crashtest.cases import SUITES, Case
from pillar.crashtest.config import Authority
from pillar.crashtest.journal import Journal
from pillar.crashtest.progress import Progress
from pillar.crashtest.report import figures, replay, write_report
from pillar.crashtest.runner import Device, Failed, Record, Result, record, run_all, shrink
from pillar.crashtest.world import AGENT_NAMES

QUICK_POINTS = {"flow": 10, "restart": 4, "boot": 4}
QUICK_AGENTS = 2  # whose starts are looked at; the flow has all


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--quick", action="store_true", help="a seeded sample, in under two minutes")
    parser.add_argument("--at", metavar="CASE", type=_case, action="append", help="only this case (may be repeated)")
    parser.add_argument("--suite", choices=SUITES, action="append", help="only this suite (may be repeated)")
    parser.add_argument("--agent", choices=AGENT_NAMES, action="append", help="only kills of this agent")
    parser.add_argument("--seed", type=int, default=1, help="of samples (default 1)")
    parser.add_argument("--jobs", type=int, default=os.cpu_count() or 1, help="devices at once (default: one per core)")
    parser.add_argument("--journal", type=Path, metavar="FILE", help="note results there, and go on where it ends")
    parser.add_argument("--list", action="store_true", help="only print the cases")
    parser.add_argument("--report", type=Path, metavar="FILE", help="write the figures into this Markdown file")
    parser.add_argument("--json", action="store_true", help="print one object with all figures")


def run(args: argparse.Namespace) -> int:
    began = time.monotonic()
    progress = Progress(quiet=args.json)
    authority = Authority()
    suites = args.suite or ([case.suite for case in args.at] if args.at else SUITES)
    device = Device(authority)
    try:
        if args.quick:
            agents = random.Random(args.seed).sample(args.agent or AGENT_NAMES, k=QUICK_AGENTS if not args.agent else 1)
            recorded = record(device, progress.say, suites, agents, 2)
        else:
            recorded = record(device, progress.say, suites, args.agent or AGENT_NAMES)
    except (Failed, NoCompiler) as err:
        print(f"pillar crashtest: {err}", file=sys.stderr)
        return 1
    finally:
        device.close()
    wanted = args.at or _cases(args, recorded)
    if args.list:
        print("\n".join(map(str, wanted)))
        return 0
    journal = Journal(args.journal)
    known = journal.read()
    results = [known[str(case)] for case in wanted if str(case) in known]
    progress.begin(len(wanted), results)

    def told(result: Result) -> None:
        results.append(result)
        journal.add(result)
        progress.told(result)

    run_all([case for case in wanted if str(case) not in known], recorded.tree, args.jobs, authority, told)
    progress.end()
    summary = figures(recorded, results, time.monotonic() - began)
    if args.report is not None:
        write_report(args.report, summary)
    _print(summary, results, args, recorded, authority)
    return 1 if any(result.problems for result in results) else 0


def _cases(args: argparse.Namespace, recorded: Record) -> list[Case]:
    found = []
    for suite, points in recorded.points.items():
        chosen = [point for point in points if not args.agent or point.agent in args.agent]
        if args.quick:
            chosen = cases.sample(chosen, QUICK_POINTS[suite], args.seed)
        found += [_kill(suite, point) for point in chosen]
    return found


def _kill(suite: str, point: Point) -> Case:
    return Case(suite, (Fault(point),))


def _print(
    summary: dict[str, object],
    results: list[Result],
    args: argparse.Namespace,
    recorded: Record,
    authority: Authority,
) -> None:
    if args.json:
        import json

        print(json.dumps(summary | {"failures": [(str(r.case), r.problems) for r in results if r.problems]}))
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
