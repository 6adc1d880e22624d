"""lisp.config for a LISP data plane: what the meshes and their EIDs ask for, in lispers.net's format. Pure.

    map-server, map-cache    one each per map server and mesh
    json, interface, database-mapping    one each per EID, with the uplink as its locator

No data plane is started: whoever runs one finds the file in run/zedrouter/lisp. It holds the keys of the map servers.
"""

from __future__ import annotations

import ipaddress
import json
import re
from collections.abc import Iterator, Mapping

from pillar.types.enums import NetworkInstanceType
from pillar.types.networkinstance import NetworkInstanceStatus
from pillar.types.scalars import Uuid
from pillar.types.zedrouter import AdditionalInfoApp, AppNetworkStatus, OverlayNetworkStatus

_WORD = re.compile(r"[^\s{}\"']+")  # nothing that could open a clause of its own
_EVERYBODY = "fd00::/8"  # the EIDs of a mesh whose prefix is not told


class BadSetting(Exception):
    """A setting that cannot stand in the file; the text names it, but never a secret's value."""


def lisp_config(
    instances: Mapping[Uuid, NetworkInstanceStatus], apps: Mapping[Uuid, AppNetworkStatus]
) -> tuple[str, dict[Uuid, str]]:
    """(the file, "" without a mesh; errors of meshes that are left out)."""
    parts: list[str] = []
    errors: dict[Uuid, str] = {}
    for uuid, status in sorted(instances.items()):
        if status.Type == NetworkInstanceType.MESH and status.Activate and status.BridgeNum:
            try:
                parts += list(_mesh(status, apps))
            except BadSetting as err:
                errors[uuid] = f"lisp.config: {err}"
    return "\n".join(parts), errors


def _mesh(status: NetworkInstanceStatus, apps: Mapping[Uuid, AppNetworkStatus]) -> Iterator[str]:
    settings = status.LispConfig
    iid = settings.IID
    parts = []
    for server in settings.MapServers or ():
        parts.append(
            _clause(
                "map-server",
                f"ms-name = ms-{iid}",
                f"dns-name = {_word('name of a map server', server.NameOrIp)}",
                "authentication-type = sha2",
                f"authentication-key = {_word('key of a map server', server.Credential)}",
                "want-map-notify = yes",
            )
        )
    prefix = f"{settings.EidPrefix}/{settings.EidPrefixLen}" if settings.EidPrefix else _EVERYBODY
    parts.append(
        _clause(
            "map-cache",
            *_inner(
                "prefix",
                f"instance-id = {iid}",
                f"eid-prefix = {prefix}",
                f"ms-name = ms-{iid}",
                "send-map-request = yes",
            ),
        )
    )
    for app in apps.values():
        for overlay in app.OverlayNetworkList or () if app.Activated else ():
            if overlay.Network == status.UUID and overlay.EID:
                parts += list(_eid(iid, app, overlay, status))
    yield from parts


def _eid(
    iid: int, app: AppNetworkStatus, overlay: OverlayNetworkStatus, status: NetworkInstanceStatus
) -> Iterator[str]:
    tag = f"{iid}-{app.AppNum}-{overlay.Vif}"
    told = AdditionalInfoApp(DisplayName=app.DisplayName)
    if overlay.LispSignature:
        signature = {"signature-eid": f"[{iid}]{overlay.EID}", "signature": overlay.LispSignature}
        yield _clause("json", f"json-name = signature-{tag}", f"json-string = {json.dumps(signature)}")
    info = json.dumps({"DisplayName": told.DisplayName, "DeviceEID": told.DeviceEID, "DeviceIID": told.DeviceIID})
    yield _clause("json", f"json-name = additional-info-{tag}", f"json-string = {info}")
    yield _clause(
        "interface", f"interface-name = overlay-{tag}", f"device = {status.BridgeName}", f"instance-id = {iid}"
    )
    length = ipaddress.ip_address(overlay.EID).max_prefixlen
    locators = []
    if overlay.LispSignature:
        locators += _inner("rloc", f"json-name = signature-{tag}", "priority = 255")
    locators += _inner("rloc", f"json-name = additional-info-{tag}", "priority = 255")
    for uplink in status.IfNameList or ():
        locators += _inner("rloc", f"interface = {uplink}")
    signed = ["signature-eid = yes"] if overlay.LispSignature else []
    yield _clause(
        "database-mapping",
        *_inner(
            "prefix", f"instance-id = {iid}", f"eid-prefix = {overlay.EID}/{length}", f"ms-name = ms-{iid}", *signed
        ),
        *locators,
    )


def _clause(name: str, *lines: str) -> str:
    return f"lisp {name} {{\n" + "".join(f"    {line}\n" for line in lines) + "}\n"


def _inner(name: str, *lines: str) -> list[str]:
    return [f"{name} {{", *(f"    {line}" for line in lines), "}"]


def _word(what: str, text: str) -> str:
    if not _WORD.fullmatch(text):
        raise BadSetting(f"the {what} is empty or holds blanks, quotes or braces")
    return text
