"""What zedrouter does with the kernel's network. Not one of EVE's topics: EVE always changes the kernel."""

from __future__ import annotations

from pillar.types.record import Record


class NetworkMode(Record):
    """How far zedrouter's statuses are true of the kernel. Written by zedrouter only; key `global`."""

    Mode: str = ""  # the value of --network: "none"
    KernelChanged: bool = False  # False: bridges, vifs, addresses and rules stand in the statuses only
    Explanation: str = ""  # for a person

    def key(self) -> str:
        """One record per device."""
        return "global"
