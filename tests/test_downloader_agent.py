"""The downloader as a real process, fed by hand, against servers that are killed, cut, stalled and mended."""

from __future__ import annotations

import hashlib
import os
import random
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agentproc import AgentProcess, Table
from servers import Fault, FaultServer, Nginx, eventually

from pillar.below import files_below

pytest_plugins = ("server_fixtures",)

CONTENT = random.Random(2).randbytes(2 * 1024 * 1024 + 5)
SHA = hashlib.sha256(CONTENT).hexdigest()
NAME = f"image.{SHA}"
STORE = "bc51aa4c-897f-4394-9f3a-760fe1affc4e"
MIB = 1024 * 1024


class Device:
    """A root with a downloader and the tables around it."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.stores = Table(root, "zedagent", "DatastoreConfig")
        self.configs = Table(root, "zedmanager", "DownloaderConfig", "appImg.obj")
        self.statuses = Table(root, "downloader", "DownloaderStatus", "appImg.obj")
        self.space = Table(root, "downloader", "GlobalDownloadStatus")
        self.pending = root / "persist" / "downloads" / "appImg.obj" / "pending"
        self.agent = AgentProcess(root, "downloader")

    def datastore(self, server: FaultServer | Nginx) -> None:
        self.stores.write(STORE, UUID=STORE, DsType="DsHttp", Fqdn=f"http://127.0.0.1:{server.port}", Dpath="d")

    def want(self, name: str = NAME, **fields: Any) -> None:
        record = {"DatastoreID": STORE, "Safename": name, "Name": "image", "Size": len(CONTENT), "ImageSha256": SHA}
        self.configs.write(name, **{**record, "RefCount": 1, **fields})

    def wait_long_for_datastores(self) -> None:
        """The downloader's patience is over after some seconds, which a test may need to look at what comes before."""
        code = "from pillar.cmd.downloader import __main__, agent; agent.DATASTORE_PATIENCE_S = 1e6; __main__.main()"
        self.agent.command = (sys.executable, "-c", code, "--root", str(self.root))

    @property
    def image(self) -> Path:
        return self.pending / SHA / NAME

    @property
    def part(self) -> Path:
        return self.pending / SHA / f"{NAME}.part"


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    device = Device(tmp_path / "root")
    device.root.mkdir()
    yield device
    device.agent.kill()


def test_files_written_by_hand_are_fetched_and_the_status_file_tells(device: Device, nginx: Callable[..., Nginx]):
    server = nginx()
    (server.root / "d").mkdir()
    (server.root / "d" / "image").write_bytes(CONTENT)
    device.agent.start()
    device.stores.directory.mkdir(parents=True)
    device.configs.directory.mkdir(parents=True)
    store = f'{{"UUID":"{STORE}","DsType":"DsHttp","Fqdn":"http://127.0.0.1:{server.port}","Dpath":"d"}}'
    config = f'{{"DatastoreID":"{STORE}","Safename":"{NAME}","Name":"image","ImageSha256":"{SHA}","RefCount":1}}'
    for path, text in (
        (device.configs.directory / f"{NAME}.json", config),
        (device.stores.directory / f"{STORE}.json", store),
    ):
        subprocess.run(["sh", "-c", 'cat > "$0"', path], input=text, text=True, check=True)
    status = device.statuses.wait(NAME, State=3)
    assert (status["Size"], status["Progress"], status["LastErr"], status["PendingAdd"]) == (
        len(CONTENT),
        100,
        "",
        False,
    )
    assert device.image.read_bytes() == CONTENT
    assert [path.name for path in device.image.parent.iterdir()] == [NAME]
    used = len(CONTENT) // 1024 + 1
    device.space.wait("global", UsedSpace=used, ReservedSpace=0)


def test_a_datastore_that_comes_late_is_waited_for_without_an_error(device: Device, fault_server: FaultServer):
    fault_server.put("/d/image", CONTENT)
    device.wait_long_for_datastores()
    device.want()
    device.agent.start()
    device.statuses.wait(NAME, PendingAdd=True, LastErr="", State=0, RetryCount=0)
    eventually(lambda: f"waiting for datastore {STORE}" in device.agent.log_text)
    device.datastore(fault_server)
    status = device.statuses.wait(NAME, State=3)
    assert status["RetryCount"] == 0


