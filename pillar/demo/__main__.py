"""Run the demo: `scripts/demo`, or `python -m pillar.demo` where Pillar is installed.

exit status: 0 all of it happened   1 a step did not come true; the message says which   2 wrong usage
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
from pathlib import Path

from pillar.demo.kinds import Container, Kind, Program, Unable, VirtualMachine
from pillar.demo.screen import Screen, complain
from pillar.demo.show import DemoFailed, Show


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="scripts/demo",
        description="Take an ECO from a device config to RUNNING, kill an agent on the way, undeploy.",
    )
    parser.add_argument("--root", type=Path, help="the device's directory (default: a new temporary one)")
    kinds = parser.add_mutually_exclusive_group()
    kinds.add_argument(
        "--vm", action="store_true", help="the ECO is a virtual machine on a bridge of its own (needs root and QEMU)"
    )
    kinds.add_argument(
        "--container", action="store_true", help="the ECO is a container on a bridge of its own (needs root and runc)"
    )
    parser.add_argument("--keep", action="store_true", help="leave the ECO and the agents running")
    parser.add_argument("--json", action="store_true", help="print one object a step")
    options = parser.parse_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does: nothing is left running
    root = options.root.absolute() if options.root else Path(tempfile.mkdtemp(prefix="pillar-demo-"))
    try:
        kind: Kind = VirtualMachine() if options.vm else Container() if options.container else Program()
        kind.set_up()
        Show(root, Screen(as_json=options.json), kind).run(keep=options.keep)
    except Unable as err:
        complain(str(err), as_json=options.json)
        return 1
    except DemoFailed as err:
        complain(f"{err} (the device is left in {root})", as_json=options.json)
        return 1
    except KeyboardInterrupt:
        return 130
    if not options.root and not options.keep:
        shutil.rmtree(root)
    return 0


if __name__ == "__main__":
    sys.exit(main())
