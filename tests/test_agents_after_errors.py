"""Agents in this process, whose work fails once: what they do again and what they do not lose.

The errors are those that root cannot provoke with a file system: the call itself is made to fail.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from agentproc import Table
from inside import Inside
from test_identitymanager import KEY, supplied

from pillar.cmd.domainmgr.agent import DomainMgr
from pillar.cmd.downloader import space
from pillar.cmd.downloader.agent import Downloader
from pillar.cmd.downloader.work import Download
from pillar.cmd.identitymanager.agent import IdentityManager
from pillar.cmd.verifier.agent import Verifier
from pillar.pubsub import Publication, PublishFailed, encode

pytest_plugins = ("inside_fixtures",)

CONTENT = b"an image"
SHA = hashlib.sha256(CONTENT).hexdigest()
NAME = f"image.{SHA}"


class FailsOnce:
    """Stands for a function and fails the first time that `when` holds for its arguments."""

    def __init__(
        self, real: Callable[..., Any], error: Exception, when: Callable[..., bool] = lambda *_, **__: True
    ) -> None:
        self.real, self.error, self.when, self.failures = real, error, when, 0

    def __call__(self, *positional: Any, **named: Any) -> Any:
        if not self.failures and self.when(*positional, **named):
            self.failures += 1
            raise self.error
        return self.real(*positional, **named)


def test_unused_copies_are_collected_also_after_an_error(inside: Inside, tmp_path: Path) -> None:
    (tmp_path / "run" / "zedmanager" / "DomainConfig").mkdir(parents=True)
    agent = inside.start(DomainMgr, {}, VdiskGCTime=0)
    images = tmp_path / "persist" / "img"
    if images.exists():
        images.rmdir()
    images.write_text("in the way")
    log = tmp_path / "persist" / "log" / "domainmgr.log"

    def story() -> Iterator[Callable[[], object]]:
        yield lambda: "_collect failed" in log.read_text()
        images.unlink()
        images.mkdir()
        (images / "unused.raw").write_text("a copy")
        yield lambda: not any(images.iterdir())

    inside.run(agent, story())


def test_pending_is_swept_also_after_an_error(inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Table(tmp_path, "zedmanager", "DownloaderConfig", "appImg.obj").directory.mkdir(parents=True)
    sweep = FailsOnce(space.sweep, OSError(5, "Input/output error"))
    monkeypatch.setattr(space, "sweep", sweep)
    left = tmp_path / "persist" / "downloads" / "appImg.obj" / "pending" / "left.over"
    agent = inside.start(Downloader, {}, DownloadGCTime=1)
    left.write_text("from before a reboot")
    inside.run(agent, iter([lambda: sweep.failures, lambda: not left.exists()]))


def test_what_a_failed_download_said_is_published_when_the_table_takes_it_again(
    inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    missing = tmp_path / "nowhere"
    configs = Table(tmp_path, "zedmanager", "DownloaderConfig", "appImg.obj")
    configs.write(NAME, Safename=NAME, Name=f"file://{missing}", NameIsURL=True, ImageSha256=SHA, RefCount=1)
    publish = _refuses_once(monkeypatch, lambda key, item: key == NAME and bool(item.LastErr))
    attempts: list[str] = []
    told: list[tuple[int, int]] = []
    refusing, run = Publication.publish, Download.run

    def attempt(download: Download, cancel: Any) -> Any:
        attempts.append(str(download.target))
        return run(download, cancel)

    def record(pub: Any, key: str, item: Any) -> bool:
        written = bool(refusing(pub, key, item))
        if key == NAME and item.LastErr:
            told.append((item.RetryCount, len(attempts)))
        return written

    monkeypatch.setattr(Download, "run", attempt)
    monkeypatch.setattr(Publication, "publish", record)
    inside.run(inside.start(Downloader, {}), iter([lambda: publish.failures, lambda: told]))
    assert told[0] == (1, 1), "the failure is told before the next attempt begins"


def test_what_a_failed_verification_said_is_published_when_the_table_takes_it_again(
    inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = tmp_path / "persist" / "downloads" / "appImg.obj" / "pending" / SHA / NAME
    image.parent.mkdir(parents=True)
    image.write_bytes(b"something else")
    configs = Table(tmp_path, "zedmanager", "VerifyImageConfig", "appImg.obj")
    configs.write(NAME, Safename=NAME, ImageSha256=SHA, RefCount=1)
    statuses = Table(tmp_path, "verifier", "VerifyImageStatus", "appImg.obj")
    publish = _refuses_once(monkeypatch, lambda key, item: key == NAME and bool(item.LastErr))
    agent = inside.start(Verifier, {})
    errors: list[str] = []

    def error() -> str:
        errors.append((statuses.read(NAME) or {"LastErr": ""})["LastErr"])
        return errors[-1]

    inside.run(agent, iter([lambda: publish.failures, error]))
    assert "sha256 mismatch" in errors[-1]


def test_an_identity_is_looked_at_again_although_its_error_cannot_be_withdrawn(
    inside: Inside, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    configs = Table(tmp_path, "zedmanager", "EIDConfig")
    statuses = Table(tmp_path, "identitymanager", "EIDStatus")
    errors = Table(tmp_path, "identitymanager", "EIDError")
    configs.write(KEY, **json.loads(encode(supplied(PemCert=b"junk"))))
    unpublish = FailsOnce(Publication.unpublish, PublishFailed("no space"), lambda pub, key: pub.get(key) is not None)
    monkeypatch.setattr(Publication, "unpublish", lambda *given: unpublish(*given))
    agent = inside.start(IdentityManager, {})

    def story() -> Iterator[Callable[[], object]]:
        yield lambda: errors.read(KEY)
        configs.write(KEY, **json.loads(encode(supplied())))
        yield lambda: unpublish.failures
        yield lambda: not (statuses.read(KEY) or {"PendingAdd": True})["PendingAdd"]

    inside.run(agent, story())


def _refuses_once(monkeypatch: pytest.MonkeyPatch, when: Callable[[str, Any], bool]) -> FailsOnce:
    """The first record that fits cannot be published."""
    refusing = FailsOnce(Publication.publish, PublishFailed("no space"), lambda pub, key, item: when(key, item))
    monkeypatch.setattr(Publication, "publish", lambda *given: refusing(*given))
    return refusing