def test_a_datastore_that_does_not_come_is_an_error_until_it_does(device: Device, fault_server: FaultServer):
    fault_server.put("/d/image", CONTENT)
    device.want()
    device.agent.start()
    text = f"waiting for datastore {STORE}, which is not configured"
    status = device.statuses.wait(NAME, PendingAdd=False, LastErr=text, RetryCount=0)
    device.agent.kill()
    device.agent.start()
    assert device.statuses.read(NAME) == status  # a restart is no reason to take it back
    device.datastore(fault_server)
    device.statuses.wait(NAME, State=3, LastErr="")


def test_killed_in_the_middle_it_goes_on_where_it_stopped(device: Device, fault_server: FaultServer):
    fault_server.put("/d/image", CONTENT)
    fault_server.fault("/d/image", Fault(hold_after=MIB + 1))
    device.datastore(fault_server)
    device.want()
    device.agent.start()
    eventually(lambda: device.part.exists() and device.part.stat().st_size == MIB + 1, "the held bytes are on disk")
    assert device.statuses.read(NAME)["PendingAdd"]  # type: ignore[index]
    device.agent.kill()
    fault_server.release()
    device.agent.start()
    device.statuses.wait(NAME, State=3)
    assert device.image.read_bytes() == CONTENT
    again = fault_server.requests("/d/image")[1]
    assert (again.range_start, again.sent) == (MIB + 1, len(CONTENT) - MIB - 1)
    assert again.headers["if-range"] == fault_server.objects["/d/image"].etag


def on_disk_kib(device: Device) -> int:
    """What downloads take of the disk, each file rounded up; a part file has gaps."""
    total = 0
    for path, status in files_below(device.root / "persist" / "downloads"):
        size = min(status.st_size, status.st_blocks * 512) if ".part" in path.name else status.st_size
        total += (size + 1023) // 1024
    return total


def space_as_on_disk(device: Device, **fields: Any) -> dict[str, Any]:
    """The sums once they are right: those of the disk as it is then, as a record beside a part file may still come."""
    return device.space.wait("global", UsedSpace=lambda kib: kib == on_disk_kib(device), **fields)


def test_killed_again_and_again_no_byte_is_lost_and_the_sums_are_those_of_the_disk(
    device: Device, fault_server: FaultServer
):
    fault_server.put("/d/image", CONTENT)
    device.datastore(fault_server)
    device.want()
    Table(device.root, "global", "GlobalDownloadConfig").write("global", MaxSpace=100_000)
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    stops = sorted(random.Random(seed).sample(range(1, len(CONTENT)), 4))
    have = 0
    for stop in stops:
        fault_server.hold_again()
        fault_server.fault("/d/image", Fault(hold_after=stop - have))
        device.agent.start()
        eventually(lambda stop=stop: device.part.exists() and device.part.stat().st_size == stop, f"{stop} bytes")
        sums = space_as_on_disk(device, ReservedSpace=lambda kib: kib > 0)
        assert sums["UsedSpace"] + sums["ReservedSpace"] + sums["RemainingSpace"] == 100_000
        device.agent.kill()
        have = stop
        fault_server.release()
    device.agent.start()
    device.statuses.wait(NAME, State=3)
    space_as_on_disk(device, ReservedSpace=0)
    assert device.image.read_bytes() == CONTENT
    starts = [seen.range_start for seen in fault_server.requests("/d/image")]
    assert starts == [0, *stops]


def test_killed_between_rename_and_status_the_file_is_taken_not_fetched(device: Device, fault_server: FaultServer):
    device.datastore(fault_server)
    device.want()
    device.image.parent.mkdir(parents=True)
    device.image.write_bytes(CONTENT)
    left = [device.part.with_name(f"{device.part.name}{suffix}") for suffix in (".json", ".spans")]
    for path in left:
        path.write_text("{}")
    device.agent.start()
    device.statuses.wait(NAME, State=3, Size=len(CONTENT))
    assert fault_server.seen == []
    assert not any(path.exists() for path in left), "the file is whole: nothing tells of its parts any more"


