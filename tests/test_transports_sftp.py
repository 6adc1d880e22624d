"""SFTP under the resume contract, against OpenSSH's sshd."""

from __future__ import annotations

import contextlib
import hashlib
import os
import pwd
import random
import secrets
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from agentproc import AgentProcess, Table
from remote_servers import CountingProxy, FetchProcess, Sshd
from servers import eventually, needs

from pillar.transports import Identity, Limits, Route, Source, TransportFailed, open_transport, partfile
from pillar.transports.fetch import Fetch, Fetched
from pillar.transports.sftp import parse
from pillar.transports.sftpfile import WINDOW_BYTES

MIB = 1024 * 1024
CONTENT = random.Random(7).randbytes(8 * MIB)
SHA = hashlib.sha256(CONTENT).hexdigest()
ANYWHERE = Route()
LIMITS = Limits(connect_s=30, stall_s=30)
OVERHEAD = 64 * 1024  # of SSH: two handshakes and logins, and some bytes per block


@pytest.fixture(scope="module")
def sshd(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Sshd]:
    server = Sshd(tmp_path_factory.mktemp("sshd") / "d")
    yield server
    server.close()


@pytest.fixture
def proxy(sshd: Sshd) -> Iterator[CountingProxy]:
    proxy = CountingProxy(sshd.port)
    yield proxy
    proxy.close()


@pytest.fixture
def image(tmp_path: Path) -> Path:
    path = tmp_path / "srv" / "image"
    path.parent.mkdir()
    path.write_bytes(CONTENT)
    return path


def fetch(fields: dict[str, str], target: Path, route: Route = ANYWHERE, **arguments: object) -> Fetched:
    source = Source(**fields)
    return Fetch(lambda: open_transport(source, route, LIMITS), source, target, **arguments).run()  # type: ignore[arg-type]


def break_off(fields: dict[str, str], target: Path, after: int) -> int:
    class GivenUp(Exception):
        pass

    def progress(done: int, size: int | None) -> None:
        if done >= after:
            raise GivenUp

    with pytest.raises(GivenUp):
        fetch(fields, target, progress=progress)
    return partfile.part_path(target).stat().st_size


def test_a_file_arrives_whole_with_a_private_key_as_the_password(sshd: Sshd, image: Path, tmp_path: Path):
    got = fetch(sshd.source(image), tmp_path / "got")
    assert got == Fetched(len(CONTENT), SHA, len(CONTENT), 0)
    assert (tmp_path / "got").read_bytes() == CONTENT


@pytest.mark.parametrize("size", [0, 1, 32 * 1024, WINDOW_BYTES + 1])
def test_every_size_arrives(sshd: Sshd, image: Path, tmp_path: Path, size: int):
    image.write_bytes(CONTENT[:size])
    assert fetch(sshd.source(image), tmp_path / "got").size == size
    assert (tmp_path / "got").read_bytes() == CONTENT[:size]


@pytest.mark.parametrize("name", ["with space & ünïcödé", "per%2Fcent;x#y?z", "a'b\"c\\d", "\N{SNOWMAN}@host:1"])
def test_every_file_name_can_be_asked_for(sshd: Sshd, image: Path, tmp_path: Path, name: str):
    image.rename(image.parent / name)
    assert fetch(sshd.source(image.parent / name), tmp_path / "got").sha256 == SHA


def test_size_and_date_are_told_without_reading(sshd: Sshd, image: Path):
    os.utime(image, (1, 1234))
    transport = open_transport(Source(**sshd.source(image)), ANYWHERE, LIMITS)
    try:
        assert transport.stat() == Identity(len(CONTENT), f"{len(CONTENT)} bytes of 1234")
    finally:
        transport.close()


def test_a_broken_download_is_continued_where_it_stopped(sshd: Sshd, image: Path, tmp_path: Path):
    had = break_off(sshd.source(image), tmp_path / "got", 3_000_000)
    got = fetch(sshd.source(image), tmp_path / "got")
    assert (got.sha256, got.resumed, got.received) == (SHA, had, len(CONTENT) - had)


