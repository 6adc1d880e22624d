"""`pillar deploy` and `pillar undeploy`: what is handed in, what is refused, what is said."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from pillar.command.main import main
from pillar.controller.config_pb2 import EdgeDevConfig
from pillar.controller.device import decode_binary, decode_json, encode_binary

GOLDEN = Path(__file__).resolve().parent / "golden/controller"
SAMPLE = GOLDEN / "vm_two_disks.json"
APP = "f0a41b6d-2c39-4e7a-90d5-6b8c1e2f4401"


def pillar(root: Path, *words: object) -> int:
    return main([str(words[0]), "--root", str(root), *(str(word) for word in words[1:])])


def printed(capsys: pytest.CaptureFixture[str]) -> dict[str, Any]:
    said = json.loads(capsys.readouterr().out)
    assert isinstance(said, dict)
    return said


def two_apps(path: Path, names: tuple[str, str] = ("milk", "honey")) -> Path:
    config = decode_json(SAMPLE.read_bytes())
    config.apps.append(config.apps[0])
    for number, (app, name) in enumerate(zip(config.apps, names, strict=True)):
        app.uuidandversion.uuid = f"{APP[:-1]}{number}"
        app.displayname = name
    path.write_bytes(encode_binary(config))
    return path


@pytest.mark.parametrize("sample", [SAMPLE, SAMPLE.with_suffix(".pb")], ids=["json", "binary"])
def test_a_config_is_put_in_place_as_it_is(
    root: Path, tmp_path: Path, sample: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    plain = tmp_path / "config"  # the content tells the form, not the name
    plain.write_bytes(sample.read_bytes())
    assert pillar(root, "deploy", plain) == 0
    target = root / f"config/device{sample.suffix}"
    assert [path.name for path in (root / "config").iterdir()] == [target.name]
    assert target.read_bytes() == sample.read_bytes()
    said = capsys.readouterr().out
    assert str(target) in said
    assert f"{APP}  milk-scada  to run  scada-os-18.04.qcow2, historian/data.raw" in said


def test_what_was_deployed_for_programs(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pillar(root, "deploy", "--json", SAMPLE) == 0
    said = printed(capsys)
    assert (said["device"], said["version"]) == ("5d0b7c1e-3a64-4f0e-9c58-2f4c7a1be901", "7")
    assert [(app["uuid"], app["name"], app["activate"]) for app in said["apps"]] == [(APP, "milk-scada", True)]
    assert (said["file"], said["removed"]) == (str(root / "config/device.json"), [])


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"{}", "names no device"),
        (b"hello", "binary protobuf"),
        (b'{"apps":[', "protobuf-JSON"),
        (None, "No such file"),
    ],
)
def test_a_bad_file_changes_nothing(
    root: Path, tmp_path: Path, data: bytes | None, why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pillar(root, "deploy", SAMPLE)
    bad = tmp_path / "bad"
    if data is not None:
        bad.write_bytes(data)
    assert pillar(root, "deploy", bad) == 1
    assert why in capsys.readouterr().err
    assert [path.name for path in (root / "config").iterdir()] == ["device.json"]
    assert (root / "config/device.json").read_bytes() == SAMPLE.read_bytes()


def test_a_slip_of_the_pen_is_told(root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    config = tmp_path / "config"
    for slip, said in (
        ({"actviate": True}, "EdgeDevConfig.apps[0] has no field 'actviate'"),
        ({"drives": [{"target": "disk"}]}, "EdgeDevConfig.apps[0].drives[0].target has no value 'disk'"),
    ):
        config.write_text(json.dumps({"id": {"uuid": APP}, "apps": [{"displayname": "farm", **slip}]}))
        assert pillar(root, "deploy", config) == 0
        assert f"ignored: {said}" in capsys.readouterr().out


def test_another_file_stays_unless_it_would_count_instead(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (root / "config").mkdir()
    other = root / "config/device.pb"
    other.write_bytes(SAMPLE.with_suffix(".pb").read_bytes())
    os.utime(other, (1, 1))
    assert pillar(root, "deploy", SAMPLE) == 0
    assert other.exists()
    os.utime(other, (4e9, 4e9))  # written when the clock ran ahead
    capsys.readouterr()
    assert pillar(root, "deploy", "--json", SAMPLE) == 0
    assert printed(capsys)["removed"] == [str(other)]
    assert not other.exists()


@pytest.mark.parametrize("name", ["honey", f"{APP[:-1]}1", f"{APP[:-1]}1".upper()], ids=["name", "uuid", "upper case"])
def test_one_app_is_taken_out(root: Path, tmp_path: Path, name: str, capsys: pytest.CaptureFixture[str]) -> None:
    pillar(root, "deploy", two_apps(tmp_path / "two"))
    capsys.readouterr()
    assert pillar(root, "undeploy", "--json", name) == 0
    assert printed(capsys)["undeployed"] == [{"uuid": f"{APP[:-1]}1", "name": "honey"}]
    left = decode_binary((root / "config/device.pb").read_bytes())
    assert [app.displayname for app in left.apps] == ["milk"]
    assert len(left.datastores) == 2


@pytest.mark.parametrize(
    ("names", "why"), [(("a", "b"), "there is no such app"), (("x", "x"), "2 apps have this name")]
)
def test_which_app_must_be_clear(
    root: Path, tmp_path: Path, names: tuple[str, str], why: str, capsys: pytest.CaptureFixture[str]
) -> None:
    pillar(root, "deploy", two_apps(tmp_path / "two", names))
    before = (root / "config/device.pb").read_bytes()
    assert pillar(root, "undeploy", "x") == 1
    assert why in capsys.readouterr().err
    assert (root / "config/device.pb").read_bytes() == before


def test_without_a_name_only_the_device_id_stays(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pillar(root, "deploy", SAMPLE)
    assert pillar(root, "undeploy") == 0
    left = decode_json((root / "config/device.json").read_bytes())
    assert left == EdgeDevConfig(id=decode_json(SAMPLE.read_bytes()).id)
    assert "milk-scada" in capsys.readouterr().out


def test_the_saved_config_is_changed_when_no_file_is_left(root: Path) -> None:
    (root / "persist/checkpoint").mkdir(parents=True)
    (root / "persist/checkpoint/lastconfig").write_bytes(SAMPLE.with_suffix(".pb").read_bytes())
    assert pillar(root, "undeploy", "milk-scada") == 0
    assert not decode_binary((root / "config/device.pb").read_bytes()).apps


def test_nothing_deployed_is_an_error(root: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pillar(root, "undeploy") == 1
    assert "nothing is deployed" in capsys.readouterr().err
    assert not (root / "config").exists()


def test_a_name_from_a_config_cannot_drive_the_terminal(
    root: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pillar(root, "deploy", two_apps(tmp_path / "two", ("\x1b[2Jbad", "b")))
    pillar(root, "undeploy")
    assert "\x1b" not in capsys.readouterr().out


def test_protobuf_is_loaded_by_those_who_need_it_only() -> None:
    code = "import pillar.command.deploy, pillar.command.undeploy, sys; print('google.protobuf' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
