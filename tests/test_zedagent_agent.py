"""zedagent as a process: device configs are handed in, changed, broken and taken away, and zedagent is killed."""

from __future__ import annotations

import json
import os
import signal
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import json_format

from pillar.below import files_below
from pillar.cmd.zedagent.source import Checkpoint
from pillar.controller.config_pb2 import EdgeDevConfig
from pillar.controller.handed import hand_in
from tests.support import running, wait_for

GOLDEN = Path(__file__).resolve().parent / "golden/controller"
DEVICE = "5d0b7c1e-3a64-4f0e-9c58-2f4c7a1be901"
NET = "c7d1e2f0-9a3b-4c6d-8e5f-1a2b3c4d3301"
NETWORK = "6a5e9d1c-70f3-4b8e-b3a9-77f0c2de2201"
STATUSES = ("ZedAgentStatus", "DeviceConfigStatus")
TIMES = ("TimePriority", "ErrorTime", "ParseErrorTime")


def app_id(number: int) -> str:
    return f"f0a41b6d-2c39-4e7a-90d5-{number:012d}"


def config(version: str, apps: int = 1, **members: Any) -> dict[str, Any]:
    """A device config with this many apps on one network instance, and a port whose network has an error."""
    app = {"displayname": "farm", "activate": True, "fixedresources": {"memory": 1024, "vcpus": 1}}
    return {
        "id": {"uuid": DEVICE, "version": version},
        "apps": [
            {**app, "uuidandversion": {"uuid": app_id(number)}, "interfaces": [{"networkId": NET}]}
            for number in range(apps)
        ],
        "networkInstances": [{"uuidandversion": {"uuid": NET}, "instType": "ZnetInstSwitch"}],
        "networks": [{"id": NETWORK, "type": "V4", "ip": {"gateway": "bad"}}],
        "systemAdapterList": [{"name": "eth0", "uplink": True, "networkUUID": NETWORK}],
        "deviceIoList": [{"phylabel": "eth0", "logicallabel": "eth0"}],
        **members,
    }


def as_json(members: dict[str, Any]) -> bytes:
    return json.dumps(members).encode()


def as_binary(members: dict[str, Any]) -> bytes:
    return json_format.ParseDict(members, EdgeDevConfig()).SerializeToString()


def give(root: Path, members: dict[str, Any]) -> None:
    hand_in(root / "config", "device.json", as_json(members))


@contextmanager
def zedagent(root: Path) -> Iterator[subprocess.Popen[str]]:
    """A zedagent that has looked at its config once."""
    counter = root / "run/zedagent/AppInstanceConfig/restarted"
    before = counter.read_text() if counter.exists() else ""
    with running("python", "-m", "pillar.cmd.zedagent", "--root", root, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: counter.exists() and counter.read_text() != before, "zedagent to have looked at its config")
        yield process


def table(root: Path, topic: str) -> dict[str, Any]:
    directory = root / ("run/global" if topic == "GlobalConfig" else "run/zedagent") / topic
    return {path.stem: json.loads(path.read_bytes()) for path in directory.glob("*.json")}


def state(root: Path) -> dict[str, Any]:
    return table(root, "DeviceConfigStatus").get("zedagent", {})


def status(root: Path) -> dict[str, Any]:
    return table(root, "ZedAgentStatus").get("zedagent", {})


def wait_for_version(root: Path, version: str) -> None:
    wait_for(lambda: state(root).get("Version") == version and not state(root)["Error"], f"version {version} in force")


def files(root: Path) -> dict[str, tuple[int, int]]:
    """Every record of zedagent's but its statuses, with what tells whether it was written again."""
    return {
        str(path.relative_to(root)): (status.st_ino, status.st_mtime_ns)
        for path, status in files_below(root / "run")
        if path.suffix == ".json" and path.parent.name not in (*STATUSES, ".staging")
    }


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: timeless(member) for name, member in value.items() if name not in TIMES}
    return [timeless(member) for member in value] if isinstance(value, list) else value


def log_lines(root: Path, text: str) -> list[str]:
    return [line for line in (root / "persist/log/zedagent.log").read_text().splitlines() if text in line]


