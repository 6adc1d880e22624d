"""Downloads against what people use for them, from one nginx on loopback, into tmpfs.

Both sides end with the file and its sha256. The subject runs in this process, as in a downloader that is up; the
others pay for their start, some milliseconds. Needs nginx, curl, aria2c and sha256sum.
"""

from __future__ import annotations

import contextlib
import hashlib
import shutil
import socket
import subprocess
import threading
import time
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from pillar.bench.measure import scratch, take_turns
from pillar.bench.processes import PATIENCE_S, agent, until
from pillar.locations import Locations
from pillar.pubsub import encode
from pillar.transports import Limits, Route, Source, open_transport
from pillar.transports.fetch import STREAMS, Fetch, Fetched
from pillar.types.downloader import DatastoreConfig, DownloaderConfig

MIB = 1024 * 1024
SIZE = 256 * MIB
LARGE = 1024 * MIB  # for the memory: larger than what would hide in a buffer
SMALL, SMALL_BYTES, LINK_S = 100, 4096, 0.020
AT_ONCE = 8  # as the downloader
BUCKET = "images"


def http_vs_curl() -> dict[str, float]:
    """http_vs_curl: speed of a single stream, hashed, of `curl | tee FILE | sha256sum`."""
    with _served(SIZE) as (url, here):
        curl = f"curl -sf {url} | tee {here}/floor | sha256sum"
        pair = take_turns(lambda: _fetch(_http(url), here, 1), lambda: _shell(curl))
    return {"http_vs_curl": pair.floor / pair.subject}


def ranges_vs_aria2() -> dict[str, float]:
    """ranges_vs_aria2: speed of several streams, hashed, of aria2c with as many connections, then sha256sum."""
    with _served(SIZE) as (url, here):
        options = f"-q -x{STREAMS} -s{STREAMS} -k1M --file-allocation=none --allow-overwrite=true"
        aria2 = f"aria2c {options} -d {here} -o floor {url} && sha256sum {here}/floor"
        pair = take_turns(lambda: _fetch(_http(url), here, STREAMS), lambda: _shell(aria2))
    return {"ranges_vs_aria2": pair.floor / pair.subject}


def s3_vs_boto3() -> dict[str, float]:
    """s3_vs_boto3: speed of the S3 transport of `boto3.download_file`, then sha256; nginx stands in for the store."""
    import boto3
    from botocore.config import Config

    with _served(SIZE) as (url, here):
        endpoint = url.partition(f"/{BUCKET}/")[0]
        config = Config(s3={"addressing_style": "path"}, response_checksum_validation="when_required")
        session = boto3.session.Session("a", "b", region_name="us-east-1")
        client = session.client("s3", endpoint_url=endpoint, config=config)
        source = Source("DsS3", url, BUCKET, "image", "us-east-1", "a", "b", endpoint)

        def floor() -> float:
            begin = time.perf_counter()
            client.download_file(BUCKET, "image", str(here / "floor"))
            with (here / "floor").open("rb") as file:
                hashlib.file_digest(file, "sha256")
            return time.perf_counter() - begin

        pair = take_turns(lambda: _fetch(source, here, STREAMS), floor)
    return {"s3_vs_boto3": pair.floor / pair.subject}


def downloader_rss() -> dict[str, float]:
    """downloader_rss_mib: the most memory that a downloader ever had resident, for an object of 1 GiB."""
    with _served(LARGE) as (url, _), scratch() as root:
        store, safename = str(uuid.uuid4()), "image.bench"
        host, _, name = url.removeprefix("http://").partition("/")
        config = DownloaderConfig(DatastoreID=store, Safename=safename, Name=name, Size=LARGE, RefCount=1)
        datastore = DatastoreConfig(UUID=store, DsType="DsHttp", Fqdn=f"http://{host}")
        for table, key, record in (
            ("zedmanager/appImg.obj/DownloaderConfig", safename, encode(config)),
            ("zedagent/DatastoreConfig", store, encode(datastore)),
        ):
            directory = Path(root, "run", table)
            directory.mkdir(parents=True)
            (directory / f"{key}.json").write_bytes(record)
        target = Locations(root).downloads("appImg.obj", "pending") / safename
        with agent("downloader", root) as downloader:
            try:
                until(target.exists)
                status = Path(f"/proc/{downloader.pid}/status").read_text()
            finally:
                downloader.kill()
    kib = next(int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM:"))
    return {"downloader_rss_mib": kib / 1024}


def many_vs_serial() -> dict[str, float]:
    """many_vs_serial: 100 small objects 20 ms away, eight at once as in the downloader, of one after the other."""
    with _served(SMALL_BYTES) as (url, here), _far(url) as far:

        def one(number: int) -> None:
            _fetched(_http(far), here / f"small{number}", 1)

        def serially() -> None:
            for number in range(SMALL):
                one(number)

        def timed(run: Callable[[], None]) -> float:
            begin = time.perf_counter()
            run()
            return time.perf_counter() - begin

        def at_once() -> None:
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(one, range(SMALL)))

        one(0)
        together = min(timed(at_once) for _ in range(3))
        serial = timed(serially)
    return {"many_vs_serial": serial / together}