def test_a_complete_file_with_other_content_is_replaced(device: Device, fault_server: FaultServer):
    fault_server.put("/d/image", CONTENT)
    device.datastore(fault_server)
    device.want()
    device.image.parent.mkdir(parents=True)
    device.image.write_bytes(b"not it")
    device.agent.start()
    device.statuses.wait(NAME, State=3)
    assert device.image.read_bytes() == CONTENT


@pytest.mark.parametrize("stage", ["verifier", "verified"])
def test_a_restart_never_fetches_what_the_verifier_has(device: Device, fault_server: FaultServer, stage: str):
    device.datastore(fault_server)
    device.want()
    place = device.pending.parent / stage / SHA
    place.mkdir(parents=True)
    (place / "image").write_bytes(CONTENT)
    device.agent.start()
    device.statuses.wait(NAME, State=3, Size=len(CONTENT))
    device.agent.kill()
    device.agent.start()
    device.want(RefCount=2)
    device.statuses.wait(NAME, State=3, RefCount=2)
    assert fault_server.seen == []


def test_an_object_that_changes_while_it_is_fetched_is_never_mixed(device: Device, fault_server: FaultServer):
    fault_server.put("/d/image", bytes(len(CONTENT)), '"old"')
    fault_server.fault("/d/image", Fault(hold_after=MIB, cut_after=MIB))
    device.datastore(fault_server)
    device.want()
    device.agent.start()
    assert fault_server.holding.wait(20)
    fault_server.put("/d/image", CONTENT, '"new"')
    fault_server.release()
    device.statuses.wait(NAME, State=3)
    assert device.image.read_bytes() == CONTENT


def test_404_is_an_error_a_person_can_read_and_resolves_when_it_is_mended(device: Device, fault_server: FaultServer):
    device.datastore(fault_server)
    device.want()
    device.agent.start()
    status = device.statuses.wait(NAME, LastErr=lambda text: "404" in text, State=1)
    assert status["LastErr"] == f"http://127.0.0.1:{fault_server.port}/d/image: 404 Not Found"
    assert (status["PendingAdd"], status["ReservedSpace"]) == (False, 0)
    assert status["RetryCount"] >= 1
    fault_server.put("/d/image", CONTENT)
    done = device.statuses.wait(NAME, State=3, LastErr="")
    assert done["RetryCount"] >= 1  # never reset: it says how rough the way was


def test_a_corrected_datastore_is_tried_at_once(device: Device, fault_server: FaultServer):
    fault_server.put("/d/image", CONTENT)
    device.stores.write(STORE, UUID=STORE, DsType="DsFile", Fqdn="file:///nowhere")
    device.want()
    device.agent.start()
    device.statuses.wait(NAME, RetryCount=lambda count: count >= 4)  # the next attempt would be 8 s later
    device.datastore(fault_server)
    device.statuses.wait(NAME, State=3, deadline_s=7)


def test_a_datastore_type_without_a_transport_is_an_error_until_the_datastore_changes(
    device: Device, fault_server: FaultServer
):
    fault_server.put("/d/image", CONTENT)
    device.stores.write(STORE, UUID=STORE, DsType="DsSmoke", Fqdn="nowhere")
    device.want()
    device.agent.start()
    status = device.statuses.wait(
        NAME, State=1, LastErr=lambda text: "no transport for datastore type DsSmoke" in text, RetryCount=1
    )
    other = f"other.{SHA[::-1]}"  # its third failure is later than a second attempt at the first would be
    elsewhere = STORE.replace("b", "a")
    device.stores.write(elsewhere, UUID=elsewhere, DsType="DsFile", Fqdn="file:///nowhere")
    device.want(other, ImageSha256=SHA[::-1], DatastoreID=elsewhere)
    device.statuses.wait(other, RetryCount=lambda count: count >= 3)
    assert device.statuses.read(NAME) == status
    device.datastore(fault_server)
    device.statuses.wait(NAME, State=3)


