"""kill -9 of every agent at every stage of a deployment: it reaches RUNNING, and nothing is done twice."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import msgspec
import pytest
from device import AGENT_NAMES, SUPERVISOR, Device, app_id, device_config, sleeper, timeless, with_app
from support import wait_for

from pillar.demo.images import ImageServer
from pillar.types.domainmgr import DomainConfig, DomainStatus
from pillar.types.downloader import DownloaderConfig, DownloaderStatus
from pillar.types.enums import SwState
from pillar.types.networkinstance import NetworkInstanceStatus
from pillar.types.verifier import VerifyImageConfig, VerifyImageStatus
from pillar.types.zedmanager import AppInstanceConfig, AppInstanceStatus
from pillar.types.zedrouter import AppNetworkConfig, AppNetworkStatus

MIB = 1024 * 1024
EVERYBODY = "everybody"
VICTIMS = (*AGENT_NAMES, EVERYBODY, SUPERVISOR)


class Moment(NamedTuple):
    """When a record appears that meets the condition."""

    agent: str
    record_type: type[Any]
    scope: str = ""
    condition: Callable[[Any], bool] = lambda record: True
    fetched: bool = False  # the whole image had been fetched by then


MOMENTS = {
    "configured": Moment("zedagent", AppInstanceConfig),
    "first status": Moment("zedmanager", AppInstanceStatus),
    "download wanted": Moment("zedmanager", DownloaderConfig, "appImg.obj"),
    "downloading": Moment("downloader", DownloaderStatus, "appImg.obj", lambda s: s.State == SwState.DOWNLOAD_STARTED),
    "downloaded": Moment(
        "downloader", DownloaderStatus, "appImg.obj", lambda s: s.State == SwState.DOWNLOADED, fetched=True
    ),
    "verification wanted": Moment("zedmanager", VerifyImageConfig, "appImg.obj", fetched=True),
    "verifying": Moment("verifier", VerifyImageStatus, "appImg.obj", fetched=True),
    "verified": Moment(
        "verifier", VerifyImageStatus, "appImg.obj", lambda s: s.State == SwState.DELIVERED, fetched=True
    ),
    "network wanted": Moment("zedmanager", AppNetworkConfig, fetched=True),
    "network": Moment("zedrouter", AppNetworkStatus, condition=lambda s: s.Activated, fetched=True),
    "domain wanted": Moment("zedmanager", DomainConfig, fetched=True),
    "booting": Moment("domainmgr", DomainStatus, condition=lambda s: s.State >= SwState.BOOTING, fetched=True),
    "running": Moment("domainmgr", DomainStatus, condition=lambda s: s.State == SwState.RUNNING, fetched=True),
}
# For each victim the moments when most of its own work is in the air; --full takes them all.
SAMPLE = {
    "zedagent": ("configured", "verified"),
    "nim": ("downloading",),
    "zedrouter": ("network wanted", "network"),
    "domainmgr": ("domain wanted", "booting"),
    "identitymanager": ("network wanted",),
    "verifier": ("verification wanted", "verifying"),
    "downloader": ("downloading", "downloaded"),
    "baseosmgr": ("first status",),
    "zedmanager": ("download wanted", "verified", "booting"),
    EVERYBODY: ("downloading", "verifying", "booting"),
    SUPERVISOR: ("downloading",),
}
MATRIX = [
    pytest.param(
        victim, name, marks=() if name in SAMPLE[victim] else pytest.mark.full, id=f"{victim}-{name}".replace(" ", "-")
    )
    for victim in VICTIMS
    for name in MOMENTS
]


@pytest.fixture
def server() -> Iterator[ImageServer]:
    server = ImageServer()
    yield server
    server.close()


@pytest.fixture
def device(root: Any) -> Iterator[Device]:
    with Device(root) as device:
        yield device


class Diary:
    """What the statuses of an app ever said that must not change in its life."""

    def __init__(self, device: Device) -> None:
        self.networks: set[tuple[int, tuple[tuple[str, str], ...]]] = set()
        self.errors: set[str] = set()
        device.table("zedrouter", AppNetworkStatus, create=self._network, modify=self._network)
        device.table("zedmanager", AppInstanceStatus, create=self._app, modify=self._app)

    def _network(self, key: str, new: AppNetworkStatus, old: AppNetworkStatus | None = None) -> None:
        vifs = tuple((vif.Mac, vif.AllocatedIPAddr) for vif in new.UnderlayNetworkList or ())
        self.networks.add((new.AppNum, vifs))

    def _app(self, key: str, new: AppInstanceStatus, old: AppInstanceStatus | None = None) -> None:
        self.errors |= {new.Error} - {""}


class Flaps:
    """Every change of a status from now on that is more than a time, also one that was taken back."""

    STATUSES = (
        ("zedmanager", AppInstanceStatus, ""),
        ("domainmgr", DomainStatus, ""),
        ("zedrouter", AppNetworkStatus, ""),
        ("zedrouter", NetworkInstanceStatus, ""),
        ("downloader", DownloaderStatus, "appImg.obj"),
        ("verifier", VerifyImageStatus, "appImg.obj"),
    )

    def __init__(self, device: Device) -> None:
        self.seen: list[str] = []
        for agent, record_type, scope in self.STATUSES:
            device.table(agent, record_type, scope, modify=self._modified, delete=self._deleted)
        device.look()

    def _modified(self, key: str, new: Any, old: Any) -> None:
        was, now = timeless(msgspec.to_builtins(old)), timeless(msgspec.to_builtins(new))
        if was != now:
            self.seen.append(f"{type(new).__name__} {key}: {was} -> {now}")

    def _deleted(self, key: str, last: Any) -> None:
        self.seen.append(f"{type(last).__name__} {key} deleted")


@pytest.mark.parametrize(("victim", "name"), MATRIX)
def test_whoever_is_killed_on_the_way_the_app_runs_and_nothing_is_done_twice(
    device: Device, server: ImageServer, victim: str, name: str
) -> None:
    moment = MOMENTS[name]
    image = sleeper("app.img", 4 * MIB)
    config = device_config(server, image)
    app = app_id(config["apps"][0])
    victims = AGENT_NAMES if victim == EVERYBODY else (victim,)
    pids = {agent: device.pid(agent) for agent in AGENT_NAMES}
    diary = Diary(device)
    if not moment.fetched:  # the transfer is never over before the kill, and never more than 1 MiB of it in the air
        server.hold(2 * MIB if name == "downloading" else MIB)

    def kill() -> None:
        if name == "downloading":
            assert server.held.wait(30)
            wait_for(lambda: device.pending_bytes() >= MIB, "half of what was sent to be on the disk")
        device.kill(*victims)

    met = device.when(moment.agent, moment.record_type, moment.condition, kill, moment.scope)
    device.deploy(config)
    device.wait(lambda: met, f"the moment {name!r}")
    server.let_go()
    if victim == SUPERVISOR:
        device.up()
        assert {agent: device.pid(agent) for agent in AGENT_NAMES} == pids
    else:
        device.wait_back(*victims)
    device.wait_running(app)

    device.wait(lambda: device.starts(app), "the ECO to say that it was started")
    assert device.starts(app) == 1
    size = len(image.content)
    assert size <= server.sent <= (size if moment.fetched else size + MIB), server.requests
    assert len(diary.networks) == 1, diary.networks
    assert diary.errors == set()
    device.look()
    assert sorted(device.restarts()) == sorted(set(victims) - {SUPERVISOR})


def test_whoever_is_killed_while_the_app_runs_nothing_changes(device: Device, server: ImageServer) -> None:
    first, second = sleeper("first.img"), sleeper("second.img")
    config = device_config(server, first)
    app = app_id(config["apps"][0])
    device.deploy(config)
    device.wait_running(app)
    pid = device.domain(app).DomainId
    before = device.settled()
    flaps = Flaps(device)
    for agent in AGENT_NAMES:
        device.kill(agent)
        device.wait_back(agent)
        device.wait_like(before, f"before {agent} was killed")
    device.kill(*AGENT_NAMES)
    device.wait_back(*AGENT_NAMES, restarts=2)
    device.wait_like(before, "before all were killed")
    assert flaps.seen == []

    # Another app goes through every agent: whatever these still had to do after their restart is done then.
    whole = with_app(config, server, second)
    other = app_id(whole["apps"][1])
    device.deploy(whole)
    device.wait_running(app, other)
    device.deploy(config)
    device.wait_gone(other)
    kept = (second.sha256, "run/downloader/GlobalDownloadStatus/")  # the other image, for a while, and its room
    device.wait_like(before, "before the other app", but=kept)
    assert device.domain(app).DomainId == pid
    assert (device.starts(app), server.sent_of[first.name]) == (1, len(first.content))
