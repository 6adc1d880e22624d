"""Real servers behind a proxy that spoils connections: nginx, nginx with TLS and a client's certificate, and sshd."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from faultproxy import FaultProxy, Trouble
from remote_servers import Sshd
from servers import Authority, Nginx

from pillar.transports import Limits, Route, Source, open_transport
from pillar.transports.fetch import Fetch, Fetched, WrongContent

MIB = 1024 * 1024
CONTENT = random.Random(12).randbytes(3 * MIB + 77)
OTHER = random.Random(13).randbytes(3 * MIB + 78)
SHA, OTHER_SHA = (hashlib.sha256(content).hexdigest() for content in (CONTENT, OTHER))


@dataclass
class Served:
    """One object at a real server."""

    file: Path
    port: int
    kind: str
    sshd: Sshd | None
    limits: Limits

    def source(self, port: int) -> Source:
        if self.sshd is not None:
            return Source(**self.sshd.source(self.file, url=self.sshd.fqdn(port=port)))
        return Source("DsHttp", f"{self.kind}://127.0.0.1:{port}/image")

    def fetch(self, proxy: FaultProxy, target: Path, sha256: str = "", stall_s: float = 30.0) -> Fetched:
        limits = Limits(
            connect_s=30,
            stall_s=stall_s,
            root_certificate=self.limits.root_certificate,
            client_certificate=self.limits.client_certificate,
            client_key=self.limits.client_key,
        )
        source = self.source(proxy.port)
        return Fetch(
            lambda: open_transport(source, Route(), limits), source, target, expect_sha256=sha256, strict=bool(sha256)
        ).run()


@pytest.fixture(params=["http", "https", "sftp"])
def served(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[Served]:
    kind: str = request.param
    limits = Limits()
    if kind == "sftp":
        sshd = Sshd(tmp_path / "sshd")
        server: Sshd | Nginx = sshd
        file = tmp_path / "image"
    else:
        tls, extra = None, ""
        if kind == "https":
            root = Authority()
            root.write(tmp_path / "pki", "root")
            tls = root.issue("server", ca=False, hosts=("127.0.0.1",)).write(tmp_path / "pki", "server")
            certificate, key = root.issue("device", ca=False).write(tmp_path / "pki", "device")
            anchor = tmp_path / "pki" / "root.pem"
            limits = Limits(root_certificate=anchor, client_certificate=certificate, client_key=key)
            extra = f"ssl_client_certificate {anchor}; ssl_verify_client on;"
        (tmp_path / "nginx").mkdir()
        nginx = server = Nginx(tmp_path / "nginx", tls=tls, extra=extra)
        sshd = None
        file = nginx.root / "image"
    file.write_bytes(CONTENT)
    try:
        yield Served(file, server.port, kind, sshd, limits)
    finally:
        server.close()


@pytest.mark.parametrize(
    "troubles",
    [
        [Trouble(cut=True, after=after) for after in (1_000_000, 2_000_000)],
        [Trouble(reset=True, after=1_500_000)],
        [Trouble(pause_s=0.002, after=500_000)],
    ],
    ids=["cut", "reset", "slow"],
)
def test_a_spoilt_connection_costs_no_more_than_another_one(served: Served, tmp_path: Path, troubles: list[Trouble]):
    proxy = FaultProxy(served.port, *(Trouble(**vars(trouble)) for trouble in troubles))
    try:
        got = served.fetch(proxy, tmp_path / "got", SHA)
        assert got.sha256 == SHA
        broken = sum(trouble.cut or trouble.reset for trouble in troubles)
        assert proxy.connections == 1 + broken
        assert len(CONTENT) <= got.received <= len(CONTENT) + broken * MIB
    finally:
        proxy.close()


def test_a_connection_that_stalls_is_given_up_and_another_one_goes_on(served: Served, tmp_path: Path):
    proxy = FaultProxy(served.port, Trouble(stall=True, after=1_000_000))
    try:
        got = served.fetch(proxy, tmp_path / "got", SHA, stall_s=2.0)
        assert got.sha256 == SHA
        assert proxy.connections >= 2
    finally:
        proxy.close()


def test_an_object_that_is_replaced_on_the_way_is_never_mixed(served: Served, tmp_path: Path):
    def replace() -> None:
        (tmp_path / "new").write_bytes(OTHER)
        (tmp_path / "new").rename(served.file)

    proxy = FaultProxy(served.port, Trouble(after=1_000_000, call=replace, cut=True))
    try:
        got = served.fetch(proxy, tmp_path / "got")
        assert (got.sha256, got.size) == (OTHER_SHA, len(OTHER))
        assert (tmp_path / "got").read_bytes() == OTHER
    finally:
        proxy.close()


@pytest.mark.parametrize("served", ["http"], indirect=True)  # the others say no length that a proxy could change
def test_a_lie_about_the_length_is_found_out(served: Served, tmp_path: Path):
    proxy = FaultProxy(served.port, Trouble(length=len(CONTENT) - 1), Trouble(length=len(CONTENT) + 1))
    try:
        with pytest.raises(WrongContent, match=f"asked for was {SHA}"):
            served.fetch(proxy, tmp_path / "short", SHA)
        assert not (tmp_path / "short").exists()
        got = served.fetch(proxy, tmp_path / "long", SHA, stall_s=1.0)  # waits for one byte more, then asks again
        assert (got.sha256, got.size) == (SHA, len(CONTENT))
    finally:
        proxy.close()