def test_refcount_zero_downloads_nothing_and_a_rise_does(device: Device, fault_server: FaultServer):
    fault_server.put("/d/image", CONTENT)
    device.datastore(fault_server)
    device.want(RefCount=0)
    device.agent.start()
    device.statuses.wait(NAME, RefCount=0, State=1, LastErr="", PendingAdd=False)
    assert fault_server.seen == []
    device.want(RefCount=1)
    device.statuses.wait(NAME, RefCount=1, State=3)


def test_a_withdrawn_config_stops_the_transfer_at_once_and_leaves_nothing(device: Device, fault_server: FaultServer):
    fault_server.put("/d/image", CONTENT)
    fault_server.fault("/d/image", Fault(hold_after=MIB))
    device.datastore(fault_server)
    device.want()
    device.agent.start()
    eventually(lambda: device.part.exists() and device.part.stat().st_size == MIB)
    device.configs.remove(NAME)
    device.statuses.wait_gone(NAME)
    assert list(device.pending.iterdir()) == []
    device.space.wait("global", UsedSpace=0, ReservedSpace=0)


def test_a_config_that_went_while_it_was_down_is_cleaned_up(device: Device, fault_server: FaultServer):
    fault_server.put("/d/image", CONTENT)
    device.datastore(fault_server)
    device.want()
    device.agent.start()
    device.statuses.wait(NAME, State=3)
    device.agent.kill()
    device.configs.remove(NAME)
    device.agent.start()
    device.statuses.wait_gone(NAME)
    assert list(device.pending.iterdir()) == []


def test_room_is_reserved_refused_and_given_back(device: Device, fault_server: FaultServer):
    fault_server.put("/d/image", CONTENT)
    fault_server.put("/d/other", b"other")
    Table(device.root, "global", "GlobalDownloadConfig").write("global", MaxSpace=3000)
    fault_server.fault("/d/image", Fault(hold_after=MIB))
    device.datastore(fault_server)
    device.want()
    device.agent.start()
    eventually(lambda: device.part.exists() and device.part.stat().st_size == MIB)
    device.want("other.sha", Name="other", ImageSha256="", Size=2_000_000)
    status = device.statuses.wait("other.sha", LastErr=lambda text: text.startswith("no space: needs 1954 KiB"))
    assert (status["RetryCount"], status["ReservedSpace"]) == (0, 0)
    sums = device.space.wait("global", ReservedSpace=lambda kib: kib > 0)
    assert sums["UsedSpace"] + sums["ReservedSpace"] + sums["RemainingSpace"] == 3000
    device.configs.remove(NAME)
    device.statuses.wait("other.sha", State=3, LastErr="")


def test_an_object_larger_than_the_room_is_refused_whatever_was_declared(device: Device, fault_server: FaultServer):
    fault_server.put("/d/image", CONTENT)
    Table(device.root, "global", "GlobalDownloadConfig").write("global", MaxSpace=1000)
    device.datastore(fault_server)
    device.want(Size=10)
    device.agent.start()
    device.statuses.wait(NAME, LastErr=f"the object has {len(CONTENT)} bytes, only {1000 * 1024} may be stored")


def test_several_objects_at_once_and_one_stalled_holds_up_nobody(device: Device, fault_server: FaultServer):
    fault_server.put("/d/image", CONTENT)
    fault_server.fault("/d/image", Fault(hold_after=0))
    device.datastore(fault_server)
    device.want()
    names = [f"small{number}" for number in range(6)]
    for name in names:
        fault_server.put(f"/d/{name}", name.encode())
        device.want(f"{name}.sha", Name=name, ImageSha256="", Size=10)
    device.agent.start()
    for name in names:
        device.statuses.wait(f"{name}.sha", State=3)
    assert device.statuses.read(NAME)["State"] == 2  # type: ignore[index]


