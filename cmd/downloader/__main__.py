"""Start the downloader agent: `python -m pillar.cmd.downloader`."""

import sys
from collections.abc import Sequence

from pillar.agent import run
from pillar.cmd.downloader.agent import Downloader


def main(argv: Sequence[str] | None = None) -> int:
    return run(Downloader, argv)


if __name__ == "__main__":
    sys.exit(main())
