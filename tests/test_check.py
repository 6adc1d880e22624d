"""`pillar check`: what it finds on a tree that was damaged, and that a healthy device is never called wrong."""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from device import AGENT_NAMES, SUPERVISOR, Device, device_config, sleeper, with_app

from pillar.demo.images import ImageServer
from pillar.invariants import Problem, examine, judge, look
from pillar.invariants.facts import Tree
from pillar.types.downloader import DownloaderConfig, DownloaderStatus
from pillar.types.enums import SwState
from pillar.types.zedmanager import AppInstanceConfig, AppInstanceStatus, StorageStatus

SHARED = "shared.img"


@pytest.fixture
def server() -> Iterator[ImageServer]:
    server = ImageServer()
    yield server
    server.close()


@pytest.fixture
def device(root: Path) -> Iterator[Device]:
    with Device(root) as device:
        yield device


def deploy(device: Device, server: ImageServer) -> tuple[str, str]:
    """Two apps that share an image, RUNNING."""
    image = sleeper(SHARED)
    config = with_app(device_config(server, image), server, image)
    config["apps"][1]["displayname"] = "second"
    config["apps"][1]["drives"][0]["readonly"] = False  # so it has a copy of its own
    device.deploy(config)
    first, second = (app["uuidandversion"]["uuid"] for app in config["apps"])
    device.wait_running(first, second, seconds=60)
    return first, second


def check(root: Path, *options: str) -> tuple[int, dict[str, Any]]:
    """Exit status and findings of the command."""
    command = [sys.executable, "-m", "pillar", "check", "--root", str(root), "--json", *options]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=110)
    assert done.returncode in (0, 1), done.stderr
    return done.returncode, json.loads(done.stdout)


