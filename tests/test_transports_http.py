"""HTTP and HTTPS under the resume contract, against a server that misbehaves and against nginx."""

from __future__ import annotations

import contextlib
import gzip
import hashlib
import json
import random
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers import Authority, Fault, FaultServer, FreePort, Nginx

from pillar.transports import Limits, Route, Source, TransportFailed, Unsupported, known_types, open_transport, partfile
from pillar.transports.fetch import Fetch, Fetched, TooLarge

pytest_plugins = ("server_fixtures",)

CONTENT = random.Random(4).randbytes(3 * 1024 * 1024 + 17)
ANYWHERE = Route()
LIMITS = Limits(connect_s=30, stall_s=30)


def fetch(url: str, target: Path, *, limits: Limits = LIMITS, route: Route = ANYWHERE, **arguments: Any) -> Fetched:
    login = {name: arguments.pop(name) for name in ("api_key", "password") if name in arguments}
    source = Source(ds_type="DsHttp", url=url, **login)
    return Fetch(lambda: open_transport(source, route, limits), source, target, **arguments).run()


def break_off(url: str, target: Path, after: int) -> None:
    """Leave the part file of a download that was given up after at least `after` bytes."""

    class GivenUp(Exception):
        pass

    def progress(done: int, size: int | None) -> None:
        if done >= after:
            raise GivenUp

    with pytest.raises(GivenUp):
        fetch(url, target, progress=progress)
    assert partfile.part_path(target).stat().st_size >= after


