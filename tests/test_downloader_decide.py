"""Every arm of the downloader's decision, without disk, clock or network."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from msgspec.structs import replace

from pillar.clocks import RetryClock, UseClock
from pillar.cmd.downloader.decide import (
    Adopt,
    Cancel,
    Discard,
    Done,
    Facts,
    Failed,
    Fetch,
    Progress,
    Step,
    WrongContent,
    step,
)
from pillar.cmd.downloader.plan import Impossible, Plan, Waiting, plan, routes_to, source_of
from pillar.cmd.downloader.space import Reservation, default_max_kib, sweep, tally, used_kib
from pillar.imagestore import Found
from pillar.transports import Route, Source
from pillar.types.downloader import DatastoreConfig, DownloaderConfig, DownloaderStatus
from pillar.types.enums import NetworkProxyType, SwState
from pillar.types.nim import AddrInfo, DeviceNetworkStatus, NetworkPortStatus, ProxyEntry
from pillar.types.scalars import ZERO_TIME

SHA = "ab" * 32
NAME = f"image.{SHA}"
DATASTORE = "bc51aa4c-897f-4394-9f3a-760fe1affc4e"
NOW = "2026-01-01T00:00:00Z"
CONFIG = DownloaderConfig(Safename=NAME, Name="image", ImageSha256=SHA, Size=10_000, RefCount=1, DatastoreID=DATASTORE)
HERE = Plan(Source("DsHttp", "http://server/image"), (Route(),))
FACTS = Facts(now=NOW, objtype="appImg.obj", plan=HERE, free_kib=100)
PENDING = Found("pending", Path("/p") / NAME, 10_000)
STARTED = DownloaderStatus(
    Safename=NAME, ImageSha256=SHA, RefCount=1, LastUse=NOW, PendingAdd=True, State=SwState.DOWNLOAD_STARTED
)
FINISHED = replace(STARTED, PendingAdd=False, State=SwState.DOWNLOADED, Size=10_000, Progress=100)
RUNNING = Fetch(HERE, 1)


def decide(config: DownloaderConfig | None, status: DownloaderStatus | None, **facts: object) -> Step:
    return step(config, status, replace_facts(**facts))


def replace_facts(**facts: object) -> Facts:
    from dataclasses import replace as with_

    return with_(FACTS, **facts)  # type: ignore[arg-type]


def published(step: Step) -> DownloaderStatus:
    assert step.status is not None
    return step.status


def test_a_new_object_reserves_its_size_and_is_fetched():
    got = decide(CONFIG, None)
    status = published(got)
    assert got.work == Fetch(HERE, 100 * 1024)
    assert (status.PendingAdd, status.State, status.ReservedSpace) == (True, SwState.DOWNLOAD_STARTED, 10)
    assert (status.RefCount, status.LastUse, status.ObjType, status.LastErr) == (1, NOW, "appImg.obj", "")


def test_an_object_in_flight_when_the_process_died_is_fetched_again():
    got = decide(CONFIG, STARTED, first_look=True)
    assert isinstance(got.work, Fetch)


def test_a_missing_datastore_is_waited_for_without_an_error():
    got = decide(CONFIG, None, plan=Waiting("waiting for datastore"))
    assert got.work is None and got.note == "waiting for datastore"
    assert (published(got).PendingAdd, published(got).LastErr, published(got).State) == (True, "", SwState.NONE)


def test_waiting_takes_back_an_earlier_error():
    failed = replace(STARTED, LastErr="404", LastErrTime=NOW, PendingAdd=False)
    status = published(decide(CONFIG, failed, plan=Waiting("w")))
    assert (status.LastErr, status.LastErrTime) == ("", ZERO_TIME)


def test_what_cannot_be_fetched_says_why_and_counts_no_attempt():
    got = decide(CONFIG, None, plan=Impossible("no port"))
    assert got.work is None
    assert (published(got).LastErr, published(got).LastErrTime, published(got).RetryCount) == ("no port", NOW, 0)
    again = decide(CONFIG, got.status, plan=Impossible("no port"), now="2027-01-01T00:00:00Z")
    assert again.status == got.status


@pytest.mark.parametrize(("sha", "name"), [("xyz", NAME), ("../" * 3, NAME), (SHA, ".."), (SHA, "a/b"), ("", "")])
def test_names_that_cannot_be_files_are_an_error_and_touch_nothing(sha: str, name: str):
    got = decide(replace(CONFIG, ImageSha256=sha, Safename=name), None)
    assert got.work is None
    assert "ImageSha256" in published(got).LastErr or "Safename" in published(got).LastErr


def test_too_little_room_waits_with_both_numbers_and_goes_on_when_there_is_room():
    got = decide(CONFIG, None, free_kib=9)
    assert got.work is None
    assert published(got).LastErr == "no space: needs 10 KiB, may take 9 KiB"
    assert published(got).ReservedSpace == 0
    assert isinstance(decide(CONFIG, got.status, free_kib=10).work, Fetch)


def test_without_a_declared_size_there_must_be_some_room():
    unsized = replace(CONFIG, Size=0)
    assert decide(unsized, None, free_kib=0).work is None
    assert isinstance(decide(unsized, None, free_kib=1).work, Fetch)


def test_progress_is_published_and_takes_the_last_error_away():
    retried = replace(STARTED, LastErr="cut", LastErrTime=NOW)
    got = decide(CONFIG, retried, running=RUNNING, event=Progress(25_000, 100_000))
    status = published(got)
    assert (status.Progress, status.LastErr, status.LastErrTime) == (25, "", ZERO_TIME)
    assert status.ReservedSpace == 98  # the server knows better than the config
    assert got.work is None


def test_progress_of_an_unknown_size_is_zero_percent():
    assert published(decide(CONFIG, STARTED, running=RUNNING, event=Progress(5, None))).Progress == 0


def test_a_finished_download_is_downloaded():
    status = published(decide(CONFIG, STARTED, event=Done(9_999), found=PENDING))
    assert (status.State, status.Size, status.Progress, status.PendingAdd) == (SwState.DOWNLOADED, 9_999, 100, False)
    assert (status.ReservedSpace, status.ModTime, status.LastErr) == (0, NOW, "")


def test_a_failed_download_is_counted_and_waits_for_its_turn():
    got = decide(CONFIG, STARTED, event=Failed("404"), backing_off=True)
    status = published(got)
    assert got.work is None
    assert (status.LastErr, status.LastErrTime, status.RetryCount) == ("404", NOW, 1)
    assert (status.State, status.PendingAdd, status.ReservedSpace) == (SwState.INITIAL, False, 0)
    assert decide(CONFIG, status, backing_off=True) == Step(status)


def test_when_its_turn_comes_it_is_tried_again_and_the_error_stays_to_be_read():
    failed = published(decide(CONFIG, STARTED, event=Failed("404"), backing_off=True))
    got = decide(CONFIG, failed)
    assert isinstance(got.work, Fetch)
    assert (published(got).LastErr, published(got).RetryCount) == ("404", 1)


def test_refcount_zero_downloads_nothing():
    got = decide(replace(CONFIG, RefCount=0), None)
    assert got.work is None
    assert (published(got).PendingAdd, published(got).LastErr, published(got).State) == (False, "", SwState.INITIAL)


def test_refcount_zero_stops_a_download():
    got = decide(replace(CONFIG, RefCount=0), STARTED, running=RUNNING)
    assert got.work == Cancel()
    assert (published(got).RefCount, published(got).ReservedSpace) == (0, 0)


def test_a_changed_refcount_is_a_use_and_takes_expired_back():
    unused = replace(FINISHED, RefCount=0, Expired=True, LastUse=ZERO_TIME)
    status = published(decide(CONFIG, unused, found=PENDING))
    assert (status.RefCount, status.Expired, status.LastUse, status.State) == (1, False, NOW, SwState.DOWNLOADED)


def test_refcount_zero_for_long_is_offered_as_expired_once():
    nobody = replace(CONFIG, RefCount=0)
    unused = replace(FINISHED, RefCount=0)
    assert not published(decide(nobody, unused, found=PENDING)).Expired
    expired = published(decide(nobody, unused, found=PENDING, unused=True))
    assert expired.Expired
    assert published(decide(nobody, expired, found=PENDING, unused=True)) == expired
    assert not published(decide(CONFIG, FINISHED, found=PENDING, unused=True)).Expired


@pytest.mark.parametrize("stage", ["verifier", "verified"])
def test_an_image_in_the_verifiers_hands_is_never_fetched_again(stage: str):
    got = decide(CONFIG, None, found=Found(stage, Path("/v"), 77), first_look=True)  # type: ignore[arg-type]
    assert got.work is None
    assert (published(got).State, published(got).Size) == (SwState.DOWNLOADED, 77)


def test_a_complete_file_whose_end_was_not_published_is_hashed_and_taken():
    got = decide(CONFIG, STARTED, found=PENDING, first_look=True)
    assert got.work == Adopt(PENDING)
    assert published(decide(CONFIG, got.status, event=Done(10_000), found=PENDING)).State == SwState.DOWNLOADED


def test_a_file_with_the_wrong_content_goes_and_is_fetched():
    got = decide(CONFIG, STARTED, event=WrongContent(PENDING.path), found=PENDING)
    assert got.work == Discard(SHA, PENDING.path)
    assert isinstance(decide(CONFIG, got.status).work, Fetch)


def test_an_object_without_digest_is_taken_when_it_is_there():
    certificate = replace(CONFIG, ImageSha256="", Safename="c.sha")
    assert published(decide(certificate, None, found=PENDING)).State == SwState.DOWNLOADED


def test_downloaded_stays_downloaded_while_others_move_the_file():
    assert decide(CONFIG, FINISHED).work is None


def test_an_old_promise_without_a_file_is_fulfilled_at_start():
    got = decide(CONFIG, FINISHED, first_look=True)
    assert isinstance(got.work, Fetch)


def test_the_same_image_under_two_names_is_fetched_once():
    got = decide(CONFIG, None, twin=True)
    assert got.work is None and got.note
    assert published(got).PendingAdd


def test_what_runs_is_left_alone():
    assert decide(CONFIG, STARTED, running=RUNNING).work is None
    assert decide(CONFIG, STARTED, running=Adopt(PENDING)).work is None


@pytest.mark.parametrize("now_there", [Plan(Source("DsHttp", "http://other/image"), (Route(),)), Waiting("gone")])
def test_a_changed_datastore_stops_what_runs(now_there: Plan | Waiting):
    assert decide(CONFIG, STARTED, running=RUNNING, plan=now_there).work == Cancel()


def test_a_withdrawn_config_stops_the_work_then_removes_the_files_and_the_status():
    got = decide(None, STARTED, running=RUNNING)
    assert got.work == Cancel() and published(got).PendingDelete
    assert decide(None, got.status) == Step(None, Discard(SHA))


def test_another_digest_under_the_same_name_is_another_object():
    other = replace(CONFIG, ImageSha256="cd" * 32)
    assert decide(other, STARTED, running=RUNNING).work == Cancel()
    got = decide(other, FINISHED)
    assert got.work == Discard(SHA)
    assert (published(got).ImageSha256, published(got).State) == ("cd" * 32, SwState.NONE)


# ---- where from, over what


def test_a_url_is_put_together_from_datastore_and_name():
    store = DatastoreConfig(DsType="DsHttps", Fqdn="https://s.example/", Dpath="/a-images-images/", ApiKey="u")
    assert source_of(CONFIG, "appImg.obj", store).url == "https://s.example/a-images-images/image"
    assert source_of(CONFIG, "cert.obj", store).url == "https://s.example/a-certs-images/image"
    assert source_of(
        replace(CONFIG, Name="x y#1 %41?k=v"), "appImg.obj", DatastoreConfig(DsType="DsHttp", Fqdn="h")
    ).url == ("http://h/x%20y%231%20%41?k=v")
    assert source_of(replace(CONFIG, Name="http://x/y", NameIsURL=True), "appImg.obj", store).url == "http://x/y"
    assert "secret" not in repr(Source("DsHttp", "", api_key="secret", password="secret"))


def test_without_datastore_id_only_a_complete_url_can_be_fetched():
    nowhere = replace(CONFIG, DatastoreID="00000000-0000-0000-0000-000000000000")
    assert isinstance(plan(nowhere, "appImg.obj", None, None), Impossible)
    complete = replace(nowhere, Name="http://h/x", NameIsURL=True)
    assert isinstance(plan(complete, "appImg.obj", None, None), Plan)
    assert isinstance(plan(CONFIG, "appImg.obj", None, None), Waiting)


def port(name: str, *addresses: str, **fields: object) -> NetworkPortStatus:
    infos = tuple(AddrInfo(Addr=address) for address in addresses)
    return NetworkPortStatus(IfName=name, AddrInfoList=infos, **{"IsMgmt": True, **fields})  # type: ignore[arg-type]


def test_free_ports_come_first_and_ports_that_cost_only_when_allowed():
    network = DeviceNetworkStatus(
        Version=1,
        Ports=(
            port("wwan0", "10.0.0.9"),
            port("eth0", "10.0.0.1", "fe80::1", "fd00::1", Free=True),
            port("eth1", "10.0.0.2", Free=True, IsMgmt=False),
            port("eth2", "169.254.1.1", Free=True),
        ),
    )
    names = [(route.port, route.address) for route in routes_to("http://far/x", network, True)]
    assert names == [("eth0", "10.0.0.1"), ("eth0", "fd00::1"), ("wwan0", "10.0.0.9")]
    assert [route.port for route in routes_to("http://far/x", network, False)] == ["eth0", "eth0"]


@pytest.mark.parametrize("url", ["http://localhost:1/x", "http://127.3.2.1/x", "https://[::1]/x"])
def test_a_server_on_loopback_needs_no_port(url: str):
    assert routes_to(url, DeviceNetworkStatus(), False) == (Route(),)


def test_without_nims_table_the_default_route_is_used():
    assert routes_to("http://far/x", None, False) == (Route(),)


def test_no_usable_port_is_explained_port_by_port():
    network = DeviceNetworkStatus(
        Version=1, Ports=(port("wwan0", "10.0.0.9"), port("eth0", Free=True, Error="no lease"))
    )
    store = DatastoreConfig(UUID=DATASTORE, DsType="DsHttp", Fqdn="far")
    got = plan(CONFIG, "appImg.obj", store, network)
    assert got == Impossible(
        "no management port to fetch over: wwan0 costs money, which this object may not; "
        "eth0 has no usable address: no lease"
    )


def test_the_proxies_of_a_port_go_with_its_route():
    proxies = (
        ProxyEntry(Type=NetworkProxyType.HTTP, Server="p", Port=3128),
        ProxyEntry(Type=NetworkProxyType.FTP, Server="f"),
    )
    network = DeviceNetworkStatus(Ports=(port("eth0", "10.0.0.1", Free=True, Proxies=proxies, Exceptions="a,b"),))
    assert routes_to("http://far/x", network, False) == (
        Route(address="10.0.0.1", port="eth0", proxies=(("http", "http://p:3128"),), exceptions="a,b"),
    )


# ---- room and clocks


def test_room_is_what_is_on_disk_and_what_is_promised_beyond_it():
    sums = tally(100, 30, [Reservation(20, 5), Reservation(10, 10), Reservation(4, 9)])
    assert (sums.UsedSpace, sums.ReservedSpace, sums.RemainingSpace) == (30, 15, 55)
    assert tally(10, 30, []).RemainingSpace == 0


def test_used_room_is_counted_in_every_directory(tmp_path: Path):
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "a" / "b" / "x").write_bytes(b"1" * 1025)
    (tmp_path / "y").write_bytes(b"1")
    (tmp_path / "link").symlink_to(tmp_path / "y")
    assert used_kib(tmp_path) == 3
    assert used_kib(tmp_path / "none") == 0
    assert default_max_kib(tmp_path / "none" / "deeper") > 0


def test_a_directory_that_nobody_may_look_into_is_left_out_and_said_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "image").write_bytes(bytes(2048))
    (tmp_path / "lost+found").mkdir(mode=0)
    tmp_path.chmod(0o755)
    monkeypatch.chdir(tmp_path)  # the way there is root's own
    was_root = os.geteuid() == 0
    if was_root:  # whom no permission stops
        os.seteuid(65534)
    try:
        assert [used_kib(Path()) for _ in range(3)] == [2, 2, 2]
    finally:
        if was_root:
            os.seteuid(0)
    assert [record.getMessage() for record in caplog.records] == ["lost+found is not counted: Permission denied"]
    assert used_kib(tmp_path / "image") == 0  # a file where a directory should be


def test_leftovers_that_nobody_wants_are_swept_and_nothing_else(tmp_path: Path):
    other = "cd" * 32
    for name in (f"{SHA}/{NAME}.part", f"{SHA}/x", f"{other}/y.part", "c.sha.part.json", "c.sha", "d.sha.part"):
        path = tmp_path / name
        path.parent.mkdir(exist_ok=True)
        path.touch()
    sweep(tmp_path, [(NAME, SHA), ("c.sha", "")])
    left = sorted(str(path.relative_to(tmp_path)) for path in tmp_path.glob("**/*") if path.is_file())
    assert left == [f"{SHA}/{NAME}.part", f"{SHA}/x", "c.sha", "c.sha.part.json"]
    assert not (tmp_path / other).exists()


def test_back_off_doubles_up_to_its_cap_and_starts_anew_after_success():
    time = [0.0]
    clock = RetryClock(lambda: time[0])
    assert clock.remaining("k") is None and not clock.waiting("k")
    assert [clock.failed("k", 5) for _ in range(5)] == [1, 2, 4, 5, 5]
    assert clock.waiting("k") and clock.remaining("k") == 5
    time[0] = 5
    assert not clock.waiting("k") and clock.remaining("k") == 0
    clock.forget("k")
    assert clock.failed("k", 5) == 1


def test_idle_time_counts_from_the_last_use_or_the_first_question():
    time = [10.0]
    clock = UseClock(lambda: time[0])
    assert clock.idle("k") == 0
    time[0] = 15
    assert clock.idle("k") == 5
    clock.used("k")
    assert clock.idle("k") == 0
