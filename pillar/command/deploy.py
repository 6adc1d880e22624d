"""Hand a device config to zedagent.

FILE is an EdgeDevConfig as an EVE controller sends it, in protobuf-JSON or binary. It is checked and put in
place as DIR/config/device.json or device.pb by rename; zedagent reads it at once, or when it starts.

With --wait it goes on until every app of it runs (or, if it is not to run, is installed), and shows each step.

exit status: 0 handed in (--wait: and the apps are where they should be)
             1 FILE cannot be read, is no device config or names no device
             2 wrong usage   4 handed in, but the apps were not there in time
"""

import argparse
import json
import sys
from pathlib import Path

from pillar.command import appwait
from pillar.locations import Locations
from pillar.terminal import printable


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("file", type=Path, metavar="FILE", help="the device config")
    parser.add_argument("--json", action="store_true", help="print one JSON object (--wait: one more a change)")
    appwait.add_argument(parser, "every app is where it should be")


def run(args: argparse.Namespace) -> int:
    """Check and hand in."""
    # Protobuf takes a while to load, so only the commands that need it do so.
    from pillar.controller.device import MAX_CONFIG_BYTES, ConfigRefused, decode, ignored_in_json
    from pillar.controller.handed import hand_in
    from pillar.controller.notation import canonical_uuid
    from pillar.controller.summary import facts, lines

    try:
        with args.file.open("rb") as file:
            data = file.read(MAX_CONFIG_BYTES + 1)
        if len(data) > MAX_CONFIG_BYTES:
            raise ConfigRefused(f"more than {MAX_CONFIG_BYTES} bytes")
        config, suffix = decode(data)
    except (ConfigRefused, OSError) as why:
        text = why.strerror if isinstance(why, OSError) else str(why)
        print(f"pillar deploy: {args.file}: {text}; nothing was changed", file=sys.stderr)
        return 1
    target, removed = hand_in(Locations(args.root).config, f"device.{suffix}", data)
    ignored = ignored_in_json(data) if suffix == "json" else ""
    said = facts(config)
    if args.json:
        also = {"removed": [str(path) for path in removed], "ignored": ignored}
        print(json.dumps({"file": str(target), **also, **said}), flush=True)
    else:
        print(f"deployed {target}")
        for line in lines(config):
            print(line)
        if ignored:
            print(f"ignored: {printable(ignored)}")
        for path in removed:
            print(f"removed {path}: its time was not older, so it would have counted instead")
    if args.wait is None:
        return 0
    goals = {
        canonical_uuid(app["uuid"]): appwait.Goal(app["name"], app["version"], app["activate"]) for app in said["apps"]
    }
    return appwait.follow(Locations(args.root), goals, args.wait, as_json=args.json)
