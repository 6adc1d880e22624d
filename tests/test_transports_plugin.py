"""The transport in docs/transports.md, taken from its text, installed as somebody else's package, and used."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path

import pytest
from servers import eventually

CHECKOUT = Path(__file__).resolve().parent.parent
CONTENT = random.Random(10).randbytes(1024 * 1024 + 17)
STOP = 300_000


class FtpServer:
    """The part of RFC 959 and RFC 3659 that a client needs to read one file; the first transfer is held at STOP."""

    def __init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.starts: list[int] = []
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            try:
                client, _ = self._listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=self._serve, args=(client,), daemon=True).start()

    def _serve(self, client: socket.socket) -> None:
        passive, start = socket.create_server(("127.0.0.1", 0)), 0
        high, low = divmod(passive.getsockname()[1], 256)
        answers = {
            "USER": "331 password",
            "PASS": "230 in",
            "TYPE": "200 binary",
            "SIZE": f"213 {len(CONTENT)}",
            "MDTM": "213 20260101000000",
            "PASV": f"227 (127,0,0,1,{high},{low})",
            "REST": "350 from there",
        }
        # The client that is killed leaves a reset connection behind, and nobody to answer.
        with suppress(ConnectionResetError), client, passive, client.makefile("rw", newline="\r\n") as lines:
            print("220 hello", file=lines, flush=True)
            for line in lines:
                verb, _, argument = line.strip().partition(" ")
                if verb == "REST":
                    start = int(argument)
                if verb == "RETR" and argument == "/images/a b":
                    print("150 here it comes", file=lines, flush=True)
                    data, _ = passive.accept()
                    self.starts.append(start)
                    with data:
                        data.sendall(CONTENT[start:] if start else CONTENT[:STOP])
                        if not start:
                            data.recv(1)  # nothing more, until the client is dead
                    print("226 done", file=lines, flush=True)
                else:
                    print(answers.get(verb, "550 no such file"), file=lines, flush=True)

    def close(self) -> None:
        self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a Python that has the package."""
    package, site = tmp_path_factory.mktemp("package"), tmp_path_factory.mktemp("site")
    text = (CHECKOUT / "docs" / "transports.md").read_text()
    for name, content in re.findall(r"`([\w.]+)`:\n```\w+\n(.*?)```", text, re.DOTALL):
        (package / name).write_text(content)
    options = ("--quiet", "--no-deps", "--no-build-isolation", "--no-index", "--disable-pip-version-check")
    done = subprocess.run(
        [sys.executable, "-m", "pip", "install", *options, "--target", site, package],
        capture_output=True,
        text=True,
        timeout=110,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    return {**os.environ, "PYTHONPATH": f"{site}{os.pathsep}{CHECKOUT}"}


@pytest.fixture
def ftp() -> Iterator[FtpServer]:
    server = FtpServer()
    yield server
    server.close()


def test_the_example_has_no_more_than_forty_lines():
    text = (CHECKOUT / "docs" / "transports.md").read_text()
    (example,) = re.findall(r"```python\n(.*?)```", text, re.DOTALL)
    assert len([line for line in example.splitlines() if line.strip()]) <= 40


def test_an_installed_transport_is_found_and_resumes_like_ours(
    installed: dict[str, str], ftp: FtpServer, tmp_path: Path
):
    url = f"ftp://127.0.0.1:{ftp.port}/images/a%20b"
    command = [sys.executable, "-m", "pillar", "download", url, "--type", "DsFtp", "--json", "-o", str(tmp_path / "a")]
    process = subprocess.Popen(command, env=installed)
    part = tmp_path / "a.part"
    eventually(lambda: part.exists() and part.stat().st_size == STOP, "the bytes before the hold are on disk")
    process.send_signal(signal.SIGKILL)
    process.wait(timeout=20)
    done = subprocess.run(command, env=installed, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout)["resumed"] == STOP
    assert ftp.starts == [0, STOP]
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_its_errors_are_ours(installed: dict[str, str], ftp: FtpServer, tmp_path: Path):
    url = f"ftp://127.0.0.1:{ftp.port}/none"
    command = [sys.executable, "-m", "pillar", "download", url, "--type", "DsFtp", "-o", str(tmp_path / "a")]
    done = subprocess.run(command, env=installed, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (1, "pillar download: ftp://127.0.0.1/none: 550 no such file\n")
