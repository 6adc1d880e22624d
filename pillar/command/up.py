"""Start the agents of one root as separate processes and keep them running.

Without names, all of them; with names, those (and any that already run on this root, which are adopted).
An agent that dies is started again, at first at once, then with growing waits; one that keeps dying has
failed. One whose touch file stops changing is killed and started again. Ctrl-C or SIGTERM stops the agents
too. Killed with -9 the supervisor leaves them running, and the next `pillar up` adopts them.

exit status: 0 ended by a signal or `pillar down` (with --daemon: all agents are ready)
             1 failed (with --daemon: some agent did not start; the supervisor goes on trying)
             2 wrong usage   3 another supervisor runs on this root (its pid is named)
"""

from __future__ import annotations

import argparse

from pillar.agent import run_with
from pillar.options import add_daemon_options
from pillar.supervisor.supervisor import Supervisor


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The supervisor's options are those of every agent, and which agents."""
    add_daemon_options(parser)
    Supervisor.add_arguments(parser)


def run(args: argparse.Namespace) -> int:
    """Supervise until a signal ends it."""
    return run_with(Supervisor, args)
