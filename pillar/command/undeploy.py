"""Take an app, or everything, out of the device config.

ID is an app's UUID or its display name. Without ID a config is handed in that has nothing but the device's id, so
every app, network and datastore goes. The config changed is the newest good one in DIR/config, else the copy that
zedagent keeps of the last good one.

With --wait it goes on until nothing of the apps is left, and shows each step.

exit status: 0 done (--wait: and the apps are gone)
             1 nothing is deployed, or there is no such app, or several have this name
             2 wrong usage   4 taken out of the config, but the apps were not gone in time
"""

import argparse
import json
import sys
from typing import TYPE_CHECKING

from pillar.command import appwait
from pillar.locations import Locations

if TYPE_CHECKING:
    from pillar.controller.config_pb2 import AppInstanceConfig, EdgeDevConfig


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("id", nargs="?", metavar="ID", help="an app's UUID or display name (default: everything)")
    parser.add_argument("--json", action="store_true", help="print one JSON object (--wait: one more a change)")
    appwait.add_argument(parser, "the apps are gone")


def run(args: argparse.Namespace) -> int:
    """Change the deployed config and hand it in."""
    # Protobuf takes a while to load, so only the commands that need it do so.
    from pillar.controller.config_pb2 import EdgeDevConfig
    from pillar.controller.device import encode_binary, encode_json
    from pillar.controller.handed import BINARY_NAME, JSON_NAME, hand_in
    from pillar.controller.notation import canonical_uuid

    where = Locations(args.root)
    deployed = _deployed(where)
    if deployed is None:
        print(f"pillar undeploy: nothing is deployed below {where.root}", file=sys.stderr)
        return 1
    config, name = deployed
    if args.id is None:
        gone = list(config.apps)
        config = EdgeDevConfig(id=config.id)
    else:
        gone = _named(config, args.id)
        if len(gone) != 1:
            found = ", ".join(app.uuidandversion.uuid for app in gone)
            why = f"{len(gone)} apps have this name; give the UUID of one: {found}" if gone else "there is no such app"
            print(f"pillar undeploy: {args.id}: {why}; nothing was changed", file=sys.stderr)
            return 1
        config.apps.remove(gone[0])
    data = encode_json(config) if name == JSON_NAME else encode_binary(config)
    target, removed = hand_in(where.config, name if name in (JSON_NAME, BINARY_NAME) else BINARY_NAME, data)
    apps = [{"uuid": app.uuidandversion.uuid, "name": app.displayname} for app in gone]
    if args.json:
        said = {"file": str(target), "removed": [str(path) for path in removed], "undeployed": apps}
        print(json.dumps(said), flush=True)
    else:
        _show(str(target), apps, everything=args.id is None)
    if args.wait is None:
        return 0
    goals = {canonical_uuid(app["uuid"]): appwait.Goal(app["name"]) for app in apps}
    return appwait.follow(where, goals, args.wait, as_json=args.json)


def _deployed(where: Locations) -> "tuple[EdgeDevConfig, str] | None":
    """The config in force as far as files tell, and the name of its file."""
    from pillar.controller.device import ConfigRefused, decode_binary, decode_json
    from pillar.controller.handed import CHECKPOINT_NAME, JSON_NAME, handed_in

    newest, *older = [handed.path for handed in handed_in(where.config)] or [where.config / JSON_NAME]
    for path in (newest, where.checkpoint / CHECKPOINT_NAME, *older):  # the order in which zedagent goes by them
        try:
            data = path.read_bytes()
            return (decode_json(data) if path.name == JSON_NAME else decode_binary(data)), path.name
        except FileNotFoundError:
            continue
        except ConfigRefused as why:
            print(f"pillar undeploy: {path}: {why}; looking further", file=sys.stderr)
    return None


def _named(config: "EdgeDevConfig", name: str) -> "list[AppInstanceConfig]":
    """The app with this UUID, in any way of writing it, else all with this display name."""
    from pillar.controller.notation import canonical_uuid

    wanted = canonical_uuid(name)
    by_uuid = [app for app in config.apps if canonical_uuid(app.uuidandversion.uuid) == wanted]
    return by_uuid or [app for app in config.apps if app.displayname == name]


def _show(target: str, apps: list[dict[str, str]], *, everything: bool) -> None:
    from pillar.terminal import printable

    for app in apps:
        print(f"undeployed {app['uuid']}  {printable(app['name'])}")
    print(f"{target} now has {'nothing but the device id' if everything else 'the rest'}")
