"""Run the measurements and print them, as a table for people or one flat JSON object.

`scripts/bench`, `pillar bench` and `python -m pillar.bench` are the same.

exit status: 0 measured   1 measured, and a target was missed (with --check)   2 wrong usage
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable
from typing import NamedTuple

from pillar.bench import container, domains, library, network, peers, processes, recover, scale, transports
from pillar.bench.measure import LeftOut
from pillar.terminal import Palette, table

GROUPS: dict[str, Callable[[], dict[str, float]]] = {
    "publish": library.publish,
    "unchanged": library.unchanged,
    "latency": library.latency,
    "burst": library.burst,
    "growth": library.growth,
    "batch": library.batch,
    "load": scale.load,
    "sync": scale.sync,
    "fanout": scale.fanout,
    "persist": scale.persist,
    "rss_per_key": scale.rss_per_key,
    "memory": processes.memory,
    "start": processes.start,
    "deploy": processes.deploy,
    "recover": recover.recover,
    "http_vs_curl": transports.http_vs_curl,
    "ranges_vs_aria2": transports.ranges_vs_aria2,
    "s3_vs_boto3": transports.s3_vs_boto3,
    "downloader_rss": transports.downloader_rss,
    "many_vs_serial": transports.many_vs_serial,
    "network": network.network,
    "container": container.container,
    "adopt": domains.adopt,
    "vm": domains.vm,
}


PEERS = "peers"  # measured on request only: needs servers


class Target(NamedTuple):
    """What a figure should be."""

    limit: float
    at_least: bool = False

    def met(self, value: float) -> bool:
        return value >= self.limit if self.at_least else value <= self.limit

    def __str__(self) -> str:
        return f"{'≥' if self.at_least else '≤'} {self.limit:g}"


TARGETS = {
    "publish_ratio": Target(1.5),
    "unchanged_ratio": Target(2.0),
    "latency_p50_ratio": Target(1.6),
    "latency_p99_ratio": Target(3.0),
    "burst_ratio": Target(0.7, at_least=True),
    "growth_ratio": Target(1.2),
    "load_ratio": Target(2.0),
    "sync_ratio": Target(2.0),
    "fanout_ratio": Target(1.3),
    "persist_ratio": Target(1.2),
    "rss_per_key_ratio": Target(3.0),
    "zedmanager_rss_mib": Target(32),
    "start_ratio": Target(1.6),
    "deploy_s": Target(1.0),
    "recover_p99_s": Target(1.5),
    "recover_all_s": Target(3),
    "http_vs_curl": Target(0.8, at_least=True),
    "ranges_vs_aria2": Target(0.9, at_least=True),
    "s3_vs_boto3": Target(0.8, at_least=True),
    "downloader_rss_mib": Target(80),
    "many_vs_serial": Target(5, at_least=True),
    "net_apply_ms": Target(150),
    "net_100_s": Target(15),
    "net_noop_ms": Target(100),
    "container_deploy_s": Target(1.0),
    "adopt_20_s": Target(1.0),
    "vm_overhead_s": Target(0.5),
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """The options."""
    parser.add_argument("--json", action="store_true", help="print one flat JSON object")
    parser.add_argument(
        "--only", choices=[*GROUPS, PEERS], action="append", metavar="GROUP", help=", ".join([*GROUPS, PEERS])
    )
    parser.add_argument(
        "--peers", action="store_true", help="measure other systems too, by the same work (`--only peers`: only them)"
    )
    parser.add_argument("--plot", metavar="FILE", help="draw the cost by keys, subscribers and size, and nothing else")
    parser.add_argument("--check", action="store_true", help="exit with 1 when a target is missed")


def run(options: argparse.Namespace) -> int:
    """Measure and print; returns the exit status."""
    if options.plot:
        return _plot(options.plot)
    figures: dict[str, float] = {}
    chosen = options.only or [*GROUPS]
    for name in chosen:
        if name == PEERS:
            continue
        _say(f"measuring {name} ...")
        try:
            figures |= {key: round(value, 4) for key, value in GROUPS[name]().items()}
        except LeftOut as err:
            _say(f"{name} is left out: {err}")
    measured_peers = {}
    if options.peers or PEERS in chosen:
        _say("measuring peers ...")
        measured_peers = peers.measure(_say)
    if options.json:
        print(json.dumps(figures | ({PEERS: measured_peers} if measured_peers else {})))
    else:
        print("\n".join([*(_lines(figures) if figures else ()), *_peer_lines(measured_peers)]))
    missed = [key for key, target in TARGETS.items() if key in figures and not target.met(figures[key])]
    return 1 if missed and options.check else 0


def _plot(path: str) -> int:
    from pillar.bench import plots

    try:
        plots.draw(path, _say)
    except ModuleNotFoundError as err:
        _say(f"a picture needs {err.name}, which is not installed: {sys.executable} -m pip install {err.name}")
        return 2
    _say(f"drawn in {path}")
    return 0


def _say(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


def _peer_lines(measured: dict[str, dict[str, float]]) -> list[str]:
    if not measured:
        return []
    columns = ("publish_us", "latency_p50_us", "burst_per_s")
    rows: list[list[str | tuple[str, str]]] = [
        [name, *(f"{figures[column]:,.0f}" for column in columns)] for name, figures in measured.items()
    ]
    return table(rows, Palette.of(), header=("peer", *columns), right=(1, 2, 3))


def _lines(figures: dict[str, float]) -> list[str]:
    rows: list[list[str | tuple[str, str]]] = []
    for key, value in figures.items():
        target = TARGETS.get(key)
        verdict = ("", "") if target is None else ("met", "green") if target.met(value) else ("missed", "red")
        rows.append([key, f"{value:.4g}", str(target or ""), verdict])
    return table(rows, Palette.of(), header=("figure", "value", "target", ""), right=(1,))


def main() -> int:
    """The command line of `scripts/bench`."""
    parser = argparse.ArgumentParser(
        prog="scripts/bench", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    add_arguments(parser)
    return run(parser.parse_args())


if __name__ == "__main__":
    sys.exit(main())
