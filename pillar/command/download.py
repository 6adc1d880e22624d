"""Fetch one object to a file, with the engine of the downloader: whole, hashed, and continued after any kill.

URL is http:, https:, file:, s3://BUCKET/KEY (with --endpoint for any but Amazon's), az://CONTAINER/BLOB (with
--endpoint or AZURE_STORAGE_ACCOUNT), or what a transport of another --type takes. Run again after a failure, Ctrl-C or
kill -9, it goes on where it stopped. FILE appears, or is replaced, by one rename when the object is whole; a FILE that
is there and has the sha256 asked for is not fetched.

A login stands in the environment, never on the command line: PILLAR_USER and PILLAR_PASSWORD, or for s3:
AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, for az: AZURE_STORAGE_ACCOUNT and AZURE_STORAGE_KEY or
AZURE_STORAGE_SAS_TOKEN.

exit status: 0 FILE stands   1 it could not be fetched; what came is kept   2 wrong usage
             3 it has another sha256; nothing is kept   130 interrupted; what came is kept
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import re
import sys
import time
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Final
from urllib.parse import unquote, urlsplit

from pillar.locations import Locations
from pillar.terminal import is_terminal, printable

if TYPE_CHECKING:
    from pillar.transports import Source
    from pillar.transports.fetch import Fetched

EXIT_FAILED: Final = 1
EXIT_USAGE: Final = 2
EXIT_WRONG: Final = 3

TYPES: Final = {
    "http": "DsHttp",
    "https": "DsHttps",
    "file": "DsFile",
    "s3": "DsS3",
    "az": "DsAzureBlob",
    "sftp": "DsSFTP",
    "docker": "DsContainerRegistry",
}
LOGINS: Final = {  # type -> names in the environment: user, then passwords in the order they are tried
    "DsS3": ("AWS_ACCESS_KEY_ID", ("AWS_SECRET_ACCESS_KEY",)),
    "DsAzureBlob": ("AZURE_STORAGE_ACCOUNT", ("AZURE_STORAGE_KEY", "AZURE_STORAGE_SAS_TOKEN")),
}
READ_BYTES = 1024 * 1024
REDRAW_S = 0.1
BAR_COLUMNS = 24


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("url", metavar="URL")
    parser.add_argument("--sha256", metavar="H", type=_sha256, help="accept nothing else than this content")
    parser.add_argument(
        "-o", "--output", metavar="FILE", type=Path, help="file or folder to put it in (default: its own name, here)"
    )
    parser.add_argument(
        "--type", metavar="DS", help="datastore type, when the URL does not tell it (DsHttp, DsS3, ...)"
    )
    parser.add_argument("--endpoint", default="", metavar="E", help="server of an s3: or az: URL")
    parser.add_argument("--region", default="", help="S3 region")
    parser.add_argument(
        "--streams", type=int, default=4, metavar="N", help="connections for a large object (default: 4)"
    )
    parser.add_argument("--limit-rate", type=int, default=0, metavar="N", help="at most N bytes a second")
    parser.add_argument("--max-size", type=int, metavar="N", help="refuse an object of more than N bytes")
    parser.add_argument("--json", action="store_true", help="print one JSON object")


def run(args: argparse.Namespace) -> int:
    """Fetch, tell how far it is, say what came of it."""
    source = source_of(args.url, args.type, args.endpoint, args.region, os.environ)
    target = target_of(args.url, args.output)
    if target is None:
        print(f"pillar download: {printable(args.url)}: names no file; say where to with -o FILE", file=sys.stderr)
        return EXIT_USAGE
    if args.sha256 and _has(target, args.sha256):
        _say(args, target, None, 0.0)
        return 0
    return _fetch(args, source, target)


def source_of(url: str, ds_type: str | None, endpoint: str, region: str, environment: Mapping[str, str]) -> Source:
    """The datastore that the URL and the options make up."""
    from pillar.transports import Source

    scheme = urlsplit(url).scheme.lower()
    ds_type = ds_type or TYPES.get(scheme, "DsHttp")
    user, passwords = LOGINS.get(ds_type, ("PILLAR_USER", ("PILLAR_PASSWORD",)))
    found = [environment[name] for name in (*passwords, "PILLAR_PASSWORD") if environment.get(name)]
    dpath, name = "", ""
    if scheme == "az":
        dpath, name = urlsplit(url).netloc, unquote(urlsplit(url).path).lstrip("/")
    elif scheme == "s3":
        name = url
    return Source(
        ds_type=ds_type,
        url=url,
        dpath=dpath,
        name=name,
        region=region or environment.get("AWS_REGION", ""),
        api_key=environment.get(user) or environment.get("PILLAR_USER", ""),
        password=found[0] if found else "",
        fqdn=endpoint,
    )


def target_of(url: str, output: Path | None) -> Path | None:
    """The file to make; None when neither the URL nor the option names one."""
    name = unquote(urlsplit(url).path).rstrip("/").rpartition("/")[2]
    if output is not None and not output.is_dir():
        return output
    if name in ("", ".", "..") or "\0" in name:
        return None
    return (output or Path()) / name


def _fetch(args: argparse.Namespace, source: Source, target: Path) -> int:
    from pillar.transports import Limits, Route, TransportFailed, open_transport
    from pillar.transports.fetch import Fetch, WrongContent
    from pillar.transports.partfile import DiskFull, PartBusy
    from pillar.transports.throttle import Throttle

    config = Locations(args.root).config
    limits = Limits(
        root_certificate=config / "root-certificate.pem",
        client_certificate=config / "device.cert.pem",
        client_key=config / "device.key.pem",
    )
    bar = Bar(target.name, shown=is_terminal(sys.stderr) and not args.json)
    fetch = Fetch(
        lambda: open_transport(source, Route(), limits),
        source,
        target,
        expect_sha256=args.sha256 or "",
        strict=bool(args.sha256),
        limit=args.max_size,
        progress=bar.progress,
        streams=max(1, args.streams),
        throttle=Throttle(max(0, args.limit_rate)),
    )
    began = time.monotonic()
    try:
        fetched = fetch.run()
    except WrongContent as err:
        return _failed(args, bar, str(err), EXIT_WRONG)
    except (TransportFailed, DiskFull, PartBusy) as err:
        return _failed(args, bar, str(err), EXIT_FAILED)
    except KeyboardInterrupt:
        bar.end()
        print("pillar download: interrupted; the same command goes on where it stopped", file=sys.stderr)
        raise
    bar.end()
    _say(args, target, fetched, time.monotonic() - began)
    return 0


class Bar:
    """One line on standard error that tells how far it is, redrawn in place; nothing when it is not shown."""

    def __init__(self, name: str, shown: bool) -> None:
        self._name = printable(name)[:30]
        self._shown = shown
        self._first: tuple[float, int] | None = None
        self._drawn = 0.0

    def progress(self, done: int, size: int | None) -> None:
        now = time.monotonic()
        self._first = self._first or (now, done)
        if self._shown and (now - self._drawn >= REDRAW_S or done == size):
            self._drawn = now
            began, had = self._first
            sys.stderr.write("\r\x1b[K" + self.line(done, size, (done - had) / max(now - began, 1e-9)))
            sys.stderr.flush()

    def line(self, done: int, size: int | None, rate: float) -> str:
        """What stands in the line: name, bar, how much of how much, bytes a second, time left."""
        if not size:
            return f"{self._name}  {human(done)}  {human(rate)}/s"
        full = min(BAR_COLUMNS, done * BAR_COLUMNS // size)
        left = f"{int((size - done) / rate)} s left" if rate >= 1 and done < size else ""
        bar = "█" * full + "░" * (BAR_COLUMNS - full)
        share = f"{done * 100 // size:3}%  {human(done)} of {human(size)}"
        return f"{self._name}  {bar} {share}  {human(rate)}/s  {left}".rstrip()

    def end(self) -> None:
        if self._shown and self._drawn:
            sys.stderr.write("\n")


def human(count: float) -> str:
    """`count` bytes with a unit: 512 B, 1.5 MiB."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def _say(args: argparse.Namespace, target: Path, fetched: Fetched | None, seconds: float) -> None:
    """`fetched` None: it was there already."""
    size = fetched.size if fetched is not None else target.stat().st_size
    sha256 = fetched.sha256 if fetched is not None else args.sha256
    received = fetched.received if fetched is not None else 0
    resumed = fetched.resumed if fetched is not None else size
    if args.json:
        facts = {"file": str(target), "size": size, "sha256": sha256, "received": received, "resumed": resumed}
        print(json.dumps({**facts, "seconds": round(seconds, 3)}))
        return
    name = printable(str(target))
    if fetched is None:
        print(f"{name} is there already, {human(size)}, sha256 {sha256}")
        return
    again = f", {human(resumed)} of it were there" if resumed else ""
    print(f"{name}  {human(size)} in {seconds:.1f} s{again}\nsha256 {sha256}")


def _failed(args: argparse.Namespace, bar: Bar, text: str, status: int) -> int:
    bar.end()
    if args.json:
        print(json.dumps({"error": text, "status": status}))
    print(f"pillar download: {printable(text)}", file=sys.stderr)
    return status


def _has(target: Path, sha256: str) -> bool:
    try:
        with target.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest() == sha256
    except FileNotFoundError:
        return False


def _sha256(text: str) -> str:
    if not re.fullmatch("[0-9a-fA-F]{64}", text):
        raise argparse.ArgumentTypeError(f"{text!r} is not 64 hexadecimal digits")
    return text.lower()
