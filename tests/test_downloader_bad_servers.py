"""Servers that mean no good, all at once, to one downloader: each ends in a text to act on, and the others go on.

Registries that lie are in `test_transports_oci_wrong`, host keys and refused logins in `test_transports_sftp`, names
with every odd character in `test_transports_cloud`.
"""

from __future__ import annotations

import gzip
import hashlib
import re
import shutil
import ssl
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from agentproc import Table
from servers import Authority, Fault, FaultServer
from test_downloader_agent import CONTENT, SHA, Device, device
from test_transports_engine import Raw

pytest_plugins = ("server_fixtures",)
assert device  # a fixture
MIB = 1024 * 1024
LARGE = 40 * MIB  # declared: such an object is asked for in ranges


class World:
    """The device, its bad servers, and what each object has to end with."""

    def __init__(self, device: Device, pki: Path) -> None:
        self.device = device
        self.root = Authority()
        self.root.write(pki, "root")
        self.pki = pki
        self.closing: list[Any] = []
        self.expected: dict[str, str] = {}  # key -> pattern of LastErr
        self.server = self.serve()

    def serve(self, tls: ssl.SSLContext | None = None) -> FaultServer:
        server = FaultServer(tls=tls)
        self.closing.append(server)
        return server

    def tls(self, authority: Authority, name: str, **fields: Any) -> ssl.SSLContext:
        return authority.issue(name, ca=False, **{"hosts": ("127.0.0.1",), **fields}).tls(self.pki / name)

    def object(self, key: str, fqdn: str, why: str, ds_type: str = "DsHttp", name: str = "", **fields: Any) -> None:
        """An object `key` of a datastore of its own, whose LastErr has to match `why`."""
        store = str(uuid.uuid5(uuid.NAMESPACE_URL, key))
        self.device.stores.write(
            store, UUID=store, DsType=ds_type, Fqdn=fqdn, Dpath="d", ApiKey="user", Password="hush-hush", Region="r"
        )
        sha256 = hashlib.sha256(key.encode()).hexdigest()
        fields = {"DatastoreID": store, "Name": name or key, "Size": 1000, "ImageSha256": sha256, **fields}
        self.device.want(key, **fields)
        self.expected[key] = why

    def bad(self, key: str, why: str, *, size: int = 1000, content: bytes = CONTENT, **fault: Any) -> None:
        self.server.put(f"/d/{key}", content)
        self.server.fault(f"/d/{key}", Fault(**fault, times=1000))
        self.object(key, self.server.url(""), why, Size=size)

    def close(self) -> None:
        for server in self.closing:
            server.close()


@pytest.fixture
def world(device: Device, tmp_path: Path) -> Iterator[World]:
    world = World(device, tmp_path / "pki")
    (device.root / "config").mkdir(parents=True)
    shutil.copy(tmp_path / "pki" / "root.pem", device.root / "config" / "root-certificate.pem")
    yield world
    world.close()


def test_every_bad_server_ends_in_a_text_a_person_can_act_on_and_the_others_go_on(world: World):
    bad, server = world.bad, world.server

    Table(world.device.root, "global", "GlobalDownloadConfig").write("global", MaxSpace=96 * 1024)
    bad("endless", r"the object does not end within the \d+ bytes that may be stored", endless=True)
    bad(
        "longer",
        r"^the object has 1099511627776 bytes, only \d+ may be stored$",
        headers={"Content-Length": str(1 << 40)},
    )
    bad("loop", r"/d/loop: more than 10 redirects, the last to http://", status=301, headers={"Location": "/d/loop"})
    bad(
        "to-file",
        r"/d/to-file: redirected to 'file:///etc/passwd', which is not an http or https URL",
        status=302,
        headers={"Location": "file:///etc/passwd"},
    )
    bad(
        "bomb",
        r"/d/bomb: the server encodes the object as gzip although identity was asked",
        content=gzip.compress(bytes(64 * MIB)),
        headers={"Content-Encoding": "gzip"},
    )
    bad(
        "range",
        r"/d/range: sends a part \('bytes 7-99/50000000'\) although all of it was asked for",
        size=LARGE,
        content_range="bytes 7-99/50000000",
    )
    bad("refused", r"/d/refused: 403 Forbidden$", status=403)
    bad(
        "later",
        r"/d/later: 503 Service Unavailable, asks to come back in 120",
        status=503,
        headers={"Retry-After": "120"},
    )
    cut = Raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nonly a part", world.tls(world.root, "cut"))
    world.closing.append(cut)
    world.object("cut", cut.url.rpartition("/")[0], r"/d/cut: .*EOF occurred in violation of protocol")
    expired = world.serve(world.tls(world.root, "expired", days=(-9, -2)))
    world.object("expired", expired.url(""), r"/d/expired: .*certificate has expired")
    foreign = world.serve(world.tls(Authority("somebody"), "foreign"))
    world.object("foreign", foreign.url(""), r"/d/foreign: .*unable to get local issuer certificate")
    other = world.serve(world.tls(world.root, "other", hosts=("elsewhere.example",)))
    world.object("other", other.url(""), r"/d/other: .*(mismatch|doesn't match|not valid for)")
    down = world.serve(world.tls(world.root, "down"))
    down.fault("/d/down", Fault(status=302, headers={"Location": server.url("/d/good")}, times=1000))
    world.object("down", down.url(""), r"/d/down: redirected from https to http://\S+, refused")
    world.object("climb", server.url(""), r"/other/a' has a '\.\.' between its slashes", "DsS3", "../other/a")
    world.object("azure", server.url(""), r"has a '\.\.' between its slashes", "DsAzureBlob", "a/../../b")
    world.object("nowhere", "file:///nowhere", r"^/nowhere/d/nowhere: No such file or directory$", "DsFile")
    world.object("sftp", "sftp://127.0.0.1:1", r"^sftp://127.0.0.1:1: Connection refused$", "DsSFTP")
    world.object("kind", "x", r"^no transport for datastore type DsSmoke; this device speaks .*DsSFTP", "DsSmoke")
    server.put("/d/good", CONTENT)
    world.object("good", server.url(""), "", ImageSha256=SHA)
    world.device.agent.start()
    statuses = world.device.statuses
    for key, why in world.expected.items():
        if why:
            status = statuses.wait(key, deadline_s=60, LastErr=lambda text, why=why: re.search(why, text) is not None)
            assert status["LastErrTime"] != "0001-01-01T00:00:00Z"
            assert status["RetryCount"] >= 1
            assert "\n" not in status["LastErr"]
    statuses.wait("good", State=3, LastErr="", deadline_s=60)
    assert all("hush-hush" not in str(statuses.read(key)) for key in world.expected)
    assert "hush-hush" not in world.device.agent.log_text
    assert not [path for path in world.device.pending.glob("*/*") if ".part" not in path.name and path.name != "good"]


@pytest.mark.full
@pytest.mark.timeout(300)
def test_a_server_that_drips_is_given_up_after_a_minute_and_says_at_which_byte(world: World):
    world.bad("drip", r"stalled at byte \d+: \d+ bytes in 6\d s$", drip_s=0.2)
    world.device.agent.start()
    world.device.statuses.wait(
        "drip", deadline_s=120, LastErr=lambda text: re.search(world.expected["drip"], text) is not None
    )