def test_each_sample_replaces_the_one_before_in_every_table(root: Path) -> None:
    samples = sorted(GOLDEN.glob("*.json")) + sorted(GOLDEN.glob("*.pb"))
    with zedagent(root):
        for sample in samples:
            hand_in(root / "config", f"device{sample.suffix}", sample.read_bytes())
            source = str(root / "config" / f"device{sample.suffix}")
            wait_for_version(root, json.loads(sample.with_suffix(".json").read_bytes())["id"]["version"])
            assert state(root)["Source"] == source
            expect = GOLDEN / "expect" / sample.stem
            topics = {path.parent.name for path in GOLDEN.glob("expect/*/*/*.json")} - {"GlobalConfig"}
            for topic in topics:
                wanted = {path.stem: json.loads(path.read_bytes()) for path in expect.glob(f"{topic}/*.json")}
                assert timeless(table(root, topic)) == timeless(wanted), (sample.name, topic)
            if (expect / "GlobalConfig").exists():
                assert table(root, "GlobalConfig") == {
                    "global": json.loads((expect / "GlobalConfig/global.json").read_bytes())
                }
            kept, wanted_kept = root / "config/rebootConfig", expect / "rebootConfig"
            assert kept.exists() == wanted_kept.exists()
            assert not kept.exists() or kept.read_bytes() == wanted_kept.read_bytes()


def test_deploy_change_and_remove(root: Path) -> None:
    with zedagent(root):
        assert (state(root)["State"], status(root)["ConfigGetStatus"]) == ("none", 2)
        give(root, config("1", apps=3))
        wait_for_version(root, "1")
        assert sorted(table(root, "AppInstanceConfig")) == [app_id(number) for number in range(3)]
        assert (state(root)["State"], status(root)["ConfigGetStatus"]) == ("read", 1)
        before = files(root)
        changed = config("2", apps=2)
        changed["apps"][1]["activate"] = False
        (root / "config/device.json").write_bytes(as_json(changed))  # in place, as an editor or `>` would
        wait_for_version(root, "2")
        apps = table(root, "AppInstanceConfig")
        assert {key: app["Activate"] for key, app in apps.items()} == {app_id(0): True, app_id(1): False}
        after = files(root)
        rewritten = [name for name in after if before[name] != after[name]]
        assert [Path(name).stem for name in rewritten] == [app_id(1)]  # what did not change is not written again


def test_what_vanished_is_withdrawn_after_a_good_parse_only(root: Path) -> None:
    signed = config("1", datastores=[{"id": NET}])
    signed["apps"][0]["drives"] = [{"image": {"siginfo": {"signercerturl": "s"}, "uuidandversion": {}}}]
    give(root, signed)
    with zedagent(root):
        topics = (
            "AppInstanceConfig",
            "CertObjConfig",
            "DatastoreConfig",
            "NetworkInstanceConfig",
            "NetworkXObjectConfig",
        )
        assert [len(table(root, topic)) for topic in topics] == [1, 1, 1, 1, 1]
        (root / "config/device.json").write_bytes(as_json({"id": {"uuid": DEVICE}})[:-3])
        wait_for(lambda: state(root)["Error"], "the refusal")
        assert [len(table(root, topic)) for topic in topics] == [1, 1, 1, 1, 1]
        signed["apps"][0]["drives"] = []
        signed["id"]["version"] = "2"
        give(root, signed)
        wait_for_version(root, "2")
        assert [len(table(root, topic)) for topic in topics] == [1, 0, 1, 1, 1]
        give(root, {"id": {"uuid": DEVICE, "version": "3"}})
        wait_for_version(root, "3")
        assert [len(table(root, topic)) for topic in topics] == [0, 0, 0, 0, 0]
        assert len(table(root, "DevicePortConfig")) == 1  # a device keeps the ports it has


@pytest.mark.parametrize(
    ("name", "data", "why"),
    [
        ("device.json", as_json(config("2"))[:200], "protobuf-JSON"),
        ("device.json", b"", "protobuf-JSON"),
        ("device.pb", b"\x00garbage", "binary protobuf"),
        ("device.pb", as_binary(config("2"))[:60], "binary protobuf"),
        ("device.json", as_json({**config("2"), "id": {}}), "names no device"),
    ],
    ids=["cut json", "empty", "garbage", "cut binary", "no device id"],
)
def test_a_bad_file_keeps_the_last_good_config_and_recovers(root: Path, name: str, data: bytes, why: str) -> None:
    give(root, config("1", apps=2))
    with zedagent(root):
        before = files(root)
        hand_in(root / "config", name, data)
        error = wait_for(lambda: state(root)["Error"], "the refusal")
        assert why in error
        assert str(root / "config" / name) in error
        assert status(root)["ConfigGetStatus"] == 2
        assert (state(root)["Version"], files(root)) == ("1", before)
        assert len(log_lines(root, "going on with the config of device")) == 1
        hand_in(root / "config", name, as_json(config("3")) if name.endswith("json") else as_binary(config("3")))
        wait_for_version(root, "3")
        assert sorted(table(root, "AppInstanceConfig")) == [app_id(0)]


