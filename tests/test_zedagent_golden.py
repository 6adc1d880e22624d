"""The samples come out as EVE's own parser published them, from both forms of the device config."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest

from pillar.cmd.zedagent import reboot
from pillar.cmd.zedagent.parse import Parsed, Published, parse_config
from pillar.controller.device import decode_binary, decode_json
from pillar.pubsub import encode
from pillar.types.scalars import now

GOLDEN = Path(__file__).resolve().parent / "golden/controller"
SAMPLES = sorted(path.stem for path in GOLDEN.glob("*.pb"))
TIMES = {"TimePriority", "ErrorTime", "ParseErrorTime"}
TOPICS = {
    "AppInstanceConfig": "apps",
    "BaseOsConfig": "base",
    "CertObjConfig": "certs",
    "DatastoreConfig": "datastores",
    "NetworkInstanceConfig": "instances",
    "NetworkXObjectConfig": "networks",
}


def published(parsed: Parsed) -> dict[str, dict[str, Any]]:
    """Topic and key -> the record as a reader of the file sees it, times left out."""
    tables: dict[str, dict[str, msgspec.Struct]] = {topic: getattr(parsed, name) for topic, name in TOPICS.items()}
    tables["PhysicalIOAdapterList"] = {"zedagent": parsed.physical}
    tables["DevicePortConfig"] = {"zedagent": parsed.ports} if parsed.ports is not None else {}
    return {
        topic: {key: timeless(json.loads(encode(record))) for key, record in records.items()}
        for topic, records in tables.items()
        if records
    }


def timeless(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: timeless(member) for name, member in value.items() if name not in TIMES}
    return [timeless(member) for member in value] if isinstance(value, list) else value


def expected(sample: str) -> dict[str, dict[str, Any]]:
    tables: dict[str, dict[str, Any]] = {}
    for path in (GOLDEN / "expect" / sample).glob("*/*.json"):
        if path.parent.name not in ("ZedAgentStatus", "GlobalConfig"):
            tables.setdefault(path.parent.name, {})[path.stem] = timeless(json.loads(path.read_bytes()))
    return tables


@pytest.fixture(params=["json", "pb"])
def parsed(request: pytest.FixtureRequest, sample: str) -> Parsed:
    data = (GOLDEN / f"{sample}.{request.param}").read_bytes()
    config = decode_json(data) if request.param == "json" else decode_binary(data)
    return parse_config(config, Published(networks={}, ports=None), now())


@pytest.mark.parametrize("sample", SAMPLES)
def test_a_sample_is_published_as_eve_published_it(sample: str, parsed: Parsed) -> None:
    assert published(parsed) == expected(sample)


@pytest.mark.parametrize("sample", SAMPLES)
def test_settings_are_those_of_eve_and_the_last_error_is_not_lost(sample: str, parsed: Parsed) -> None:
    path = GOLDEN / "expect" / sample / "GlobalConfig/global.json"
    settings = json.loads(encode(parsed.settings))
    if path.exists():  # EVE leaves the file alone when nothing differs from the defaults
        assert settings == json.loads(path.read_bytes())
    else:
        assert (settings["ConfigInterval"], settings["SshAccess"], settings["Errors"]) == (60, True, None)


def test_the_reboot_counter_is_kept_as_eve_keeps_it(tmp_path: Path) -> None:
    config = decode_binary((GOLDEN / "device_baseos_items.pb").read_bytes())
    path = tmp_path / "rebootConfig"
    reboot.keep(path, config.reboot)
    assert path.read_bytes() == (GOLDEN / "expect/device_baseos_items/rebootConfig").read_bytes()
    assert reboot.kept_counter(path) == 4
