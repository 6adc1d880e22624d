"""`python -m pillar` is the `pillar` command."""

import sys

from pillar.command.main import main

if __name__ == "__main__":
    sys.exit(main())