def test_a_file_arrives_whole_with_its_digest_and_leaves_nothing_beside_it(fault_server: FaultServer, tmp_path: Path):
    got = fetch(fault_server.put("/a", CONTENT), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert got == Fetched(len(CONTENT), hashlib.sha256(CONTENT).hexdigest(), len(CONTENT), 0)
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    assert fault_server.requests("/a")[0].headers["accept-encoding"] == "identity"


def test_an_empty_file_is_a_file(fault_server: FaultServer, tmp_path: Path):
    assert fetch(fault_server.put("/a", b""), tmp_path / "a").size == 0
    assert (tmp_path / "a").read_bytes() == b""


def test_progress_ends_at_the_full_size(fault_server: FaultServer, tmp_path: Path):
    told: list[tuple[int, int | None]] = []
    fetch(fault_server.put("/a", CONTENT), tmp_path / "a", progress=lambda done, size: told.append((done, size)))
    assert told[-1] == (len(CONTENT), len(CONTENT))
    assert told == sorted(told)


@pytest.mark.parametrize("validator", ["etag", "last-modified"])
def test_a_broken_download_is_continued_where_it_stopped(fault_server: FaultServer, tmp_path: Path, validator: str):
    dated = "Wed, 01 Jan 2020 00:00:00 GMT"
    url = fault_server.put("/a", CONTENT, *(("-", dated) if validator == "last-modified" else ()))
    break_off(url, tmp_path / "a", 1_000_000)
    had = partfile.part_path(tmp_path / "a").stat().st_size
    got = fetch(url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert (got.resumed, got.received) == (had, len(CONTENT) - had)
    assert fault_server.requests("/a")[1].range_start == had
    assert fault_server.requests("/a")[1].sent == len(CONTENT) - had


def test_a_connection_cut_on_the_way_is_reopened_without_a_word(fault_server: FaultServer, tmp_path: Path):
    fault_server.fault("/a", Fault(cut_after=70_001), Fault(cut_after=1_000_000))
    fetch(fault_server.put("/a", CONTENT), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert len(fault_server.requests("/a")) == 3
    assert fault_server.sent("/a") == len(CONTENT)


def test_a_connection_that_brings_nothing_is_an_error_that_says_where_it_ended(
    fault_server: FaultServer, tmp_path: Path
):
    fault_server.fault("/a", Fault(cut_after=0, times=9))
    with pytest.raises(TransportFailed, match="bytes before the end"):
        fetch(fault_server.put("/a", CONTENT), tmp_path / "a")


@pytest.mark.parametrize("etag", ["-", 'W/"weak"'])
def test_without_a_strong_validator_a_download_starts_over(fault_server: FaultServer, tmp_path: Path, etag: str):
    url = fault_server.put("/a", CONTENT, etag)
    break_off(url, tmp_path / "a", 500_000)
    got = fetch(url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert got.resumed == 0
    assert "range" not in fault_server.requests("/a")[1].headers


@pytest.mark.parametrize("answer", [{}, {"ETag": ""}], ids=["named", "unnamed"])
def test_an_object_that_changed_meanwhile_is_never_mixed(
    fault_server: FaultServer, tmp_path: Path, answer: dict[str, str]
):
    break_off(fault_server.put("/a", CONTENT), tmp_path / "a", 500_000)
    other = bytes(reversed(CONTENT))
    fault_server.fault("/a", Fault(headers=answer))  # the second: an answer that does not say which object it is of
    fetch(fault_server.put("/a", other), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == other


def test_a_server_that_ignores_ranges_is_read_from_the_beginning(fault_server: FaultServer, tmp_path: Path):
    url = fault_server.put("/a", CONTENT)
    break_off(url, tmp_path / "a", 500_000)
    fault_server.fault("/a", Fault(ignore_range=True))
    fetch(url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT


@pytest.mark.parametrize("wrong", ["bytes 7-3145744/3145745", "bytes 5-1/9", "nonsense", "bytes 0-9/10"])
def test_a_206_with_a_wrong_range_is_not_believed(fault_server: FaultServer, tmp_path: Path, wrong: str):
    url = fault_server.put("/a", CONTENT)
    break_off(url, tmp_path / "a", 500_000)
    fault_server.fault("/a", Fault(content_range=wrong))
    fetch(url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_complete_part_needs_no_request(fault_server: FaultServer, tmp_path: Path):
    url = fault_server.put("/a", CONTENT)
    break_off(url, tmp_path / "a", len(CONTENT))
    fault_server.seen.clear()
    assert fetch(url, tmp_path / "a").received == 0
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert fault_server.seen == []


def test_416_at_the_full_length_is_the_end_of_an_object_of_unknown_size(fault_server: FaultServer, tmp_path: Path):
    url = fault_server.put("/a", CONTENT)
    fault_server.fault("/a", Fault(chunked=True))
    break_off(url, tmp_path / "a", len(CONTENT))
    fetch(url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert fault_server.requests("/a")[1].status == 416


def test_an_object_that_became_shorter_is_fetched_as_it_is_now(fault_server: FaultServer, tmp_path: Path):
    url = fault_server.put("/a", CONTENT, '"same"')
    break_off(url, tmp_path / "a", 1_000_000)
    fault_server.put("/a", CONTENT[:1000], '"same"')
    fetch(url, tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT[:1000]


@pytest.mark.parametrize("fault", [Fault(chunked=True), Fault(no_length=True)], ids=["chunked", "closed"])
def test_a_body_without_length_is_read_to_its_end(fault_server: FaultServer, tmp_path: Path, fault: Fault):
    fault_server.fault("/a", Fault(chunked=fault.chunked, no_length=fault.no_length))
    fetch(fault_server.put("/a", CONTENT), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_a_chunked_body_that_is_cut_is_not_taken_for_the_whole(fault_server: FaultServer, tmp_path: Path):
    fault_server.fault("/a", Fault(chunked=True, cut_after=50_000), Fault(chunked=True))
    fetch(fault_server.put("/a", CONTENT), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_more_bytes_than_may_be_stored_are_refused_before_or_while_they_come(fault_server: FaultServer, tmp_path: Path):
    url = fault_server.put("/a", CONTENT)
    with pytest.raises(TooLarge, match="only 1000 may be stored"):
        fetch(url, tmp_path / "a", limit=1000)
    fault_server.fault("/a", Fault(endless=True))
    with pytest.raises(TooLarge, match="does not end"):
        fetch(url, tmp_path / "a", limit=300_000)
    assert not (tmp_path / "a").exists()


def test_a_compressed_answer_is_refused_but_a_compressed_file_is_taken_as_it_is(
    fault_server: FaultServer, tmp_path: Path
):
    packed = gzip.compress(CONTENT[:1000])
    for path in ("/a", "/a.gz"):
        fault_server.put(path, packed)
        fault_server.fault(path, Fault(headers={"Content-Encoding": "gzip"}))
    with pytest.raises(TransportFailed, match="encodes the object as gzip"):
        fetch(fault_server.url("/a"), tmp_path / "a")
    fetch(fault_server.url("/a.gz"), tmp_path / "a.gz")
    assert (tmp_path / "a.gz").read_bytes() == packed


@pytest.mark.parametrize("status", [401, 403, 404, 500, 503])
def test_an_answer_other_than_200_is_an_error_with_its_number_and_address(
    fault_server: FaultServer, tmp_path: Path, status: int
):
    url = fault_server.put("/a", CONTENT)
    fault_server.fault("/a", Fault(status=status, headers={"Retry-After": "7"}))
    with pytest.raises(TransportFailed, match=f"{url}: {status} .*come back in 7"):
        fetch(url + "?secret=1", tmp_path / "a")


def test_a_server_that_is_not_there_is_an_error_that_says_so(tmp_path: Path):
    with contextlib.closing(FreePort()) as port, pytest.raises(TransportFailed, match="Connection refused"):
        fetch(f"http://127.0.0.1:{port.number}/a", tmp_path / "a")


def test_a_stalled_server_is_given_up_and_asked_again_for_the_rest(fault_server: FaultServer, tmp_path: Path):
    url = fault_server.put("/a", CONTENT)
    fault_server.fault("/a", Fault(hold_after=500_000))
    fetch(url, tmp_path / "a", limits=Limits(connect_s=30, stall_s=2))
    assert (tmp_path / "a").read_bytes() == CONTENT
    assert fault_server.requests("/a")[1].range_start == 500_000


def test_a_server_that_drips_is_given_up(fault_server: FaultServer, tmp_path: Path):
    seconds = iter(range(0, 10_000, 61))  # each chunk takes a minute on this clock
    fault_server.fault("/a", Fault(cut_after=100, times=99))
    with pytest.raises(TransportFailed, match=r"stalled at byte \d+: \d+ bytes in 61 s"):
        fetch(fault_server.put("/a", CONTENT[:2000]), tmp_path / "a", clock=lambda: float(next(seconds)))
    assert len(fault_server.requests("/a")) == 1  # asked again at once it would have another minute


def test_abort_of_a_read_that_is_over_does_nothing(fault_server: FaultServer):
    url = fault_server.put("/image", CONTENT)
    with contextlib.closing(open_transport(Source(ds_type="DsHttp", url=url), Route(), Limits())) as transport:
        transport.abort()  # nothing was asked yet
    with contextlib.closing(open_transport(Source(ds_type="DsHttp", url=url), Route(), Limits())) as transport:
        assert b"".join(transport.read(0, None).chunks) == CONTENT  # its connection is the pool's again
        transport.abort()
    transport.abort()


def test_abort_from_another_thread_ends_a_read_that_waits(fault_server: FaultServer, tmp_path: Path):
    fault_server.put("/a", CONTENT)
    fault_server.fault("/a", Fault(hold_after=1000))
    source = Source(ds_type="DsHttp", url=fault_server.url("/a"))
    transport = open_transport(source, Route(), Limits(stall_s=60))
    failed: list[Exception] = []

    def read() -> None:
        try:
            for _ in transport.read().chunks:
                pass
        except TransportFailed as err:
            failed.append(err)

    reader = threading.Thread(target=read)
    reader.start()
    assert fault_server.holding.wait(30)
    transport.abort()
    reader.join(timeout=10)
    assert not reader.is_alive()
    assert "given up" in str(failed[0])
    transport.close()


def test_redirects_are_followed_but_not_for_ever_and_not_to_a_file(fault_server: FaultServer, tmp_path: Path):
    fault_server.put("/a", CONTENT)
    fault_server.fault("/r", Fault(status=302, headers={"Location": "/a"}))
    fetch(fault_server.url("/r"), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == CONTENT
    fault_server.fault("/loop", Fault(status=301, headers={"Location": "/loop"}, times=99))
    with pytest.raises(TransportFailed, match="more than 10 redirects"):
        fetch(fault_server.url("/loop"), tmp_path / "b")
    fault_server.fault("/f", Fault(status=302, headers={"Location": "file:///etc/passwd"}))
    with pytest.raises(TransportFailed, match="not an http or https URL"):
        fetch(fault_server.url("/f"), tmp_path / "b")


def test_credentials_go_to_their_own_host_only_and_never_into_a_text(fault_server: FaultServer, tmp_path: Path):
    other = FaultServer()
    try:
        other.put("/a", CONTENT)
        location = {"Location": other.url("/a", "localhost")}
        fault_server.fault("/r", Fault(status=302, headers=location), Fault(status=403))
        fetch(fault_server.url("/r"), tmp_path / "a", api_key="user", password="tell-nobody")
        assert fault_server.requests("/r")[0].headers["authorization"].startswith("Basic ")
        assert "authorization" not in other.requests("/a")[0].headers
        with pytest.raises(TransportFailed) as failed:
            fetch(fault_server.url("/r").replace("//", "//user:tell-nobody@"), tmp_path / "b")
        assert "tell-nobody" not in str(failed.value)
        assert "authorization" in fault_server.requests("/r")[1].headers
    finally:
        other.close()


def test_https_trusts_the_device_root_and_nobody_else_and_never_goes_down_to_http(
    fault_server: FaultServer, tmp_path: Path
):
    root = Authority()
    root.write(tmp_path / "pki", "root")
    limits = Limits(connect_s=30, stall_s=30, root_certificate=tmp_path / "pki" / "root.pem")
    server = FaultServer(tls=root.issue("server", ca=False, hosts=("127.0.0.1",)).tls(tmp_path / "pki"))
    try:
        url = server.put("/a", CONTENT)
        fetch(url, tmp_path / "a", limits=limits)
        assert (tmp_path / "a").read_bytes() == CONTENT
        with pytest.raises(TransportFailed, match="certificate verify failed"):
            fetch(url, tmp_path / "b")
        fault_server.put("/a", CONTENT)
        server.fault("/down", Fault(status=302, headers={"Location": fault_server.url("/a")}))
        with pytest.raises(TransportFailed, match=r"from https to .*refused"):
            fetch(server.url("/down"), tmp_path / "b", limits=limits)
        assert fault_server.seen == []
    finally:
        server.close()


def test_the_source_address_of_a_port_is_used(fault_server: FaultServer, tmp_path: Path):
    fetch(fault_server.put("/a", b"x"), tmp_path / "a", route=Route(address="127.0.0.9", port="lo"))
    assert fault_server.requests("/a")[0].peer == "127.0.0.9"


def test_a_proxy_is_used_except_for_its_exceptions(fault_server: FaultServer, tmp_path: Path):
    fault_server.put("http://far.example/a", CONTENT)  # what a proxy sees is the whole URL
    proxies = (("http", fault_server.url("")),)
    fetch("http://far.example/a", tmp_path / "a", route=Route(proxies=proxies))
    assert (tmp_path / "a").read_bytes() == CONTENT
    fault_server.put("/near", b"near")
    for exceptions in ("localhost, 127.0.0.0/8", "*", "127.0.0.1"):
        fetch(fault_server.url("/near"), tmp_path / exceptions[:4], route=Route(proxies=proxies, exceptions=exceptions))
    assert len(fault_server.requests("/near")) == 3


@pytest.mark.parametrize("url", ["", "ftp://host/a", "http://", "http://[::1/a", "http://host:port/a", "/etc/passwd"])
def test_what_is_not_a_web_address_is_an_error(tmp_path: Path, url: str):
    with pytest.raises(TransportFailed, match="URL"):
        fetch(url, tmp_path / "a")


def test_an_unknown_datastore_type_names_those_that_are_known():
    assert {"DsHttp", "DsHttps"} <= set(known_types())
    with pytest.raises(Unsupported, match=r"DsSmoke.*DsHttp, DsHttps"):
        open_transport(Source(ds_type="DsSmoke", url=""), Route(), LIMITS)


def test_a_part_whose_bytes_were_changed_on_disk_is_thrown_away(fault_server: FaultServer, tmp_path: Path):
    url = fault_server.put("/a", CONTENT)
    part = partfile.PartFile(tmp_path / "a")
    source = Source(ds_type="DsHttp", url=url)
    assert part.open(source.identity()) is None
    part.begin(source.identity(), partfile.Identity(len(CONTENT), fault_server.objects["/a"].etag))
    part.append(CONTENT[:100_000])
    part.sync()
    part.close()
    with part.path.open("r+b") as file:
        file.write(b"????")
    got = fetch(url, tmp_path / "a")
    assert got.resumed == 0
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_after_a_power_cut_only_the_synced_prefix_counts(
    fault_server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    url = fault_server.put("/a", CONTENT)
    source = Source(ds_type="DsHttp", url=url)
    part = partfile.PartFile(tmp_path / "a")
    part.open(source.identity())
    part.begin(source.identity(), partfile.Identity(len(CONTENT), fault_server.objects["/a"].etag))
    part.append(CONTENT[:100_000])
    part.sync()
    part.append(b"\0" * 50_000)  # a length whose bytes never reached the disk
    part.close()
    monkeypatch.setattr(partfile, "boot_id", lambda: "another boot")
    got = fetch(url, tmp_path / "a")
    assert got.resumed == 100_000
    assert (tmp_path / "a").read_bytes() == CONTENT


def test_of_a_long_download_a_power_cut_takes_only_the_last_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(partfile, "SYNC_EVERY_BYTES", 1024 * 1024)
    part = partfile.PartFile(tmp_path / "a")
    part.open("source")
    part.begin("source", partfile.Identity(1 << 30, "1"))
    for _ in range(800):  # 200 MiB: the hash may lag behind, but not for ever
        part.append(bytes(256 * 1024))
        if json.loads(part.record_path.read_bytes())["synced"]:
            break
    part.close()
    assert json.loads(part.record_path.read_bytes())["synced"] >= 1024 * 1024


def test_a_resumed_file_with_the_wrong_digest_is_fetched_once_more_from_the_beginning(
    fault_server: FaultServer, tmp_path: Path
):
    url = fault_server.put("/a", CONTENT, '"the same"')
    break_off(url, tmp_path / "a", 500_000)
    other = bytes(reversed(CONTENT))
    fault_server.put("/a", other, '"the same"')  # a server that lies about its validator
    fetch(url, tmp_path / "a", expect_sha256=hashlib.sha256(other).hexdigest())
    assert (tmp_path / "a").read_bytes() == other


def test_nginx_resumes_and_is_found_changed(nginx: Callable[..., Nginx], tmp_path: Path):
    server = nginx()
    (server.root / "a").write_bytes(CONTENT)
    break_off(server.url("/a"), tmp_path / "a", 1_000_000)
    had = partfile.part_path(tmp_path / "a").stat().st_size
    got = fetch(server.url("/a"), tmp_path / "a")
    assert (got.resumed, got.received) == (had, len(CONTENT) - had)
    assert (tmp_path / "a").read_bytes() == CONTENT
    break_off(server.url("/a"), tmp_path / "b", 1_000_000)
    (server.root / "a").write_bytes(b"new")
    fetch(server.url("/a"), tmp_path / "b")
    assert (tmp_path / "b").read_bytes() == b"new"


def test_nginx_with_tls_and_a_private_root(nginx: Callable[..., Nginx], tmp_path: Path):
    root = Authority()
    certificate = root.issue("server", ca=False, hosts=("localhost",)).write(tmp_path / "pki", "server")
    root.write(tmp_path / "pki", "root")
    server = nginx(tls=certificate)
    (server.root / "a").write_bytes(CONTENT)
    limits = Limits(root_certificate=tmp_path / "pki" / "root.pem")
    fetch(server.url("/a", "localhost"), tmp_path / "a", limits=limits)
    assert (tmp_path / "a").read_bytes() == CONTENT
    with pytest.raises(TransportFailed, match=r"doesn't match|mismatch|not valid for"):
        fetch(server.url("/a"), tmp_path / "b", limits=limits)