def test_a_file_that_changed_meanwhile_is_read_from_the_beginning(sshd: Sshd, image: Path, tmp_path: Path):
    break_off(sshd.source(image), tmp_path / "got", 3_000_000)
    image.write_bytes(CONTENT[::-1])
    os.utime(image, (5_000, 5_000))
    got = fetch(sshd.source(image), tmp_path / "got")
    assert (got.sha256, got.received) == (hashlib.sha256(CONTENT[::-1]).hexdigest(), len(CONTENT))


def test_the_connection_comes_from_the_address_that_the_route_says(sshd: Sshd, image: Path, tmp_path: Path):
    fetch(sshd.source(image), tmp_path / "got", Route(address="127.0.0.9"))
    assert "127.0.0.9" in sshd.log.read_text()


# ---- whose key


def test_a_server_whose_key_is_not_pinned_gets_no_login_and_the_error_says_how_to_pin_it(
    sshd: Sshd, image: Path, tmp_path: Path
):
    before = sshd.log.read_text().count("Accepted")
    unpinned = sshd.source(image, url=f"sftp://127.0.0.1:{sshd.port}")
    with pytest.raises(TransportFailed) as refused:
        fetch(unpinned, tmp_path / "got")
    text = str(refused.value)
    assert f"set the datastore's Fqdn to {sshd.fqdn()}" in text
    assert "ssh-keygen -lf" in text
    assert sshd.log.read_text().count("Accepted") == before
    assert fetch(sshd.source(image, url=text.rpartition(" ")[2]), tmp_path / "got").sha256 == SHA  # as it says


def test_a_server_with_another_key_is_refused_by_name(sshd: Sshd, image: Path, tmp_path: Path):
    other = "SHA256:" + "a" * 43
    with pytest.raises(TransportFailed, match="somebody may stand between") as refused:
        fetch(sshd.source(image, url=sshd.fqdn(pin=other)), tmp_path / "got")
    assert sshd.fingerprint in str(refused.value)
    assert other in str(refused.value)


def test_one_of_several_pinned_keys_is_enough_and_url_safe_ones_are_understood(sshd: Sshd, image: Path, tmp_path: Path):
    both = f"SHA256:{'a' * 43},{sshd.fingerprint.replace('/', '_').replace('+', '-')}"
    assert fetch(sshd.source(image, url=sshd.fqdn(pin=both)), tmp_path / "got").sha256 == SHA


@pytest.mark.parametrize("kind", ["rsa", "ecdsa"])
def test_keys_of_the_other_kinds_can_be_pinned(image: Path, tmp_path: Path, kind: str):
    server = Sshd(tmp_path / "sshd", key_type=kind)
    try:
        assert fetch(server.source(image), tmp_path / "got").sha256 == SHA
    finally:
        server.close()


# ---- what goes wrong says so


@pytest.mark.parametrize(
    ("fields", "text"),
    [
        ({"name": "nothing"}, "nothing: no such file"),
        ({"name": "."}, "not a file"),
        ({"api_key": ""}, "no user is given"),
        ({"password": "-----BEGIN OPENSSH PRIVATE KEY-----\nnonsense\n"}, "not a usable Ed25519, ECDSA or RSA key"),
        ({"password": "a password"}, "may not log in with a password .the server takes publickey"),
        ({"api_key": "nobody-of-that-name"}, "login of user nobody-of-that-name refused"),
        ({"url": "sftp://;fingerprint=SHA256:short@h"}, "as ssh-keygen -lf prints it"),
        ({"url": "sftp://me:secret@h"}, "a password stands in the datastore's Password"),
        ({"url": "http://h"}, "is not sftp://"),
        ({"url": "sftp://;fingerprint=x@127.0.0.1:1"}, "SHA256"),
    ],
)
def test_what_is_wrong_is_said(sshd: Sshd, image: Path, tmp_path: Path, fields: dict[str, str], text: str):
    with pytest.raises(TransportFailed, match=text) as failed:
        fetch(sshd.source(image, **fields), tmp_path / "got")
    assert "secret" not in str(failed.value)


