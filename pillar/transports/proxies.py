"""Which proxy a request over a route goes through."""

from __future__ import annotations

import contextlib
import ipaddress
from urllib.parse import urlsplit

from pillar.transports.base import Route, TransportFailed
from pillar.transports.pac import proxies_for

WEB = {"http": "http", "https": "https", "docker": "https", "oci": "https"}  # scheme -> the proxy it takes


def proxy_for(route: Route, url: str) -> str:
    """The proxy's URL; empty: none. A PAC file goes before proxies and exceptions. Raises TransportFailed."""
    parts = urlsplit(url)
    scheme = WEB.get(parts.scheme.lower(), "")
    if not scheme:
        return ""
    if route.pac:
        answers = proxies_for(route.pac, parts._replace(scheme=scheme).geturl())
        return answers[min(route.choice, len(answers) - 1)]
    if is_exception(parts.hostname or "", route.exceptions):
        return ""
    return dict(route.proxies).get(scheme, "")


def choices(route: Route, url: str) -> int:
    """How many proxies, or direct, there are to try. An answer that fails is one: the attempt tells of it."""
    if not route.pac:
        return 1
    try:
        return len(proxies_for(route.pac, url))
    except TransportFailed:
        return 1


def is_exception(host: str, exceptions: str) -> bool:
    """Whether `host` is reached without proxy: a name or its domain, an address or its network, or `*`, in the list."""
    for entry in exceptions.replace(" ", ",").lower().split(","):
        if entry == "*" or (entry and (host == entry.lstrip(".") or host.endswith("." + entry.lstrip("*.")))):
            return True
        with contextlib.suppress(ValueError):  # host or entry is a name: no network to compare
            if entry and ipaddress.ip_address(host) in ipaddress.ip_network(entry, strict=False):
                return True
    return False
