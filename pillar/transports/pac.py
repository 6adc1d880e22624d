"""Proxy auto-config: which proxies a port's PAC file gives for a URL.

A PAC file is a JavaScript program that came over the network. It is run by PyPAC in a process of its own, `python -m
pillar.transports.pac`, which holds no secret and ends after EVALUATION_S: a program that loops or eats memory costs one
error. What it is asked about is the URL without login and query.

    {"pac": text, "url": url, "host": host} on standard input  ->  what FindProxyForURL answered, or status 1 and why
"""

from __future__ import annotations

import base64
import binascii
import json
import resource
import subprocess
import sys
import time
from functools import lru_cache
from urllib.parse import urlsplit

from pillar.transports.base import TransportFailed, shown

EVALUATION_S = 20.0
MEMORY_BYTES = 256 * 1024 * 1024
REMEMBER_S = 60.0  # an answer may depend on the time of day
DIRECT = ""


class PacFailed(TransportFailed):
    """The PAC file gives no usable answer; the text says why."""


def proxies_for(pac: str, url: str) -> tuple[str, ...]:
    """The proxies for `url` in the order they are to be tried, DIRECT for none; `pac` is base64. Raises PacFailed."""
    return _asked(pac, shown(url), int(time.monotonic() // REMEMBER_S))


@lru_cache(maxsize=64)
def _asked(pac: str, url: str, moment: int) -> tuple[str, ...]:
    try:
        text = base64.b64decode(pac, validate=True).decode()
    except (binascii.Error, ValueError) as err:
        raise PacFailed(f"the port's PAC file is not base64 of a text: {err}") from err
    request = json.dumps({"pac": text, "url": url, "host": urlsplit(url).hostname or ""})
    try:
        answer = subprocess.run(
            [sys.executable, "-m", __name__], input=request, capture_output=True, text=True, timeout=EVALUATION_S
        )
    except subprocess.TimeoutExpired as err:
        raise PacFailed(f"the port's PAC file has no answer for {url} after {EVALUATION_S:.0f} s") from err
    if answer.returncode:
        why = answer.stderr.strip().rpartition("\n")[2] or f"its process ended with status {answer.returncode}"
        raise PacFailed(f"the port's PAC file fails for {url}: {why}")
    return read_answer(answer.stdout)


def read_answer(answer: str) -> tuple[str, ...]:
    """`PROXY a:1; HTTPS b:2; DIRECT` as URLs. Raises PacFailed when none of it can be used."""
    found = []
    for entry in answer.split(";"):
        kind, _, place = entry.strip().partition(" ")
        match kind.upper():
            case "DIRECT":
                found.append(DIRECT)
            case "PROXY" | "HTTP" if place.strip():
                found.append(f"http://{place.strip()}")
            case "HTTPS" if place.strip():
                found.append(f"https://{place.strip()}")
    if not found:
        raise PacFailed(f"the port's PAC file answers {answer.strip()!r}, which is no HTTP proxy and not DIRECT")
    return tuple(found)


def main() -> int:
    """One question, in the process of its own."""
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CPU, (int(EVALUATION_S), int(EVALUATION_S)))
    from pypac.parser import PACFile

    request = json.load(sys.stdin)
    try:
        print(PACFile(request["pac"]).find_proxy_for_url(request["url"], request["host"]) or "DIRECT")
    except Exception as err:  # noqa: BLE001
        # The library's, the interpreter's, a resolver's: all mean that this file has no answer.
        print(" ".join(str(err).split()), file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
