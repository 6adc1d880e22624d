"""Start the zedrouter agent: `python -m pillar.cmd.zedrouter`."""

import sys
from collections.abc import Sequence

from pillar.agent import run
from pillar.cmd.zedrouter.agent import Zedrouter


def main(argv: Sequence[str] | None = None) -> int:
    return run(Zedrouter, argv)


if __name__ == "__main__":
    sys.exit(main())
