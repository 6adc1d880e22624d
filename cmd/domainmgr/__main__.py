"""Start the domainmgr agent: `python -m pillar.cmd.domainmgr`."""

import sys
from collections.abc import Sequence

from pillar.agent import run
from pillar.cmd.domainmgr.agent import DomainMgr


def main(argv: Sequence[str] | None = None) -> int:
    return run(DomainMgr, argv)


if __name__ == "__main__":
    sys.exit(main())