def test_what_is_no_file_is_refused(root: Path) -> None:
    give(root, config("1"))
    with zedagent(root):
        for make in (Path.mkdir, os.mkfifo):
            path = root / "config/device.pb"
            make(path)
            os.utime(path, (2e9, 2e9))
            wait_for(lambda: "not a regular file" in state(root)["Error"], "the refusal")
            (root / "config/device.pb").rmdir() if path.is_dir() else path.unlink()
            wait_for_version(root, "1")


def test_without_a_good_file_the_saved_config_holds(root: Path) -> None:
    give(root, config("1", apps=2))
    with zedagent(root) as process:
        process.kill()
        process.wait(timeout=10)
    subprocess.run(["rm", "-r", root / "run", root / "config/device.json"], check=True)  # a reboot, and no config left
    with zedagent(root):
        assert (state(root)["State"], state(root)["Version"], status(root)["ConfigGetStatus"]) == ("saved", "1", 4)
        assert len(table(root, "AppInstanceConfig")) == 2
        assert "has neither" in state(root)["Error"]


def test_a_damaged_copy_and_a_broken_newer_file_leave_the_older_file(root: Path) -> None:
    give(root, config("1", apps=2))
    hand_in(root / "config", "device.pb", b"\x00")
    (root / "persist/checkpoint").mkdir(parents=True)
    (root / "persist/checkpoint/lastconfig").write_bytes(b"\x00")
    with zedagent(root):
        assert (state(root)["State"], state(root)["Version"]) == ("read", "1")
        assert "device.pb refused" in state(root)["Error"]
        assert len(table(root, "AppInstanceConfig")) == 2


def test_a_restart_with_nothing_new_publishes_nothing(root: Path) -> None:
    give(root, config("1", apps=2))
    with zedagent(root) as process:
        wait_for_version(root, "1")
        kept = root / "persist/checkpoint/lastconfig"
        wait_for(kept.exists, "the saved config")
        before, saved, statuses = files(root), kept.stat().st_mtime_ns, (state(root), status(root))
        assert table(root, "DevicePortConfig")["zedagent"]["Ports"][0]["ParseError"]
        process.kill()
        process.wait(timeout=10)
    with zedagent(root):
        assert files(root) == before
        assert kept.stat().st_mtime_ns == saved
        assert (state(root), status(root)) == statuses


@pytest.mark.parametrize("apps", [0, 250], ids=["withdrawing", "publishing"])
def test_killed_in_the_middle_it_finishes_after_the_restart(root: Path, apps: int) -> None:
    give(root, config("1", apps=250 - apps))
    directory = root / "run/zedagent/AppInstanceConfig"
    with zedagent(root) as process:
        give(root, config("2", apps=apps))
        wait_for(
            lambda: 0 < len(list(directory.glob("*.json"))) < 250 or state(root)["Version"] == "2", "the middle", 30
        )
        process.send_signal(signal.SIGKILL)
        process.wait(timeout=10)
    with zedagent(root):
        wait_for_version(root, "2")
        assert len(table(root, "AppInstanceConfig")) == apps
        assert not list(directory.glob(".staging/*"))


def test_a_file_that_is_being_written_is_left_alone_until_it_is_closed(root: Path) -> None:
    give(root, config("1", apps=2))
    with zedagent(root):
        before = files(root)
        path = root / "config/device.pb"
        whole = as_binary(config("2", apps=3))
        cut = as_binary({"id": {"uuid": DEVICE, "version": "2"}})
        assert whole.startswith(cut)  # a cut between two fields is a config too: one without apps
        with path.open("wb", buffering=0) as file:
            file.write(cut)
            os.utime(path, (2e9, 2e9))  # an event that makes zedagent look
            wait_for(lambda: log_lines(root, "is being written"), "zedagent to see the writer")
            assert (files(root), state(root)["Version"]) == (before, "1")
            file.write(whole[len(cut) :])
            os.utime(path, (2e9, 2e9))
        wait_for_version(root, "2")
        assert len(table(root, "AppInstanceConfig")) == 3