def _http(url: str) -> Source:
    return Source("DsHttp", url)


def _fetch(source: Source, here: Path, streams: int) -> float:
    begin = time.perf_counter()
    _fetched(source, here / "subject", streams)
    return time.perf_counter() - begin


def _fetched(source: Source, target: Path, streams: int) -> Fetched:
    return Fetch(lambda: open_transport(source, Route(), Limits()), source, target, streams=streams).run()


def _shell(command: str) -> float:
    begin = time.perf_counter()
    subprocess.run(["sh", "-ec", command], check=True, stdout=subprocess.DEVNULL)
    return time.perf_counter() - begin


@contextlib.contextmanager
def _served(size: int) -> Iterator[tuple[str, Path]]:
    """An nginx with one object of `size` bytes: its URL, and a directory for what is fetched."""
    program = shutil.which("nginx") or shutil.which("nginx", path="/usr/sbin")
    if program is None:
        raise FileNotFoundError("nginx is not installed; scripts/test --with-servers does it")
    with scratch() as directory:
        here = Path(directory)
        (here / BUCKET).mkdir()
        block = hashlib.sha512(b"bench").digest() * (MIB // 64)
        with (here / BUCKET / "image").open("wb") as file:
            for start in range(0, size, MIB):
                file.write(block[: size - start])
        with socket.create_server(("127.0.0.1", 0)) as probe:
            port = probe.getsockname()[1]
        kinds = ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
        temporary = "".join(f"{kind}_temp_path {here}/{kind};" for kind in kinds)
        (here / "nginx.conf").write_text(
            f"daemon off; user root; worker_processes 1; pid {here}/pid; error_log {here}/error.log; events {{}} "
            f"http {{ sendfile on; access_log off; {temporary} "
            f"server {{ listen 127.0.0.1:{port}; root {here}; }} }}"
        )
        server = subprocess.Popen([program, "-c", str(here / "nginx.conf"), "-e", str(here / "error.log")])
        try:
            until(lambda: _listens(port))
            yield f"http://127.0.0.1:{port}/{BUCKET}/image", here
        finally:
            server.terminate()
            server.wait(timeout=PATIENCE_S)


def _listens(port: int) -> bool:
    with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
        return True
    return False


@contextlib.contextmanager
def _far(url: str) -> Iterator[str]:
    """The same server, 20 ms away: a proxy that gives every byte to the other side half of that later."""
    host, _, path = url.removeprefix("http://").partition("/")
    port = int(host.rpartition(":")[2])
    listener = socket.create_server(("127.0.0.1", 0), backlog=256)

    def forward(source: socket.socket, sink: socket.socket) -> None:
        with contextlib.suppress(OSError):  # either end went away
            while data := source.recv(65536):
                time.sleep(LINK_S / 2)
                sink.sendall(data)
            sink.shutdown(socket.SHUT_WR)

    def accept() -> None:
        while True:
            try:
                client, _ = listener.accept()
            except OSError:
                return  # closed
            threading.Thread(target=connect, args=(client,), daemon=True).start()

    def connect(client: socket.socket) -> None:
        time.sleep(LINK_S)  # the handshake, which the kernel has done at once
        with client, socket.create_connection(("127.0.0.1", port)) as server:
            back = threading.Thread(target=forward, args=(server, client), daemon=True)
            back.start()
            forward(client, server)
            back.join()

    threading.Thread(target=accept, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/{path}"
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
