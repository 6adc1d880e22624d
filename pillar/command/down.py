"""Stop the supervisor and all agents of one root, however they were started.

Each gets SIGTERM, and SIGKILL when it has not ended after the grace period. A process is signalled only
when it holds the agent's pid file, or has the pid and the start time that its supervisor recorded.
ECOs go on without the agents, and are named; `pillar undeploy --wait` before ends them.

exit status: 0 nothing runs any more (also when nothing did)
             1 something could not be stopped, or another supervisor lives that could not be found (its lock shows it)
             2 wrong usage
"""

from __future__ import annotations

import argparse
import json
import signal
import sys
from typing import Final

from msgspec.structs import replace

from pillar.agents import AGENTS
from pillar.locations import Locations
from pillar.pubsub import PubSub, PubSubError
from pillar.supervisor.process import Process, wait_for
from pillar.supervisor.record import SupervisorStatus
from pillar.supervisor.survey import SUPERVISOR, find, ledger, left_over
from pillar.terminal import printable
from pillar.types.domainmgr import DomainStatus
from pillar.types.enums import SwState

GRACE_S: Final = 10.0
_SUPERVISOR_EXTRA_S: Final = 5.0  # it gives its agents their grace first
_AFTER_KILL_S: Final = 5.0


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    parser.add_argument(
        "--grace", type=float, default=GRACE_S, metavar="SECONDS", help="between TERM and KILL (default: %(default)s)"
    )


def run(args: argparse.Namespace) -> int:
    """Stop everything; the supervisor first, or it would start its agents again."""
    where = Locations(args.root)
    stopped: list[dict[str, object]] = []
    supervisor = find(where, SUPERVISOR, None)
    if supervisor is not None:
        stopped += _stop({SUPERVISOR: supervisor}, args.grace + _SUPERVISOR_EXTRA_S)
    records = ledger(where)
    agents = {}
    for name in dict.fromkeys([*(entry.name for entry in AGENTS), *records]):
        process = find(where, name, records.get(name))
        if process is not None:
            agents[name] = process
    stopped += _stop(agents, args.grace)
    _note(where, stopped)
    lives = left_over(where)
    ecos = _going_on(where)
    failed = bool(lives) or any(entry["how"] == "still running" for entry in stopped)
    if args.json:
        print(json.dumps({"root": str(where.root), "stopped": stopped, "left": lives, "ecos": ecos}))
    else:
        _show(where, stopped, lives, ecos)
    if lives:
        print(f"pillar down: a supervisor lives that was not stopped: {lives}", file=sys.stderr)
    return 1 if failed else 0


def _note(where: Locations, stopped: list[dict[str, object]]) -> None:
    """Bring the ledger up to date for those whose supervisor was not there to do it."""
    ended = {entry["agent"] for entry in stopped if entry["how"] != "still running"}
    stale = {name for name, record in ledger(where).items() if record.State != "stopped" and name in ended}
    if not stale:
        return
    try:
        with PubSub(where.root, SUPERVISOR) as pubsub:
            table = pubsub.publication(SupervisorStatus)
            for name in stale:
                record = table.get(name) or SupervisorStatus(Agent=name)
                table.publish(name, replace(record, State="stopped", Pid=0, StartTicks=0, Reason=""))
    except PubSubError as err:
        # They are stopped all the same; a supervisor that holds the table is told of by `left_over`.
        print(f"pillar down: {err}", file=sys.stderr)


def _stop(targets: dict[str, Process], grace_s: float) -> list[dict[str, object]]:
    how = dict.fromkeys(targets, "ended")
    for name, process in targets.items():
        _signal(name, process, signal.SIGTERM)
    late = wait_for(list(targets.values()), grace_s)
    for name, process in targets.items():
        if process in late:
            how[name] = "killed"
            _signal(name, process, signal.SIGKILL)
    left = wait_for(late, _AFTER_KILL_S) if late else []
    for name, process in targets.items():
        if process in left:
            how[name] = "still running"
        process.close()
    return [{"agent": name, "pid": process.pid, "how": how[name]} for name, process in targets.items()]


def _signal(name: str, process: Process, number: signal.Signals) -> None:
    try:
        process.signal(number)
    except PermissionError:
        print(f"pillar down: may not signal {name}, pid {process.pid}: it belongs to another user", file=sys.stderr)


def _going_on(where: Locations) -> list[dict[str, object]]:
    """The ECOs that ran by domainmgr's last word: nothing of `pillar down` ends them."""
    if not where.agent_dir("domainmgr").exists():
        return []  # a subscription would make the root
    with PubSub(where.root) as pubsub:
        domains = pubsub.subscription("domainmgr", DomainStatus)
        while pubsub.process():
            continue
        return [
            {"uuid": uuid, "name": domain.DisplayName, "domain": domain.DomainId}
            for uuid, domain in sorted(domains.items().items())
            if domain.State in (SwState.BOOTING, SwState.RUNNING, SwState.HALTING)
        ]


def _show(where: Locations, stopped: list[dict[str, object]], lives: str, ecos: list[dict[str, object]]) -> None:
    if not stopped and not lives:
        print(f"nothing runs below {where.root}")
    for entry in stopped:
        what = "supervisor and its agents" if entry["agent"] == SUPERVISOR else entry["agent"]
        print(f"{what}  pid {entry['pid']}  {entry['how']}")
    for eco in ecos:
        print(f"ECO {printable(str(eco['name']))}  domain {eco['domain']}  goes on without the agents")
