"""Base OS entries of the device config -> BaseOsConfig. An entry without a version is an empty slot."""

from collections.abc import Iterable

from pillar.cmd.zedagent.storage import parse_drives
from pillar.controller import config_pb2 as wire
from pillar.controller.notation import Malformed, read_uuid
from pillar.types.baseos import BaseOsConfig, OsVerParams
from pillar.types.common import UUIDandVersion


def parse_base(base: Iterable[wire.BaseOSConfig]) -> tuple[dict[str, BaseOsConfig], list[str]]:
    """The base OS entries by UUID, and what is wrong with them: the record has no place for errors."""
    records: dict[str, BaseOsConfig] = {}
    problems: list[str] = []
    for entry in base:
        if not entry.baseOSVersion:
            continue
        try:
            uuid = read_uuid(entry.uuidandversion.uuid)
        except Malformed as why:
            problems.append(f"base OS {entry.baseOSVersion!r} is left out: {why}")
            continue
        images, errors = parse_drives(entry.drives, f"base OS {entry.baseOSVersion}")
        problems.extend(error.rstrip("\n") for error in errors)
        records[uuid] = BaseOsConfig(
            UUIDandVersion=UUIDandVersion(UUID=uuid, Version=entry.uuidandversion.version),
            BaseOsVersion=entry.baseOSVersion,
            OsParams=tuple(
                OsVerParams(OSVerKey=param.OSVerKey, OSVerValue=param.OSVerValue)
                for param in entry.baseOSDetails.baseOSParams
            )
            or None,
            StorageConfigList=images,
            Activate=entry.activate,
        )
    return records, problems
