"""The pieces of a device config that the tests of zedagent's parser share."""

from __future__ import annotations

from typing import Any

from google.protobuf import json_format

from pillar.cmd.zedagent.parse import Parsed, Published, parse_config
from pillar.controller import config_pb2 as wire
from pillar.pubsub import encode
from pillar.types.globalconfig import GlobalConfig
from pillar.types.networkinstance import NetworkInstanceConfig
from pillar.types.zedmanager import AppInstanceConfig

NOW = "2019-11-20T10:00:00Z"
LATER = "2019-11-21T10:00:00Z"
APP = "f0a41b6d-2c39-4e7a-90d5-6b8c1e2f4401"
APP2 = "f0a41b6d-2c39-4e7a-90d5-6b8c1e2f4402"
NET = "c7d1e2f0-9a3b-4c6d-8e5f-1a2b3c4d3301"
NET2 = "c7d1e2f0-9a3b-4c6d-8e5f-1a2b3c4d3302"
STORE = "91c2ad50-66f1-4e3b-8a0e-0d8f5a7c1101"
IMAGE = "0be6f7a2-51c4-4d18-9f3e-aa10bb205501"
NETWORK = "6a5e9d1c-70f3-4b8e-b3a9-77f0c2de2201"
LABEL = f"App farm-{APP}"


def parse(config: dict[str, Any], before: Parsed | None = None, now: str = NOW) -> Parsed:
    message = json_format.ParseDict({"id": {"uuid": APP}, **config}, wire.EdgeDevConfig())
    published = Published(networks=before.networks if before else {}, ports=before.ports if before else None)
    parsed = parse_config(message, published, now)
    for records in (parsed.apps, parsed.base, parsed.certs, parsed.datastores, parsed.instances, parsed.networks):
        for record in records.values():
            encode(record)  # whatever comes out can be published
    return parsed


def image(**members: Any) -> dict[str, Any]:
    return {"uuidandversion": {"uuid": IMAGE}, "name": "disk.raw", "siginfo": {}, "dsId": STORE, **members}


def app(uuid: str = APP, **members: Any) -> dict[str, Any]:
    return {
        "uuidandversion": {"uuid": uuid, "version": "1"},
        "displayname": "farm",
        "fixedresources": {"memory": 1024, "vcpus": 1},
        **members,
    }


def instance(uuid: str = NET, kind: str = "ZnetInstLocal", **members: Any) -> dict[str, Any]:
    return {"uuidandversion": {"uuid": uuid}, "instType": kind, **members}


def parse_app(config: dict[str, Any], *instances: dict[str, Any]) -> AppInstanceConfig:
    return parse({"apps": [config], "networkInstances": list(instances)}).apps[APP]


def parse_instance(config: dict[str, Any]) -> NetworkInstanceConfig:
    return parse({"networkInstances": [config]}).instances[NET]


def items(**values: str) -> GlobalConfig:
    return parse(
        {"configItems": [{"key": key.replace("_", "."), "value": value} for key, value in values.items()]}
    ).settings


MESH = instance(
    kind="ZnetInstMesh", ipType="CryptoIPV6", cfg={"type": "ZNetOConfigLisp", "lispConfig": {"LispInstanceId": 5}}
)
