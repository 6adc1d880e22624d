"""From where and over which ports an object is fetched. Pure: tables in, a plan or the reason for none out."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterable
from dataclasses import dataclass
from urllib.parse import quote, urlsplit

from pillar.transports import Route, Source
from pillar.types.downloader import DatastoreConfig, DownloaderConfig
from pillar.types.enums import NetworkProxyType
from pillar.types.nim import DeviceNetworkStatus, NetworkPortStatus
from pillar.types.scalars import NIL_UUID

CERT_OBJ = "cert.obj"
REGISTRY = "DsContainerRegistry"
# Left as they are in a name: what may stand in a URL's path, an escape that is there already, and a query.
_URL_CHARACTERS = "/:@!$&'()*+,;=~-._%?"
_SCHEMES = {
    "DsHttp": "http",
    "DsHttps": "https",
    "DsS3": "https",
    "DsAzureBlob": "https",
    "DsSFTP": "sftp",
    REGISTRY: "docker",
    "DsFile": "file",
}


@dataclass(frozen=True)
class Plan:
    """How to fetch: the routes are tried in this order."""

    source: Source
    routes: tuple[Route, ...]


@dataclass(frozen=True)
class Waiting:
    """Something that will come by itself is not there yet."""

    text: str


@dataclass(frozen=True)
class Impossible:
    """It cannot be fetched as things are; the text says what has to change."""

    text: str


def plan(
    config: DownloaderConfig, objtype: str, datastore: DatastoreConfig | None, network: DeviceNetworkStatus | None
) -> Plan | Waiting | Impossible:
    """Decide where from and over what. A complete URL without a datastore needs none."""
    if config.DatastoreID == NIL_UUID:
        if not config.NameIsURL:
            return Impossible("no DatastoreID, and Name is not a URL")
        datastore = DatastoreConfig()
    if datastore is None:
        return Waiting(f"waiting for datastore {config.DatastoreID}")
    if datastore.DsType == REGISTRY and not config.IsContainer:
        return Impossible("a container registry holds containers only; the drive's iformat is not CONTAINER")
    source = source_of(config, objtype, datastore)
    routes = routes_to(source.url, network, config.AllowNonFreePort)
    if not routes:
        return Impossible(no_port_text(network, config.AllowNonFreePort))
    return Plan(source, routes)


def source_of(config: DownloaderConfig, objtype: str, datastore: DatastoreConfig) -> Source:
    """The datastore's fields with the object's complete URL: fqdn, dpath and name joined by slashes."""
    dpath = datastore.Dpath
    if objtype == CERT_OBJ:
        dpath = dpath.replace("-images", "-certs", 1)  # EVE keeps certificates in a container of their own
    if config.NameIsURL:
        url = config.Name
    else:
        parts = (part.strip("/") for part in (dpath, config.Name))
        url = "/".join((_with_scheme(datastore), *(quote(part, safe=_URL_CHARACTERS) for part in parts if part)))
    return Source(
        ds_type=datastore.DsType,
        url=url,
        dpath=dpath,
        name=config.Name,
        region=datastore.Region,
        api_key=datastore.ApiKey,
        password=datastore.Password,
        fqdn=datastore.Fqdn,
    )


def _with_scheme(datastore: DatastoreConfig) -> str:
    fqdn = datastore.Fqdn.rstrip("/")
    if datastore.DsType == "DsSFTP" and ";fingerprint=" in fqdn:
        login, at, host = fqdn.rpartition("@")  # base64 has slashes, which would end the host part
        head, slashes, login = login.rpartition("://")
        fqdn = f"{head}{slashes}{login.replace('/', '_')}{at}{host}"
    scheme = _SCHEMES.get(datastore.DsType)
    return fqdn if "://" in fqdn or scheme is None else f"{scheme}://{fqdn}"


def routes_to(url: str, network: DeviceNetworkStatus | None, allow_non_free: bool) -> tuple[Route, ...]:
    """Every way to the server, free ports first. Empty: no management port has a usable address.

    A server on loopback is reached directly. Without nim's table the kernel's default route is used.
    """
    if network is None or is_loopback(url):
        return (Route(),)
    ports = [port for port in network.Ports or () if port.IsMgmt or network.Version == 0]
    ordered = [port for port in ports if port.Free]
    if allow_non_free:
        ordered += [port for port in ports if not port.Free]
    return tuple(
        Route(address=address, port=port.IfName, proxies=_proxies(port), exceptions=port.Exceptions, pac=port.Pacfile)
        for port in ordered
        for address in _usable_addresses(port)
    )


def no_port_text(network: DeviceNetworkStatus | None, allow_non_free: bool) -> str:
    """Why `routes_to` found none, port by port."""
    reasons = []
    for port in (network.Ports if network is not None else None) or ():
        if network is not None and network.Version != 0 and not port.IsMgmt:
            why = "is not for management"
        elif not port.Free and not allow_non_free:
            why = "costs money, which this object may not"
        else:
            why = f"has no usable address{': ' + port.Error if port.Error else ''}"
        reasons.append(f"{port.IfName} {why}")
    return "no management port to fetch over: " + ("; ".join(reasons) if reasons else "the device has no ports")


def is_loopback(url: str) -> bool:
    """Whether the URL's host is this machine by name or number, or it names a file; nothing is resolved."""
    if url.startswith("file:"):
        return True
    try:
        host = urlsplit(url).hostname or ""
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _usable_addresses(port: NetworkPortStatus) -> Iterable[str]:
    for info in port.AddrInfoList or ():
        if info.Addr and not ipaddress.ip_address(info.Addr).is_link_local:
            yield info.Addr


def _proxies(port: NetworkPortStatus) -> tuple[tuple[str, str], ...]:
    """The port's proxies as (scheme, URL); kinds that do not carry HTTP are left out."""
    schemes = {NetworkProxyType.HTTP: "http", NetworkProxyType.HTTPS: "https"}
    found = []
    for proxy in port.Proxies or ():
        scheme = schemes.get(proxy.Type)
        if scheme is not None and proxy.Server:
            server = proxy.Server if "://" in proxy.Server else f"http://{proxy.Server}"
            found.append((scheme, f"{server.rstrip('/')}:{proxy.Port}" if proxy.Port else server))
    return tuple(found)
