"""The supervisor of a device that is killed all the time: it never gives an agent up and hardly waits."""

from __future__ import annotations

import sys

from pillar.agent import run
from pillar.supervisor.policy import Limits
from pillar.supervisor.supervisor import Supervisor

PATIENT = Limits(first_wait_s=0.02, longest_wait_s=0.5, stable_s=0.5, restarts=100_000)


class PatientSupervisor(Supervisor):
    """pillar's supervisor with other limits."""

    limits = PATIENT


if __name__ == "__main__":
    sys.exit(run(PatientSupervisor))
