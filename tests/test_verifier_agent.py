"""The verifier as a real process, fed by hand, killed, and restarted on what the kill left."""

from __future__ import annotations

import base64
import hashlib
import os
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agentproc import AgentProcess, Table
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, utils
from servers import Authority, needs
from support import wait_for

from pillar.crashpoints import Control, NoCompiler, Plan
from pillar.crashtest.observer import Observer

CONTENT = random.Random(3).randbytes(300_000)
SHA = hashlib.sha256(CONTENT).hexdigest()
NAME = f"http:  host image.raw.{SHA}"


class Device:
    """A root with a verifier and the tables around it."""

    def __init__(self, root: Path) -> None:
        root.mkdir()
        self.root = root
        self.configs = Table(root, "zedmanager", "VerifyImageConfig", "appImg.obj")
        self.statuses = Table(root, "verifier", "VerifyImageStatus", "appImg.obj")
        self.downloads = Table(root, "downloader", "DownloaderStatus", "appImg.obj")
        self.images = root / "persist" / "downloads" / "appImg.obj"
        self.verified = self.images / "verified" / SHA / "image.raw"
        self.agent = AgentProcess(root, "verifier")
        self.configs.directory.mkdir(parents=True)

    def put(self, stage: str, content: bytes = CONTENT, name: str = NAME) -> Path:
        directory = self.images / stage / SHA
        directory.mkdir(parents=True, exist_ok=True)
        (directory / name).write_bytes(content)
        return directory / name

    def ask(self, name: str = NAME, **fields: Any) -> None:
        self.configs.write(name, **{"Safename": name, "ImageSha256": SHA, "RefCount": 1, **fields})

    def restart(self) -> None:
        self.agent.kill()
        self.agent.start()


@pytest.fixture
def device(tmp_path: Path) -> Iterator[Device]:
    device = Device(tmp_path / "root")
    yield device
    device.agent.kill()


def read_bytes(agent: AgentProcess) -> int:
    """How much the process has read so far, files and all."""
    assert agent.process is not None
    for line in Path(f"/proc/{agent.process.pid}/io").read_text().splitlines():
        if line.startswith("rchar:"):
            return int(line.split()[1])
    raise AssertionError("no rchar")


def test_a_downloaded_image_is_verified_and_sealed(device: Device):
    device.put("pending")
    device.agent.start()
    device.ask()
    status = device.statuses.wait(NAME, State=4, PendingAdd=False, LastErr="")
    assert status["Size"] == len(CONTENT)
    assert device.verified.read_bytes() == CONTENT
    assert [path.name for path in device.verified.parent.iterdir()] == ["image.raw"]
    assert (device.verified.stat().st_mode & 0o777, device.verified.parent.stat().st_mode & 0o777) == (0o400, 0o500)
    assert not (device.images / "pending" / SHA).exists()
    assert not (device.images / "verifier" / SHA).exists()


def test_a_wrong_image_names_both_hashes_goes_away_and_the_next_download_is_verified(device: Device):
    device.put("pending", b"not it")
    device.agent.start()
    device.ask()
    status = device.statuses.wait(NAME, LastErr=lambda text: text.startswith("sha256 mismatch"))
    assert SHA in status["LastErr"] and hashlib.sha256(b"not it").hexdigest() in status["LastErr"]
    assert (status["State"], status["PendingAdd"]) == (3, False)
    assert not list(device.images.glob(f"*/{SHA}/*"))
    device.put("pending")
    device.downloads.write(NAME, Safename=NAME, ImageSha256=SHA, State=3)
    device.statuses.wait(NAME, State=4, LastErr="", deadline_s=5)


@pytest.mark.parametrize("stage", ["pending", "verifier", "verified"])
def test_wherever_a_kill_left_the_file_it_is_taken_up(device: Device, stage: str):
    device.put(stage, name="image.raw" if stage == "verified" else NAME)
    device.ask()
    device.agent.start()
    device.statuses.wait(NAME, State=4)
    assert device.verified.read_bytes() == CONTENT
    assert device.verified.parent.stat().st_mode & 0o777 == 0o500


PENDING, VERIFIER = f"pending/{SHA}/{NAME}", f"verifier/{SHA}/{NAME}"
LEDGER = f"../../verifier/appImg.obj/{SHA}.new"


KILLS = {"take": (PENDING, 1), "hash": (LEDGER, 1), "place": (VERIFIER, 1), "note": (LEDGER, 2)}  # renames, from this


