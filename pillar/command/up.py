"""Start the agents of one root as separate processes and keep them running.

Without names, all of them; with names, those (and any that already run on this root, which are adopted).
An agent that dies is started again, at first at once, then with growing waits; one that keeps dying has
failed: `pillar up` once more has the running supervisor try it again. One whose touch file stops changing
is killed and started again. Ctrl-C or SIGTERM stops the agents too. Killed with -9 the
supervisor leaves them running, and the next `pillar up` adopts them.

exit status: 0 ended by a signal or `pillar down` (with --daemon: all agents are ready);
               failed agents are tried again
             1 failed (with --daemon: some agent did not start; the supervisor goes on trying)
             2 wrong usage   3 another supervisor runs on this root (its pid is named)
"""

from __future__ import annotations

import argparse
import signal

from pillar.agent import run_with
from pillar.locations import Locations
from pillar.options import add_daemon_options
from pillar.supervisor.supervisor import RETRY, Supervisor
from pillar.supervisor.survey import SUPERVISOR, find, ledger


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The supervisor's options are those of every agent, and which agents."""
    add_daemon_options(parser)
    Supervisor.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Supervise until a signal ends it; where a supervisor runs, have it try again what failed."""
    signal.signal(RETRY, signal.SIG_IGN)  # until the supervisor listens
    where = Locations(args.root)
    supervisor = find(where, SUPERVISOR, None)
    failed = [name for name, record in ledger(where).items() if record.State == "failed"]
    if supervisor is None or not failed:
        return run_with(Supervisor, args)  # which refuses, with its pid, where one runs
    supervisor.signal(RETRY)
    print(f"the supervisor, pid {supervisor.pid}, tries again what failed: {', '.join(failed)}")
    return 0
