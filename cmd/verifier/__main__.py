"""Start the verifier agent: `python -m pillar.cmd.verifier`."""

import sys
from collections.abc import Sequence

from pillar.agent import run
from pillar.cmd.verifier.agent import Verifier


def main(argv: Sequence[str] | None = None) -> int:
    return run(Verifier, argv)


if __name__ == "__main__":
    sys.exit(main())
