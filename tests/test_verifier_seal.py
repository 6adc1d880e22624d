"""Between the reading of an image and its use nobody without the verifier's rights can put other bytes there."""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import mmap
import os
from collections.abc import Callable
from pathlib import Path

import pytest
from agentproc import AgentProcess
from servers import Authority, eventually, needs
from test_verifier_agent import CONTENT, NAME, SHA, Device, base64_text, device, signed

from pillar.cmd.verifier.seal import seal
from pillar.locations import Locations
from pillar.quarantine import Quarantine

assert device  # a fixture
NOBODY = 65534
WRONG = b"not it"
WRONG_SHA = hashlib.sha256(WRONG).hexdigest()


def attack(fd: int, image: Path, alias: Path) -> list[str]:
    """Try whatever could change `image`; `fd` is open on the file as it was put there, `alias` its other name."""
    folder = image.parent
    worked = []
    for what, act in {
        "descriptor": lambda: os.pwrite(fd, b"evil", 0),
        "chmod alias": lambda: alias.chmod(0o666),
        "open alias": lambda: os.pwrite(os.open(alias, os.O_WRONLY), b"evil", 0),
        "chmod": lambda: image.chmod(0o666),
        "open": lambda: os.pwrite(os.open(image, os.O_WRONLY), b"evil", 0),
        "unlink": image.unlink,
        "replace": lambda: alias.rename(image),
        "chmod folder": lambda: folder.chmod(0o777),
        "replace folder": lambda: folder.rename(folder.with_name("away")),
    }.items():
        with contextlib.suppress(OSError):
            act()
            worked.append(what)
    return worked


