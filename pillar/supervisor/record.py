"""What the supervisor publishes about each agent."""

from __future__ import annotations

from typing import Literal

from pillar.types.record import Record
from pillar.types.scalars import ZERO_TIME, Time

AgentState = Literal["starting", "running", "waiting", "failed", "stopping", "stopped"]


class SupervisorStatus(Record, frozen=True, kw_only=True):
    """One agent as its supervisor sees it. Written by the supervisor only; keyed by the agent's name."""

    Agent: str = ""
    State: AgentState = "stopped"
    Pid: int = 0  # 0: no process
    StartTicks: int = 0  # the kernel's start time of that process, in clock ticks since boot: tells pids apart
    Boot: str = ""  # the kernel's name of the boot that those ticks count from
    StartTime: Time = ZERO_TIME
    Adopted: bool = False  # found running, not started by this supervisor: how it will end stays unknown
    Restarts: int = 0  # since `pillar up`; goes on counting when a killed supervisor is replaced
    LastExit: str = ""  # how it ended last, for a person; "" means never yet
    LastExitTime: Time = ZERO_TIME
    Reason: str = ""  # why it is waiting or failed
