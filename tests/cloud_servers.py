"""Object stores for the tests: Ceph's radosgw and moto (S3), Azurite (Azure). Everything listens on 127.0.0.1.

    Radosgw      a monitor, an OSD in memory and the gateway: the most faithful S3 that is to be had
    Moto         a second, lighter S3; it takes any key, so nothing about keys is tested with it
    Azurite      Azure's blob storage

Each skips its test when it is not installed, and fails it when CI=true.
"""

from __future__ import annotations

import contextlib
import http.client
import os
import shutil
import subprocess
import sys
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from servers import FreePort, eventually, needs

CHECKOUT = Path(__file__).resolve().parent.parent
REGION = "us-east-1"


class Moto:
    """moto's S3 server."""

    key, secret = "any", "thing"

    def __init__(self, directory: Path) -> None:
        pytest.importorskip("moto.server", reason="moto[server] is not installed")
        self._kept = FreePort()
        self.port = self._kept.number
        self.endpoint = f"http://127.0.0.1:{self.port}"
        program = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(self.port)]
        self._process = start(program, directory / "moto.log")
        eventually(lambda: answers(self.port, "/moto-api/"), "moto answers", 60)

    def close(self) -> None:
        stop(self._process)
        self._kept.close()


class Radosgw:
    """A Ceph cluster of one of each; its data is in memory."""

    key, secret = "AKTEST", "SKTEST"

    def __init__(self, directory: Path) -> None:
        for program in ("radosgw", "ceph-mon", "ceph-osd", "ceph", "radosgw-admin", "monmaptool", "ceph-authtool"):
            needs(program, "radosgw ceph-mon ceph-osd ceph-common")
        self._directory = directory
        self._processes: list[subprocess.Popen[bytes]] = []
        self._kept = [FreePort() for _ in range(3)]
        self.port, *monitor = (port.number for port in self._kept)
        self.endpoint = f"http://127.0.0.1:{self.port}"
        try:
            self._start(f"[v2:127.0.0.1:{monitor[0]},v1:127.0.0.1:{monitor[1]}]")
        except BaseException:
            self.close()
            raise

    def _start(self, monitor: str) -> None:
        here, cluster, osd = self._directory, str(uuid.uuid4()), str(uuid.uuid4())
        for name in ("mon", "osd", "rgw", "log"):
            (here / name).mkdir(parents=True)
        (here / "ceph.conf").write_text(CEPH_CONF.format(here=here, cluster=cluster, monitor=monitor, port=self.port))
        allow = ["--cap", "mon", "allow *"]
        self._run("ceph-authtool", "-C", "keyring", "--gen-key", "-n", "mon.", *allow)
        self._run("ceph-authtool", "keyring", "--gen-key", "-n", "client.admin", *allow, "--cap", "osd", "allow *")
        self._run("monmaptool", "--create", "--fsid", cluster, "--addv", "a", monitor, "monmap")
        self._run("ceph-mon", "--mkfs", "-i", "a", "--monmap", "monmap", "--keyring", "keyring")
        self._serve("ceph-mon", "-i", "a", "-f")
        self._run("ceph", "--connect-timeout", "30", "osd", "new", osd)
        caps = ("mon", "allow *", "osd", "allow *")
        self._run("ceph", "auth", "get-or-create", "osd.0", *caps, "-o", "osd/keyring")
        self._run("ceph", "auth", "get-or-create", "client.rgw", *caps, "-o", "rgw/keyring")
        self._run("ceph-osd", "-i", "0", "--mkfs", "--osd-uuid", osd)
        self._serve("ceph-osd", "-i", "0", "-f")
        gateway = self._serve("radosgw", "-n", "client.rgw", "-f")

        def ready() -> bool:
            assert gateway.poll() is None, "radosgw ended; see its log"
            return answers(self.port, "/")

        eventually(ready, "radosgw answers", 60)
        keys = ("--access-key", self.key, "--secret-key", self.secret)
        self._run("radosgw-admin", "-n", "client.rgw", "user", "create", "--uid=t", "--display-name=t", *keys)

    @property
    def _environment(self) -> dict[str, str]:
        return {**os.environ, "CEPH_CONF": str(self._directory / "ceph.conf")}

    def _run(self, program: str, *arguments: str) -> None:
        done = subprocess.run(
            [needs(program, "ceph-common"), *arguments],
            cwd=self._directory,
            env=self._environment,
            capture_output=True,
            timeout=60,
            check=False,
        )
        assert done.returncode == 0, f"{program}: {done.stderr.decode(errors='replace')[-2000:]}"

    def _serve(self, program: str, *arguments: str) -> subprocess.Popen[bytes]:
        log = self._directory / f"{program}.out"
        process = start([needs(program, program), *arguments], log, self._directory, self._environment)
        self._processes.append(process)
        return process

    def close(self) -> None:
        for process in reversed(self._processes):
            process.kill()  # nothing to keep; a polite end takes seconds
            process.wait(timeout=20)
        for port in self._kept:
            port.close()


