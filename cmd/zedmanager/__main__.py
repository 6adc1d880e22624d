"""Start the zedmanager agent: `python -m pillar.cmd.zedmanager`."""

import sys
from collections.abc import Sequence

from pillar.agent import run
from pillar.cmd.zedmanager.agent import ZedManager


def main(argv: Sequence[str] | None = None) -> int:
    return run(ZedManager, argv)


if __name__ == "__main__":
    sys.exit(main())
