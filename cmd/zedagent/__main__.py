"""Start the zedagent agent: `python -m pillar.cmd.zedagent`."""

import sys
from collections.abc import Sequence

from pillar.agent import run
from pillar.cmd.zedagent.agent import ZedAgent


def main(argv: Sequence[str] | None = None) -> int:
    return run(ZedAgent, argv)


if __name__ == "__main__":
    sys.exit(main())
