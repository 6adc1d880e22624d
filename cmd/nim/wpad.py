"""Where the PAC file of a port may stand, and fetching it.

A port with NetworkProxyEnable and no Pacfile of its own looks for one, without a proxy, from its own addresses:

    NetworkProxyURL                     if the config names it: there and nowhere else
    what its DHCP server names          option 252; EVE does not ask for it
    http://wpad.<domain>/wpad.dat       the port's domain, then without its first label, as long as a dot is left

What is not said to be a PAC file is none: the page of a hotspot's login must not become a proxy.
"""

from __future__ import annotations

import base64
import http.client
import ssl
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Final
from urllib.parse import urlsplit

from pillar.cmd.nim.request import NoName, Target, Way, get
from pillar.workers import Cancel

FETCH_S: Final = 15.0  # for one place, as EVE
SEARCH_S: Final = 60.0  # for all of them
MAX_BYTES: Final = 1024 * 1024
_CONTENT_TYPE: Final = "application/x-ns-proxy-autoconfig"


@dataclass(frozen=True)
class Search:
    """What one port has to look for its PAC file with."""

    ifname: str
    addresses: tuple[str, ...]
    dns_servers: tuple[str, ...] = ()
    url: str = ""  # NetworkProxyURL
    dhcp_url: str = ""
    domain: str = ""

    def places(self) -> tuple[str, ...]:
        """The URLs to try, in their order."""
        if self.url:
            return (self.url,)
        by_dhcp = (self.dhcp_url,) if self.dhcp_url else ()
        return (*by_dhcp, *(f"http://wpad.{domain}/wpad.dat" for domain in _upwards(self.domain)))


@dataclass(frozen=True)
class PacFile:
    """What came of it: a PAC file, or why there is none."""

    pac: str = ""  # base64
    url: str = ""  # where it was found, unless the config said so
    error: str = ""
    pending: bool = False  # nothing is known yet


class _NotThere(Exception):
    """This place has no PAC file for us; the text says why."""


def find(search: Search, roots: Path | None, cancel: Cancel) -> PacFile:
    """The first PAC file there is; at most SEARCH_S. `roots` (PEM) vouch for an https server besides the system's.

    Blocks. Raises Cancelled.
    """
    deadline = time.monotonic() + SEARCH_S
    failures: list[str] = []
    for url in search.places():
        for address in search.addresses:
            cancel.raise_if_set()
            left = deadline - time.monotonic()
            if left <= 0:
                failures.append(f"{url}: not tried, {SEARCH_S:.0f} s are over")
                break
            try:
                text = fetch(url, Way(search.ifname, address, search.dns_servers), roots, min(FETCH_S, left))
            except _NotThere as err:
                failures.append(f"{url} from {address}: {err}")
            else:
                return PacFile(base64.b64encode(text).decode(), "" if search.url else url)
    why = (
        "; ".join(failures) or "NetworkProxyEnable is set, but neither NetworkProxyURL nor the port's domain says where"
    )
    return PacFile(error=f"port {search.ifname} has no PAC file: {why}")


def fetch(url: str, way: Way, roots: Path | None, timeout_s: float) -> bytes:
    """The PAC file at `url`. Raises _NotThere for whatever a network or a server may do."""
    if urlsplit(url).scheme not in ("http", "https") or not urlsplit(url).hostname:
        raise _NotThere("expected an http or https URL")
    try:
        with get(Target(url, roots, system_roots=True), way, timeout_s) as answer:
            if answer.status != http.client.OK:
                raise _NotThere(f"answers {answer.status}")
            kind = answer.headers.get_content_type() if "Content-Type" in answer.headers else "nothing"
            if kind != _CONTENT_TYPE:
                raise _NotThere(f"its Content-Type is {kind}, expected {_CONTENT_TYPE}")
            text = answer.read(MAX_BYTES + 1)
            if len(text) <= MAX_BYTES and answer.length:
                raise http.client.IncompleteRead(text, answer.length)
    except ssl.SSLCertVerificationError as err:
        raise _NotThere(err.verify_message) from err
    except (NoName, OSError, http.client.HTTPException, ValueError) as err:
        raise _NotThere(str(err) or type(err).__name__) from err
    if len(text) > MAX_BYTES:
        raise _NotThere(f"it is larger than {MAX_BYTES} bytes")
    if not text.strip():
        raise _NotThere("it is empty")
    return text


def _upwards(domain: str) -> Iterator[str]:
    """The domain and those above it; nobody's own is a top level, so wpad.com is not asked."""
    domain = domain.strip().strip(".")
    if domain:
        yield domain
        above = domain.partition(".")[2]
        if "." in above:
            yield from _upwards(above)