def test_a_server_that_is_not_there_is_named(sshd: Sshd, image: Path, tmp_path: Path):
    with pytest.raises(TransportFailed, match=r"sftp://127.0.0.1:1: Connection refused"):
        fetch(sshd.source(image, url=sshd.fqdn(port=1)), tmp_path / "got")


@pytest.mark.parametrize(
    ("dpath", "name", "url", "path"),
    [
        ("/srv/images", "a/b", "sftp://h", "/srv/images/a/b"),
        ("images", "a", "sftp://h", "images/a"),
        ("", "a", "sftp://h", "a"),
        ("/", "a", "sftp://h", "/a"),
        ("", "", "sftp://h/srv/a%20b", "/srv/a b"),
        ("x", "sftp://h/~/a", "sftp://h/~/a", "a"),
    ],
)
def test_where_a_path_begins(dpath: str, name: str, url: str, path: str):
    assert parse(Source("DsSFTP", url, dpath, name)).path == path


@pytest.mark.skipif(os.geteuid() != 0, reason="making an account needs root")
def test_a_password_is_enough_and_a_wrong_one_is_said(image: Path, tmp_path: Path):
    useradd, userdel, chpasswd = (needs(name, "passwd") for name in ("useradd", "userdel", "chpasswd"))
    user, password = f"pillar-{secrets.token_hex(4)}", secrets.token_urlsafe()
    server = Sshd(tmp_path / "sshd", passwords=True)
    home = tmp_path / "home"
    subprocess.run([useradd, "--no-log-init", "-M", "-d", home, "-s", "/bin/sh", user], check=True, timeout=30)
    try:
        subprocess.run([chpasswd], input=f"{user}:{password}", text=True, check=True, timeout=30)
        with_password = server.source(image, api_key=user, password=password)
        public = Path(shutil.copy(image, f"/tmp/{user}"))  # tmp_path itself is for the owner only
        try:
            public.chmod(0o644)
            got = fetch({**with_password, "dpath": "/tmp", "name": user}, tmp_path / "got")
            assert got.sha256 == SHA
            public.chmod(0o600)
            with pytest.raises(TransportFailed, match="permission denied"):
                fetch({**with_password, "dpath": "/tmp", "name": user}, tmp_path / "other")
        finally:
            public.unlink()
        with pytest.raises(TransportFailed, match="datastore's password is not accepted") as refused:
            fetch({**with_password, "password": "wrong one"}, tmp_path / "other")
        assert "wrong one" not in str(refused.value)
    finally:
        server.close()
        uid = pwd.getpwnam(user).pw_uid
        eventually(lambda: not somebody_runs_as(uid), "sshd's sessions to end: until then userdel refuses")
        subprocess.run([userdel, user], check=True, timeout=30, capture_output=True)


def somebody_runs_as(uid: int) -> bool:
    for path in Path("/proc").glob("[0-9]*/status"):
        with contextlib.suppress(FileNotFoundError, ProcessLookupError):  # it has just ended
            (uids,) = (line.split()[1:] for line in path.read_text().splitlines() if line.startswith("Uid:"))
            if str(uid) in uids:
                return True
    return False


# ---- killed


KILL_POINTS = [at + off for at in range(0, len(CONTENT) + 1, 64 * 1024) for off in (-1, 0, 1) if at + off > 0]
KILL_STEPS = [22, 700, 1_200, 2_000, 2_600, 3_200]  # bytes of the server's: banner, key exchange, login, open


def killed_at(proxy: CountingProxy, fields: dict[str, str], target: Path, point: int) -> int:
    """Kill a fetch when so many of the server's bytes passed, fetch again, and count what came twice."""
    target.unlink(missing_ok=True)
    before = proxy.sent
    proxy.hold_at(point)
    first = FetchProcess(fields, target)
    try:
        eventually(lambda: proxy.holding.is_set() or first.process.poll() is not None, "the proxy holds", 60)
    finally:
        first.kill()
    proxy.release()
    second = FetchProcess(fields, target).result() if not target.exists() else (0, SHA, 0, 0)
    assert second[1] == SHA, f"killed after {point} bytes"
    assert target.read_bytes() == CONTENT
    again = proxy.sent - before - len(CONTENT)
    assert again <= MIB + OVERHEAD, f"killed after {point} bytes: {again} were fetched again"
    return again