def test_the_newer_file_counts_and_the_other_one_when_it_goes(root: Path) -> None:
    give(root, config("json"))
    with zedagent(root):
        (root / "config/device.pb").write_bytes(as_binary(config("pb")))
        wait_for_version(root, "pb")
        os.utime(root / "config/device.json", (2e9, 2e9))
        wait_for_version(root, "json")
        (root / "config/device.json").unlink()
        wait_for_version(root, "pb")


def test_the_config_directory_may_go_and_come_back(root: Path) -> None:
    give(root, config("1"))
    with zedagent(root):
        wait_for_version(root, "1")
        (root / "config").rename(root / "away")
        wait_for(lambda: "has neither" in state(root)["Error"], "zedagent to miss its config")
        assert len(table(root, "AppInstanceConfig")) == 1
        other = root / "other"
        give(other, config("2", apps=2))
        (other / "config").rename(root / "config")
        wait_for_version(root, "2")
        give(root, config("3"))
        wait_for_version(root, "3")


def test_an_unknown_name_in_a_config_is_ignored_and_named(root: Path) -> None:
    with zedagent(root):
        assert table(root, "GlobalConfig")["global"]["ConfigInterval"] == 60  # the defaults, before any config
        give(root, config("1", colour="blue", configItems=[{"key": "sound", "value": "off"}]))
        wait_for_version(root, "1")
        assert state(root)["Problems"] == ["ignored: EdgeDevConfig has no field 'colour'"]
        assert table(root, "GlobalConfig")["global"]["Errors"] == ["Unknown configItem sound value off\n"]
        assert len(log_lines(root, "Unknown configItem sound")) == 1


def test_a_link_put_in_place_is_followed(root: Path) -> None:
    with zedagent(root):
        elsewhere = root / "elsewhere.json"
        elsewhere.write_bytes(as_json(config("1")))
        (root / "config/device.json").symlink_to(elsewhere)
        wait_for_version(root, "1")


def test_a_new_reboot_counter_deactivates_the_apps_until_zedagent_starts_again(root: Path) -> None:
    give(root, config("1", apps=2, reboot={"counter": 4}))
    with zedagent(root):
        assert json.loads((root / "config/rebootConfig").read_bytes()) == {"counter": 4}
        assert status(root) == {"Name": "zedagent", "ConfigGetStatus": 1, "RebootCmd": False, "RebootReason": ""}
        give(root, config("2", apps=2, reboot={"counter": 5, "desiredState": True, "opsTime": "now"}))
        wait_for_version(root, "2")
        assert [app["Activate"] for app in table(root, "AppInstanceConfig").values()] == [False, False]
        assert (status(root)["RebootCmd"], status(root)["RebootReason"]) == (True, "NORMAL: handleReboot rebooting")
        kept = (root / "config/rebootConfig").read_bytes()
        assert kept == b'{"counter":5,"desiredState":true,"opsTime":"now"}'
        give(root, config("3", apps=1, reboot={"counter": 5}))
        wait_for_version(root, "3")
        assert [app["Activate"] for app in table(root, "AppInstanceConfig").values()] == [False]
    with zedagent(root):
        assert [app["Activate"] for app in table(root, "AppInstanceConfig").values()] == [True]
        assert status(root)["RebootCmd"] is False
        give(root, config("4"))
        wait_for_version(root, "4")
        assert not (root / "config/rebootConfig").exists()


def test_a_damaged_reboot_file_is_replaced(root: Path) -> None:
    give(root, config("1", reboot={"counter": 9}))
    (root / "config/rebootConfig").write_bytes(b"[1,")
    with zedagent(root):
        wait_for_version(root, "1")
        assert (root / "config/rebootConfig").read_bytes() == b'{"counter":9}'
        assert status(root)["RebootCmd"] is False
        assert log_lines(root, "rebootConfig")


def test_a_copy_of_the_config_that_a_full_disk_left_half_written_goes_with_the_next_one(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path / "checkpoint")
    left = checkpoint.path.with_name(".lastconfig.6g8vt56f")  # its removal was refused too
    left.write_bytes(b"half")
    config = EdgeDevConfig()
    config.id.uuid = "8b514462-0000-4000-8000-000000000001"
    assert checkpoint.save(config)
    assert list(checkpoint.path.parent.iterdir()) == [checkpoint.path]
    assert checkpoint.load() == config
