"""scripts/bench: what it prints, and that each peer it compares with really receives what is published."""

from __future__ import annotations

import json
import subprocess
import sys

import pytest
from servers import not_here

from pillar.bench import peers, scale
from pillar.bench.__main__ import GROUPS, TARGETS
from pillar.bench.measure import LeftOut
from pillar.bench.peer_clients import CLIENTS, _field, _fields

PROMISED = {
    *("publish_ratio", "unchanged_ratio", "latency_p50_ratio", "latency_p99_ratio", "burst_ratio", "load_ratio"),
    *("sync_ratio", "fanout_ratio", "persist_ratio", "rss_per_key_ratio"),
}


def test_figures_come_as_one_flat_json_object() -> None:
    command = [sys.executable, "-m", "pillar.bench", "--json", "--only", "unchanged"]
    output = subprocess.run(command, capture_output=True, text=True, check=True, timeout=100).stdout
    figures = json.loads(output)
    assert set(figures) == {"unchanged_us", "unchanged_ratio"}
    assert 1 < figures["unchanged_ratio"] < 20, "publishing an equal value costs at least its encoding"


def test_every_promised_ratio_has_a_target_and_a_group() -> None:
    assert set(TARGETS) >= PROMISED
    told = " ".join(group.__doc__ or "" for group in GROUPS.values())
    assert not [figure for figure in PROMISED if figure not in told]


def test_whole_tables_are_measured_by_processes_that_do_what_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scale, "MANY_KEYS", 200)
    monkeypatch.setattr(scale, "FANNED_OUT", 20)
    figures = scale.rss_per_key()
    with scale._filled(200) as root:
        for task in ("load-subject", "load-floor", "sync-subject", "sync-floor"):
            assert scale._child(task, root)[0] > 0
    assert set(figures) == {"rss_per_key_ratio"}
    assert scale.fan_out(4, processes=2) > 0
    try:
        assert scale.fan_out(4, processes=2, floor=True) > 0
    except LeftOut as err:
        pytest.skip(str(err))  # other programs of this machine have all inotify instances


def test_what_a_peer_lacks_is_said_with_the_command_that_installs_it() -> None:
    lacking = peers.missing(CLIENTS["nats"]._replace(server="no-such-server", module="no_such_module"))
    assert "no-such-server is not installed: apt-get install nats-server" in lacking
    assert f"{sys.executable} -m pip install nats-py" in lacking
    assert peers.missing(CLIENTS["pillar"]) == ""


@pytest.mark.parametrize("name", CLIENTS)
def test_a_peer_receives_what_is_published(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    client = CLIENTS[name]
    if lacking := peers.missing(client):
        not_here(lacking)
    for size in ("PUBLISHES", "LATENCIES", "BURST"):
        monkeypatch.setattr(peers, size, 20)
    figures = peers._round(client)
    assert set(figures) == {"publish_us", "latency_p50_us", "burst_per_s"}
    assert all(figure > 0 for figure in figures.values())


def test_etcds_messages_are_read_as_they_are_written() -> None:
    long = b"x" * 70_000
    assert list(_fields(_field(1, b"key") + b"\x10\xac\x02" + _field(5, long))) == [(1, b"key"), (2, 300), (5, long)]
