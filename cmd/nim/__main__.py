"""Start the nim agent: `python -m pillar.cmd.nim`."""

import sys
from collections.abc import Sequence

from pillar.agent import run
from pillar.cmd.nim.agent import Nim


def main(argv: Sequence[str] | None = None) -> int:
    return run(Nim, argv)


if __name__ == "__main__":
    sys.exit(main())
