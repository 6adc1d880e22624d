"""Datastores of the device config -> DatastoreConfig."""

from collections.abc import Iterable

from pillar.cmd.zedagent.storage import enum_text
from pillar.controller import config_pb2 as wire
from pillar.controller.notation import Malformed, read_uuid
from pillar.types.downloader import DatastoreConfig

_REGION = "us-west-2"  # EVE fills it in for every type of datastore


def parse_datastores(datastores: Iterable[wire.DatastoreConfig]) -> tuple[dict[str, DatastoreConfig], list[str]]:
    """The datastores by UUID, and a line for each that has no usable UUID."""
    records: dict[str, DatastoreConfig] = {}
    problems: list[str] = []
    for datastore in datastores:
        try:
            uuid = read_uuid(datastore.id)
        except Malformed as why:
            problems.append(f"datastore {datastore.fqdn!r} is left out: {why}")
            continue
        records[uuid] = DatastoreConfig(
            UUID=uuid,
            DsType=enum_text(wire.DsType, datastore.dType),
            Fqdn=datastore.fqdn,
            ApiKey=datastore.apiKey,
            Password=datastore.password,
            Dpath=datastore.dpath,
            Region=datastore.region or _REGION,
        )
    return records, problems
