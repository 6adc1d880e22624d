"""zedrouter, killed with SIGKILL right before its Nth change of the kernel's network: python dying_router.py N LOG ...

Every change is written to LOG before it is made, so a run that is never killed tells how many there are.
"""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pillar.cmd.zedrouter.__main__ import main
from pillar.netplan import dnsmasq, kernel, nft

AT, LOG = int(sys.argv[1]), Path(sys.argv[2])
made = 0


def dying(owner: Any, name: str) -> None:
    """Count the calls of this function, and die instead of the Nth."""
    function: Callable[..., Any] = getattr(owner, name)

    def counted(*args: Any, **words: Any) -> Any:
        global made
        made += 1
        with LOG.open("a") as log:
            log.write(f"{made} {name} {' '.join(str(one) for one in args[1:2])[:60]}\n".replace("\n", " ") + "\n")
        if made == AT:
            os.kill(os.getpid(), signal.SIGKILL)
        return function(*args, **words)

    setattr(owner, name, counted)


if __name__ == "__main__":
    dying(kernel.Kernel, "do")
    dying(nft, "run")
    dying(dnsmasq, "write")
    dying(dnsmasq.Dnsmasqs, "_start")
    dying(dnsmasq.Dnsmasqs, "remove")
    sys.exit(main(sys.argv[3:]))
