"""The cost of a publish against the number of keys, of subscribers and the size of a record, drawn as one picture.

`scripts/bench --plot docs/pubsub-cost.png`. Library and floor are measured in turns, as everywhere here; the machine
and the date stand in the picture. Needs matplotlib.
"""

from __future__ import annotations

import contextlib
import datetime
import functools
import os
import platform
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import msgspec

from pillar.bench.floor import BareWriter
from pillar.bench.measure import AGENT, LeftOut, Pair, Publish, fresh_numbers, per_publish, record, scratch, take_turns
from pillar.bench.scale import FANNED_OUT, fan_out
from pillar.pubsub import PubSub, encode
from pillar.types.downloader import DownloaderStatus

KEYS = (10, 100, 1_000, 10_000, 100_000)
SUBSCRIBERS = (1, 2, 5, 10, 20, 50)
SIZES = (512, 1024, 4096, 16 * 1024, 64 * 1024, 256 * 1024)


class Curve(NamedTuple):
    """One panel: what it shows, where it was measured, and the microseconds there."""

    title: str
    axis: str
    places: Sequence[int]
    measured: list[Pair]
    yscale: str = "linear"


def draw(path: str, say: Callable[[str], object]) -> None:
    """Measure and write the picture. Raises ModuleNotFoundError without matplotlib, before it measures anything."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    busy = os.getloadavg()[0]
    curves = []
    for measure in (against_keys, against_subscribers, against_size):
        say(f"measuring {measure.__name__} ...")
        curves.append(measure())
    figure, panels = pyplot.subplots(1, len(curves), figsize=(15, 4.8), layout="constrained")
    for panel, curve in zip(panels, curves, strict=True):
        _panel(panel, curve)
    load = f"load {busy:.1f} at the start"
    figure.suptitle(
        f"pillar.pubsub, ordinary table on tmpfs · {machine()} · {datetime.date.today():%Y-%m-%d} · {load}", fontsize=10
    )
    figure.savefig(path, dpi=100)


def against_keys() -> Curve:
    """A changed value under one of ten keys while the table holds so many."""
    measured = []
    for count in KEYS:
        with scratch() as place, PubSub(place, AGENT) as pubsub:
            publication, bare = pubsub.publication(DownloaderStatus), BareWriter(f"{place}/floor")
            for number in range(count):
                publication.publish(f"filler{number}", record(number))
                bare.publish(f"filler{number}", record(number))
            measured.append(_turns(publication.publish, bare.publish, record(0)))
    return Curve("a publish, by the table's size", "keys in the table", KEYS, measured)


def against_subscribers() -> Curve:
    """From the first publish until each of so many subscribers, in up to ten processes, has handled the last."""
    each = 1e6 / FANNED_OUT
    measured: list[Pair] = []
    with contextlib.suppress(LeftOut):  # the floor wants an inotify instance each: without, the curve ends
        for count in SUBSCRIBERS:
            measured.append(
                take_turns(
                    functools.partial(_per_record, count, each, floor=False),
                    functools.partial(_per_record, count, each, floor=True),
                )
            )
    return Curve("a publish, until all have handled it", "subscribers", SUBSCRIBERS[: len(measured)], measured)


def _per_record(subscribers: int, scale: float, *, floor: bool) -> float:
    return fan_out(subscribers, floor=floor) * scale


def against_size() -> Curve:
    """A changed value of so many bytes of JSON under one of ten keys."""
    measured = []
    for size in SIZES:
        model = msgspec.structs.replace(record(0), LastErr="")
        model = msgspec.structs.replace(model, LastErr="x" * (size - len(encode(model))))
        with scratch() as place, PubSub(place, AGENT) as pubsub:
            bare = BareWriter(f"{place}/floor")
            measured.append(_turns(pubsub.publication(DownloaderStatus).publish, bare.publish, model))
    return Curve("a publish, by the record's size", "bytes of JSON", SIZES, measured, yscale="log")


def machine() -> str:
    """The processor, how many of it, and the versions that matter."""
    model = "unknown processor"
    with open("/proc/cpuinfo", encoding="utf-8") as lines:
        for line in lines:
            if line.startswith("model name"):
                model = line.partition(":")[2].strip()
                break
    return f"{model}, {os.cpu_count()} cores, Linux {platform.release()}, Python {platform.python_version()}"


def _turns(subject: Publish, floor: Publish, model: DownloaderStatus) -> Pair:
    def fresh() -> DownloaderStatus:
        return msgspec.structs.replace(model, RetryCount=next(fresh_numbers))

    return take_turns(lambda: per_publish(subject, fresh), lambda: per_publish(floor, fresh))


def _panel(panel: Any, curve: Curve) -> None:
    panel.plot(curve.places, [pair.subject for pair in curve.measured], "o-", label="pillar.pubsub")
    panel.plot(
        curve.places, [pair.floor for pair in curve.measured], "s--", color="gray", label="floor: bare system calls"
    )
    panel.set(title=curve.title, xlabel=curve.axis, ylabel="µs", xscale="log", yscale=curve.yscale)
    if curve.yscale == "linear":
        panel.set_ylim(0, None)
    panel.yaxis.set_major_formatter("{x:g}")
    panel.yaxis.set_minor_formatter("{x:g}")
    panel.set_xticks(curve.places, [f"{place:,}" for place in curve.places], fontsize=8)
    panel.xaxis.minorticks_off()
    panel.grid(visible=True, alpha=0.3)
    panel.legend()