def as_nobody(act: Callable[[], list[str]]) -> list[str]:
    """What `act` returns in a process without any rights."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            os.setgroups([])
            os.setgid(NOBODY)
            os.setuid(NOBODY)
            os.write(writing, json.dumps(act()).encode())
        finally:
            os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as pipe:
        answer = pipe.read()
    os.waitpid(pid, 0)
    return list(json.loads(answer))


@pytest.fixture
def leases(tmp_path: Path) -> None:
    """Skips where the kernel does not tell who writes to a file."""
    (tmp_path / "probe").touch()
    with (tmp_path / "probe").open("rb") as file:
        try:
            fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        except OSError as err:
            pytest.skip(f"{tmp_path}: this file system has no leases: {err.strerror}")


@pytest.mark.usefixtures("leases")
def test_who_has_the_file_open_for_writing_writes_into_another_one(device: Device):
    path = device.put("pending")
    with path.open("r+b") as writer, mmap.mmap(writer.fileno(), 0) as mapped:
        device.agent.start()
        device.ask()
        device.statuses.wait(NAME, State=4, LastErr="", deadline_s=60)
        mapped[:4] = b"evil"
        os.pwrite(writer.fileno(), b"evil", 100)
        assert os.fstat(writer.fileno()).st_nlink == 0
        assert device.verified.read_bytes() == CONTENT
    device.restart()
    device.statuses.wait(NAME, State=4, LastErr="")


@pytest.mark.usefixtures("leases")
def test_killed_before_the_copy_has_the_name_it_is_made_again(device: Device):
    strace = needs("strace", "strace")
    path = device.put("pending")
    device.ask()
    copy = device.images / "verifier" / SHA / f".copy-{path.stat().st_ino}"
    inject = "inject=rename:signal=SIGKILL:when=1"
    command = (strace, "-f", "-qq", "-o", os.devnull, "-P", str(copy), "-e", "trace=rename", "-e", inject)
    with path.open("r+b") as writer:
        victim = AgentProcess(device.root, "verifier", command)
        victim.start()
        victim.wait_killed()
        assert copy.exists()
        device.agent.start()
        device.statuses.wait(NAME, State=4, LastErr="", deadline_s=60)
        os.pwrite(writer.fileno(), b"evil", 0)
    assert device.verified.read_bytes() == CONTENT
    assert not list(device.images.glob("verif*/*/.copy-*"))


def test_what_the_downloader_left_is_sealed_where_it_is_without_a_copy(device: Device):
    path = device.put("pending")
    inode = path.stat().st_ino
    device.agent.start()
    device.ask()
    device.statuses.wait(NAME, State=4)
    assert device.verified.stat().st_ino == inode


@pytest.mark.usefixtures("leases")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: somebody else has to try it")
def test_somebody_else_who_owned_the_file_has_it_open_and_linked_elsewhere_changes_nothing(device: Device):
    path = device.put("pending")
    os.chown(path, NOBODY, NOBODY)
    path.chmod(0o666)
    playground = device.root.parent / "playground"
    playground.mkdir()
    os.chown(playground, NOBODY, NOBODY)
    alias = playground / "alias"
    os.link(path, alias)
    for directory in (*device.root.parents, device.root, device.root / "persist", device.images.parent, device.images):
        if directory.is_relative_to(device.root.parent.parent.parent) or directory == device.root:
            directory.chmod(directory.stat().st_mode | 0o055)  # what keeps others out is the verifier's, not luck
    fd = os.open(alias, os.O_RDWR)
    try:
        device.agent.start()
        device.ask()
        device.statuses.wait(NAME, State=4, LastErr="", deadline_s=60)
        (device.images / "verified").chmod(0o755)
        # The old file still has a writer and its other name, but it is nobody's image any more.
        assert as_nobody(lambda: attack(fd, device.verified, alias)) == ["descriptor"]
        device.verified.parent.chmod(0o755)  # with the directory's mode out of the way, the file's own holds
        assert as_nobody(lambda: attack(fd, device.verified, alias)) == ["descriptor"]
    finally:
        os.close(fd)
    assert device.verified.read_bytes() == CONTENT
    device.restart()
    device.statuses.wait(NAME, State=4, LastErr="")


def test_sealing_leaves_a_file_alone_that_is_sealed(tmp_path: Path):
    path = tmp_path / "image"
    path.write_bytes(CONTENT)
    assert seal(path) is False
    before = path.stat()
    assert before.st_mode & 0o777 == 0o400
    assert seal(path) is False
    assert path.stat().st_ctime_ns == before.st_ctime_ns  # a change would cost another reading


def test_a_mismatch_is_kept_in_quarantine_until_the_right_image_has_come(device: Device):
    device.put("pending", WRONG)
    device.agent.start()
    device.ask()
    kept = device.images / "quarantine" / f"{SHA}.{WRONG_SHA}"
    text = f"sha256 mismatch: the image has {WRONG_SHA}, the config says {SHA}; it is in quarantine/{kept.name}"
    device.statuses.wait(NAME, State=3, LastErr=text)
    assert (kept.read_bytes(), kept.stat().st_mode & 0o777) == (WRONG, 0o400)
    device.put("pending")
    device.downloads.write(NAME, Safename=NAME, ImageSha256=SHA, State=3)
    device.statuses.wait(NAME, State=4, LastErr="")
    eventually(lambda: not kept.exists(), "what came in its place is gone")


@pytest.mark.full
@pytest.mark.timeout(300)
def test_quarantine_is_cleared_after_downloadgctime(device: Device):
    settings = device.root / "run" / "global" / "GlobalConfig" / "global.json"
    settings.parent.mkdir(parents=True)
    settings.write_text('{"DownloadGCTime": 60}')
    kept = device.images / "quarantine" / f"{SHA}.{WRONG_SHA}"
    kept.parent.mkdir(parents=True)
    kept.write_bytes(WRONG)
    device.agent.start()
    eventually(lambda: not kept.exists(), "it was looked at long enough", 130)


def test_quarantine_keeps_one_file_per_image(tmp_path: Path):
    quarantine = Quarantine(Locations(tmp_path), "appImg.obj")
    for actual in ("one", "two"):
        (tmp_path / "file").write_text(actual)
        quarantine.take(tmp_path / "file", SHA, actual)
    (tmp_path / "file").write_text("other")
    quarantine.take(tmp_path / "file", WRONG_SHA, "three")
    assert sorted(path.name for path in quarantine.files()) == sorted([f"{SHA}.two", f"{WRONG_SHA}.three"])
    assert quarantine.empty() == len("two") + len("other")
    assert quarantine.files() == []


def test_with_the_strict_policy_no_signature_is_not_a_good_one(device: Device):
    settings = device.root / "run" / "global" / "GlobalConfig"

    def policy(fields: str) -> None:
        settings.mkdir(parents=True, exist_ok=True)
        (settings / ".new").write_text(fields)
        (settings / ".new").rename(settings / "global.json")

    root = Authority()
    signer = root.issue("signer", ca=False)
    root.write(device.root / "config", "root-certificate")
    certs = device.root / "persist" / "certs"
    certs.mkdir(parents=True)
    (certs / "signer.pem").write_bytes(signer.pem)
    device.put("pending")
    policy('{"SignaturePolicy": "permissive"}')
    device.agent.start()
    device.ask()
    device.statuses.wait(NAME, State=4, LastErr="")
    policy('{"SignaturePolicy": "strict"}')
    status = device.statuses.wait(
        NAME, State=3, LastErr=lambda text: text.startswith("signature: the config names none")
    )
    assert "SignaturePolicy is strict" in status["LastErr"]
    policy("{}")
    device.statuses.wait(NAME, State=4, LastErr="")
    policy('{"SignaturePolicy": "srtict"}')  # a slip must not open the door
    device.statuses.wait(NAME, State=3)
    device.ask(ImageSignature=base64_text(signed(signer)), SignatureKey="https://host/signer.pem")
    device.statuses.wait(NAME, State=4, LastErr="")
    device.restart()
    device.ask()
    device.statuses.wait(NAME, State=3, LastErr=lambda text: text.startswith("signature: the config names none"))