def test_at_most_eight_objects_come_at_once_and_the_next_follows(device: Device, fault_server: FaultServer):
    device.datastore(fault_server)
    names = [f"slow{number}" for number in range(10)]
    for name in names:
        fault_server.put(f"/d/{name}", CONTENT)
        fault_server.fault(f"/d/{name}", Fault(hold_after=1))
        device.want(f"{name}.sha", Name=name, ImageSha256="", Size=10)
    device.agent.start()
    for name in names:
        device.statuses.wait(f"{name}.sha", State=2, deadline_s=60)
    eventually(lambda: len(fault_server.seen) >= 8, "eight are asked for", 60)
    assert len(fault_server.seen) == 8
    device.configs.remove(fault_server.seen[0].path.rpartition("/")[2] + ".sha")
    eventually(lambda: len(fault_server.seen) == 9, "the next follows", 60)


def test_wrong_content_in_quarantine_is_counted_and_never_keeps_the_right_one_out(
    device: Device, fault_server: FaultServer
):
    fault_server.put("/d/image", CONTENT)
    fault_server.put("/d/small", b"small")
    Table(device.root, "global", "GlobalDownloadConfig").write("global", MaxSpace=3000)
    kept = device.pending.parent / "quarantine" / f"{SHA}.{SHA[::-1]}"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(bytes(1500 * 1024))
    device.datastore(fault_server)
    device.want("small.sha", Name="small", ImageSha256="", Size=10)
    device.agent.start()
    device.statuses.wait("small.sha", State=3)
    device.space.wait("global", UsedSpace=1501)
    assert kept.exists()  # there was room for both
    device.want()
    device.statuses.wait(NAME, State=3, LastErr="")
    assert not kept.exists()


def test_each_object_type_has_its_owner_its_scope_and_its_directory(device: Device, fault_server: FaultServer):
    for path in ("/store-images/os", "/store-certs/signer.pem"):
        fault_server.put(path, CONTENT)
    url = f"http://127.0.0.1:{fault_server.port}"
    device.stores.write(STORE, UUID=STORE, DsType="DsHttp", Fqdn=url, Dpath="store-images")
    wanted = {"DatastoreID": STORE, "Size": len(CONTENT), "RefCount": 1}
    system = {**wanted, "Safename": NAME, "Name": "os", "ImageSha256": SHA}
    Table(device.root, "baseosmgr", "DownloaderConfig", "baseOs.obj").write(NAME, **system)
    Table(device.root, "zedmanager", "DownloaderConfig", "baseOs.obj").write("not mine", **system)
    certificate = {**wanted, "Safename": "signer", "Name": "signer.pem"}
    Table(device.root, "baseosmgr", "DownloaderConfig", "cert.obj").write("signer", **certificate)
    device.agent.start()
    downloads = device.root / "persist" / "downloads"
    for objtype, key, path in (
        ("baseOs.obj", NAME, downloads / "baseOs.obj" / "pending" / SHA / NAME),
        ("cert.obj", "signer", downloads / "cert.obj" / "pending" / "signer"),
    ):
        statuses = Table(device.root, "downloader", "DownloaderStatus", objtype)
        assert statuses.wait(key, State=3, LastErr="", deadline_s=60)["ObjType"] == objtype
        assert statuses.keys() == [key]
        assert path.read_bytes() == CONTENT
    assert device.statuses.keys() == []


def test_one_image_under_two_names_is_fetched_once(device: Device, fault_server: FaultServer):
    fault_server.put("/d/image", CONTENT)
    device.datastore(fault_server)
    device.want()
    device.want(f"other name.{SHA}")
    device.agent.start()
    device.statuses.wait(NAME, State=3)
    device.statuses.wait(f"other name.{SHA}", State=3)
    assert fault_server.sent("/d/image") == len(CONTENT)


def test_bad_names_and_bad_files_harm_nobody_else(device: Device, fault_server: FaultServer):
    fault_server.put("/d/image", CONTENT)
    device.datastore(fault_server)
    device.want("bad.sha", ImageSha256="../../../../etc")
    device.configs.directory.mkdir(parents=True, exist_ok=True)
    (device.configs.directory / "cut.json").write_text('{"RefCount":')
    device.agent.start()
    device.want()
    device.statuses.wait("bad.sha", LastErr=lambda text: "is not 64 hexadecimal digits" in text)
    device.statuses.wait(NAME, State=3)


