"""The engine below all transports: several streams at once, the bandwidth cap, and servers that mean no good."""

from __future__ import annotations

import gzip
import hashlib
import random
import socket
import ssl
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from servers import Authority, Fault, FaultServer, Nginx, eventually

from pillar.transports import Limits, Route, Source, TransportFailed, open_transport, partfile
from pillar.transports.fetch import STREAMS, Fetch, Fetched, TooLarge
from pillar.transports.pieces import PIECE_BYTES, Pieces
from pillar.transports.throttle import Throttle

pytest_plugins = ("server_fixtures",)

MIB = 1024 * 1024
BIG = random.Random(6).randbytes(40 * MIB + 12345)
BIG_SHA = hashlib.sha256(BIG).hexdigest()
LIMITS = Limits(connect_s=30, stall_s=30)


def fetch(url: str, target: Path, *, limits: Limits = LIMITS, streams: int = STREAMS, **arguments: Any) -> Fetched:
    source = Source(ds_type="DsHttp", url=url)
    return Fetch(lambda: open_transport(source, Route(), limits), source, target, streams=streams, **arguments).run()


def break_off(server: FaultServer, path: str, target: Path, after: int) -> None:
    """Give a download up that has brought `after` bytes, as much over each of its streams, and gets no more."""
    server.fault(path, *(Fault(hold_after=after // STREAMS) for _ in range(STREAMS)))

    class GivenUp(Exception):
        pass

    def progress(done: int, size: int | None) -> None:
        if done >= after:
            raise GivenUp

    with pytest.raises(GivenUp):
        fetch(server.url(path), target, progress=progress)
    server.release()


def present(target: Path) -> int:
    pieces = Pieces(partfile.part_path(target).with_suffix(".part.spans"), len(BIG), PIECE_BYTES)
    try:
        return pieces.present
    finally:
        pieces.close()


# ---- several streams


def test_a_large_object_comes_in_several_streams_and_leaves_nothing_beside_it(
    fault_server: FaultServer, tmp_path: Path
):
    got = fetch(fault_server.put("/a", BIG), tmp_path / "a")
    assert got == Fetched(len(BIG), BIG_SHA, len(BIG), 0)
    assert hashlib.sha256((tmp_path / "a").read_bytes()).hexdigest() == BIG_SHA
    assert [path.name for path in tmp_path.iterdir()] == ["a"]
    starts = {seen.range_start for seen in fault_server.requests("/a")}
    assert starts == set(range(0, len(BIG), PIECE_BYTES))
    assert fault_server.sent("/a") == len(BIG)


def test_streams_that_were_given_up_go_on_where_each_stopped(fault_server: FaultServer, tmp_path: Path):
    url = fault_server.put("/a", BIG)
    break_off(fault_server, "/a", tmp_path / "a", 12 * MIB)
    had = present(tmp_path / "a")
    assert had == 12 * MIB
    before = fault_server.sent("/a")
    got = fetch(url, tmp_path / "a")
    assert (got.sha256, got.resumed, got.received) == (BIG_SHA, had, len(BIG) - had)
    assert before >= had
    assert all("if-range" in seen.headers for seen in fault_server.requests("/a")[-4:])


def test_what_several_streams_began_one_stream_can_finish(fault_server: FaultServer, tmp_path: Path):
    url = fault_server.put("/a", BIG)
    break_off(fault_server, "/a", tmp_path / "a", 12 * MIB)
    had = present(tmp_path / "a")
    got = fetch(url, tmp_path / "a", streams=1)
    assert (got.sha256, got.resumed) == (BIG_SHA, had)


def test_a_stream_that_breaks_is_finished_by_another(fault_server: FaultServer, tmp_path: Path):
    fault_server.fault("/a", Fault(), Fault(cut_after=MIB), Fault(cut_after=70_001), Fault(status=503))
    assert fetch(fault_server.put("/a", BIG), tmp_path / "a").sha256 == BIG_SHA


def test_an_object_that_changes_between_two_ranges_is_never_mixed(fault_server: FaultServer, tmp_path: Path):
    url = fault_server.put("/a", bytes(reversed(BIG)))
    break_off(fault_server, "/a", tmp_path / "a", 12 * MIB)
    fault_server.put("/a", BIG)
    assert fetch(url, tmp_path / "a").sha256 == BIG_SHA


def test_what_came_from_one_source_does_not_count_for_another(fault_server: FaultServer, tmp_path: Path):
    fault_server.put("/old", bytes(reversed(BIG)))
    break_off(fault_server, "/old", tmp_path / "a", 2 * MIB)
    assert fetch(fault_server.put("/a", BIG), tmp_path / "a").sha256 == BIG_SHA


@pytest.mark.parametrize(
    "fault",
    [Fault(ignore_range=True), Fault(headers={"ETag": ""}), Fault(headers={"ETag": 'W/"x"'}), Fault(chunked=True)],
    ids=["no ranges", "no validator", "weak validator", "no length"],
)
def test_without_ranges_or_validator_it_comes_in_one_stream(fault_server: FaultServer, tmp_path: Path, fault: Fault):
    fault.times = 99
    fault_server.fault("/a", fault)
    assert fetch(fault_server.put("/a", BIG), tmp_path / "a").sha256 == BIG_SHA


@pytest.mark.parametrize("size", [0, 1, PIECE_BYTES - 1, PIECE_BYTES, PIECE_BYTES + 1])
def test_objects_around_the_size_of_a_piece_arrive_whole(fault_server: FaultServer, tmp_path: Path, size: int):
    fetch(fault_server.put("/a", BIG[:size]), tmp_path / "a")
    assert (tmp_path / "a").read_bytes() == BIG[:size]


def test_after_a_power_cut_only_the_synced_beginning_of_several_streams_counts(
    fault_server: FaultServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    url = fault_server.put("/a", BIG)
    break_off(fault_server, "/a", tmp_path / "a", 20 * MIB)
    monkeypatch.setattr(partfile, "boot_id", lambda: "another boot")
    got = fetch(url, tmp_path / "a")
    assert got.sha256 == BIG_SHA
    assert got.resumed == 0  # less than what is synced at a time


def test_too_much_is_refused_before_several_streams_start(fault_server: FaultServer, tmp_path: Path):
    with pytest.raises(TooLarge, match="only 1000000 may be stored"):
        fetch(fault_server.put("/a", BIG), tmp_path / "a", limit=1_000_000)
    assert len(fault_server.requests("/a")) == 1


def test_giving_up_ends_every_stream_although_all_of_them_wait(fault_server: FaultServer, tmp_path: Path):
    class GivenUp(Exception):
        pass

    fault_server.fault("/a", *(Fault(hold_after=100_000) for _ in range(4)))
    wanted = threading.Event()

    def check() -> None:
        if wanted.is_set():
            raise GivenUp

    failed: list[BaseException] = []

    def run() -> None:
        try:
            fetch(fault_server.put("/a", BIG), tmp_path / "a", limits=Limits(stall_s=60), check=check)
        except GivenUp as err:
            failed.append(err)

    before = threading.active_count()
    thread = threading.Thread(target=run)
    thread.start()
    eventually(lambda: sum(seen.sent == 100_000 for seen in fault_server.requests("/a")) == 4, "four held streams")
    wanted.set()
    thread.join(timeout=30)
    assert not thread.is_alive()
    assert failed
    fault_server.release()
    eventually(lambda: threading.active_count() <= before, "no thread is left")


def test_nginx_gives_ranges_to_several_streams(nginx: Callable[..., Nginx], tmp_path: Path):
    server = nginx()
    (server.root / "a").write_bytes(BIG)
    assert fetch(server.url("/a"), tmp_path / "a") == Fetched(len(BIG), BIG_SHA, len(BIG), 0)
    statuses = [line.split()[2] for line in eventually(lambda: _lines(server.access_log, 6))]
    assert statuses == ["206"] * 6


def _lines(path: Path, count: int) -> list[str]:
    lines = path.read_text().splitlines()
    return lines if len(lines) >= count else []


# ---- the cap


def test_a_cap_holds_for_all_who_take_from_it():
    now = 0.0

    def sleep(seconds: float) -> None:
        nonlocal now
        now += seconds

    throttle = Throttle(1000, clock=lambda: now, sleep=sleep)
    for _ in range(10):
        throttle.took(500)
    assert now == pytest.approx(5.0)


def test_a_wait_for_the_cap_ends_when_nobody_wants_it_any_more():
    class GivenUp(Exception):
        pass

    def check() -> None:
        raise GivenUp

    with pytest.raises(GivenUp):
        Throttle(1, clock=lambda: 0.0, sleep=lambda seconds: None).took(1000, check)


# ---- TLS


@pytest.fixture
def root(tmp_path: Path) -> Authority:
    root = Authority()
    root.write(tmp_path / "pki", "root")
    return root


def trusting(tmp_path: Path, **fields: Path) -> Limits:
    return Limits(connect_s=30, stall_s=30, root_certificate=tmp_path / "pki" / "root.pem", **fields)


def test_a_server_that_asks_is_shown_the_devices_certificate(
    root: Authority, nginx: Callable[..., Nginx], tmp_path: Path
):
    certificate = root.issue("server", ca=False, hosts=("localhost",)).write(tmp_path / "pki", "server")
    mine, key = root.issue("device", ca=False).write(tmp_path / "pki", "device")
    extra = f"ssl_client_certificate {tmp_path}/pki/root.pem; ssl_verify_client on;"
    server = nginx(tls=certificate, extra=extra)
    (server.root / "a").write_bytes(BIG)
    url = server.url("/a", "localhost")
    assert fetch(url, tmp_path / "a", limits=trusting(tmp_path, client_certificate=mine, client_key=key)).size
    with pytest.raises(TransportFailed, match=r"/a: 400 |certificate required"):
        fetch(url, tmp_path / "b", limits=trusting(tmp_path))
    foreign = Authority("other root").issue("device", ca=False).write(tmp_path / "pki", "foreign")
    with pytest.raises(TransportFailed, match=r"/a: 400 |unknown ca"):
        fetch(url, tmp_path / "b", limits=trusting(tmp_path, client_certificate=foreign[0], client_key=foreign[1]))
    with pytest.raises(TransportFailed, match="not the PEM certificate of"):
        fetch(url, tmp_path / "b", limits=trusting(tmp_path, client_certificate=mine, client_key=foreign[1]))


@pytest.mark.parametrize(
    ("arguments", "why"),
    [
        ({"days": (-9, -2), "hosts": ("127.0.0.1",)}, "certificate has expired"),
        ({"days": (2, 9), "hosts": ("127.0.0.1",)}, "not yet valid"),
        ({"hosts": ("elsewhere.example",)}, r"IP address mismatch|doesn't match|not valid for"),
    ],
    ids=["expired", "of tomorrow", "of another host"],
)
def test_a_certificate_that_is_not_good_says_why(root: Authority, tmp_path: Path, arguments: Any, why: str):
    server = FaultServer(tls=root.issue("server", ca=False, **arguments).tls(tmp_path / "pki"))
    try:
        with pytest.raises(TransportFailed, match=why):
            fetch(server.put("/a", b"x"), tmp_path / "a", limits=trusting(tmp_path))
    finally:
        server.close()


def test_a_foreign_certificate_says_so(root: Authority, tmp_path: Path):
    foreign = Authority("somebody").issue("server", ca=False, hosts=("127.0.0.1",))
    server = FaultServer(tls=foreign.tls(tmp_path / "other"))
    try:
        with pytest.raises(TransportFailed, match="unable to get local issuer certificate"):
            fetch(server.put("/a", b"x"), tmp_path / "a", limits=trusting(tmp_path))
    finally:
        server.close()


class Raw:
    """A server that sends what it is told to, byte for byte, to each connection, and closes without a goodbye."""

    def __init__(self, answer: bytes, tls: ssl.SSLContext | None = None) -> None:
        self._answer, self._tls = answer, tls
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"{'https' if tls else 'http'}://127.0.0.1:{self._socket.getsockname()[1]}/a"
        self._thread = threading.Thread(target=self._serve, daemon=True)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return  # closed: the test is over
            try:
                if self._tls is not None:
                    connection = self._tls.wrap_socket(connection, server_side=True, suppress_ragged_eofs=False)
                connection.recv(65536)
                connection.sendall(self._answer)
            except OSError:
                pass  # the client went away: often just what the test is about
            finally:
                connection.close()

    def close(self) -> None:
        self._socket.shutdown(socket.SHUT_RDWR)
        self._socket.close()
        self._thread.join(timeout=10)


def test_tls_that_is_cut_without_a_goodbye_is_not_taken_for_the_end(root: Authority, tmp_path: Path):
    tls = root.issue("server", ca=False, hosts=("127.0.0.1",)).tls(tmp_path / "pki")
    server = Raw(b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\nonly a part", tls)
    try:
        with pytest.raises(TransportFailed, match="EOF occurred in violation of protocol"):
            fetch(server.url, tmp_path / "a", limits=trusting(tmp_path))
        assert not (tmp_path / "a").exists()
    finally:
        server.close()


# ---- servers that mean no good


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (b"", r"closed connection without response|Connection aborted|reset"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", r"SSH-2.0|BadStatusLine|Protocol error|aborted"),
        (b"HTTP/1.1 200 OK\r\nX: " + b"y" * 200_000 + b"\r\n\r\n", r"got more than \d+ bytes"),
        (b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 5000 + b"\r\n", r"got more than \d+ headers"),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", "broke off before its end"),
        (b"HTTP/1.1 200 OK\r\nContent-Length: -5\r\n\r\nabc", None),
        (b"HTTP/1.1 200 OK\r\nContent-Length: 3, 4\r\n\r\nabc", r"3, 4|Content-Length|differ"),
    ],
    ids=["silence", "ssh", "long header", "many headers", "bad chunk", "negative length", "two lengths"],
)
def test_nonsense_is_an_error_in_one_line(tmp_path: Path, answer: bytes, why: str | None):
    server = Raw(answer)
    try:
        if why is None:
            fetch(server.url, tmp_path / "a", limit=MIB)  # as if no length had been said: ended by closing
            assert (tmp_path / "a").read_bytes() == b"abc"
            return
        with pytest.raises(TransportFailed, match=why) as failed:
            fetch(server.url, tmp_path / "a", limit=MIB)
        assert "\n" not in str(failed.value)
        assert server.url in str(failed.value)
    finally:
        server.close()


def test_a_gzip_bomb_is_never_unpacked(fault_server: FaultServer, tmp_path: Path):
    bomb = gzip.compress(bytes(200 * MIB), 9)
    fault_server.put("/a", bomb)
    fault_server.fault("/a", Fault(headers={"Content-Encoding": "gzip"}))
    with pytest.raises(TransportFailed, match="encodes the object as gzip"):
        fetch(fault_server.url("/a"), tmp_path / "a")
    assert not (tmp_path / "a").exists()


def test_endless_and_dripping_bodies_end_for_several_streams_too(fault_server: FaultServer, tmp_path: Path):
    fault_server.put("/a", b"")
    fault_server.fault("/a", Fault(endless=True, ignore_range=True))
    with pytest.raises(TooLarge, match="does not end within"):
        fetch(fault_server.url("/a"), tmp_path / "a", limit=3 * MIB)


@pytest.mark.parametrize("wrong", ["bytes 7-99/50000000", "bytes 5-1/9", "nonsense"])
def test_a_range_that_lies_is_not_believed(fault_server: FaultServer, tmp_path: Path, wrong: str):
    fault_server.fault("/a", Fault(), Fault(content_range=wrong))
    assert fetch(fault_server.put("/a", BIG), tmp_path / "a").sha256 == BIG_SHA


def test_a_broken_transport_of_somebody_else_does_not_stop_ours(monkeypatch: pytest.MonkeyPatch):
    import pillar.transports

    class Point:
        value = "broken:thing"

        def load(self) -> Any:
            raise ImportError("no such library")

    monkeypatch.setattr(pillar.transports, "entry_points", lambda group: [Point()])
    pillar.transports._registered.cache_clear()
    try:
        assert "DsHttp" in pillar.transports.known_types()
    finally:
        pillar.transports._registered.cache_clear()
