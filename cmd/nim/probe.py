"""Does the controller answer over this port? One request, from one local address, through each proxy there is to try.

Runs in a thread.
"""

from __future__ import annotations

import dataclasses
import http.client
import ssl
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final

from pillar.cmd.nim.request import NoName, Target, Way, get
from pillar.workers import Cancel

PING: Final = "/api/v1/edgedevice/ping"
_GOOD: Final = (200, 201)
# OpenSSL's numbers for a chain that we cannot know, and a name that is another's: that is no controller of ours.
_STRANGERS: Final = frozenset({18, 19, 20, 21, 62, 64})


@dataclass(frozen=True)
class Answer:
    """What came of a request: it worked, or `text` says why not; `remote` if the controller is reached but not well."""

    works: bool = False
    remote: bool = False
    text: str = field(default="", compare=False)


def controller(config: Path, url: str) -> Target | None:
    """Whom to ask: `url` if given, else the controller named in `config`/server; None when there is none."""
    root = config / "root-certificate.pem"
    certificate, key = config / "device.cert.pem", config / "device.key.pem"
    known = root if root.exists() else None
    own = (certificate, key) if certificate.exists() and key.exists() else None
    if url:
        return Target(url, known, own)
    try:
        server = (config / "server").read_text().strip()
    except OSError:
        return None
    return Target(f"https://{server}{PING}", known, own) if server else None


def ask_over(target: Target, ways: Iterable[Way], timeout_s: float, cancel: Cancel) -> dict[Way, Answer]:
    """Ask over one way after the other, until one works; each takes at most twice the timeout. Raises Cancelled."""
    answers: dict[Way, Answer] = {}
    for way in ways:
        cancel.raise_if_set()
        answers[way] = ask(target, way, timeout_s)
        if answers[way].works:
            break
    return answers


def ask(target: Target, way: Way, timeout_s: float) -> Answer:
    """One GET, through each proxy that the port's PAC file names until one works. Raises nothing for what a network or
    a server may do.
    """
    if not way.pac:
        return _ask(target, way, timeout_s)
    from pillar.transports.pac import PacFailed, proxies_for  # only who has a PAC file pays

    try:
        proxies = proxies_for(way.pac, target.url)
    except PacFailed as err:
        return Answer(text=f"{way}: {err}")
    answers: list[Answer] = []
    for proxy in proxies:
        answers.append(_ask(target, dataclasses.replace(way, proxy=proxy), timeout_s))
        if answers[-1].works:
            return answers[-1]
    remote = any(answer.remote for answer in answers)
    return Answer(remote=remote, text="; ".join(answer.text for answer in answers))


def _ask(target: Target, way: Way, timeout_s: float) -> Answer:
    try:
        with get(target, way, timeout_s) as answer:
            status = answer.status
    except NoName as err:
        return Answer(text=f"{way}: {err}")
    except ssl.SSLCertVerificationError as err:
        stranger = err.verify_code in _STRANGERS
        return Answer(remote=not stranger, text=f"{way}: {target.url}: {err.verify_message}")
    except ConnectionRefusedError as err:
        return Answer(remote=not way.proxy, text=f"{way}: {target.url}: {err.strerror}")
    except (OSError, http.client.HTTPException, ValueError) as err:
        return Answer(text=f"{way}: {target.url}: {err or type(err).__name__}")
    if status in _GOOD:
        return Answer(works=True)
    return Answer(text=f"{way}: {target.url} answers {status}")
