"""What a kill, or a disk that refuses, leaves half made is gone after the next try, and never taken for the file."""

from __future__ import annotations

from pathlib import Path

import pytest
from inside import Inside
from recorded_hardware import RecordedHardware, machine

from pillar.cmd.baseosmgr.install import MARK, install
from pillar.cmd.domainmgr.agent import DomainMgr
from pillar.cmd.domainmgr.disks import TMP_SUFFIX, make_copy
from pillar.cmd.domainmgr.passthrough import Passthrough
from pillar.cmd.verifier.ledger import Ledger
from pillar.cmd.verifier.seal import seal
from pillar.cmd.zedagent.agent import ZedAgent
from pillar.cmd.zedagent.reboot import REBOOT_CONFIG_NAME
from pillar.cmd.zedagent.source import Checkpoint
from pillar.durable import replace_file, sweep_staged
from pillar.hypervisors import DomainSpec, HypervisorError
from pillar.hypervisors.process import USER_DATA, ProcessHypervisor
from pillar.hypervisors.xen import XenHypervisor
from pillar.locations import Locations
from pillar.transports.base import Identity
from pillar.transports.partfile import PartFile
from pillar.types.domainmgr import DiskStatus, DomainConfig

pytest_plugins = ("inside_fixtures",)


def names(directory: Path) -> set[str]:
    return {path.name for path in directory.iterdir()}


def test_a_file_that_cannot_be_replaced_leaves_nothing_beside_it(tmp_path: Path) -> None:
    (tmp_path / "device.json").mkdir()  # no file can be renamed over a directory
    with pytest.raises(OSError):
        replace_file(tmp_path / "device.json", b"{}")
    assert names(tmp_path) == {"device.json"}


def test_what_a_killed_replacement_left_is_swept(tmp_path: Path) -> None:
    (tmp_path / ".device.json.abc").touch()
    (tmp_path / ".other.abc").touch()
    assert sweep_staged(tmp_path / "device.json") == 1
    assert names(tmp_path) == {".other.abc"}


def test_the_checkpoint_sweeps_when_it_is_opened(tmp_path: Path) -> None:
    checkpoint = Checkpoint(tmp_path)
    (tmp_path / f".{checkpoint.path.name}.abc").touch()
    Checkpoint(tmp_path)
    assert names(tmp_path) == set()


def test_user_data_of_a_killed_start_is_swept_before_the_next(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"#!/bin/sh\n")
    where = Locations(tmp_path / "root")
    disk = DiskStatus(ImageSha256="ab", Format="raw", FileLocation=str(image), ActiveFileLocation=str(image))
    domain = DomainSpec("app", DomainConfig(), (disk,))
    ProcessHypervisor(where).prepare(domain)
    home = where.persist / "process/app"
    (home / f".{USER_DATA}.abc").touch()
    ProcessHypervisor(where).prepare(domain)
    assert names(home) == {"work"}


def test_half_a_xen_configuration_with_its_password_is_swept_before_the_next_start(tmp_path: Path) -> None:
    where = Locations(tmp_path)
    config = DomainConfig(DisplayName="app", AppNum=1, Memory=65536, VCpus=1, EnableVnc=True, VncPasswd="secret")
    domain = DomainSpec("app", config, ())
    configuration = XenHypervisor(where).write(domain)
    configuration.with_name(f".{configuration.name}.abc").write_text("vncpasswd")
    assert XenHypervisor(where).write(domain) == configuration
    assert names(configuration.parent) == {configuration.name}


def test_half_a_reboot_counter_goes_when_zedagent_starts(tmp_path: Path, inside: Inside) -> None:
    (tmp_path / "config").mkdir()
    (tmp_path / f"config/.{REBOOT_CONFIG_NAME}.abc").touch()
    inside.start(ZedAgent, {})
    assert names(tmp_path / "config") == set()


def test_a_certificate_is_installed_although_a_kill_left_half_of_it(tmp_path: Path) -> None:
    (tmp_path / "source").write_bytes(MARK)
    (tmp_path / "certs").mkdir()
    (tmp_path / "certs/.root.pem.new").write_bytes(b"ha")
    assert install(tmp_path / "source", tmp_path / "certs/root.pem")
    assert names(tmp_path / "certs") == {"root.pem"}


def test_a_copy_of_a_disk_that_fails_leaves_nothing(tmp_path: Path) -> None:
    (tmp_path / "image").write_bytes(b"x" * 100)
    (tmp_path / "img/disk.raw").mkdir(parents=True)
    target = str(tmp_path / "img/disk.raw")
    disk = DiskStatus(ImageSha256="ab", Format="raw", FileLocation=str(tmp_path / "image"), ActiveFileLocation=target)
    with pytest.raises(HypervisorError, match="cannot copy"):
        make_copy(disk, lambda: None)
    assert names(tmp_path / "img") == {"disk.raw"}


def test_half_a_copy_of_a_disk_goes_when_domainmgr_starts(tmp_path: Path, inside: Inside) -> None:
    images = tmp_path / "persist/img"
    images.mkdir(parents=True)
    (images / f"disk.raw{TMP_SUFFIX}").touch()
    inside.start(DomainMgr, {"hypervisor": "process"})
    assert names(images) == set()


def test_half_a_record_of_taken_devices_goes_with_the_app(tmp_path: Path) -> None:
    passthrough = Passthrough(tmp_path / "adapters", RecordedHardware(machine(tmp_path / "hardware", "q35")))
    passthrough.take("app", ("0000:01:00.0", "0000:01:00.1"), ())
    (tmp_path / "adapters/.app.json.abc").touch()
    passthrough.give_back("app")
    assert names(tmp_path / "adapters") == set()


def test_an_image_is_sealed_although_a_kill_left_half_a_copy(tmp_path: Path) -> None:
    image = tmp_path / "image"
    image.write_bytes(b"image")
    left = tmp_path / f".copy-{image.stat().st_ino}"
    left.write_bytes(b"im")
    with image.open("r+b"):  # somebody may still write, so it takes a copy
        assert seal(image)
    assert image.read_bytes() == b"image"
    assert names(tmp_path) == {"image"}


def test_a_record_of_parts_that_cannot_be_written_leaves_nothing(tmp_path: Path) -> None:
    part = PartFile(tmp_path / "object")
    part.open("source")
    part.record_path.mkdir()
    with pytest.raises(OSError):
        part.begin("source", Identity(6, "1"))
    part.close()
    assert f"{part.record_path.name}.new" not in names(tmp_path)


def test_half_an_entry_of_the_verifiers_ledger_goes_at_its_next_start(tmp_path: Path) -> None:
    for name in ("ab.json", "ab.new"):
        (tmp_path / name).write_text("{")
    Ledger(tmp_path)
    assert names(tmp_path) == {"ab.json"}
