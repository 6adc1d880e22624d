"""`pillar download` as a person and a script see it: real processes, real servers, real kills."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import pty
import random
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from servers import Fault, FaultServer, eventually

from pillar.command.download import Bar, human, source_of, target_of

pytest_plugins = ("server_fixtures",)

CONTENT = random.Random(7).randbytes(1024 * 1024 + 17)
SHA = hashlib.sha256(CONTENT).hexdigest()


def command(*arguments: str | Path) -> list[str]:
    return [sys.executable, "-m", "pillar", "download", *map(str, arguments)]


def download(*arguments: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command(*arguments), capture_output=True, text=True, timeout=60, check=False, **options)


def test_a_file_is_fetched_and_its_sha256_said(fault_server: FaultServer, tmp_path: Path):
    done = download(fault_server.put("/images/disk.img", CONTENT), cwd=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert done.stdout.startswith("disk.img  1.0 MiB in ")
    assert done.stdout.endswith(f"\nsha256 {SHA}\n")
    assert (tmp_path / "disk.img").read_bytes() == CONTENT


def test_a_program_gets_one_object(fault_server: FaultServer, tmp_path: Path):
    target = tmp_path / "a"
    done = download(fault_server.put("/a", CONTENT), "--sha256", SHA, "-o", target, "--json")
    facts = json.loads(done.stdout)
    assert facts.pop("seconds") >= 0
    assert facts == {"file": str(target), "size": len(CONTENT), "sha256": SHA, "received": len(CONTENT), "resumed": 0}
    again = download(fault_server.url("/a"), "--sha256", SHA, "-o", tmp_path, "--json")
    assert json.loads(again.stdout)["received"] == 0
    assert len(fault_server.requests("/a")) == 1


def test_wrong_content_is_refused_and_leaves_nothing(fault_server: FaultServer, tmp_path: Path):
    done = download(fault_server.put("/a", CONTENT), "--sha256", "0" * 64, "-o", tmp_path / "a", "--json")
    assert done.returncode == 3
    assert json.loads(done.stdout) == {
        "error": f"the sha256 of what came is {SHA}, asked for was {'0' * 64}",
        "status": 3,
    }
    assert list(tmp_path.iterdir()) == []


def test_what_was_killed_or_interrupted_goes_on_with_the_same_command(fault_server: FaultServer, tmp_path: Path):
    url = fault_server.put("/a", CONTENT)
    part = tmp_path / "a.part"
    for number, sign in ((1, signal.SIGKILL), (2, signal.SIGINT)):
        fault_server.hold_again()
        fault_server.fault("/a", Fault(hold_after=300_000))
        process = subprocess.Popen(command(url, "-o", tmp_path / "a"), stderr=subprocess.PIPE)
        eventually(lambda size=number * 300_000: part.exists() and part.stat().st_size == size, "bytes are on disk")
        process.send_signal(sign)
        _, said = process.communicate(timeout=30)
        assert process.returncode == (-sign if sign == signal.SIGKILL else 130)
        fault_server.release()
    assert b"goes on where it stopped" in said
    done = download(url, "-o", tmp_path / "a", "--json")
    assert json.loads(done.stdout)["resumed"] == 600_000
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_two_at_once_do_not_spoil_each_others_file(fault_server: FaultServer, tmp_path: Path):
    url = fault_server.put("/a", CONTENT)
    fault_server.fault("/a", Fault(hold_after=1000))
    first = subprocess.Popen(command(url, "-o", tmp_path / "a"), stdout=subprocess.DEVNULL)
    eventually(fault_server.holding.is_set)
    second = download(url, "-o", tmp_path / "a")
    assert second.returncode == 1
    assert "another process is fetching this" in second.stderr
    fault_server.release()
    assert first.wait(timeout=30) == 0
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_an_error_is_one_line_and_1_and_wrong_usage_is_2(fault_server: FaultServer, tmp_path: Path):
    done = download(fault_server.url("/none"), cwd=tmp_path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"pillar download: {fault_server.url('/none')}: 404 Not Found\n"
    done = download(fault_server.url("/"), cwd=tmp_path)
    assert done.returncode == 2
    assert "say where to with -o FILE" in done.stderr
    assert download(fault_server.url("/a"), "--sha256", "abc").returncode == 2
    done = download("nonsense://x/y", "--type", "DsSmoke", cwd=tmp_path)
    assert done.returncode == 1
    assert "no transport for datastore type DsSmoke" in done.stderr


def test_at_a_terminal_there_is_a_bar(fault_server: FaultServer, tmp_path: Path):
    ours, theirs = pty.openpty()
    url = fault_server.put("/a", CONTENT)
    done = subprocess.run(
        command(url, "-o", tmp_path / "a"), stderr=theirs, stdout=subprocess.DEVNULL, timeout=60, check=False
    )
    os.close(theirs)
    drawn = "".join(iter(lambda: _read(ours), ""))
    os.close(ours)
    assert done.returncode == 0
    assert "100%  1.0 MiB of 1.0 MiB" in drawn
    assert drawn.count("\n") == 1


def _read(terminal: int) -> str:
    """Some of what was drawn; nothing when that was all and nobody can draw any more."""
    try:
        return os.read(terminal, 65536).decode("latin-1")
    except OSError as err:
        assert err.errno == errno.EIO
        return ""


def test_the_bar_and_the_numbers():
    assert (
        Bar("a", True).line(512, 1024, 256.0) == "a  ████████████░░░░░░░░░░░░  50%  512 B of 1.0 KiB  256 B/s  2 s left"
    )
    assert Bar("a\x1b", True).line(2048, None, 1.0) == "a\\x1b  2.0 KiB  1 B/s"
    assert [human(n) for n in (0, 1023, 1024, 1.5 * 2**20, 2**50)] == [
        "0 B",
        "1023 B",
        "1.0 KiB",
        "1.5 MiB",
        "1024.0 TiB",
    ]


@pytest.mark.parametrize(
    ("url", "output", "target"),
    [
        ("http://h/a/b%20c?x=1", None, "b c"),
        ("s3://bucket/key/", None, "key"),
        ("http://h", None, None),
        ("http://h/%2e%2e", None, None),
        ("http://h/a%2fb", None, "b"),
        ("http://h", Path("x"), "x"),
    ],
)
def test_where_a_file_goes(url: str, output: Path | None, target: str | None):
    assert target_of(url, output) == (Path(target) if target else None)


def test_logins_come_from_the_environment():
    aws = {"AWS_ACCESS_KEY_ID": "me", "AWS_SECRET_ACCESS_KEY": "hush"}
    source = source_of("s3://bucket/key", None, "http://h", "", aws)
    assert (source.ds_type, source.api_key, source.password, source.fqdn) == ("DsS3", "me", "hush", "http://h")
    azure = {"AZURE_STORAGE_ACCOUNT": "me", "AZURE_STORAGE_SAS_TOKEN": "sig=x"}
    source = source_of("az://c/a%20b", None, "", "", azure)
    assert (source.dpath, source.name, source.api_key, source.password) == ("c", "a b", "me", "sig=x")
    source = source_of("https://h/x", None, "", "", {"PILLAR_USER": "u", "PILLAR_PASSWORD": "p", **aws})
    assert (source.ds_type, source.api_key, source.password) == ("DsHttps", "u", "p")