@contextlib.contextmanager
def stopped(pid: int) -> Iterator[None]:
    """A process that hangs for the length of a block."""
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@pytest.fixture(scope="module")
def at_rest(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tree with two running apps whose agents were all killed once nothing moved any more."""
    root = tmp_path_factory.mktemp("device")
    server = ImageServer()
    try:
        with Device(root) as device:
            deploy(device, server)
            device.settled()
            status, found = check(root, "--settle", "60")
            assert status == 0, found
            device.kill(SUPERVISOR)
            device.kill(*AGENT_NAMES)
            copy = tmp_path_factory.mktemp("copy") / "device"
            copy_tree(root, copy)  # before the ECOs are ended: their locks stay, nobody holds them in the copy
    finally:
        server.close()
    return copy


def copy_tree(source: Path, target: Path) -> None:
    def sockets(directory: str, names: list[str]) -> list[str]:
        return [name for name in names if (Path(directory) / name).is_socket()]

    shutil.copytree(source, target, symlinks=True, ignore=sockets)


@pytest.fixture
def tree(at_rest: Path, tmp_path: Path) -> Path:
    """A copy of it, to be damaged."""
    copy = tmp_path / "device"
    copy_tree(at_rest, copy)
    return copy


def only(root: Path, pattern: str) -> Path:
    """The first file of a pattern, which there must be."""
    found = sorted(root.glob(pattern))
    assert found, f"no {pattern} below {root}"
    return found[0]


def rewrite(path: Path, **fields: Any) -> None:
    record = json.loads(path.read_bytes())
    assert record.keys() >= fields.keys()
    path.write_text(json.dumps({**record, **fields}))


def unlink(root: Path, pattern: str) -> None:
    path = only(root, pattern)
    path.parent.chmod(0o700)
    path.unlink()


def unfinish(root: Path) -> None:
    """An app whose images are all verified, and which says that they are not."""
    path = only(root, "run/zedmanager/AppInstanceStatus/*.json")
    images = json.loads(path.read_bytes())["StorageStatusList"]
    rewrite(path, State=SwState.DOWNLOADED, Activated=False, StorageStatusList=[{**i, "State": 3} for i in images])


def same_number(root: Path) -> None:
    for path in root.glob("persist/status/zedrouter/UuidToNum/*.json"):
        if json.loads(path.read_bytes())["NumType"] == "appNum":
            rewrite(path, Number=7)


def same_address(root: Path) -> None:
    for path in root.glob("run/zedrouter/AppNetworkStatus/*.json"):
        networks = json.loads(path.read_bytes())["UnderlayNetworkList"]
        rewrite(path, UnderlayNetworkList=[{**network, "AllocatedIPAddr": "10.1.0.9"} for network in networks])


def grow(path: Path) -> None:
    path.chmod(0o600)
    with path.open("ab") as file:
        file.write(b"x" * 5000)


DAMAGE: list[tuple[str, Callable[[Path], object], str, str]] = [
    (
        "a count is too high",
        lambda root: rewrite(only(root, "run/zedmanager/appImg.obj/DownloaderConfig/*.json"), RefCount=3),
        "reference count",
        "RefCount is 3, but 2 users refer to it",
    ),
    (
        "a verification that nobody counts",
        lambda root: unlink(root, "run/zedmanager/appImg.obj/VerifyImageConfig/*.json"),
        "reference count",
        "there is no such record, but 2 users refer to it",
    ),
    (
        "the worker has another count",
        lambda root: rewrite(only(root, "run/downloader/appImg.obj/DownloaderStatus/*.json"), RefCount=1),
        "reference count",
        "RefCount is 1, the config's is 2",
    ),
    (
        "no status",
        lambda root: unlink(root, "run/domainmgr/DomainStatus/*.json"),
        "config without status",
        "nobody has answered it: there is no domainmgr/DomainStatus/",
    ),
    (
        "no config",
        lambda root: unlink(root, "run/zedagent/AppInstanceConfig/*.json"),
        "status without config",
        "there is no zedagent/AppInstanceConfig/",
    ),
    (
        "an app that zedmanager forgot",
        lambda root: unlink(root, "run/zedmanager/AppInstanceStatus/*.json"),
        "dangling reference",
        "has no AppInstanceStatus of app",
    ),
    (
        "no datastore",
        lambda root: unlink(root, "run/zedagent/DatastoreConfig/*.json"),
        "dangling reference",
        "which is not configured",
    ),
    (
        "no network instance",
        lambda root: unlink(root, "run/zedagent/NetworkInstanceConfig/*.json"),
        "dangling reference",
        "which is not configured",
    ),
    (
        "no image",
        lambda root: unlink(root, "persist/downloads/appImg.obj/verified/*/*"),
        "dangling reference",
        "DELIVERED, but persist/downloads/appImg.obj/verified/",
    ),
    (
        "no disk",
        lambda root: unlink(root, "persist/img/*"),
        "dangling reference",
        "and there is no such file",
    ),
    (
        "an app that nobody moves",
        unfinish,
        "stuck app",
        "waits for zedmanager to see that shared.img is verified",
    ),
    (
        "an app that differs from its domain",
        lambda root: rewrite(only(root, "run/domainmgr/DomainStatus/*.json"), State=SwState.HALTING),
        "state",
        "is RUNNING for zedmanager, its domain is HALTING",
    ),
    (
        "a restart that was not done",
        lambda root: rewrite(
            only(root, "run/zedagent/AppInstanceConfig/*.json"), RestartCmd={"Counter": 4, "ApplyTime": ""}
        ),
        "restart counter",
        "was asked for, 0 was carried out",
    ),
    (
        "used space",
        lambda root: rewrite(only(root, "run/downloader/GlobalDownloadStatus/global.json"), UsedSpace=1),
        "space",
        "UsedSpace is 1 KiB, the files in persist/downloads take",
    ),
    (
        "reserved space",
        lambda root: rewrite(only(root, "run/downloader/GlobalDownloadStatus/global.json"), ReservedSpace=9),
        "space",
        "ReservedSpace is 9 KiB, and no download has anything reserved",
    ),
    (
        "remaining space",
        lambda root: rewrite(only(root, "run/downloader/GlobalDownloadStatus/global.json"), RemainingSpace=9),
        "space",
        "RemainingSpace is 9 KiB",
    ),
    (
        "somebody wrote into an image",
        lambda root: grow(only(root, "persist/downloads/appImg.obj/verified/*/*")),
        "space",
        "the verified file has",
    ),
    (
        "a copy that nobody counts",
        lambda root: (root / "persist/img/foreign.raw").write_bytes(b"x"),
        "space",
        "no ImageStatus counts this file",
    ),
    ("a number twice", same_number, "number given twice", "appNum 7 is given to"),
    ("a number that is not stored", same_number, "number not stored", "but number 7 is stored for it"),
    ("an address twice", same_address, "address given twice", "10.1.0.9 on network instance"),
    (
        "a half-made record",
        lambda root: (only(root, "run/zedmanager/DomainConfig/.staging") / "record").write_bytes(b"{"),
        "left-over",
        "was being written when its writer was killed",
    ),
    (
        "a half-made disk",
        lambda root: (root / "persist/img/x.raw.tmp").write_bytes(b"x"),
        "left-over",
        "was being written when its writer was killed",
    ),
    (
        "a garbled record",
        lambda root: only(root, "run/zedmanager/DomainConfig/*.json").write_text('{"UUIDandVersion": 7}'),
        "unreadable record",
        "UUIDandVersion",
    ),
    (
        "a counter that is no number",
        lambda root: only(root, "run/verifier/appImg.obj/VerifyImageStatus/restarted").write_text("x"),
        "restart counter",
        "holds 'x', expected a number from 1",
    ),
]


@pytest.mark.parametrize(("damage", "kind", "text"), [row[1:] for row in DAMAGE], ids=[row[0] for row in DAMAGE])
def test_each_damage_is_told_in_words(tree: Path, damage: Callable[[Path], object], kind: str, text: str) -> None:
    assert examine(tree, settled=True).wrong == []
    damage(tree)
    found = examine(tree, settled=True).wrong
    assert any(problem.check == kind and text in problem.what for problem in found), found
    assert all(problem.mend for problem in found)


def test_on_a_tree_where_nothing_runs_what_a_start_mends_is_a_note(tree: Path) -> None:
    unlink(tree, "run/domainmgr/DomainStatus/*.json")
    status, found = check(tree)
    assert status == 0 and not found["live"]
    assert [problem["level"] for problem in found["problems"]] == ["note"] * len(found["problems"]) != []
    assert check(tree, "--settled")[0] == 1
    unlink(tree, "run/zedagent/DatastoreConfig/*.json")  # no start brings that back: it comes from the controller
    assert check(tree)[0] == 1


def test_a_root_that_is_not_there_is_exit_status_2(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "pillar", "check", "--root", str(tmp_path / "none")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "cannot be looked at: No such file or directory" in done.stderr


def test_a_device_at_work_is_never_called_wrong(device: Device, server: ImageServer) -> None:
    """Looks all the time while apps come, lose agents and go; each ends when a look of it finds nothing."""
    command = [sys.executable, "-m", "pillar", "check", "--root", str(device.where.root), "--json", "--settle", "60"]
    checks: list[subprocess.CompletedProcess[str]] = []

    def look_once() -> None:
        checks.append(subprocess.run(command, capture_output=True, text=True, check=False, timeout=110))

    look_once()
    apps = deploy(device, server)
    look_once()
    device.kill("zedmanager", "domainmgr")
    look_once()
    device.deploy({"id": {"uuid": "8b514462-0000-4000-8000-000000000001"}})
    look_once()
    device.wait_gone(*apps)
    look_once()
    assert [done.returncode for done in checks] == [0] * len(checks), [done.stdout for done in checks]


def test_an_app_whose_agent_hangs_is_told_and_all_fits_once_it_goes_on(device: Device, server: ImageServer) -> None:
    deploy(device, server)
    config = device_config(server, sleeper("third"))
    with stopped(device.pid("domainmgr")):
        device.deploy(config)
        app = config["apps"][0]["uuidandversion"]["uuid"]
        device.wait(lambda: (device.where.run / f"zedmanager/DomainConfig/{app}.json").exists(), "its domain", 60)
        status, found = check(device.where.root, "--settle", "0.5")
        assert status == 1 and found["live"]
        where = [(problem["check"], problem["where"]) for problem in found["problems"]]
        assert ("config without status", f"zedmanager/DomainConfig/{app}") in where
        assert ("stuck app", f"zedmanager/AppInstanceStatus/{app}") in where
    device.wait_running(app, seconds=60)
    status, found = check(device.where.root, "--settle", "60")
    assert status == 0, found


def test_a_table_fed_by_hand_lacks_nothing(tmp_path: Path) -> None:
    """One agent alone, with hand-written orders: nobody else is missed."""
    orders = tmp_path / "run/zedmanager/appImg.obj/DownloaderConfig"
    orders.mkdir(parents=True)
    (orders / "design.json").write_text('{"Name": "design.md", "Safename": "design", "RefCount": 1, "NameIsURL": true}')
    assert [p for p in judge(look(tmp_path)) if p.level == "wrong"] == []


def test_work_that_shows_progress_is_no_stuck_app_and_work_that_does_not_is() -> None:
    app = "5f2c0b1e-0000-4000-8000-000000000001"
    image = StorageStatus(Name="a.img", ImageSha256="ab", HasDownloaderRef=True, State=SwState.DOWNLOAD_STARTED)
    config = AppInstanceConfig(DisplayName="one", Activate=True)
    status = AppInstanceStatus(DisplayName="one", State=SwState.DOWNLOAD_STARTED, StorageStatusList=(image,))

    def stuck(age_s: float, *live: str) -> list[Problem]:
        tree = Tree(
            tables={
                "zedagent/AppInstanceConfig": {app: config},
                "zedmanager/AppInstanceStatus": {app: status},
                "zedmanager/appImg.obj/DownloaderConfig": {"a.img.ab": DownloaderConfig(RefCount=1)},
                "downloader/appImg.obj/DownloaderStatus": {
                    "a.img.ab": DownloaderStatus(State=SwState.DOWNLOAD_STARTED, Progress=40, RefCount=1)
                },
            },
            ages={("downloader/appImg.obj/DownloaderStatus", "a.img.ab"): age_s},
            live=frozenset({"zedmanager", *live}),
        )
        return [problem for problem in judge(tree) if problem.check == "stuck app"]

    assert stuck(5.0, "downloader") == []
    assert "nothing has changed there for 700 s" in stuck(700.0, "downloader")[0].what
    assert "waits for a.img to be downloaded (40 %); downloader does not run" in stuck(5.0)[0].what