@pytest.mark.parametrize(("path", "occurrence"), KILLS.values(), ids=KILLS)
def test_killed_at_any_rename_it_still_ends_verified(device: Device, path: str, occurrence: int):
    strace = needs("strace", "strace")
    device.put("pending")
    device.ask()
    point = os.path.normpath(device.images / path)
    inject = f"inject=rename:signal=SIGKILL:when={occurrence}"
    command = (strace, "-f", "-qq", "-o", os.devnull, "-P", point, "-e", "trace=rename", "-e", inject)
    victim = AgentProcess(device.root, "verifier", command)
    victim.start()
    victim.wait_killed()
    device.agent.start()
    device.statuses.wait(NAME, State=4)
    assert device.verified.read_bytes() == CONTENT
    assert [path.name for path in device.verified.parent.iterdir()] == ["image.raw"]


def test_a_restart_offers_verified_images_without_reading_them(device: Device):
    size = 128 * 1024 * 1024
    sha = hashlib.sha256(bytes(size)).hexdigest()
    path = device.images / "pending" / sha / f"big.{sha}"
    path.parent.mkdir(parents=True)
    with path.open("wb") as file:
        file.truncate(size)
    device.configs.write(f"big.{sha}", Safename=f"big.{sha}", ImageSha256=sha, RefCount=1)
    device.agent.start()
    device.statuses.wait(f"big.{sha}", State=4)
    assert read_bytes(device.agent) > size
    device.agent.kill()
    device.configs.remove(f"big.{sha}")
    shutil.rmtree(device.statuses.directory)  # a reboot: /run is empty
    device.agent.start()
    device.statuses.wait(f"big.{sha}", State=4, RefCount=0, Size=size)
    device.put("pending")
    device.ask()
    device.statuses.wait(NAME, State=4)  # by now everything that was to be read has its turn
    assert read_bytes(device.agent) < size


def test_an_image_that_changed_while_it_was_down_is_found_out(device: Device):
    device.put("pending")
    device.ask()
    device.agent.start()
    device.statuses.wait(NAME, State=4)
    device.agent.kill()
    before = device.verified.stat()
    device.verified.chmod(0o600)
    device.verified.write_bytes(b"x" * len(CONTENT))
    device.verified.chmod(0o400)
    os.utime(device.verified, ns=(before.st_atime_ns, before.st_mtime_ns))
    device.agent.start()
    device.statuses.wait(NAME, LastErr=lambda text: text.startswith("sha256 mismatch"))
    assert not device.verified.exists()


def test_an_order_that_went_while_it_was_down_is_noticed(device: Device):
    device.put("pending")
    device.agent.start()
    device.ask()
    device.statuses.wait(NAME, State=4, RefCount=1)
    device.agent.kill()
    device.configs.remove(NAME)
    device.agent.start()
    device.statuses.wait(NAME, State=4, RefCount=0)


@pytest.mark.parametrize("damage", ["went", "changed"])
def test_a_bad_image_is_not_shown_as_good_after_a_restart_though_nobody_is_there_to_ask(device: Device, damage: str):
    device.put("pending")
    device.agent.start()
    device.ask()
    device.statuses.wait(NAME, State=4)
    device.agent.kill()
    if damage == "went":
        shutil.rmtree(device.images / "verified")
    else:
        device.verified.chmod(0o600)
        device.verified.write_bytes(b"x" * len(CONTENT))
    shutil.rmtree(device.configs.directory)
    device.agent.start()
    device.statuses.wait(NAME, State=3)


def test_a_restart_tells_when_it_has_offered_everything(device: Device):
    device.put("verified", name="image.raw")
    device.agent.start()
    assert (device.statuses.directory / "restarted").exists()
    assert device.statuses.keys() == [f"image.raw.{SHA}"]


def test_an_image_that_nobody_refers_to_serves_under_another_name(device: Device):
    device.put("verified", name="image.raw")
    device.agent.start()
    device.statuses.wait(f"image.raw.{SHA}", RefCount=0)
    device.ask()
    device.statuses.wait(NAME, State=4)


def test_a_withdrawn_config_of_a_failed_image_leaves_nothing(device: Device):
    device.put("pending", b"not it")
    device.agent.start()
    device.ask()
    device.statuses.wait(NAME, LastErr=lambda text: text != "")
    device.configs.remove(NAME)
    device.statuses.wait_gone(NAME)


def signed(signer: Authority) -> bytes:
    assert isinstance(signer.key, ec.EllipticCurvePrivateKey)
    der = signer.key.sign(bytes.fromhex(SHA), ec.ECDSA(utils.Prehashed(hashes.SHA256())))
    r, s = utils.decode_dss_signature(der)
    return r.to_bytes(32, "big") + s.to_bytes(32, "big")


