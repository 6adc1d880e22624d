"""Start the baseosmgr agent: `python -m pillar.cmd.baseosmgr`."""

import sys
from collections.abc import Sequence

from pillar.agent import run
from pillar.cmd.baseosmgr.agent import BaseOsMgr


def main(argv: Sequence[str] | None = None) -> int:
    return run(BaseOsMgr, argv)


if __name__ == "__main__":
    sys.exit(main())