class Azurite:
    """Azure's blob storage; account and key are the ones every Azurite has."""

    account = "devstoreaccount1"
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="

    def __init__(self, directory: Path) -> None:
        local = CHECKOUT / ".venv" / "node" / "node_modules" / ".bin"
        program = shutil.which("azurite-blob", path=os.pathsep.join([str(local), os.environ.get("PATH", "")]))
        if program is None:
            reason = "azurite is not installed (scripts/test --with-servers puts it into .venv/node)"
            if os.environ.get("CI") == "true":
                pytest.fail(reason)
            pytest.skip(reason)
        self._kept = FreePort()
        self.port = self._kept.number
        self.endpoint = f"http://127.0.0.1:{self.port}/{self.account}"
        options = ("--inMemoryPersistence", "--silent", "--disableProductStyleUrl", "--skipApiVersionCheck")
        address = ("--blobHost", "127.0.0.1", "--blobPort", str(self.port))
        self._process = start([program, *address, *options], directory / "azurite.log", directory)
        eventually(lambda: answers(self.port, "/"), "azurite answers", 60)

    def close(self) -> None:
        stop(self._process)
        self._kept.close()


def answers(port: int, path: str) -> bool:
    """Whether an HTTP server answers there, with whatever status."""
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=5)
    with contextlib.closing(connection), contextlib.suppress(OSError, http.client.HTTPException):
        connection.request("GET", path)
        connection.getresponse().read()
        return True
    return False


def start(
    command: Sequence[str], log: Path, directory: Path | None = None, environment: dict[str, str] | None = None
) -> subprocess.Popen[bytes]:
    with log.open("wb") as file:
        return subprocess.Popen(
            command, stdin=subprocess.DEVNULL, stdout=file, stderr=file, cwd=directory, env=environment
        )


def stop(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(timeout=10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait(timeout=10)


def s3_client(server: Moto | Radosgw) -> Any:
    """boto3's own client, to fill the server with."""
    import boto3
    from botocore.config import Config

    return boto3.session.Session().client(
        "s3",
        endpoint_url=server.endpoint,
        region_name=REGION,
        aws_access_key_id=server.key,
        aws_secret_access_key=server.secret,
        config=Config(
            s3={"addressing_style": "path"},
            request_checksum_calculation="when_required",
            response_checksum_validation="when_required",
        ),
    )


# cephx stays on: without it radosgw hangs for ever. The paxos lines make pools quickly.
CEPH_CONF = """\
[global]
fsid = {cluster}
mon host = {monitor}
public addr = 127.0.0.1
cluster addr = 127.0.0.1
public network = 127.0.0.0/8
cluster network = 127.0.0.0/8
ms bind ipv6 = false
auth allow insecure global id reclaim = true
osd objectstore = memstore
memstore device bytes = 1073741824
osd pool default size = 1
osd pool default min size = 1
osd pool default pg num = 1
osd pool default pgp num = 1
osd pool default pg autoscale mode = off
osd crush chooseleaf type = 0
mon allow pool size one = true
mon data avail warn = 1
mon data avail crit = 1
paxos propose interval = 0.02
paxos min wait = 0.01
run dir = {here}
admin socket = {here}/$name.$pid.asok
log file = {here}/log/$name.log
mon cluster log file = {here}/log/cluster.log
pid file = {here}/$name.pid
keyring = {here}/keyring
mon data = {here}/mon
osd data = {here}/osd
rgw data = {here}/rgw
[osd]
keyring = {here}/osd/keyring
[client.rgw]
keyring = {here}/rgw/keyring
rgw frontends = beast endpoint=127.0.0.1:{port}
rgw dns name = 127.0.0.1
rgw thread pool size = 32
rgw run sync thread = false
rgw enable gc threads = false
rgw enable lc threads = false
rgw enable quota threads = false
rgw dynamic resharding = false
"""