def base64_text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def test_a_signed_image_waits_for_its_certificate_and_passes_when_it_comes(device: Device):
    root = Authority()
    signer = root.issue("signer", ca=False)
    root.write(device.root / "config", "root-certificate")
    device.put("pending")
    device.agent.start()
    device.ask(ImageSignature=base64_text(signed(signer)), SignatureKey="https://host/signer.pem")
    device.statuses.wait(NAME, LastErr=lambda text: "signer.pem: No such file" in text, State=3)
    assert not device.verified.exists()
    device.statuses.wait(NAME, PendingAdd=False)
    certs = device.root / "persist" / "certs"
    certs.mkdir(exist_ok=True)
    (certs / "signer.pem").write_bytes(signer.pem)
    device.statuses.wait(NAME, State=4, LastErr="", deadline_s=5)


def test_a_failed_image_that_nobody_wants_costs_nothing_when_files_in_config_change(device: Device, tmp_path: Path):
    wanted, other = "ab" * 32, "cd" * 32
    (tmp_path / "control").mkdir()
    try:
        control = Control(tmp_path / "control")
    except NoCompiler as err:
        pytest.skip(str(err))
    with control:
        control.begin(Plan(device.root, {wanted: "<wanted>", other: "<other>"}))
        names = [f"{name}={value}" for name, value in control.environment("verifier").items()]
        (device.root / "config").mkdir()
        device.agent = AgentProcess(device.root, "verifier", ("env", *names))
        device.agent.start()
        for sha in (wanted, other):
            device.configs.write(f"image.{sha}", Safename=f"image.{sha}", ImageSha256=sha, RefCount=1)
            device.statuses.wait(f"image.{sha}", LastErr=bool)
        device.configs.write(f"image.{other}", Safename=f"image.{other}", ImageSha256=other, RefCount=0)
        device.statuses.wait(f"image.{other}", RefCount=0)

        def looks(label: str) -> int:
            return sum(label in call.path and call.call in ("look", "list") for call in control.calls())

        before, before_wanted = looks("<other>"), looks("<wanted>")
        for number in range(6):
            seen = looks("<wanted>")
            (device.root / "config" / "device.json").write_text(str(number))
            wait_for(lambda seen=seen: looks("<wanted>") > seen, "the wanted image to be judged again", 60.0)
        # One more look may come of the time when it was wanted: a failed image is looked at again after a while.
        assert 2 * (looks("<other>") - before) < looks("<wanted>") - before_wanted


def test_an_image_verified_without_signature_is_not_good_for_one_who_asks_for_it(device: Device):
    device.put("pending")
    device.agent.start()
    device.ask()
    device.statuses.wait(NAME, State=4)
    device.ask(ImageSignature=base64_text(b"x" * 64), SignatureKey="https://host/signer.pem")
    device.statuses.wait(NAME, State=3, LastErr=lambda text: text.startswith("signature: "))
    device.ask()
    device.statuses.wait(NAME, State=4, LastErr="")


def test_a_good_image_that_lost_its_proof_is_offered_and_its_signature_looked_at_when_asked_for(device: Device):
    root = Authority()
    signer = root.issue("signer", ca=False)
    root.write(device.root / "config", "root-certificate")
    device.put("verified", name="image.raw")  # and nothing in the ledger: a power cut took that
    name = f"image.raw.{SHA}"
    device.agent.start()
    device.statuses.wait(name, State=4, RefCount=0)
    onlooker = Observer(device.root)
    try:
        onlooker.look()
        device.ask(name, ImageSignature=base64_text(signed(signer)), SignatureKey="https://host/signer.pem")
        device.statuses.wait(name, LastErr=lambda text: "signer.pem: No such file" in text, State=3, RefCount=1)
        onlooker.look()
        certs = device.root / "persist" / "certs"
        certs.mkdir(exist_ok=True)
        (certs / "signer.pem").write_bytes(signer.pem)
        device.statuses.wait(name, State=4, LastErr="")
        onlooker.look()
        assert onlooker.wrong == []
    finally:
        onlooker.close()


def test_it_imports_no_cryptography_without_signatures(device: Device):
    device.put("pending")
    device.agent.start()
    device.ask()
    device.statuses.wait(NAME, State=4)
    assert device.agent.process is not None
    assert "cryptography" not in Path(f"/proc/{device.agent.process.pid}/maps").read_text()


def test_a_file_system_that_refuses_is_an_error_that_ends_when_it_ends(device: Device):
    device.put("pending")
    ledger = device.root / "persist" / "verifier"
    ledger.parent.mkdir(parents=True, exist_ok=True)
    ledger.write_text("in the way")
    device.agent.start()
    device.ask()
    device.statuses.wait(NAME, LastErr=lambda text: str(ledger) in text and "Not a directory" in text)
    ledger.unlink()
    device.statuses.wait(NAME, State=4, LastErr="")
