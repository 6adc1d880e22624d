"""Show a device's network: what zedrouter's tables ask for, what the kernel has, and what differs.

  pillar net           a drawing of the bridges, with counters, and what differs
  pillar net --diff    only what differs, as the commands that would mend it
  pillar net --json    desired, actual and difference for programs

To be run in the namespace of the agents, as root. Changes nothing: zedrouter does (with --network kernel), at once.

exit status: 0 the kernel is as it should be (without --diff: shown)   1 it is not, or it cannot be read   2 wrong usage
"""

from __future__ import annotations

import argparse
import os
import socket
import sys
from dataclasses import replace
from typing import Any, TypeVar

from pillar.command.render import compact
from pillar.locations import Locations
from pillar.pubsub import BadRecord, decode
from pillar.tables import content, entries, tables
from pillar.terminal import Palette, printable, unfailing
from pillar.types.networkinstance import NetworkInstanceStatus
from pillar.types.nim import DeviceNetworkStatus
from pillar.types.zedrouter import AppNetworkStatus

T = TypeVar("T")


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--diff", action="store_true", help="print only what differs; exit with 1 when something does")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    unfailing()
    root = os.fspath(args.root)
    instances = _records(root, "zedrouter", NetworkInstanceStatus)
    apps = _records(root, "zedrouter", AppNetworkStatus)
    network = _records(root, "nim", DeviceNetworkStatus).get("global")
    try:
        shown = _look(Locations(args.root), instances, apps, network)
    except OSError as err:
        print(f"pillar net: cannot read the kernel's network: {err}", file=sys.stderr)
        return 1
    state, actual, counters, served, differences = shown
    from pillar.netplan.view import as_json, drawing

    if args.json:
        print(compact(as_json(state, actual, counters, served) | {"difference": differences}))
    else:
        palette = Palette.of()
        if not args.diff:
            names = {uuid: status.DisplayName or uuid for uuid, status in apps.items()}
            for line in drawing(state, actual, counters, served, names):
                print(printable(line))
            print()
        for text in differences:
            print(palette.yellow(printable(text)))
        if not differences:
            print(palette.dim("the kernel is as it should be"))
    return 1 if args.diff and differences else 0


def _look(
    where: Locations,
    instances: dict[str, NetworkInstanceStatus],
    apps: dict[str, AppNetworkStatus],
    network: DeviceNetworkStatus | None,
) -> tuple[Any, Any, dict[str, tuple[int, int]], dict[str, int], list[str]]:
    from pillar.netplan import firewall, nft
    from pillar.netplan.desired import desired
    from pillar.netplan.difference import difference
    from pillar.netplan.dnsmasq import Dnsmasqs, find
    from pillar.netplan.kernel import Kernel, read_sysctls
    from pillar.netplan.state import mark_of

    mark = mark_of(where.root)
    kernel = Kernel(watch=False)
    try:
        actual = kernel.read()
        state = desired(mark, instances, apps, network, actual.dead())
        actual = replace(actual, sysctls=read_sysctls(state.sysctls))
    finally:
        kernel.close()
    steps, blocked = difference(state, actual)
    differences = [f"# {text}" for text in blocked.values()]
    counters: dict[str, tuple[int, int]] = {}
    wanted, errors = firewall.tables(state)
    differences += [f"# {vif} of {app}: {text}" for (app, vif), text in errors.items()]
    for table in wanted:
        try:
            found = nft.read(table.family, table.name)
            lines = nft.changes(table, found)
        except (nft.NftError, OSError) as err:
            differences.append(f"# {err}")
            continue
        counters |= found.counters
        differences += [f"nft '{line.text}'" for line in lines]
    differences += map(str, steps)
    keeper = Dnsmasqs(where, tidy=False)
    for name, dhcp in state.dhcp.items():
        index = socket.if_nametoindex(name) if name in actual.links else 0
        if text := keeper.needs(dhcp, mark, index):
            differences.append(f"# {text}")
    differences += [f"# end dnsmasq for {name}" for name in sorted(keeper.bridges() - set(state.dhcp))]
    return state, actual, counters, {one.bridge: one.pid for one in find(where)}, differences


def _records(root: str, agent: str, record_type: type[T]) -> dict[str, T]:
    """A table's records, read as a stranger; unreadable ones are named and left out."""
    found: dict[str, T] = {}
    for place in tables(root):
        if (place.agent, place.scope, place.topic) != (agent, "", record_type.__name__):
            continue
        for entry in entries(place):
            try:
                data = content(place, entry.key)
                if data is not None:
                    found[entry.key] = decode(record_type, data)
            except BadRecord as err:
                print(f"pillar net: {printable(f'{place.path}/{entry.key}.json: {err}')}", file=sys.stderr)
    return found