def test_secrets_of_a_datastore_are_in_no_status_and_no_log(device: Device, fault_server: FaultServer):
    url = f"http://127.0.0.1:{fault_server.port}"
    device.stores.write(STORE, UUID=STORE, DsType="DsHttp", Fqdn=url, ApiKey="user", Password="tell-nobody")
    device.want(Name="image?sig=tell-nobody-either")
    device.agent.start()
    device.statuses.wait(NAME, LastErr=lambda text: "404" in text)
    assert "tell-nobody" not in device.agent.log_text
    assert "tell-nobody" not in (device.statuses.read(NAME) or {})["LastErr"]
    assert fault_server.seen[0].headers["authorization"].startswith("Basic ")
    process = Path(f"/proc/{device.agent.process.pid}")  # type: ignore[union-attr]
    assert "tell-nobody" not in (process / "cmdline").read_text() + (process / "environ").read_text()
    core = next(line for line in (process / "limits").read_text().splitlines() if line.startswith("Max core file size"))
    assert core.split()[4:6] == ["0", "0"]


def test_a_full_disk_is_an_error_that_ends_by_itself_when_there_is_room(tmp_path: Path, fault_server: FaultServer):
    if shutil.which("unshare") is None or subprocess.run(["unshare", "-Urm", "true"], check=False).returncode:
        pytest.skip("no user namespaces here: cannot mount a small file system")
    fault_server.put("/d/image", CONTENT)
    device = Device(tmp_path / "root")
    downloads = device.root / "persist" / "downloads"
    downloads.mkdir(parents=True)
    mount = 'mount -t tmpfs -o size=1500k none "$0" && exec "$@"'
    device.agent = AgentProcess(device.root, "downloader", ("unshare", "-Urm", "sh", "-c", mount, str(downloads)))
    Table(device.root, "global", "GlobalDownloadConfig").write("global", MaxSpace=100_000)
    device.datastore(fault_server)
    device.want()
    try:
        device.agent.start()
        device.statuses.wait(NAME, LastErr=lambda text: "No space left on device" in text, State=1)
        inside = Path(f"/proc/{device.agent.process.pid}/root") / downloads.relative_to("/")  # type: ignore[union-attr]
        subprocess.run(
            [
                "nsenter",
                f"--target={device.agent.process.pid}",
                "--user",
                "--preserve-credentials",
                "--mount",  # type: ignore[union-attr]
                "mount",
                "-o",
                "remount,size=8m",
                str(downloads),
            ],
            check=True,
        )
        device.statuses.wait(NAME, State=3, LastErr="", deadline_s=30)
        assert (inside / "appImg.obj" / "pending" / SHA / NAME).read_bytes() == CONTENT
        assert fault_server.sent("/d/image") < len(CONTENT) + 3 * MIB
    finally:
        device.agent.kill()


def test_a_second_downloader_is_refused(device: Device):
    device.agent.start()
    second = subprocess.run(device.agent.command, capture_output=True, check=False, timeout=60)
    assert second.returncode == 3
    assert str(device.agent.process.pid) in second.stderr.decode()  # type: ignore[union-attr]


def test_it_imports_no_http_library_until_it_fetches(device: Device):
    device.agent.start()
    maps = Path(f"/proc/{device.agent.process.pid}/maps").read_text()  # type: ignore[union-attr]
    assert "_ssl" not in maps
    assert os.path.exists(device.pending)


def test_a_thousand_objects_that_wait_cost_the_downloader_next_to_nothing(device: Device) -> None:
    """Each look at one of them used to add up the space of all: seven seconds of work at every start."""
    device.wait_long_for_datastores()  # at the end of its patience it has an error to tell of each, whenever that is
    for number in range(1000):
        device.want(f"waits-{number}.{number:064x}", ImageSha256=f"{number:064x}")
    device.agent.start()
    eventually(lambda: len(device.statuses.keys()) == 1000, "every order has its status", deadline_s=60)
    (device.root / "run/global/GlobalDownloadConfig").mkdir(parents=True)
    (device.root / "run/global/GlobalDownloadConfig/global.json").write_text('{"MaxSpace": 1000000}')  # look again
    device.want()
    device.statuses.wait(NAME, deadline_s=60)
    assert device.agent.cpu_s() < 4.0