def test_killed_anywhere_at_most_a_mebibyte_is_fetched_again(
    sshd: Sshd, proxy: CountingProxy, image: Path, tmp_path: Path
):
    seed = random.randrange(2**32)
    print(f"seed {seed}")
    chosen = random.Random(seed)
    for point in sorted(chosen.sample(KILL_POINTS, 4) + chosen.sample(KILL_STEPS, 2)):
        killed_at(proxy, sshd.source(image, url=sshd.fqdn(port=proxy.port)), tmp_path / "got", point)


@pytest.mark.full
@pytest.mark.timeout(3600)
def test_killed_at_every_64_kib_at_most_a_mebibyte_is_fetched_again(
    sshd: Sshd, proxy: CountingProxy, image: Path, tmp_path: Path
):
    fields = sshd.source(image, url=sshd.fqdn(port=proxy.port))
    again = [killed_at(proxy, fields, tmp_path / "got", point) for point in KILL_STEPS + KILL_POINTS]
    print(f"{len(again)} kills, {max(again)} bytes again at most, {sum(again) // len(again)} on the average")


def test_a_killed_downloader_goes_on_where_it_stopped(sshd: Sshd, proxy: CountingProxy, image: Path, root: Path):
    store, name = "bc51aa4c-897f-4394-9f3a-760fe1affc4e", f"image.{SHA}"
    agent = AgentProcess(root, "downloader")
    Table(root, "zedagent", "DatastoreConfig").write(
        store, UUID=store, DsType="DsSFTP", Fqdn=sshd.fqdn(port=proxy.port), Dpath=str(image.parent),
        ApiKey=sshd.user, Password=sshd.private_key,
    )  # fmt: skip
    Table(root, "zedmanager", "DownloaderConfig", "appImg.obj").write(
        name, DatastoreID=store, Safename=name, Name="image", Size=len(CONTENT), ImageSha256=SHA, RefCount=1
    )
    statuses = Table(root, "downloader", "DownloaderStatus", "appImg.obj")
    proxy.hold_at(5 * MIB)
    try:
        agent.start()
        assert proxy.holding.wait(60)
        agent.kill()
        proxy.release()
        agent.start()
        statuses.wait(name, State=3, LastErr="")
    finally:
        agent.kill()
    assert proxy.sent - len(CONTENT) <= MIB + OVERHEAD
    place = root / "persist" / "downloads" / "appImg.obj" / "pending" / SHA / name
    assert place.read_bytes() == CONTENT
    told = [path.read_text() for path in (*root.rglob("*.log"), *root.glob("run/downloader/**/*.json"))]
    assert not any("PRIVATE KEY" in text or sshd.private_key.splitlines()[1] in text for text in told)


@pytest.mark.parametrize("keep", ["first", "second"])
def test_the_pin_may_hold_slashes_in_a_datastore(keep: str):
    from pillar.cmd.downloader.plan import is_loopback, source_of
    from pillar.types.downloader import DatastoreConfig, DownloaderConfig

    fingerprint = {"first": "SHA256:/bc" + "a" * 40, "second": "SHA256:a/b/" + "a" * 39}[keep]
    datastore = DatastoreConfig(DsType="DsSFTP", Fqdn=f"sftp://;fingerprint={fingerprint}@127.0.0.1:2222", Dpath="/d")
    source = source_of(DownloaderConfig(Name="x"), "appImg.obj", datastore)
    assert is_loopback(source.url)
    assert parse(source).pins == (fingerprint,)
    assert source.identity().startswith("DsSFTP|sftp://127.0.0.1:2222/d/x|")
