"""Start the identitymanager agent: `python -m pillar.cmd.identitymanager`."""

import sys
from collections.abc import Sequence

from pillar.agent import run
from pillar.cmd.identitymanager.agent import IdentityManager


def main(argv: Sequence[str] | None = None) -> int:
    return run(IdentityManager, argv)


if __name__ == "__main__":
    sys.exit(main())
